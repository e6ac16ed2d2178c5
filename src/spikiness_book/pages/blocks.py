"""Generated Markdown: the line under each chapter's title, and the tables of the statistics page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spikiness_book.engine.runs.store import Result
from spikiness_book.pages import claims

if TYPE_CHECKING:
    from spikiness_book.pages.stage import Chapter


def blocks(verdicts: Mapping[str, list[claims.Verdict]], results: Mapping[str, Result]) -> dict[str, str]:
    """Every block that a page can name as `{{ block }}`."""
    return {
        "claims_summary": claims.summary(verdicts),
        "claims_table": claims.table(verdicts, results),
        "claims_held": claims.listing(verdicts, claims.HELD),
        "claims_partly": claims.listing(verdicts, claims.PARTLY),
        "claims_failed": claims.listing(verdicts, claims.FAILED),
        "claims_untested": claims.listing(verdicts, claims.UNTESTED),
        "statistics_table": statistics(results),
        "versions_table": versions(results),
    }


def information(chapter: "Chapter") -> str:
    """What made a chapter: profile, data, device, seeds, code and seconds, in one line."""
    result, environment = chapter.result, chapter.result.environment
    facts = [
        f"profile **{result.profile}**" + (", published run" if chapter.published else ""),
        f"data {data(result)}",
        device(environment),
        f"seeds {seeds(result)}",
        f"commit {commit(environment)}",
        seconds(environment),
    ]
    return "\n".join([":::{div} run-info", " · ".join(facts) + " · {doc}`more </book/statistics>`", ":::"])


def warnings(chapter: "Chapter") -> list[str]:
    """What a reader must know before the figures: the run is older than the code, or smaller than the paper's."""
    found = []
    if chapter.stale:
        what = " and ".join(chapter.stale)
        found.append(
            ":::{admonition} Stale\n:class: warning stale\n"
            f"This page shows an older run: {what} changed since. Numbers and figures may differ from what the code "
            "gives now.\n:::"
        )
    if chapter.published and chapter.result.profile != "paper":
        found.append(
            ":::{admonition} Small scale\n:class: note\n"
            f"There is no published paper-scale run of this chapter yet; this is its {chapter.result.profile} run.\n:::"
        )
    return found


def data(result: Result) -> str:
    """The data sets that a run names in its parameters."""
    kinds = [kind.partition(":")[2] for kind in result.parameters.get("kinds", [])]
    return str(result.parameters.get("data") or ", ".join(dict.fromkeys(kinds)) or "made here")


def seeds(result: Result) -> str:
    """All seeds that a run names in its parameters, those it reports first: "10, 11 (calibration 0; dit 13)"."""
    given = {name: value for name, value in result.parameters.items() if name == "seed" or "seeds" in name.split("_")}
    if not given:
        return "fixed"
    listed = {name: ", ".join(map(str, value if isinstance(value, list) else [value])) for name, value in given.items()}
    first = listed.pop("seeds", None) or listed.pop("seed", "")
    others = [f"{name.replace('seeds', '').strip('_').replace('_', ' ')} {text}" for name, text in listed.items()]
    return f"{first} ({'; '.join(others)})" if others and first else first or "; ".join(others)


def device(environment: Mapping[str, Any]) -> str:
    """The device, with the number of threads on a processor."""
    name, threads = str(environment["device"]), environment["threads"]
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}" if name == "cpu" else name


def commit(environment: Mapping[str, Any]) -> str:
    """The first letters of the commit, and whether files differed from it."""
    found = environment.get("commit")
    if not found:
        return "unknown"
    name, _, dirty = found.partition("-")
    return f"`{name[:8]}`" + (" with changes" if dirty else "")


def seconds(environment: Mapping[str, Any]) -> str:
    """The time of a run in the unit one would say it in."""
    found = float(environment["seconds"])
    return f"{found:.0f} s" if found < 120 else f"{found / 60:.0f} min"


def statistics(results: Mapping[str, Result]) -> str:
    """One row per chapter: what made it and what it cost."""
    columns = {
        "Chapter": lambda r: f"{{doc}}`/notebooks/{r.chapter}`",
        "Profile": lambda r: r.profile,
        "Data": data,
        "Device": lambda r: device(r.environment),
        "Seeds": seeds,
        "Time": lambda r: seconds(r.environment),
        "Training": lambda r: training(r.environment),
        "Memory": lambda r: memory(r.environment),
        "Commit": lambda r: commit(r.environment),
        "Run": lambda r: f"`{str(r.id)[:8]}`",
    }
    if not any(r.environment.get("peak_memory_mb") for r in results.values()):
        del columns["Memory"]
    total = sum(float(r.environment["seconds"]) for r in results.values())
    rows = [[show(result) for show in columns.values()] for result in results.values()]
    return f"{_table(list(columns), rows)}\n\nAll chapters together: {seconds({'seconds': total})}."


def training(environment: Mapping[str, Any]) -> str:
    """The time that training the networks of a run took, whether in this run or when they were cached."""
    found = environment.get("training_seconds")
    return "not recorded" if found is None else seconds({"seconds": found})


def memory(environment: Mapping[str, Any]) -> str:
    """The largest memory of a run, where it was recorded."""
    found = environment.get("peak_memory_mb")
    return f"{found:,.0f} MB" if found else "not recorded"


def versions(results: Mapping[str, Result]) -> str:
    """One row per chapter: Python, system and packages."""
    packages = list(dict.fromkeys(name for r in results.values() for name in r.environment["packages"]))
    rows = [
        [
            f"{{doc}}`/notebooks/{name}`",
            r.environment["python"],
            r.environment["platform"],
            *(r.environment["packages"].get(package, "none") for package in packages),
        ]
        for name, r in results.items()
    ]
    return _table(["Chapter", "Python", "System", *packages], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "No chapter was run for this book."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
