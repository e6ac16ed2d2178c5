"""Rates, intervals and turning points: what is measured over samples, images and networks, each once."""

from typing import Self


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
    def range(cls, values: object, over: str = "") -> Self:
        """The range of some values: lowest and highest."""
        numbers = [float(value) for value in values]  # type: ignore[attr-defined]
        return cls(min(numbers), max(numbers), None, over)

    def __repr__(self) -> str:
        kind = "range" if self.level is None else f"{self.level:.0%} interval"
        return f"({self[0]:g}, {self[1]:g}), {kind}{f' over {self.over}' if self.over else ''}"
