"""Make the runs of a plan that are missing, show how far it is, and say at the end what failed and why."""

import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine.runs import devices, locks, processes, store
from spikiness_book.engine.runs.notebook import folder as notebooks_folder
from spikiness_book.engine.sweeps import planning
from spikiness_book.engine.sweeps.grid import RESOURCES
from spikiness_book.engine.sweeps.planning import Status, Task
from spikiness_book.engine.sweeps.progress import Progress, watched

PATIENCE = 20  # seconds that runs have to end after Ctrl-C


def drive(
    tasks: Sequence[Task],
    name: str,
    cores: int | None = None,
    *,
    resources: dict[str, int] | None = None,
    gpus: int | None = None,
    notebooks: Path | None = None,
    executor: Sequence[str] = (),
    expected: Mapping[str, float] | None = None,
) -> list[Status]:
    """Make what is missing of `tasks`, the first of them first, and return how each stands; a failed run does not stop
    the others.

    `cores` are shared out among the runs, `resources` (of `grid.RESOURCES`) are what one of them takes; `executor` are
    further arguments of Snakemake, say `["--profile", "workflow/profiles/slurm"]`; `expected` has the seconds of
    chapters that never ran here, for the time left. Two drivers of the same runs share
    them: each run is made once, by whoever comes first. Raises `SpikinessError` where it cannot start.
    """
    resources = {**RESOURCES, **(resources or {})}
    cores = cores or usable_cores()
    _check_room(resources, cores, gpus, executor)
    missing = [status.task for status in planning.status(tasks, verified=True) if status.state != "complete"]
    if missing:
        _check_installed()
        place = planning.place(name) / f"driver-{secrets.token_hex(4)}"
        _clear(place.parent)
        with locks.hold(place / "driver.lock", "this sweep"):
            planning.save(place / "plan.json", missing, resources, notebooks)
            slots = max(1, cores // resources["cpu"])
            progress = Progress(missing, planning.expected(missing, expected or {}), slots)
            _run(place, progress, cores, resources, gpus, notebooks, executor)
            reasons = watched(place)[1]
        if all(planning.complete(task) for task in missing):
            shutil.rmtree(place, ignore_errors=True)
        else:  # kept until the next start: the engine's log says what a run's own notebook does not
            wordless = f"its job ended without a word: see {place / 'engine.log'}"
            reasons = dict.fromkeys((task.id for task in missing), "") | reasons
            return [_final(status, reasons, wordless) for status in planning.status(tasks)]
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
    progress: Progress,
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
            _follow(family, place, progress)
        except BaseException:  # asked first, so that a cluster's jobs are cancelled and runs say where they were
            family.ask_to_end(PATIENCE)
            raise
    status = family.process.returncode
    if status < 0 or status > 128:
        raise RunFailed(f"Snakemake was ended by signal {abs(status) % 128}; the same command goes on from here")
    started = "RuleException" in log.read_text(encoding="utf-8", errors="replace")  # what a job that failed leaves
    done, failed, _ = watched(place)
    if status and not started and not failed and not done:
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


def _follow(family: processes.Family, place: Path, progress: Progress) -> None:
    while not family.ended(0.3):
        progress.show(*watched(place))
    progress.show(*watched(place))
    progress.close()


def _final(status: Status, reasons: dict[str, str], wordless: str) -> Status:
    """The state of a run after a sweep: what its job says, else the run itself."""
    if status.state not in ("absent", "failed") or status.task.id not in reasons:
        return status
    return status._replace(state="failed", reason=reasons[status.task.id] or status.reason or wordless)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines[-12:] if line.strip())
