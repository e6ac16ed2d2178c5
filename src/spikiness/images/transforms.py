"""Picking and altering samples: seeded subsets, copies, disjoint halves, centering, grayscale, size."""

import contextlib
import operator
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spikiness.errors import SpikinessError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of R, G, B, as in JPEG and Pillow's "L"


def whole(value: object, name: str, least: int) -> int:
    """`value` as an int of at least `least`; booleans, fractions and text are refused."""
    number = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool | np.bool_):
        with contextlib.suppress(TypeError):  # a tensor has an index only where it is one whole number
            number = operator.index(value)
    if number is None or number < least:
        raise SpikinessError(f"{name} = {value!r} must be a whole number of at least {least}")
    return number


def subset(x: Tensor, n: int, seed: int = 0, what: str = "samples") -> Tensor:
    """n of the N samples of x [N, ...] without replacement; of one seed the first n of a larger draw.

    `subset(torch.arange(N), n, seed)` gives the indices. Raises `SpikinessError` where fewer than n are available.
    """
    n, total = whole(n, "n", 1), len(x)
    if n > total:
        raise SpikinessError(f"n = {n} is more than the {total} {what} available; take n of at most {total}")
    order = np.random.default_rng(whole(seed, "seed", 0)).permutation(total)[:n]
    return x[torch.from_numpy(order)]


def duplicate(x: Tensor, index: Tensor, copies: int) -> Tensor:
    """x [N, ...] with the samples at `index` present `copies` times, copies beside their original.

    `index` holds distinct positions (or is a mask [N]); labels and positions go the same way, as in
    `duplicate(torch.arange(N), index, copies)`. Raises `SpikinessError` for a position that x does not have or
    that is given twice.
    """
    index, copies = torch.as_tensor(index), whole(copies, "copies", 1)
    if index.dtype == torch.bool:
        if index.shape != x.shape[:1]:
            raise SpikinessError(f"index is a mask of shape {list(index.shape)}; x has {len(x)} samples")
        index = index.nonzero()
    index = index.flatten()
    if index.is_floating_point() and len(index):
        raise SpikinessError(f"index must hold whole numbers, not {index.dtype}; use index.long()")
    index = index.long()
    if len(index) and (index.min() < 0 or index.max() >= len(x)):
        low, high = int(index.min()), int(index.max())
        raise SpikinessError(f"index spans {low} to {high}; x has {len(x)} samples, so use 0 to {len(x) - 1}")
    if len(index.unique()) < len(index):
        raise SpikinessError("index holds a position twice; give each once and raise `copies`")
    repeats = torch.ones(len(x), dtype=torch.long)
    repeats[index] = copies
    return x.repeat_interleave(repeats.to(x.device), dim=0)  # [N + len(index) (copies - 1), ...]


def distinct(x: Tensor) -> Tensor:
    """Positions [M] of the first of each set of exactly equal samples in x [N, ...], ascending; N - M are copies."""
    rows = (x.detach().cpu().flatten(1) + 0).contiguous().numpy()  # + 0 turns -0. into 0., equal but other bytes
    first: dict[bytes, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(row.tobytes(), i)
    return torch.tensor(list(first.values()), dtype=torch.long)


def halves(x: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two random halves of x [N, ...], disjoint by position; of an odd N the second half gets the odd one.

    Exact copies can fall on both sides: where x may hold some, split `x[distinct(x)]`.
    """
    if len(x) < 2:
        raise SpikinessError(f"x has {len(x)} sample(s); two halves need at least 2")
    order = subset(torch.arange(len(x)), len(x), seed).to(x.device)
    half = len(x) // 2
    return x[order[:half]], x[order[half:]]


def center(x: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [N, ...] minus `mean` [...] (its own mean by default), and that mean, to be taken off other samples too."""
    if mean is None:
        if len(x) == 0:
            raise SpikinessError("x has no samples, so no mean; give one or load some images")
        mean = x.mean(0)
    if mean.shape != x.shape[1:]:
        wanted, got = list(x.shape[1:]), list(mean.shape)
        raise SpikinessError(f"mean has shape {got}; samples of x have {wanted}, and so must the mean")
    return x - mean, mean


def grayscale(x: Tensor) -> Tensor:
    """Luma of x [N, 3, H, W] (BT.601 weights) as [N, 1, H, W]; x with one channel comes back unchanged."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise SpikinessError(f"grayscale needs [N, 1 or 3, H, W]; x has shape {list(x.shape)}")
    if x.shape[1] == 1:
        return x
    weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device)
    return torch.einsum("nchw,c->nhw", x, weights)[:, None]  # [N, 1, H, W]


def resize(x: Tensor, size: int) -> Tensor:
    """x [N, C, H, W] as [N, C, size, size], bilinear with antialiasing (each new pixel averages what it covers)."""
    size = whole(size, "size", 1)
    if tuple(x.shape[-2:]) == (size, size):
        return x
    return interpolate(x, size=(size, size), mode="bilinear", antialias=True)
