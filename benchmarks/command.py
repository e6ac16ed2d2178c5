"""How long the command takes to answer: `python benchmarks/command.py`, or with the sizes of the homes to make.

Each home has so many small runs of a chapter, half of them with an artefact. Measured are seconds of wall and of CPU of
`spikiness list` the first time (code is parsed) and again, and of `spikiness show` of one run.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sweeps import cli, fabricate

from spikiness_book.engine.runs import store
from spikiness_book.engine.sweeps.planning import Task


def fill(home: Path, runs: int) -> str:
    """Make `runs` finished runs below `home`; returns the id of the last."""
    os.environ["SPIKINESS_HOME"] = str(home)
    for number in range(runs):
        run_id = store.sha256(str(number).encode())[:16]
        fabricate(Task(run_id, "memorization", store.PROFILES[number % 3], {"n": number}, {}), metrics=20)
    return run_id


def measured(*words: str) -> str:
    """Seconds of wall and CPU of one command, in words."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(cli(*words), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{wall:.2f} s ({cpu:.2f} s of CPU)"


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [45, 10_000]
    for runs in sizes:
        home = Path(tempfile.mkdtemp(prefix="command-"))
        try:
            run_id = fill(home, runs)
            print(f"{runs:,} runs: list, the first time: {measured('list')}; again: {measured('list')}; "
                  f"show of one: {measured('show', run_id)}")  # fmt: skip
        finally:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
