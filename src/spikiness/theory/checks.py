"""What the theory checks before it answers: shapes, finite values, noise levels. Tensors come out in float64."""

import math
from collections.abc import Sequence

from torch import Tensor

from spikiness.errors import SpikinessError

SHAPES = "give a list of [n_k, d]; for one sample per cluster, list(x[:, None])"


def clusters(given: Sequence[Tensor]) -> list[Tensor]:
    """Clusters that are [n_k, d] with one d, and finite."""
    given = list(given)
    if not given:
        raise SpikinessError(f"no clusters; {SHAPES}")
    for k, x in enumerate(given):
        if x.ndim != 2 or x.numel() == 0 or x.shape[1] != given[0].shape[-1]:
            raise SpikinessError(f"cluster {k} has shape {list(x.shape)}, the first {list(given[0].shape)}; {SHAPES}")
        finite(x, f"cluster {k}")
    return [x.detach().double() for x in given]


def samples(x: Tensor) -> Tensor:
    """Samples that are [n, d], and finite."""
    if x.ndim != 2 or x.numel() == 0:
        raise SpikinessError(f"x has shape {list(x.shape)}; it must be [n, d]: flatten images with x.flatten(1)")
    return finite(x, "x").detach().double()


def finite(values: Tensor, name: str) -> Tensor:
    """Floating-point values without NaN or infinity."""
    if not values.is_floating_point():
        raise SpikinessError(f"{name} is {values.dtype}; pass floating-point values, for instance {name}.float()")
    if not values.isfinite().all():
        raise SpikinessError(f"{name} holds values that are not finite (NaN or infinity)")
    return values


def weights(w: Tensor, dim: int) -> Tensor:
    """Weights that are [d, p], for data of dimension `dim`."""
    if w.ndim != 2 or w.shape[0] != dim:
        raise SpikinessError(f"weights have shape {list(w.shape)}; for data of d = {dim} they must be [{dim}, p]")
    return finite(w, "weights").detach().double()


def moments(given: Sequence[Tensor], shares: Sequence[float], count: int) -> tuple[list[Tensor], list[float]]:
    """Second moments [d, d] of `count` modes, and their shares made to sum to 1."""
    shares = [float(w) for w in shares]
    if not len(given) == len(shares) == count:
        raise SpikinessError(
            f"{len(given)} second moments and {len(shares)} weights for {count} modes; give one of each"
        )
    if not all(math.isfinite(w) and w > 0 for w in shares):
        raise SpikinessError(f"weights {shares} must be positive and finite")
    for k, s in enumerate(given):
        if s.ndim != 2 or s.shape[0] != s.shape[1]:
            raise SpikinessError(f"second moment {k} has shape {list(s.shape)}; it must be [d, d]")
        finite(s, f"second moment {k}")
    return [s.detach().double() for s in given], [w / sum(shares) for w in shares]


def widths(given: Sequence[int], count: int) -> list[int]:
    """One number of units per cluster."""
    if len(given) != count:
        raise SpikinessError(f"{len(given)} widths for {count} clusters; give one number of units per cluster")
    return [units(width, "a width") for width in given]


def units(value: int, name: str) -> int:
    """A number of units: 0, 1, 2, ..."""
    if not (value >= 0 and value == value // 1):
        raise SpikinessError(f"{name} = {value}; a number of units is 0, 1, 2, ...")
    return int(value)


def levels(sigma: float, lam: float = 0.0) -> tuple[float, float]:
    """A noise level above 0 and a penalty not below it, both finite."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise SpikinessError(f"sigma = {sigma}; a noise level is positive and finite")
    if not (math.isfinite(lam) and lam >= 0):
        raise SpikinessError(f"lam = {lam}; the lambda of objective (6) is finite, and 0 or more")
    return float(sigma), float(lam)
