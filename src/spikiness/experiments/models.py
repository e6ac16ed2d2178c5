"""The diffusion models of the book: trained by one recipe, kept in the cache, shared by every chapter that asks.

A model is known by its images, its network, its seed and how many images it saw. All are kept at the same stages of
training, so that one chapter can look at the end and another at the way there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikiness.cache import cached
from spikiness.denoisers import EDM
from spikiness.networks.dit import DiT
from spikiness.networks.unet import UNet
from spikiness.training.diffusion import fit_diffusion

NETWORKS = {"unet": UNet, "dit": DiT}
STAGES = 8  # denoisers kept along one training, at images_seen / 2^7 .. images_seen


def stages(images_seen: int) -> list[int]:
    """Images seen at which a model is kept: doubling, up to the end."""
    return [max(1, images_seen >> k) for k in reversed(range(STAGES))]


def fit(
    x: Tensor,
    width: int,
    seed: int,
    images_seen: int,
    network: str = "unet",
    labels: Tensor | None = None,
    sigma_data: float | None = None,
    options: dict[str, Any] | None = None,
    checkpoint: object = None,
) -> list[EDM]:
    """One model at its `stages`: `network` of `width` (ten classes where there are labels), started from `seed`."""
    classes = None if labels is None else 10
    generator = torch.Generator().manual_seed(seed)
    raw = NETWORKS[network](x.shape[1], x.shape[2], width, classes=classes, generator=generator, **(options or {}))
    return fit_diffusion(
        x, raw, seed, labels, images_seen, stages=stages(images_seen), sigma_data=sigma_data, checkpoint=checkpoint
    )


def model(x: Tensor, width: int, seed: int, images_seen: int, **options: Any) -> list[EDM]:
    """`fit` with these arguments, from the cache where it was done before."""
    return cached(fit, x, width, seed, images_seen, **options)


def chunk(x: Tensor, n: int, index: int, seed: int = 0) -> Tensor:
    """Indices of n images of x [N, ...]: the index-th of the disjoint chunks of one random order (wrapping around).

    Models of different index see no image in common as long as there are chunks enough: N // n of them.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    start = index % (len(x) // n) * n
    return order[start : start + n]


def initial_seeds(count: int, seed: int) -> Sequence[int]:
    """Seeds of `count` samples, the same noise for every model, apart from those of other `seed`s."""
    return range(seed * 1_000_000, seed * 1_000_000 + count)
