"""What a sweep measured, as two tables: results, equal on every machine, and what making them took, which is not."""

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spikiness.errors import SpikinessError
from spikiness.files import read_json, write_bytes
from spikiness_book.engine.runs import store
from spikiness_book.engine.sweeps import machine, planning
from spikiness_book.engine.sweeps.planning import Task

COLUMNS = ("run", "metric", "value", "low", "high", "level", "over", "unit", "count")


class Tables(NamedTuple):
    """`results`: one row per run and metric, with the run's parameters; `costs`: one row per run; `skipped`: the runs
    without a readable result, and why."""

    results: Any
    costs: Any
    skipped: dict[str, str]


def collect(tasks: Iterable[Task]) -> Tables:
    """Read the results of the runs that are there.

    `results` has run, the parameters (lists as JSON text), metric, its labels as `label_NAME`, value, low and high,
    their level (none for a range), over: what they resample, unit, and count: how many things the value was taken
    over; a parameter of such a name is `parameter_NAME`. `costs` has run, seconds,
    training_seconds, device, threads, host and versions.
    Nothing but the small files is read: `verify` checks every artefact.
    """
    import pandas as pd

    results, costs, skipped = [], [], {}
    for task in tasks:
        try:
            content = read_json(task.folder / "result.json")
            environment = read_json(task.folder / "environment.json")
            if content.get("format") != store.FORMAT or content.get("id") != task.id:
                raise SpikinessError(f"another format than {store.FORMAT}, or another run; run the sweep again")
        except SpikinessError as error:
            skipped[task.id] = "there is no result" if not task.folder.is_dir() else str(error)
            continue
        parameters = {_column(name): _cell(value) for name, value in content["parameters"].items()}
        results += [{"run": task.id, **parameters, **_row(finding)} for finding in content["findings"]]
        costs.append({"run": task.id, **_costs(task, environment)})
    frame = pd.DataFrame(results)
    for column, kind in (("low", "float64"), ("high", "float64"), ("level", "float64"), ("count", "Int64")):
        if column in frame:
            frame[column] = frame[column].astype(kind)  # a column of nothing is still one of numbers
    return Tables(frame, pd.DataFrame(costs), skipped)


def _row(finding: dict[str, Any]) -> dict[str, Any]:
    low, high = finding["interval"] or (None, None)
    labels = {f"label_{name}": value for name, value in finding["labels"].items()}
    values = {"value": float(finding["value"]), "low": low, "high": high, "level": finding["level"]}
    return {"metric": finding["name"], **labels, **values, "over": finding["over"], "unit": finding["unit"],
            "count": finding["n"]}  # fmt: skip


def _column(parameter: str) -> str:
    return f"parameter_{parameter}" if parameter in COLUMNS else parameter


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _costs(task: Task, environment: dict[str, Any]) -> dict[str, Any]:
    host = ""
    with contextlib.suppress(SpikinessError):
        host = read_json(machine.records() / f"{task.id}.json")["host"]
    known = ("seconds", "training_seconds", "peak_memory_mb", "device", "threads", "platform", "python", "commit")
    return {**{name: environment.get(name) for name in known}, "host": host, **environment.get("packages", {})}


def write(tables: Tables, folder: Path, name: str) -> list[Path]:
    """Write both tables as parquet and csv, `NAME.parquet` and `NAME-costs.parquet`; equal tables give equal bytes.

    Raises `SpikinessError` where the folder cannot be written, or pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise SpikinessError("pyarrow, which writes parquet, is not installed: pip install 'spikiness[batch]'")
    written = []
    for ending, frame in (("", tables.results), ("-costs", tables.costs)):
        parquet = io.BytesIO()
        frame.to_parquet(parquet, index=False)
        for kind, data in ((".parquet", parquet.getvalue()), (".csv", _csv(frame))):
            written.append(folder / f"{name}{ending}{kind}")
            write_bytes(written[-1], data)
    return written


def _csv(frame: Any) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def verify(tasks: Sequence[Task]) -> dict[str, str]:
    """Check every file of every run against its sha256: the runs that are not whole, and why."""
    return {
        found.task.id: found.reason or found.state
        for found in planning.status(tasks, verified=True)
        if found.state != "complete"
    }
