"""From a sweep to its runs: each checked and named before anything starts, and what is known of it already."""

import os
import shutil
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spikiness import images
from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.files import read_json, write_json
from spikiness_book.engine.runs import devices, notebook, store
from spikiness_book.engine.runs.notebook import Plan, Source
from spikiness_book.engine.sweeps.grid import SEEDS, Sweep, shown

FORMAT = 2  # of plan.json


@dataclass(frozen=True)
class Task:
    """One run to be made: enough to make it elsewhere, and to refuse where code or parameters changed since."""

    id: str
    chapter: str
    profile: str
    parameters: dict[str, Any]
    inputs: dict[str, Any]

    @property
    def folder(self) -> Path:
        return store.run_folder(self.profile, self.chapter, self.id)


def plan(sweep: Sweep, notebooks: Path | None = None) -> list[Task]:
    """The runs of a sweep, in its order.

    Raises one `SpikinessError` that names the file for an unknown chapter or parameter, a value that the chapter
    refuses, or two points that are the same run.
    """
    try:
        device = devices.CUDA if sweep.resources["gpu"] else None  # jobs may have what this machine has not
        return _tasks(sweep, Source(sweep.chapter, sweep.profile, notebooks, device))
    except SpikinessError as error:
        raise type(error)(f"{sweep.where or sweep.name}: {error}") from None


def _tasks(sweep: Sweep, source: Source) -> list[Task]:
    tasks: dict[str, Task] = {}
    for point in sweep.points:
        made = task(source.plan(_with_seed(point, source, sweep.chapter)))
        if made.id in tasks:
            raise SpikinessError(
                f"two points are the same run of {sweep.chapter}: {shown(point)} changes nothing that another point "
                "has not: leave one"
            )
        tasks[made.id] = made
    return list(tasks.values())


def task(made: Plan) -> Task:
    """A planned run as a task."""
    return Task(made.id, made.chapter, made.profile, made.parameters, made.inputs)


def _with_seed(point: dict[str, Any], source: Source, chapter: str) -> dict[str, Any]:
    names = {p.name for p in source.parameters}
    if SEEDS not in point or SEEDS in names:
        return point
    if "seed" not in names:
        raise SpikinessError(f"{chapter} has no parameter seed or seeds: leave seeds out")
    seeds = point[SEEDS]
    if "seed" in point:
        raise SpikinessError(f"{shown(point)}: seed is what seeds vary: leave one")
    if not isinstance(seeds, list) or len(seeds) != 1:
        raise SpikinessError(f"{chapter} takes one seed a run, got {seeds!r}: write seeds: [10, 11, 12]")
    return {**{name: value for name, value in point.items() if name != SEEDS}, "seed": seeds[0]}


# ---- what is there


class Status(NamedTuple):
    """A task and the state of its run."""

    task: Task
    state: str
    reason: str
    folder: Path


def status(tasks: Iterable[Task], verified: bool = False) -> list[Status]:
    """What can be seen of each run; with `verified` every file of the complete ones is checked, else their presence."""
    return [_status(task, verified) for task in tasks]


def _status(task: Task, verified: bool) -> Status:
    if not verified and complete(task):
        return Status(task, "complete", "", task.folder)
    run = store.state(task.folder)
    return Status(task, run.state, run.reason, run.folder)


def complete(task: Task) -> bool:
    """Whether the run has its final folder with a result of it: that folder is only ever given to a verified run."""
    try:
        content = read_json(task.folder / "result.json")
    except CorruptArtifact:
        return False
    return content.get("id") == task.id and content.get("format") == store.FORMAT


class Estimate(NamedTuple):
    """What is left to do: `seconds` of one core's time for all of it, from `basis`; `disk` in bytes for all runs."""

    seconds: float
    disk: float
    basis: str


def estimate(tasks: Sequence[Task], left: Sequence[Task], minutes: int) -> Estimate:
    """What the runs `left` will take: as long as the sweep's finished ones, else as the chapter's others, else
    the `minutes` it asks for."""
    missing = {task.id for task in left}
    done = [task.folder for task in tasks if task.id not in missing]
    basis = f"{len(done)} finished runs of this sweep"
    if not done:
        done = _relatives(tasks[0])
        basis = f"{len(done)} other runs of {tasks[0].chapter} ({tasks[0].profile})"
    seconds, disk = _median_seconds(done[:50]), _median_size(done[:20])
    if seconds is None:
        return Estimate(60.0 * minutes * len(left), 2e6 * len(left), "the minutes it asks")
    return Estimate(seconds * len(left), disk * len(left), basis)


