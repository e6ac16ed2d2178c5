"""What workflow/Snakefile asks: which plan, which runs, what each needs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spikiness.errors import SpikinessError
from spikiness_book.engine.sweeps import grid, planning


class Runs(NamedTuple):
    """The runs of a plan, in its order, and what each takes."""

    ids: list[str]
    priorities: dict[str, int]  # the first is started first
    resources: dict[str, int]
    python: str
    command: str


def plan_file(config: Mapping[str, Any], main: bool) -> Path:
    """The plan to run: `plan` of Snakemake's config as `spikiness sweep run` gives it, else made from `sweep`.

    Jobs on other machines read what the main process planned. Raises `SpikinessError` where neither is given.
    """
    if "plan" in config:
        return Path(config["plan"])
    if "sweep" not in config:
        raise SpikinessError("which sweep? --config sweep=workflow/sweeps/first.yaml")
    sweep = grid.read(Path(config["sweep"]))
    file = planning.place(sweep.name) / "plan.json"
    if main:
        _prepare(file, planning.plan(sweep), sweep.resources)
    return file


def _prepare(file: Path, tasks: list[planning.Task], resources: dict[str, int]) -> None:
    """Write the plan, and make the markers agree with the runs that are there."""
    planning.save(file, tasks, resources)
    done = file.parent / "done"
    done.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if planning.complete(task):
            (done / task.id).touch()
        else:
            (done / task.id).unlink(missing_ok=True)


def load(file: Path) -> Runs:
    """The runs of a plan."""
    content = planning.load(file)
    command = f"{content['command']} #" if content["command"] else ""  # in place of the job, to measure the engine
    ids = list(content["tasks"])
    priorities = {run_id: len(ids) - at for at, run_id in enumerate(ids)}
    return Runs(ids, priorities, content["resources"], sys.executable, command)
