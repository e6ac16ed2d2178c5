"""The rivals of the spikiness detector: `BASELINES`, the one table in which they are entered, each by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature

from torch import Tensor

from spikiness.detection import scores
from spikiness.errors import Registry, SpikinessError, suggest

MODEL, LABELS, HELD_OUT, TRAINING = "the model", "labels", "held-out images", "training images"  # what rivals need


@dataclass(frozen=True)
class Method:
    """A rival as tables show it: what it needs and costs, and how it is made."""

    name: str
    source: str
    assumes: str
    needs: tuple[str, ...]  # of MODEL, LABELS, HELD_OUT and TRAINING; what an auditor lacks rules it out
    cost: str  # evaluations of the model for one image
    kind: Callable[..., scores.Baseline]

    @property
    def takes(self) -> dict[str, Parameter]:
        """What the rival is made from, by name."""
        fixed = getattr(self.kind, "keywords", {})
        return {name: given for name, given in signature(self.kind).parameters.items() if name not in fixed}

    @property
    def per_sigma(self) -> bool:
        """Whether its scores depend on a noise level: where not, one sigma is enough."""
        return "sigma" in self.takes

    @property
    def per_layer(self) -> bool:
        """Whether its scores depend on a layer of the model."""
        return "layer" in self.takes

    @property
    def control(self) -> bool:
        """Whether it knows the image alone: what a detector must beat to have seen the model."""
        return not self.needs

    def make(
        self, model: Callable[..., Tensor] | None, sigma: float | None = None, **context: object
    ) -> scores.Baseline:
        """The rival for this model and noise level, from what it takes of `context`: the same for all of them.

        Of it: reference, layer, pool, top (UnitZScores); train (NearestTraining); shape, generations, labels, count, k,
        steps (Density, where labels are those of the generations); probes, draws, seed, batch. The labels of audited
        images go to `score`. Raises SpikinessError for what is missing, and for what no rival takes.
        """
        given = context | {"model": model, "sigma": sigma}
        known = {name for method in BASELINES.values() for name in method.takes} | set(self.takes)
        for name in context.keys() - known:
            raise SpikinessError(f"no baseline takes {name!r}{suggest(name, known)}")
        missing = [n for n, p in self.takes.items() if p.default is Parameter.empty and given.get(n) is None]
        if missing:
            call = ", ".join(["model", "sigma", *(f"{n}=..." for n in missing if n not in ("model", "sigma"))])
            raise SpikinessError(f"{self.name} needs {', '.join(missing)}: make({call})")
        return self.kind(**{name: given[name] for name in self.takes if name in given})


#: The rivals of the detector. This is the one list in which they are entered, each with what it needs.
BASELINES: Registry[Method] = Registry(
    "baseline",
    {
        method.name: method
        for method in (
            Method(
                "FLIPD", "Kamkari et al. 2024; Ross et al. 2025", "memorized images have low local dimension",
                (MODEL,), "1 and a Jacobian product", scores.FLIPD,
            ),
            Method(
                "FLIPD exact", "Kamkari et al. 2024; Ross et al. 2025", "memorized images have low local dimension",
                (MODEL,), "1 and d Jacobian products", partial(scores.FLIPD, probes=None),
            ),
            Method(
                "score norm", "Tweedie's formula", "a copy is a peak of the density", (MODEL,), "1", scores.ScoreNorm
            ),
            Method(
                "denoising error", "Carlini et al. 2023", "memorized images are denoised better", (MODEL,), "1",
                scores.DenoisingError,
            ),
            Method(
                "conditional", "Wen et al. 2024", "the label alone leads to the memorized image", (MODEL, LABELS), "2",
                scores.Conditional,
            ),
            Method(
                "density", "Carlini et al. 2023", "generations crowd around what is memorized", (MODEL,),
                "count (2 steps - 1) once, then 0", scores.Density,
            ),
            Method(
                "unit z-scores", "Hintersdorf et al. 2024", "memorized images set off few units", (MODEL, HELD_OUT),
                "a part of 1", scores.UnitZScores,
            ),
            Method("pixel norm", "control", "memorized images are large", (), "0", scores.PixelNorm),
            Method("pixel std", "control", "memorized images have high contrast", (), "0", scores.PixelStd),
            Method("total variation", "control", "memorized images are busy", (), "0", scores.TotalVariation),
            Method("nearest training", "oracle", "copies are near in pixels", (TRAINING,), "0", scores.NearestTraining),
        )
    },
)  # fmt: skip

#: Names of the baselines that know the image alone. A detector that does not beat them has not seen the model.
CONTROLS = tuple(name for name, method in BASELINES.items() if method.control)
