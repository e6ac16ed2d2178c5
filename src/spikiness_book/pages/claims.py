"""The scorecard: each claim of the paper against the metric that tests it."""

import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from spikiness.errors import SpikinessError
from spikiness_book.engine.runs import findings
from spikiness_book.engine.runs.store import Result
from spikiness_book.pages import numbers

HELD, PARTLY, FAILED, UNTESTED = "held", "held partly", "did not hold here", "not yet tested"
VERDICTS = (HELD, PARTLY, FAILED, UNTESTED)  # best first; a claim with several measures gets its worst
BADGES = {HELD: "bdg-success", PARTLY: "bdg-warning", FAILED: "bdg-danger", UNTESTED: "bdg-secondary"}
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_RULE = re.compile(r"\s*(>=|<=|>|<)\s*([-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?)\s*", re.IGNORECASE)


class Rule(BaseModel):
    """When a metric supports a claim: `held: ">= 0.99"`, and the weaker `partly: ">= 0.9"`."""

    model_config = ConfigDict(extra="forbid")
    held: str
    partly: str | None = None

    @model_validator(mode="after")
    def _parses(self) -> "Rule":
        for rule in filter(None, (self.held, self.partly)):
            parse(rule)
        return self


class Claim(BaseModel):
    """One row of the scorecard: tested by metrics of one chapter, or left to a `later` part."""

    model_config = ConfigDict(extra="forbid")
    id: str
    claim: str
    where: str
    chapter: str | None = None
    measured: dict[str, Rule] = {}
    profile: str | None = None  # of the runs that measure it, where others lack the data
    later: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Claim":
        if bool(self.chapter and self.measured) == bool(self.later):
            raise ValueError("give a chapter with what is measured, or `later`")
        return self


class Verdict(NamedTuple):
    """A claim, its verdict, and the metrics behind it (empty where it is not tested)."""

    claim: Claim
    verdict: str
    metrics: dict[str, dict[str, Any]]


def parse(rule: str) -> list[tuple[str, float]]:
    """A rule such as ">= 0.8 and <= 1.25" as pairs of comparison and bound; `ValueError` where it is none."""
    pairs = [_RULE.fullmatch(part) for part in rule.split(" and ")]
    if not all(pairs):
        raise ValueError(f"rule {rule!r}: write a comparison and a number, as in '>= 0.99' or '>= 0.8 and <= 1.25'")
    return [(pair[1], float(pair[2])) for pair in pairs if pair]


def meets(rule: str, values: Iterable[float]) -> bool:
    """Whether all values satisfy the rule."""
    return all(COMPARE[sign](value, bound) for sign, bound in parse(rule) for value in values)


def judge(rule: Rule, metric: Mapping[str, Any]) -> str:
    """Held: the value meets the rule with its whole interval. Partly: the value does, or it meets the weaker rule."""
    value, ends = metric["value"], metric.get("interval") or ()
    if meets(rule.held, [value, *ends]):
        return HELD
    if meets(rule.held, [value]) or (rule.partly and meets(rule.partly, [value])):
        return PARTLY
    return FAILED


def read(path: Path) -> dict[str, list[Claim]]:
    """The claims by part of the paper; `SpikinessError` names the claim and the field that is wrong."""
    parts: dict[str, list[Claim]] = {}
    seen: set[str] = set()
    for part, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for row in rows:
            name = row.get("id", "without an id")
            try:
                claim = Claim.model_validate(row)
            except ValidationError as error:
                raise SpikinessError(f"{path.name}: claim {name!r}: {_reasons(error)}") from None
            if claim.id in seen:
                raise SpikinessError(f"{path.name}: claim {name!r} is there twice")
            seen.add(claim.id)
            parts.setdefault(part, []).append(claim)
    return parts


def _reasons(error: ValidationError) -> str:
    return "; ".join(" ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")]) for e in error.errors())


def evaluate(parts: Mapping[str, list[Claim]], results: Mapping[str, Result], skipped=()) -> dict[str, list[Verdict]]:
    """Every claim with its verdict; one `SpikinessError` lists each metric that a result lacks."""
    missing: list[str] = []
    verdicts: dict[str, list[Verdict]] = {}
    for part, claims in parts.items():
        verdicts[part] = []
        for claim in claims:
            try:
                verdicts[part].append(_verdict(claim, results, skipped))
            except SpikinessError as error:
                missing.append(f"claims.yaml: claim {claim.id!r}: {error}")
    if missing:
        raise SpikinessError("\n".join(missing))
    return verdicts


