"""How far a sweep is, and how long it will still take: one line that renews itself on a terminal, elsewhere a line for
each run that ends."""

import contextlib
import heapq
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spikiness.errors import SpikinessError
from spikiness_book.engine.runs import store
from spikiness_book.engine.sweeps import planning
from spikiness_book.engine.sweeps.planning import Task

EACH = 100  # up to so many runs, every one that ends gets a line
PAUSE = 30.0  # seconds between two lines of a larger sweep, where there is no terminal
TRUST = 30.0  # seconds of finished runs that count as much as what was expected of them


class Progress:
    """What is shown of `tasks` while they run, `slots` at once; `expected` has the seconds of those that are known."""

    def __init__(
        self,
        tasks: Sequence[Task],
        expected: Mapping[str, float],
        slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = {task.id: task for task in tasks}
        self._expected, self._slots, self._clock = expected, slots, clock
        self._begun: dict[str, float] = {}  # when each run was first seen running
        self._taken: dict[str, float] = {}  # seconds of each run that is done
        self._ended: set[str] = set()
        self._line, self._shown = "", clock()

    def show(self, done: set[str], failed: Mapping[str, str], running: set[str]) -> None:
        """Tell what changed: ids of runs that are `done` and `running`, and why those in `failed` did."""
        running = running - done - failed.keys()
        for run_id in running:
            self._begun.setdefault(run_id, self._clock())
        ended = (done | failed.keys()) - self._ended
        fresh = [run_id for run_id in self._tasks if run_id in ended]
        self._ended |= set(fresh)
        self._taken |= {run_id: self._seconds(run_id) for run_id in fresh if run_id in done}
        counts = f"{len(done)} of {len(self._tasks)} done" + (f", {len(failed)} failed" if failed else "")
        left = self.left(running)
        rest = f", about {planning.duration(left)} left" if left else ""
        for run_id in fresh:
            how = f"failed: {failed[run_id]}" if run_id in failed else f"done in {self._taken[run_id]:.0f} s"
            if run_id in failed or len(self._tasks) <= EACH:
                self._tell(f"{named(self._tasks[run_id])}: {how}", "" if sys.stderr.isatty() else f" ({counts}{rest})")
        self._renew(f"{counts}{self._now(running)}{rest}", f"{counts}{rest}")

    def close(self) -> None:
        """Leave the last line where it is."""
        if sys.stderr.isatty() and self._line:
            sys.stderr.write("\n")

    def left(self, running: set[str]) -> float | None:
        """Seconds until all runs have ended, the longest first wherever there is room; None where nothing is known.

        A run takes what was expected of it, times how much longer than expected those took that are done; one of which
        nothing was known takes as long as the others on average.
        """
        known = [self._expected[run_id] for run_id in self._taken if run_id in self._expected]
        took = [self._taken[run_id] for run_id in self._taken if run_id in self._expected]
        pace = (TRUST + sum(took)) / (TRUST + sum(known))
        others = [*self._taken.values()] or [pace * seconds for seconds in self._expected.values()]
        if not others:
            return None
        usual = statistics.fmean(others)
        total = {i: pace * self._expected[i] if i in self._expected else usual for i in self._tasks}
        ends = [self._rest(total[i], self._clock() - self._begun[i]) for i in running]
        heapq.heapify(ends)
        begun = self._ended | running
        waiting = [seconds for i, seconds in total.items() if i not in begun]
        last = max(ends, default=0.0)
        for seconds in sorted(waiting, reverse=True):
            free = heapq.heappop(ends) if len(ends) >= self._slots else 0.0
            heapq.heappush(ends, free + seconds)
            last = max(last, free + seconds)
        return last

    def _rest(self, total: float, passed: float) -> float:
        """What is left of a run; of one that took longer than expected a tenth of what it took."""
        return total - passed if passed < total else passed / 10

    def _seconds(self, run_id: str) -> float:
        with contextlib.suppress(SpikinessError, KeyError):
            return float(store.read_json(self._tasks[run_id].folder / "environment.json")["seconds"])
        return self._clock() - self._begun.get(run_id, self._clock())

    def _now(self, running: set[str]) -> str:
        """What is running, by chapter where there are several."""
        names = [self._tasks[run_id].chapter for run_id in self._tasks if run_id in running]
        several = len({task.chapter for task in self._tasks.values()}) > 1
        if not running:
            return ""
        return f", now {' and '.join(names[:3])}" if several else f", {len(running)} running"

    def _tell(self, line: str, more: str) -> None:
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{start}{line}{more}\n")
        self._line = ""

    def _renew(self, line: str, counts: str) -> None:
        """The line that renews itself; without a terminal only of a large sweep, now and then."""
        if sys.stderr.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]  # a longer one would not be written over
            if line != self._line:
                sys.stderr.write(f"\r\x1b[K{line}")
                self._line = line
        elif len(self._tasks) > EACH and self._clock() - self._shown > PAUSE:
            sys.stderr.write(f"{counts}\n")
            self._shown = self._clock()
        sys.stderr.flush()


def named(task: Task) -> str:
    """A run in the words of messages."""
    return f"{task.chapter}: {task.profile} {task.id}"


def watched(place: Path) -> tuple[set[str], dict[str, str], set[str]]:
    """What the jobs of a plan left beside it: ids of runs that are done, why others failed, and which are running."""
    done, running = _names(place / "done"), _names(place / "running")
    failed = {run_id: _reason(place / "failed" / run_id) for run_id in _names(place / "failed") - done}
    return done, failed, running


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return set()


def _reason(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace") or "it said nothing"
    return "it said nothing"
