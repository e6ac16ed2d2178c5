"""Rates, intervals and turning points: what is measured over samples, images and networks, each once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from spikiness.errors import SpikinessError
from spikiness.measures.intervals import bootstrap, wilson

INSIDE, EARLIER, LATER = "inside", "at or before", "after"  # where a crossing lies: at x, or x is a bound of it


class Interval(tuple[float, float]):
    """`(low, high)` that says what it is: an interval of `level` over what was resampled, or a range.

    `level` is the coverage, .95 unless given; None marks a range: the lowest and the highest of some values, which
    cover nothing. `over` says in words what was drawn anew or taken together: "samples", "networks".
    Raises `ValueError` where low is above high, or the level is not between 0 and 1.
    """

    level: float | None
    over: str

    def __new__(cls, low: float, high: float, level: float | None = 0.95, over: str = "") -> Self:
        low, high = float(low), float(high)
        if not low <= high:
            raise ValueError(f"an interval is (low, high), got ({low}, {high})")
        if level is not None and not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        interval = super().__new__(cls, (low, high))
        interval.level, interval.over = level, over
        return interval

    @classmethod
    def range(cls, values: Iterable[float], over: str = "") -> Self:
        """The range of some values: lowest and highest."""
        numbers = [float(value) for value in values]
        return cls(min(numbers), max(numbers), None, over)

    def __repr__(self) -> str:
        kind = "range" if self.level is None else f"{self.level:.0%} interval"
        return f"({self[0]:g}, {self[1]:g}), {kind}{f' over {self.over}' if self.over else ''}"


# ---- rates


def rate(hits: ArrayLike, groups: ArrayLike | None = None, over: str = "") -> tuple[float, Interval]:
    """Share of hits [N] and its 95 % interval: Wilson's, or a bootstrap of whole `groups` [N] where given.

    With groups, hits may also be shares in [0, 1]. A bootstrap that sees no error (a share of 0 or 1, or one group)
    gives way to Wilson's interval for as many trials as groups.
    `over` names what is resampled, "samples" or "groups" unless told. Raises `SpikinessError` for no hits at all.
    """
    hits = np.asarray(hits, dtype=float)
    if not len(hits):
        raise SpikinessError("a share of no samples at all: draw more samples")
    share = float(hits.mean())
    if groups is None:
        return share, Interval(*wilson(int(hits.sum()), len(hits)), over=over or "samples")
    trials = len(np.unique(groups))
    if trials == 1 or share in (0.0, 1.0):
        ends = wilson(round(share * trials), trials)
    else:
        ends = bootstrap(hits, groups=groups)
    return share, Interval(*ends, over=over or "groups")


def hull(values: ArrayLike, lows: ArrayLike, highs: ArrayLike, over: str = "networks") -> tuple[float, Interval]:
    """Mean of `values` [N], and the range from the lowest of `lows` to the highest of `highs`: the hull of N intervals.

    The hull covers nothing at a known level, so its own level is None. NaN counts in none of the three.
    Raises `SpikinessError` where there are no values.
    """
    values, lows, highs = (np.asarray(numbers, dtype=float) for numbers in (values, lows, highs))
    if not np.isfinite(values).any():
        raise SpikinessError(f"a mean over {over} needs at least one value, got none")
    return float(np.nanmean(values)), Interval(np.nanmin(lows), np.nanmax(highs), None, over)


# ---- where a curve crosses a level


@dataclass(frozen=True)
class Crossing:
    """Where a curve crosses a level: at x = `value` between the points `low` and `high`, if `where` is INSIDE.

    EARLIER and LATER: the first or the last point, given as all three numbers, is a bound of it.
    """

    value: float
    where: str
    low: float
    high: float

    @property
    def inside(self) -> bool:
        return self.where == INSIDE


def first_rise(x: ArrayLike, y: ArrayLike, level: float = 0.5) -> Crossing:
    """Where a curve y(x) first reaches `level` from below, between its points by a straight line over log x.

    Raises `SpikinessError` where x does not rise, or is not above 0.
    """
    x, y = _curve(x, y)
    above = np.flatnonzero(y >= level)
    if not len(above):
        return _bound(x[-1], LATER)
    first = int(above[0])
    if first == 0:
        return _bound(x[0], EARLIER)
    share = (level - y[first - 1]) / (y[first] - y[first - 1])
    value = np.exp(np.log(x[first - 1]) + share * np.log(x[first] / x[first - 1]))
    return Crossing(float(value), INSIDE, float(x[first - 1]), float(x[first]))


def last_fall(x: ArrayLike, y: ArrayLike, level: float = 0.5) -> Crossing:
    """Where a curve y(x) falls below `level` for good, between its points by a straight line over log x.

    EARLIER where no point reaches the level, LATER where the last one still does. Errors as for `first_rise`.
    """
    x, y = _curve(x, y)
    above = np.flatnonzero(y >= level)
    if not len(above):
        return _bound(x[0], EARLIER)
    last = int(above[-1])
    if last + 1 == len(x):
        return _bound(x[-1], LATER)
    share = (y[last] - level) / (y[last] - y[last + 1])
    value = x[last] * (x[last + 1] / x[last]) ** share
    return Crossing(float(value), INSIDE, float(x[last]), float(x[last + 1]))


def _curve(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not len(x) or (x <= 0).any() or (np.diff(x) <= 0).any():
        raise SpikinessError(f"x is {x.tolist()[:5]}: a crossing needs positive values in rising order")
    return x, y


def _bound(x: float, where: str) -> Crossing:
    return Crossing(float(x), where, float(x), float(x))


# ---- signs that come and stay


def onset(x: ArrayLike, holds: ArrayLike) -> float:
    """The first of x [N] from which on a sign `holds` [N] until the end; NaN where it does not hold at the end.

    Raises `SpikinessError` where x does not rise.
    """
    x, holds = np.asarray(x), np.asarray(holds, dtype=bool)
    if (np.diff(x) <= 0).any():
        raise SpikinessError(f"x is {x.tolist()[:5]}: an onset needs values in rising order")
    if not len(holds) or not holds[-1]:
        return float("nan")
    lacking = np.flatnonzero(~holds)
    return x[lacking[-1] + 1 if len(lacking) else 0]


def precedence(first: ArrayLike, second: ArrayLike) -> dict[str, int]:
    """In how many of N cases the onset `first` [N] comes before the onset `second` [N], at the same x, or after it.

    `alone`: the second never comes (NaN) and the first does; `missed`: the first never comes and the second does.
    """
    a, b = (np.asarray(onsets, dtype=float) for onsets in (first, second))
    order = {"before": a < b, "same": a == b, "after": a > b}  # a comparison with NaN is false
    order |= {"alone": ~np.isnan(a) & np.isnan(b), "missed": np.isnan(a) & ~np.isnan(b)}
    return {name: int(mask.sum()) for name, mask in order.items()}
