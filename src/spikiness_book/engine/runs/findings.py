"""Findings: a measured number, the labels that say what it is of, and how far it can be trusted.

A finding is `{name, labels, value, interval, level, over, unit, n, seeds, tolerance}`; name and labels together are
unique in a run, and all findings of one name have the same labels, so that a run's findings are one tidy table.
Claims, pages and sentences select one by text: `auroc[kind=unet:digits, method=paper]`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spikiness.errors import SpikinessError, suggest

Finding = dict[str, Any]
Label = str | int | float | bool

FIELDS = ("name", "labels", "value", "interval", "level", "over", "unit", "n", "seeds", "tolerance")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
SELECTOR = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:\[([^\[\]]*)\])?\s*")
_UNFIT = re.compile(r"[\[\]{},=\x00-\x1f\x7f]")  # what would end a label in a selector


def make(
    name: str,
    value: Any,
    interval: Sequence[float] | None = None,
    *,
    labels: Mapping[str, Any] | None = None,
    level: float | None = 0.95,
    over: str = "",
    unit: str = "",
    n: int | None = None,
    seeds: Sequence[int] | int | None = None,
    tolerance: float | None = None,
) -> Finding:
    """One finding, every part of it checked and plain.

    `interval` is (low, high); a `statistics.Interval` brings its own `level` (None: a range) and `over`. Raises
    `SpikinessError` for a name, label or number that cannot be kept, an interval that does not say what it is over,
    and a tolerance so wide beside the interval that no rerun could differ.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SpikinessError(f"metric {name!r}: use a-z, 0-9 and _, starting with a letter: prose refers to it by name")
    ends = None if interval is None else [number(f"{name}'s interval", end) for end in interval]
    if ends is not None and (len(ends) != 2 or ends[0] > ends[1]):
        raise SpikinessError(f"metric {name!r}: an interval is (low, high), got {interval!r}")
    level, over = getattr(interval, "level", level), getattr(interval, "over", over) or over
    if ends is not None and not over:
        raise SpikinessError(f"metric {name!r}: say what its interval is over: over='samples', 'networks', ...")
    if tolerance is not None:
        tolerance = float(number(f"{name}'s tolerance", tolerance))
        _check_tolerance(name, tolerance, ends)
    return {
        "name": name,
        "labels": {key: _label(name, key, given) for key, given in (labels or {}).items()},
        "value": number(name, value),
        "interval": ends,
        "level": None if ends is None or level is None else float(level),
        "over": over if ends is not None else "",
        "unit": unit,
        "n": None if n is None else int(n),
        "seeds": int(seeds) if isinstance(seeds, int) else None if seeds is None else [int(seed) for seed in seeds],
        "tolerance": tolerance,
    }