def _verdict(claim: Claim, results: Mapping[str, Result], skipped) -> Verdict:
    if claim.later or claim.chapter in skipped or _elsewhere(claim, results):
        return Verdict(claim, UNTESTED, {})
    metrics = {name: numbers.lookup(results, claim.chapter, name) for name in claim.measured}
    worst = max((judge(rule, metrics[name]) for name, rule in claim.measured.items()), key=VERDICTS.index)
    return Verdict(claim, worst, metrics)


def _elsewhere(claim: Claim, results: Mapping[str, Result]) -> bool:
    """Whether the run of its chapter is of another profile than the one that measures it."""
    found = results.get(claim.chapter or "")
    return bool(claim.profile and found and found.profile != claim.profile)


# ---- the page


def summary(verdicts: Mapping[str, list[Verdict]]) -> str:
    """One sentence: how many claims, and how they fared."""
    found = [row.verdict for rows in verdicts.values() for row in rows]
    tested = len(found) - found.count(UNTESTED)
    return (
        f"Of {len(found)} claims, {tested} are tested so far: {found.count(HELD)} held, {found.count(PARTLY)} held "
        f"partly, {found.count(FAILED)} did not hold here."
    )


def listing(verdicts: Mapping[str, list[Verdict]], verdict: str) -> str:
    """The claims with one verdict, as a list, each with what was measured."""
    rows = [row for rows in verdicts.values() for row in rows if row.verdict == verdict]
    if not rows:
        return "None."
    return "\n".join(f"- {row.claim.claim} ({row.claim.where}){_listed(row)}" for row in rows)


def _listed(row: Verdict) -> str:
    if not row.metrics:
        return f" — {_reason(row.claim)}."
    found = "; ".join(f"{_words(name)} {numbers.full(metric)}" for name, metric in row.metrics.items())
    return f" — {{doc}}`/notebooks/{row.claim.chapter}`: {found}."


def _reason(claim: Claim) -> str:
    """Why a claim is not tested."""
    return claim.later or (f"by runs of the {claim.profile} profile" if claim.profile else "not run for this book")


def table(verdicts: Mapping[str, list[Verdict]], results: Mapping[str, Result]) -> str:
    """The scorecard as Markdown, one table per part."""
    return "\n\n".join(f"## {part}\n\n{_part_table(rows, results)}" for part, rows in verdicts.items())


def _part_table(rows: list[Verdict], results: Mapping[str, Result]) -> str:
    lines = ["````{list-table}", ":header-rows: 1", ":class: scorecard", ":widths: 44 34 22", ""]
    lines += ["* - Claim", "  - Measured", "  - Verdict"]
    for row in rows:
        lines += [f"* - {row.claim.claim}", "", f"    *{row.claim.where}*"]
        measured = _measured(row, results)
        lines += [f"  - {measured[0]}", *(line for text in measured[1:] for line in ("", f"    {text}"))]
        lines += [f"  - {{{BADGES[row.verdict]}}}`{row.verdict}`"]
    return "\n".join([*lines, "````"])


def _measured(row: Verdict, results: Mapping[str, Result]) -> list[str]:
    """The cell's paragraphs: each metric with its rule, then where it was measured."""
    if not row.metrics:
        return [_reason(row.claim)]
    paragraphs = []
    for name, metric in row.metrics.items():
        rule = row.claim.measured[name]
        weaker = f", partly if {_signs(rule.partly)}" if rule.partly else ""
        paragraphs.append(
            f"{_words(name)}: **{numbers.plain(metric)}** ({_ends(metric)}), n = {numbers.count(metric)}, "
            f"seeds: {numbers.seeds(metric)}. Held if {_signs(rule.held)}{weaker}."
        )
    return [*paragraphs, f"{{doc}}`/notebooks/{row.claim.chapter}`, profile {results[row.claim.chapter].profile}"]


def _ends(metric: Mapping[str, Any]) -> str:
    """The interval; what it is where that is not one of 95 %."""
    ends = numbers.interval(metric)
    usual = metric.get("interval") is None or metric["level"] == 0.95
    return ends if usual else f"{findings.kind_of_interval(metric)} {ends}"


def _words(selector: str) -> str:
    name, labels = findings.parse(selector)
    words = name.replace("_", " ").replace("auroc", "AUROC").replace("psnr", "PSNR")
    return f"{words} ({', '.join(f'{key} {value}' for key, value in labels.items())})" if labels else words


def _signs(rule: str) -> str:
    return rule.replace(">=", "≥").replace("<=", "≤")
