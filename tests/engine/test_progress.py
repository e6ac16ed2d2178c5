"""What is shown of a sweep while it runs: the time left, and lines that fit where they are read."""

import itertools
import os
import sys

import pytest

from spikiness_book.engine.runs import store
from spikiness_book.engine.sweeps import progress
from spikiness_book.engine.sweeps.planning import Task
from spikiness_book.engine.sweeps.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))


def tasks(*chapters):
    return [Task(f"{at:016x}", chapter, "demo", {}, {}) for at, chapter in enumerate(chapters)]


def end(task, seconds):
    store.write_json(task.folder / "environment.json", {"seconds": seconds})


def played(expected, took, slots):
    """The estimates that are shown while runs of `took` seconds go through `slots`, longest expected first."""
    clock, made = Clock(), tasks(*(f"c{at}" for at in range(len(took))))
    shown = Progress(made, {t.id: e for t, e in zip(made, expected, strict=True) if e is not None}, slots, clock)
    order = sorted(range(len(took)), key=lambda at: -(expected[at] or 0))
    ends, done, waiting, estimates = {}, set(), list(order), []
    while waiting or ends:
        while waiting and len(ends) < slots:
            at = waiting.pop(0)
            ends[at] = clock.now + took[at]
        shown.show({made[at].id for at in done}, {}, {made[at].id for at in ends})
        estimates.append((clock.now, shown.left({made[at].id for at in ends})))
        clock.now = min(min(ends.values()), clock.now + 7)
        for at in [at for at, when in ends.items() if when <= clock.now]:
            end(made[at], took[at])
            done.add(at)
            del ends[at]
    return clock.now, estimates


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_where_runs_take_what_was_expected_the_estimate_is_exact(slots):
    took = [90, 10, 300, 45, 45, 120, 60]
    finish, estimates = played(took, took, slots)
    for now, left in estimates:
        assert left == pytest.approx(finish - now, abs=1e-6)


def test_the_estimate_follows_a_slower_machine():
    expected = [300, 200, 100, 100, 50, 50]
    finish, estimates = played(expected, [2 * seconds for seconds in expected], 2)
    late = [(now, left) for now, left in estimates if now > finish / 2]
    assert all(abs(now + left - finish) < 0.15 * finish for now, left in late)


def test_runs_of_which_nothing_is_known_take_as_long_as_the_others():
    assert played([None] * 4, [60] * 4, 1)[1][0][1] is None
    finish, estimates = played([None] * 4, [60] * 4, 1)
    known = [(now, left) for now, left in estimates if left is not None]
    assert known[0][0] == 60
    assert all(now + left == pytest.approx(finish) for now, left in known)


def test_without_a_terminal_each_run_that_ends_is_a_line(capsys):
    made, clock = tasks("one", "two", "three"), Clock()
    shown = Progress(made, {task.id: 60.0 for task in made}, 1, clock)
    for moment in range(0, 60, 5):
        clock.now = moment
        shown.show(set(), {}, {made[0].id})
    end(made[0], 58.0)
    clock.now = 60
    shown.show({made[0].id}, {}, {made[1].id})
    clock.now = 80
    shown.show({made[0].id}, {made[1].id: "kernel died"}, {made[2].id})
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        f"one: demo {made[0].id}: done in 58 s (1 of 3 done, about 2 min left)",
        f"two: demo {made[1].id}: failed: kernel died (1 of 3 done, 1 failed, about 59 s left)",
    ]


def test_on_a_terminal_one_line_renews_itself_and_fits(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((60, 20)))
    made, clock = tasks("memorization", "representations", "generalization", "where"), Clock()
    shown = Progress(made, {task.id: 300.0 for task in made}, 2, clock)
    for clock.now in (0.0, 10.0, 20.0):
        shown.show(set(), {}, {made[0].id, made[1].id})
    end(made[1], 250.0)
    shown.show({made[1].id}, {}, {made[0].id, made[2].id})
    shown.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 2  # the run that ended, and the last line
    assert "now memorization and representations" in said
    assert f"\r\x1b[Krepresentations: demo {made[1].id}: done in 250 s\n" in said
    lines = [line.rstrip("\n") for line in said.split("\r\x1b[K") if "done in" not in line]
    assert all(len(line) < 60 for line in lines)


def test_a_large_sweep_is_told_now_and_then(capsys):
    made, clock = tasks(*["naps"] * 101), Clock()
    shown = Progress(made, {}, 1, clock)
    for task, clock.now in zip(made, itertools.count(1.0, 1.0)):
        end(task, 1.0)
        shown.show({other.id for other in made if other.id <= task.id}, {}, set())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "31 of 101 done, about 70 s left"