def number(name: str, value: Any) -> float | int:
    """A plain finite number from a Python, numpy or torch one; `SpikinessError` naming `name` otherwise."""
    try:
        plain = value.item() if hasattr(value, "item") else value
        result = int(plain) if isinstance(plain, int) else float(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpikinessError(f"{name} must be one number, got {value!r}") from error
    if not math.isfinite(result):
        raise SpikinessError(f"{name} must be finite, got {value!r}")
    return result


def _label(name: str, key: str, value: Any) -> Label:
    if key in FIELDS or not NAME.fullmatch(key):
        raise SpikinessError(
            f"metric {name!r}: {key!r} cannot be a label: use a-z, 0-9, _, and none of {', '.join(FIELDS)}"
        )
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, str) and plain and not _UNFIT.search(plain):
        return plain
    if isinstance(plain, bool | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    raise SpikinessError(f"metric {name!r}: label {key} is {value!r}: give a number, or text without [ ] {{ }} , and =")


def _check_tolerance(name: str, tolerance: float, ends: Sequence[float] | None) -> None:
    if tolerance < 0:
        raise SpikinessError(f"metric {name!r}: tolerance must be at least 0, got {tolerance!r}")
    width = 0.0 if ends is None else ends[1] - ends[0]
    if width and tolerance >= 2 * width:
        raise SpikinessError(
            f"metric {name!r}: a tolerance of {tolerance:g} beside an interval {width:g} wide lets every rerun agree: "
            "leave it out, and it comes from the interval"
        )


def check_new(finding: Finding, others: Iterable[Finding]) -> None:
    """`SpikinessError` where a finding of this name and these labels is there, or one with other labels' names."""
    for other in others:
        if other["name"] != finding["name"]:
            continue
        if other["labels"].keys() != finding["labels"].keys():
            known = ", ".join(other["labels"]) or "none"
            raise SpikinessError(
                f"metric {title(finding)}: {finding['name']} has the labels {known}: give these, or choose another name"
            )
        if other["labels"] == finding["labels"]:
            raise SpikinessError(f"metric {title(finding)} is recorded already: choose another name or label")


# ---- selecting one


def title(finding: Mapping[str, Any]) -> str:
    """A finding's selector: `auroc[kind=unet:digits, method=paper]`."""
    labels = ", ".join(f"{key}={value}" for key, value in finding["labels"].items())
    return f"{finding['name']}[{labels}]" if labels else finding["name"]


def parse(selector: str) -> tuple[str, dict[str, str]]:
    """A selector's name and labels; `SpikinessError` where it is none."""
    match = SELECTOR.fullmatch(selector)
    pairs = [part.partition("=") for part in (match[2] or "").split(",")] if match and match[2] else []
    if not match or any(not (key.strip() and equals and value.strip()) for key, equals, value in pairs):
        raise SpikinessError(f"{selector!r} selects nothing: write name[label=value, label=value]")
    return match[1], {key.strip(): value.strip() for key, _, value in pairs}


def select(findings: Sequence[Finding], selector: str, context: Mapping[str, Any] | None = None) -> Finding:
    """The one finding that has the selector's name and labels; a label of `context` counts where a finding has it.

    Raises `SpikinessError` where none matches, with the nearest, and where more than one does, with the labels that
    tell them apart.
    """
    name, labels = parse(selector)
    named = [finding for finding in findings if finding["name"] == name]
    if not named:
        known = dict.fromkeys(finding["name"] for finding in findings)
        raise SpikinessError(f"no metric {name!r}{suggest(name, known)} (there are {', '.join(known) or 'none'})")
    if unknown := [key for key in labels if key not in named[0]["labels"]]:
        raise SpikinessError(
            f"{name} has no label {unknown[0]!r}{suggest(unknown[0], named[0]['labels'])} "
            f"(it has {', '.join(named[0]['labels']) or 'none'})"
        )
    wanted = {key: value for key, value in {**(context or {}), **labels}.items() if key in named[0]["labels"]}
    matches = [finding for finding in named if all(_equal(finding["labels"][k], v) for k, v in wanted.items())]
    if len(matches) == 1:
        return matches[0]
    near = suggest(selector, map(title, named)) if not matches else ""
    shown = "; ".join(map(title, (matches or named)[:12]))
    raise SpikinessError(f"{selector!r} selects {len(matches) or 'no'} metrics, one is needed{near} (of {shown})")


def _equal(label: Label, wanted: Any) -> bool:
    if isinstance(label, bool):
        return str(label).lower() == str(wanted).lower()
    if isinstance(label, str):
        return label == str(wanted)
    try:
        return float(label) == float(wanted)
    except (TypeError, ValueError):
        return False


# ---- showing them


def kind_of_interval(finding: Mapping[str, Any]) -> str:
    """What the two ends are: "95 % interval", or "range"."""
    return "range" if finding["level"] is None else f"{100 * finding['level']:.3g} % interval"


def table(findings: Sequence[Finding]) -> Any:
    """Findings as a DataFrame to show: metric, labels, value, interval, over, unit, n, seeds."""
    import pandas as pd

    rows = []
    for finding in findings:
        ends = "" if finding["interval"] is None else "[{:.4g}, {:.4g}]".format(*finding["interval"])
        rows.append(
            {
                "metric": finding["name"],
                "of": ", ".join(f"{key} {value}" for key, value in finding["labels"].items()),
                "value": f"{finding['value']:.6g}",
                "interval": ends,
                "is": f"{kind_of_interval(finding)} over {finding['over']}" if ends else "",
                **{key: "" if finding[key] is None else finding[key] for key in ("unit", "n", "seeds")},
            }
        )
    return pd.DataFrame(rows, columns=["metric", "of", "value", "interval", "is", "unit", "n", "seeds"])
