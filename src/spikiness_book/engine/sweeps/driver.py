"""Make the runs of a plan that are missing, show how far it is, and say at the end what failed and why."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine.runs import devices, locks, processes, store
from spikiness_book.engine.runs.notebook import folder as notebooks_folder
from spikiness_book.engine.sweeps import planning
from spikiness_book.engine.sweeps.grid import RESOURCES
from spikiness_book.engine.sweeps.planning import Standing, Task

PATIENCE = 20  # seconds that runs have to end after Ctrl-C
EACH = 100  # up to so many runs, every one that ends gets a line


def drive(
    tasks: Sequence[Task],
    name: str,
    cores: int | None = None,
    *,
    resources: dict[str, int] | None = None,
    gpus: int | None = None,
    notebooks: Path | None = None,
    executor: Sequence[str] = (),
) -> list[Standing]:
    """Make what is missing of `tasks` and return how each of them stands; a failed run does not stop the others.

    `cores` are shared out among the runs, `resources` (of `grid.RESOURCES`) are what one of them takes; `executor` are
    further arguments of Snakemake, say `["--profile", "workflow/profiles/slurm"]`. Two drivers of the same runs share
    them: each run is made once, by whoever comes first. Raises `SpikinessError` where it cannot start.
    """
    resources = {**RESOURCES, **(resources or {})}
    cores = cores or usable_cores()
    _check_room(resources, cores, gpus, executor)
    missing = [found.task for found in planning.status(tasks, verified=True) if found.state != "complete"]
    if missing:
        _check_installed()
        place = planning.place(name) / f"driver-{secrets.token_hex(4)}"
        _clear(place.parent)
        with locks.hold(place / "driver.lock", "this sweep"):
            planning.save(place / "plan.json", missing, resources, notebooks)
            _run(place, missing, cores, resources, gpus, notebooks, executor)
            reasons = _reasons(place)
        if all(planning.complete(task) for task in missing):
            shutil.rmtree(place, ignore_errors=True)
        else:  # kept until the next start: the engine's log says what a run's own notebook does not
            wordless = f"its job ended without a word: see {place / 'engine.log'}"
            reasons = dict.fromkeys((task.id for task in missing), "") | reasons
            return [_final(found, reasons, wordless) for found in planning.status(tasks)]
    return planning.status(tasks)


def _clear(folder: Path) -> None:
    """Remove the folders of drivers that are gone; one without a lock is just being made."""
    for other in folder.glob("driver-*"):
        planned = (other / "plan.json").exists()  # looked at before the lock, which is taken first and given back last
        who = locks.holder(other / "driver.lock")
        old = planned and who is None
        if old or (who and locks.alive(who) is False):
            shutil.rmtree(other, ignore_errors=True)


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_installed() -> None:
    if importlib.util.find_spec("snakemake") is None:
        raise SpikinessError("Snakemake, which runs several chapters, is not installed: pip install 'spikiness[batch]'")


def _check_room(resources: dict[str, int], cores: int, gpus: int | None, executor: Sequence[str]) -> None:
    if cores < 1:
        raise SpikinessError(f"cores must be at least 1, got {cores}")
    if executor:  # another machine's room is its scheduler's business
        return
    if resources["cpu"] > cores:
        raise SpikinessError(f"a run takes {resources['cpu']} cores and there are {cores}: lower cpu, or raise --cores")
    here = len(devices.gpus()) if gpus is None else gpus
    if resources["gpu"] > here:
        raise SpikinessError(
            f"a run takes {resources['gpu']} GPUs and there are {here}: set gpu: 0 to run on the CPU, or give --gpus"
        )


def _run(
    place: Path,
    tasks: Sequence[Task],
    cores: int,
    resources: dict[str, int],
    gpus: int | None,
    notebooks: Path | None,
    executor: Sequence[str],
) -> None:
    log = place / "engine.log"
    store.write_bytes(place / "config.json", json.dumps({"plan": str(place / "plan.json")}).encode())
    command = ["spikiness_book.engine.runs.processes", "snakemake", "--snakefile", str(snakefile(notebooks))]
    command += ["--configfile", str(place / "config.json"), "--nolock", "--rerun-triggers", "mtime", "--keep-going"]
    command += ["--scheduler", "greedy", "--quiet", "rules", "reason", "host", "--directory", str(place)]
    command += list(executor) if executor else ["--cores", str(cores), *_limits(resources, gpus)]
    with processes.Family(command, log, _environ()) as family:
        try:
            _follow(family, place, tasks)
        except BaseException:  # asked first, so that a cluster's jobs are cancelled and runs say where they were
            family.ask_to_end(PATIENCE)
            raise
    status = family.process.returncode
    if status < 0 or status > 128:
        raise RunFailed(f"Snakemake was ended by signal {abs(status) % 128}; the same command goes on from here")
    started = "RuleException" in log.read_text(encoding="utf-8", errors="replace")  # what a job that failed leaves
    if status and not started and not _names(place / "failed") and not _names(place / "done"):
        raise RunFailed(f"Snakemake did not start:\n{_tail(log)}")


def _environ() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    return {**kept, "OMP_WAIT_POLICY": "PASSIVE"}


def snakefile(notebooks: Path | None = None) -> Path:
    """The Snakefile of the checkout that holds the chapters, else of the one that this package runs from."""
    beside = notebooks_folder(notebooks).absolute().parent
    for root in (beside, store.checkout(), store.checkout(Path(__file__).parent)):
        if root and (root / "workflow" / "Snakefile").is_file():
            return root / "workflow" / "Snakefile"
    raise SpikinessError("workflow/Snakefile is not here: stand in a checkout of the project")


def _limits(resources: dict[str, int], gpus: int | None) -> list[str]:
    import psutil

    memory = max(psutil.virtual_memory().total // 2**20, resources["memory"])
    return ["--resources", f"mem_mb={memory}", f"gpu={len(devices.gpus()) if gpus is None else gpus}"]


# ---- how far it is


@dataclass
class _View:
    """What a driver has shown."""

    tasks: dict[str, Task]
    started: float = field(default_factory=time.monotonic)
    told: set[str] = field(default_factory=set)
    line: str = ""
    when: float = 0.0

    def show(self, place: Path, last: bool = False) -> None:
        done, failed, running = (_names(place / what) for what in ("done", "failed", "running"))
        for run_id in sorted((done | failed) - self.told):
            self._tell(run_id, place, run_id in failed)
        line = self._line(len(done), len(failed - done), len(running))
        if line != self.line and (sys.stderr.isatty() or last or time.monotonic() - self.when > 10):
            sys.stderr.write(f"\r\x1b[K{line}" if sys.stderr.isatty() else f"{line}\n")
            sys.stderr.flush()
            self.line, self.when = line, time.monotonic()

    def _tell(self, run_id: str, place: Path, failed: bool) -> None:
        if not failed and len(self.tasks) > EACH:
            return
        self.told.add(run_id)
        task = self.tasks[run_id]
        how = f"failed: {_reason(place / 'failed' / run_id)}" if failed else f"done{_seconds(task)}"
        sys.stderr.write(f"{chr(13) + chr(27) + '[K' if sys.stderr.isatty() else ''}{named(task)}: {how}\n")

    def _line(self, done: int, failed: int, running: int) -> str:
        ended, total = done + failed, len(self.tasks)
        passed = time.monotonic() - self.started
        left = f", about {planning.duration(passed / ended * (total - ended))} left" if 0 < ended < total else ""
        return f"{done} of {total} done, {failed} failed, {running} running{left}"


def named(task: Task) -> str:
    """A run in the words of messages."""
    return f"{task.chapter}: {task.profile} {task.id}"


def _follow(family: processes.Family, place: Path, tasks: Sequence[Task]) -> None:
    view = _View({task.id: task for task in tasks})
    while not family.ended(0.3):
        view.show(place)
    view.show(place, last=True)
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")}
    except FileNotFoundError:
        return set()


def _reason(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace") or "it said nothing"
    return "it said nothing"


def _reasons(place: Path) -> dict[str, str]:
    return {run_id: _reason(place / "failed" / run_id) for run_id in _names(place / "failed")}


def _seconds(task: Task) -> str:
    with contextlib.suppress(SpikinessError, KeyError):
        return f" in {store.read_json(task.folder / 'environment.json')['seconds']:.0f} s"
    return ""


def _final(found: Standing, reasons: dict[str, str], wordless: str) -> Standing:
    """The state of a run after a sweep: what its job says, else the run itself."""
    if found.state not in ("absent", "failed") or found.task.id not in reasons:
        return found
    return found._replace(state="failed", reason=reasons[found.task.id] or found.reason or wordless)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines[-12:] if line.strip())
