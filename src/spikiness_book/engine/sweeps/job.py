"""One run of a plan, in a process of its own: `python -m ...sweeps.job PLAN ID THREADS`, started by Snakemake.

Beside plan.json it leaves `running/ID` while it runs and `failed/ID` with the reason where it fails: how a driver on
this or another machine sees where the sweep stands. In `<home>/sweeps/records/` it notes the machine.
"""

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine.runs import processes, runner, store
from spikiness_book.engine.runs.notebook import Source
from spikiness_book.engine.sweeps import machine, planning


def main() -> NoReturn:
    """Make one run and exit with 0, 1 where it failed, or 143 where it was stopped."""
    processes.exit_on_sigterm()
    file, run_id, threads = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ["OMP_NUM_THREADS"] = threads  # one worker per core, one thread each
    sys.exit(make(file, run_id))


def make(file: Path, run_id: str) -> int:
    """Make the run `run_id` of the plan `file`."""
    content, file = planning.load(file), file.absolute()
    with contextlib.suppress(OSError):  # it need not be on this machine, where no data are relative to it
        os.chdir(content["folder"])  # relative paths mean what they mean where the sweep was planned
    running, failed = file.parent / "running" / run_id, file.parent / "failed" / run_id
    reason = "interrupted"
    failed.unlink(missing_ok=True)
    try:
        store.write_bytes(running, f"{os.getpid()} {socket.gethostname()}\n".encode())
        with machine.devices(content["resources"]["gpu"]):
            _execute(content["tasks"][run_id], Path(content["notebooks"]), 60 * content["resources"]["minutes"])
        reason = ""
    except SpikinessError as error:
        found = store.state(content["tasks"][run_id].folder)
        reason = found.reason if found.state == "failed" and isinstance(error, RunFailed) else str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        with contextlib.suppress(OSError, SpikinessError):  # a full disk: then the run's own folder says it
            running.unlink(missing_ok=True)
            if reason:
                store.write_bytes(failed, reason.encode())
    return 1 if reason else 0


def _execute(task: planning.Task, notebooks: Path, limit: float) -> None:
    made = Source(task.chapter, task.profile, notebooks).plan(task.parameters, task.inputs)
    if made.id != task.id:
        raise RunFailed(f"the code or torch changed since this was planned (now run {made.id}): start the sweep again")
    there = planning.complete(task)
    runner.execute(made, timeout=limit)
    if not there:
        record = {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", "")}
        store.write_json(machine.records() / f"{task.id}.json", record)


if __name__ == "__main__":
    main()
