"""One diffusion model, some training images repeated: how often each is sampled, and from how many copies it is copied."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Repeated:
    """A training set with repeated images."""

    x: Tensor  # [n, C, H, W], copies counted
    distinct: Tensor  # [m, C, H, W], each image once: the repeated ones first
    copies: Tensor  # [m], how often each of these is in x


def training_set(pool: Tensor, n_large: int, copies: Sequence[int], repeated: int, seed: int) -> Repeated:
    """n_large distinct images of pool [N, C, H, W]; of these, `repeated` for each number of `copies` are repeated."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:n_large]
    counts = torch.ones(len(order), dtype=torch.int64)
    counts[: repeated * len(copies)] = torch.tensor(copies).repeat_interleave(repeated)
    distinct = pool[order]
    return Repeated(distinct.repeat_interleave(counts, dim=0), distinct, counts)
