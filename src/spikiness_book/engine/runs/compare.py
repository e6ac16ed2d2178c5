"""Whether a rerun agrees with another result: each finding within its tolerance."""

from typing import Any

from spikiness_book.engine.runs import findings
from spikiness_book.engine.runs.store import Result

RELATIVE = 1e-3  # of the value: the least that may differ, where no tolerance says otherwise
# Two estimates of one quantity, each with a 95 % interval of width w, differ by less than w / sqrt(2) in 19 of 20
# pairs: their difference has sqrt(2) times the standard error of each, and w is twice 1.96 times that.
SHARE = 0.5**0.5


def agreement(rerun: Result, reference: Result) -> Any:
    """Compare two results finding by finding; a DataFrame of metric, rerun, reference, allowed and agrees (bool).

    A finding agrees where the values differ by no more than the reference's tolerance (an absolute difference);
    without one, by no more than follows from the wider of the two intervals; without those, by a thousandth of the
    larger value. One that only one of the two results has does not agree.
    """
    import pandas as pd

    ours, theirs = ({findings.title(f): f for f in result.findings} for result in (rerun, reference))
    rows = [{"metric": name, **_row(ours.get(name), theirs.get(name))} for name in dict.fromkeys([*theirs, *ours])]
    return pd.DataFrame(rows, columns=["metric", "rerun", "reference", "allowed", "agrees"])


def differences(rerun: Result, reference: Result) -> list[str]:
    """The parameters in which two results differ, "n: 10 and 5" each: then the numbers may differ."""
    names = dict.fromkeys([*reference.parameters, *rerun.parameters])
    pairs = {name: (rerun.parameters.get(name), reference.parameters.get(name)) for name in names}
    return [f"{name}: {a!r} and {b!r}" for name, (a, b) in pairs.items() if a != b]


def tolerance(rerun: findings.Finding, reference: findings.Finding) -> float:
    """The largest difference of the two values at which they agree."""
    for finding in (reference, rerun):
        if finding["tolerance"] is not None:
            return finding["tolerance"]
    widths = [high - low for low, high in filter(None, (rerun["interval"], reference["interval"]))]
    least = RELATIVE * max(abs(rerun["value"]), abs(reference["value"]))
    return max([SHARE * max(widths), least] if widths else [least])


def _row(rerun: findings.Finding | None, reference: findings.Finding | None) -> dict[str, Any]:
    if rerun is None or reference is None:
        values = {"rerun": rerun and rerun["value"], "reference": reference and reference["value"]}
        return {**values, "allowed": "missing", "agrees": False}
    a, b, allowed = rerun["value"], reference["value"], tolerance(rerun, reference)
    return {"rerun": a, "reference": b, "allowed": f"within {allowed:.3g}", "agrees": bool(abs(a - b) <= allowed)}
