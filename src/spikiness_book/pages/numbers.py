"""Numbers in prose: `{{ chapter.metric }}` in a page becomes the measured value with its interval."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import findings
from spikiness_book.engine.runs.store import Result

# {{ block }}, {{ chapter.metric }}, {{ chapter.metric[label=value].field }}, with ? at its end where it may be missing
REFERENCE = re.compile(r"\{\{\s*([A-Za-z][\w-]*)(?:\.([\w-]+(?:\[[^\[\]{}]*\])?)(?:\.(\w+))?(\?)?)?\s*\}\}")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """A number for readers: three digits, four close to one (0.9987), no exponent where plain digits do."""
    value = float(value)
    if value == 0 or 0.001 <= abs(value) < 999.5:
        return f"{value:.4g}" if 0.9 <= abs(value) < 1 else f"{value:.3g}"
    if 999.5 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def plain(metric: Mapping[str, Any]) -> str:
    """The value alone: `21.3 dB`."""
    return _with_unit(number(metric["value"]), metric)


def interval(metric: Mapping[str, Any]) -> str:
    """The interval alone, "0.991 to 0.998", or words where there is none."""
    if metric.get("interval") is None:
        return "no interval"
    low, high = metric["interval"]
    return _with_unit(f"{number(low)} to {number(high)}", metric)


def full(metric: Mapping[str, Any]) -> str:
    """The value with its interval: `0.995 (95 % interval 0.991 to 0.998)`, or its range."""
    if metric.get("interval") is None:
        return plain(metric)
    return f"{plain(metric)} ({findings.kind_of_interval(metric)} {interval(metric)})"


def percent(metric: Mapping[str, Any]) -> str:
    """A fraction as a percentage, with its interval."""
    scaled = {**metric, "value": 100 * metric["value"], "unit": "%"}
    if metric.get("interval") is not None:
        scaled["interval"] = [100 * end for end in metric["interval"]]
    return full(scaled)


def seeds(metric: Mapping[str, Any]) -> str:
    """How many seeds: a run may record their number or their list."""
    found = metric.get("seeds")
    return "unknown" if found is None else str(len(found) if isinstance(found, list) else found)


def count(metric: Mapping[str, Any]) -> str:
    """How many items the value is over."""
    return "unknown" if metric.get("n") is None else f"{metric['n']:,}"


FIELDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "full": full,
    "value": plain,
    "interval": interval,
    "percent": percent,
    "n": count,
    "seeds": seeds,
}


def _with_unit(text: str, metric: Mapping[str, Any]) -> str:
    return f"{text} {metric['unit']}" if metric.get("unit") else text


def substitute(text: str, page: str, results: Mapping[str, Result], blocks: Mapping[str, str], skipped=()) -> str:
    """`text` with every reference replaced by its value.

    Args:
        text: Markdown. `{{ chapter.metric }}` is the value with its interval, `{{ chapter.metric.FIELD }}` one of
            FIELDS, `{{ chapter.metric[label=value] }}` the metric with these labels, `{{ name }}` one of `blocks`.
            With a question mark at its end a metric that the run does not have, since it looked at other kinds of
            network or data, reads "not in this run".
        page: name of the page, for errors.
        results: one verified result per chapter.
        blocks: generated Markdown by name.
        skipped: chapters that this book leaves out on request; their numbers read "not run here".

    Raises `SpikinessError` that lists every reference without a value, with page, chapter and metric.
    """
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        try:
            return _value(match, results, blocks, skipped)
        except SpikinessError as error:
            missing.append(f"{page}: {match[0]}: {error}")
            return match[0]

    filled = REFERENCE.sub(value, text)
    if missing:
        raise SpikinessError("\n".join(missing))
    return filled


def _value(match: re.Match[str], results: Mapping[str, Result], blocks: Mapping[str, str], skipped) -> str:
    chapter, selector, field, optional = match.groups()
    if selector is None:
        if chapter not in blocks:
            raise SpikinessError(f"no block {chapter!r}{suggest(chapter, blocks)} (there are {', '.join(blocks)})")
        return blocks[chapter]
    if chapter in skipped:
        return "(not run here)"
    if field and field not in FIELDS:
        raise SpikinessError(f"no field {field!r}{suggest(field, FIELDS)} (there are {', '.join(FIELDS)})")
    if optional and chapter in results and not _has(results[chapter], selector):
        return "(not in this run)"
    return FIELDS[field or "full"](lookup(results, chapter, selector))


def _has(result: Result, selector: str) -> bool:
    name, labels = findings.parse(selector)
    return any(f["name"] == name and labels.items() <= {k: str(v) for k, v in f["labels"].items()}.items()
               for f in result.findings)  # fmt: skip


def lookup(results: Mapping[str, Result], chapter: str, selector: str) -> dict[str, Any]:
    """One finding of one chapter; `SpikinessError` that names both, and the nearest, where it is missing."""
    if chapter not in results:
        raise SpikinessError(f"no result of chapter {chapter!r}{suggest(chapter, results)}")
    try:
        return findings.select(results[chapter].findings, selector)
    except SpikinessError as error:
        raise SpikinessError(f"chapter {chapter!r}: {error}") from None
