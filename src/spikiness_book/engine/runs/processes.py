"""Processes of a run, known by a mark in their environment: it survives sessions, and the death of those between."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

MARK = "SPIKINESS_MARK"


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process by `SystemExit`, raised where a run waits: its kernel is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def kill(mark: str) -> None:
    """Kill every process that carries `mark`, except this one."""
    for _ in range(3):  # one may start another while we look
        found = list(marked(mark))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.05)


def marked(mark: str) -> Iterator[int]:
    """The living processes that carry `mark`, except this one."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            ours = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid


def children(pid: int) -> list[int]:
    """The processes that `pid` itself started."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []
