"""Intervals of rates and statistics: Wilson's score, and a bootstrap by whole groups."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from torch import Tensor

from spikiness.errors import SpikinessError


def to_numpy(values: object) -> np.ndarray:
    """A tensor, array or list as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def clusters(groups: object, n: int) -> np.ndarray:
    """Labels 0, 1, ... of the group of each of n values; each value is its own group where `groups` is None."""
    if groups is None:
        return np.arange(n)
    groups = to_numpy(groups)
    if groups.shape != (n,):
        raise SpikinessError(f"groups have shape {groups.shape}; give one label for each of the {n} values")
    return np.unique(groups, return_inverse=True)[1]


def wilson(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate from independent trials; it has a width even for 0 or `total` successes."""
    if not 0 <= successes <= total or total < 1:
        raise SpikinessError(f"{successes} successes of {total}: need 0 <= successes <= total and total >= 1")
    z2 = NormalDist().inv_cdf((1 + _level(level)) / 2) ** 2
    rate = successes / total
    center = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = (z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) ** 0.5 / (1 + z2 / total)
    return (0.0 if successes == 0 else center - half), (1.0 if successes == total else center + half)


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise SpikinessError(f"level is {level}; it must lie between 0 and 1, usually .95")
    return level


def bootstrap(
    values: object,
    statistic: Callable[[np.ndarray], float] = np.mean,
    groups: object = None,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over values [n, ...], resampled by whole `groups` [n] where given.

    Values that share a cause (a training image, a seed) belong to one group. Events that did not occur are invisible to
    it: for a rate of 0 or 1 use `wilson`. Raises for NaN (with their number) and for fewer than two groups.
    """
    values = to_numpy(values)
    label = clusters(groups, len(values))
    if len(label) == 0 or label.max() == 0:
        raise SpikinessError(f"{len(values)} values in fewer than two groups have no interval; give two groups or more")
    _refuse_nan(values, "values")
    if draws < 1:
        raise SpikinessError(f"draws is {draws}; ask for 1 or more, usually 2000")
    order, size = np.argsort(label, kind="stable"), np.bincount(label)
    start, rng, results = np.cumsum(size) - size, np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        picked = rng.integers(len(size), size=len(size))
        length = size[picked]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)  # 0 .. length - 1 in each
        results[draw] = statistic(values[order[np.repeat(start[picked], length) + within]])
    _refuse_nan(results, "resampled statistics")
    low, high = np.quantile(results, [(1 - _level(level)) / 2, (1 + level) / 2])
    return float(low), float(high)


def _refuse_nan(values: np.ndarray, name: str) -> None:
    bad = np.isnan(values).sum()
    if bad:
        raise SpikinessError(f"{bad} of {values.size} {name} are NaN; remove them and report how many")
