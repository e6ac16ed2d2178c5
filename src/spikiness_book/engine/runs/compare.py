"""Whether a rerun agrees with another result: each metric within its tolerance."""

from typing import Any

from spikiness_book.engine.runs.store import Result

RELATIVE = 1e-3  # where a metric has neither a tolerance nor an interval


def agreement(mine: Result, other: Result) -> Any:
    """Compare two results metric by metric; a DataFrame with columns metric, mine, other, allowed and agrees (bool).

    A metric agrees where the values differ by no more than the other's tolerance (an absolute difference); without one,
    where the intervals overlap; without those, where they differ by a thousandth of the larger. One that only one of
    the two results has does not agree.
    """
    import pandas as pd

    rows = [
        {"metric": name, **_row(mine.metrics.get(name), other.metrics.get(name))}
        for name in dict.fromkeys([*other.metrics, *mine.metrics])
    ]
    return pd.DataFrame(rows, columns=["metric", "mine", "other", "allowed", "agrees"])


def differences(mine: Result, other: Result) -> list[str]:
    """The parameters in which two results differ, "n: 10 and 5" each: then the numbers may differ."""
    names = dict.fromkeys([*other.parameters, *mine.parameters])
    pairs = {name: (mine.parameters.get(name), other.parameters.get(name)) for name in names}
    return [f"{name}: {a!r} and {b!r}" for name, (a, b) in pairs.items() if a != b]


def _row(mine: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any]:
    if mine is None or other is None:
        values = {"mine": mine and mine["value"], "other": other and other["value"]}
        return {**values, "allowed": "missing", "agrees": False}
    a, b = mine["value"], other["value"]
    tolerance = other["tolerance"] if other["tolerance"] is not None else mine["tolerance"]
    if tolerance is not None:
        allowed, agrees = f"within {tolerance:g}", abs(a - b) <= tolerance
    elif mine["interval"] or other["interval"]:
        (low, high), (other_low, other_high) = mine["interval"] or (a, a), other["interval"] or (b, b)
        allowed, agrees = "intervals overlap", max(low, other_low) <= min(high, other_high)
    else:
        allowed, agrees = f"within {RELATIVE:.1%}", abs(a - b) <= RELATIVE * max(abs(a), abs(b))
    return {"mine": a, "other": b, "allowed": allowed, "agrees": bool(agrees)}
