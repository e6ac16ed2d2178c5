"""The diffusion models of the book: trained by one recipe, kept in the cache, shared by every chapter that asks.

A model is known by its images, its network, its seed and how many images it saw. All are kept at the same stages of
training, so that one chapter can look at the end and another at the way there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness_book.engine.cache import cached
from spikiness_book.zoo.recipes import STAGES, fit, stages

__all__ = ["STAGES", "chunk", "initial_seeds", "model", "stages"]


def model(x: Tensor, width: int, seed: int, images_seen: int, **options: Any) -> list[EDM]:
    """`fit` with these arguments, from the cache where it was done before."""
    return cached(fit, x, width, seed, images_seen, **options)


def chunk(x: Tensor, n: int, index: int, seed: int = 0) -> Tensor:
    """Indices of n images of x [N, ...]: the index-th of the disjoint chunks of one random order (wrapping around).

    Models of different index see no image in common as long as there are chunks enough: N // n of them.
    """
    if not 1 <= n <= len(x):
        raise SpikinessError(f"a chunk of {n} images of {len(x)}: ask for 1 to {len(x)}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    start = index % (len(x) // n) * n
    return order[start : start + n]


def initial_seeds(count: int, seed: int) -> Sequence[int]:
    """Seeds of `count` samples, the same noise for every model, apart from those of other `seed`s."""
    return range(seed * 1_000_000, seed * 1_000_000 + count)
