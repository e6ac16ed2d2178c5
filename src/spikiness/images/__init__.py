"""Images as one float tensor [N, C, H, W] in [-1, 1], ways to pick and alter samples, and mixtures of Gaussians.

`fingerprint`, `places` and `NAMES` are there without torch; all that works on tensors is imported when first asked for.
"""

from typing import TYPE_CHECKING

from spikiness.images.sources import NAMES, fingerprint, places

__all__ = [
    "NAMES",
    "Images",
    "center",
    "check",
    "distinct",
    "duplicate",
    "fingerprint",
    "grayscale",
    "halves",
    "load",
    "mixture",
    "places",
    "random_factors",
    "resize",
    "simplex_means",
    "subset",
]

if TYPE_CHECKING:
    from spikiness.images.datasets import Images, load
    from spikiness.images.gaussians import mixture, random_factors, simplex_means
    from spikiness.images.transforms import center, distinct, duplicate, grayscale, halves, resize, subset
    from spikiness.images.validation import check
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        from spikiness.errors import renamed

        renames = {"centre": "center", "greyscale": "grayscale"}
        if name in renames:
            renamed(f"images.{name}", f"images.{renames[name]}")
            return __getattr__(renames[name])
        if name in __all__:
            for home in ("datasets", "transforms", "validation", "gaussians"):
                module = import_module(f"{__name__}.{home}")
                if hasattr(module, name):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
