"""This machine, seen by jobs: its GPUs, and the notes of what ran here."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from spikiness.errors import RunFailed
from spikiness_book.engine.runs import devices as visible
from spikiness_book.engine.runs import locks, store


def records() -> Path:
    """Where jobs note who made each run: beside the results, never in them."""
    return store.under(store.home(), "sweeps", "records")


@contextlib.contextmanager
def devices(count: int) -> Iterator[None]:
    """Own `count` of this machine's GPUs while the block runs, where jobs must share them out among themselves."""
    if count == 0 or "SLURM_JOB_ID" in os.environ:  # SLURM gives each job its own
        yield
        return
    host = "".join(c for c in socket.gethostname().lower() if c.isalnum())[:40]
    free = visible.gpus()
    with contextlib.ExitStack() as held:
        mine: list[str] = []
        for name in free:
            with contextlib.suppress(RunFailed):
                path = store.under(store.home(), "sweeps", f"gpu-{host}-{name.lower()}.lock")
                held.enter_context(locks.hold(path, f"GPU {name}", wait=False))
                mine.append(name)
            if len(mine) == count:
                break
        else:
            raise RunFailed(f"needs {count} GPUs, and of {', '.join(free) or 'none'} only {len(mine)} are free")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        yield
