"""Processes that do not outlive who started them.

`Family` starts one in a session of its own, with a mark in its environment that all it starts inherit: marks survive
sessions, and the death of the processes between. The one who started it kills the family when done; where that one is
killed itself, the started process sees its standard input end, and ends the family (`follow_parent`).

`python -m spikiness_book.engine.runs.processes MODULE ARGUMENTS` is such a process for a program of others.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn

MARK = "SPIKINESS_MARK"


class Family:
    """`python -m MODULE ARGUMENTS`, its output appended to `log`, and all that it starts; leaving the block kills all
    that is left of them."""

    def __init__(self, command: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", *command],
                env={**environ, MARK: self.mark},
                stdin=subprocess.PIPE,  # open as long as we live
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        kill(self.mark)
        self.process.wait()
        self.process.stdin.close()  # type: ignore[union-attr]

    def ended(self, seconds: float) -> bool:
        """Whether the process has ended, after waiting for that at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.returncode is not None

    def interrupt_children(self) -> None:
        """Ctrl-C to the processes that the first one itself started."""
        import psutil

        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                child.send_signal(signal.SIGINT)

    def ask_to_end(self, patience: float) -> None:
        """Ctrl-C to the first process and SIGTERM to all others; waits `patience` seconds at most for the first."""
        self.process.send_signal(signal.SIGINT)
        for pid in marked(self.mark):
            if pid != self.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self.ended(patience)


# ---- inside a started process


def follow_parent(first: Callable[[], object]) -> None:
    """From now on, end the family as soon as the process that started it is gone, after calling `first`."""

    def follow() -> None:
        while os.read(0, 1024):  # not sys.stdin: its buffer would be locked when this process ends
            pass
        first()
        end_family(1)

    threading.Thread(target=follow, daemon=True).start()


def end_family(status: int) -> NoReturn:
    """Kill all of this process's family and end it at once, without waiting for threads and sockets."""
    kill(os.environ[MARK])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> NoReturn:
    """Run a module with arguments, pass signals on to it, and exit with its status, 128 + N where signal N ended it."""
    program = subprocess.Popen([sys.executable, "-P", "-m", *sys.argv[1:]], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: program.send_signal(number))
    follow_parent(program.kill)  # first, so that it starts nothing more
    status = program.wait()
    end_family(status if status >= 0 else 128 - status)


# ---- any process


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process by `SystemExit`, raised where a run waits: its kernel is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def kill(mark: str) -> None:
    """Kill every process that carries `mark`, except this one."""
    for _ in range(3):  # one may start another while we look
        pids = list(marked(mark))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            return
        time.sleep(0.05)


def marked(mark: str) -> Iterator[int]:
    """The living processes that carry `mark`, except this one."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            carries = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if carries and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid


if __name__ == "__main__":
    main()