def expected(tasks: Iterable[Task], others: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the runs of which something is known: the median of their chapter's in this profile, else `others`, by
    chapter."""
    tasks = list(tasks)
    relatives = {(task.profile, task.chapter): task for task in tasks}
    medians = {key: _median_seconds(_relatives(task)[:50]) for key, task in relatives.items()}
    seconds = {task.id: medians[task.profile, task.chapter] or others.get(task.chapter) for task in tasks}
    return {run_id: value for run_id, value in seconds.items() if value is not None}


def _relatives(task: Task) -> list[Path]:
    records = sorted(task.folder.parent.glob("*/environment.json"))
    return [path.parent for path in records if not path.parent.suffix]  # no .partial of a run that failed


def _median_seconds(folders: Iterable[Path]) -> float | None:
    seconds = []
    for folder in folders:
        try:
            seconds.append(float(read_json(folder / "environment.json")["seconds"]))
        except (CorruptArtifact, KeyError):
            continue
    return statistics.median(seconds) if seconds else None


def _median_size(folders: Iterable[Path]) -> float:
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders if folder.is_dir()]
    return statistics.median(sizes) if sizes else 2e6


def summary(tasks: Sequence[Task], resources: dict[str, int], cores: int) -> str:
    """What a sweep would do, in a few lines."""
    statuses = status(tasks)
    counts = Counter(each.state for each in statuses)
    left = [each.task for each in statuses if each.state != "complete"]
    lines = [
        f"{len(tasks)} runs of {', '.join(dict.fromkeys(t.chapter for t in tasks))}: "
        + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    ]
    if left:
        expected = estimate(tasks, left, resources["minutes"])
        per = min(len(left), max(1, cores // resources["cpu"]))
        lines.append(
            f"to do: {len(left)}, about {duration(expected.seconds / per)} on {cores} core{'s' * (cores > 1)} "
            f"and {expected.disk / 1e6:,.0f} MB of disk (from {expected.basis})"
        )
        free = shutil.disk_usage(_existing(store.home())).free
        if expected.disk > free:
            lines.append(f"only {free / 1e6:,.0f} MB are free in {store.home()}")
    return "\n".join(lines)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


# ---- plan.json: what the engine and its jobs read


def save(
    path: Path, tasks: Sequence[Task], resources: dict[str, int], notebooks: Path | None = None, command: str = ""
) -> None:
    """Write the tasks where jobs on any machine that shares the folder can read them.

    A job starts in another folder than the one we stand in: relative paths of data are kept as they are, since they
    are part of the runs' names, and read from our folder. `command` replaces what a job does, to measure the engine
    alone.
    """
    inputs: list[dict[str, Any]] = []  # nearly always the same for all: once in the file
    for task in tasks:
        if task.inputs not in inputs[-8:]:
            inputs.append(task.inputs)
    content = {
        "format": FORMAT,
        "home": str(store.home().absolute()),
        "notebooks": str(notebook.folder(notebooks).absolute()),
        "folder": os.getcwd(),
        "data": str(images.places()[0].absolute()) if os.environ.get("SPIKINESS_DATA") else "",
        "resources": resources,
        "command": command,
        "inputs": inputs,
        "tasks": [{**vars(task), "inputs": inputs.index(task.inputs)} for task in tasks],
    }
    write_json(path, content)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, with `tasks` by id; its home and folder of data become this process's.

    Raises `SpikinessError` where another version wrote it.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise SpikinessError(f"{path} is of another version of spikiness: plan the sweep again")
    inputs = content["inputs"]
    content["tasks"] = {t["id"]: Task(**{**t, "inputs": inputs[t["inputs"]]}) for t in content["tasks"]}
    os.environ["SPIKINESS_HOME"] = content["home"]
    if content["data"]:
        os.environ["SPIKINESS_DATA"] = content["data"]
    return content


def place(name: str) -> Path:
    """The folder of a sweep: what was planned, what its jobs said, its tables. Results are with all other runs."""
    return store.under(store.home(), "sweeps", name)
