"""Locks: one owner at a time, whoever else comes; dead owners do not block, living ones are not robbed."""

import os
import subprocess
import sys
import threading
import time

import pytest

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine.runs import locks

COUNT = """
import sys, time
from pathlib import Path
from spikiness_book.engine.runs import locks
place = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with locks.hold(place / "it.lock", "the counter"):
        inside = place / "inside"
        inside.touch(exist_ok=False)  # raises where two are in at once
        count = int((place / "count").read_text())
        time.sleep(0.002)
        (place / "count").write_text(str(count + 1))
        inside.unlink()
"""
DIE = """
import os, sys
from pathlib import Path
from spikiness_book.engine.runs import locks
with locks.hold(Path(sys.argv[1]), "a thing"):
    os.kill(os.getpid(), 9)
"""


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "SILENT", 0.6)
    monkeypatch.setattr(locks, "LOOK", (0.01, 0.05))


def test_of_several_processes_one_at_a_time(tmp_path):
    (tmp_path / "count").write_text("0")
    started = [python(COUNT, tmp_path, 10) for _ in range(4)]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert (tmp_path / "count").read_text() == "40"
    assert not list(tmp_path.glob("it.lock*"))


@pytest.mark.parametrize("waiting", [1, 4])
def test_a_dead_owners_lock_is_taken_over_by_one(tmp_path, waiting, capfd):
    dying = python(DIE, tmp_path / "it.lock")
    dying.communicate(timeout=30)
    assert dying.returncode == -9
    assert locks.alive(locks.holder(tmp_path / "it.lock")) is False
    inside, most = [], []

    def enter():
        with locks.hold(tmp_path / "it.lock", "a thing"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(waiting)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    assert most == [1] * waiting
    assert "a thing: taken over from process" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_zombie_is_dead():
    process = subprocess.Popen(["sleep", "60"])
    who = {**locks.owner(), "pid": process.pid, "started": locks._started(process.pid)}
    assert locks.alive(who) is True
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still listed until we ask
    assert os.path.exists(f"/proc/{process.pid}/stat")
    assert locks.alive(who) is False
    process.wait()
    assert locks.alive(who) is False


def test_a_process_hidden_from_this_user_is_known_by_its_heartbeat(monkeypatch):
    def hidden(pid, number):
        raise PermissionError(1, "Operation not permitted")

    who = {**locks.owner(), "pid": 2**22 + 1}
    assert locks.alive(who) is False
    monkeypatch.setattr(os, "kill", hidden)
    assert locks.alive(who) is None


def test_another_time_namespace_is_another_machine(monkeypatch):
    who = locks.owner()
    readlink = os.readlink
    monkeypatch.setattr(os, "readlink", lambda path: "time:[2]" if path.endswith("/time") else readlink(path))
    assert locks.alive(who) is None


def test_another_may_refuse_to_wait(tmp_path):
    with locks.hold(tmp_path / "it.lock", "a thing"):
        with pytest.raises(RunFailed, match=f"a thing: in use by process {os.getpid()}: wait for it"):
            locks.hold(tmp_path / "it.lock", "a thing", wait=False).__enter__()
        assert locks.holder(tmp_path / "it.lock")["pid"] == os.getpid()


def elsewhere(**changes):
    return {**locks.owner(), "host": "node7", "machine": "another", **changes}


def test_another_machines_lock_is_waited_for_while_its_heart_beats(tmp_path, capfd):
    who = elsewhere()
    path = tmp_path / "it.lock"
    locks.write_json(path, who)
    ended = threading.Event()
    beating = threading.Thread(target=locks._beat, args=(path, who["token"], ended))
    beating.start()
    entered = []

    def enter():
        with locks.hold(path, "a thing"):
            entered.append(time.monotonic())

    thread = threading.Thread(target=enter)
    thread.start()
    time.sleep(1.5)  # more than twice as long as a silent owner has
    assert not entered
    ended.set()
    beating.join()
    stopped = time.monotonic()
    thread.join(20)
    assert 0.3 < entered[0] - stopped < 5
    said = capfd.readouterr().err
    assert f"waiting for process {os.getpid()} on node7" in said
    assert "taken over" in said


def test_who_was_taken_for_dead_does_not_remove_the_new_owners_lock(tmp_path):
    path = tmp_path / "it.lock"
    with locks.hold(path, "a thing") as ours:
        assert ours()
        locks.write_json(path, elsewhere(token="theirs"))
        assert not ours()  # and a run then leaves the result to them
    assert locks.holder(path)["token"] == "theirs"


def test_a_damaged_lock_is_a_dead_one(tmp_path):
    (tmp_path / "it.lock").write_text('{"pid": 1')
    with locks.hold(tmp_path / "it.lock", "a thing"):
        assert locks.holder(tmp_path / "it.lock")["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_without_hard_links_the_claim_is_still_exclusive(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with locks.hold(tmp_path / "it.lock", "a thing"), pytest.raises(RunFailed, match="in use"):
        locks.hold(tmp_path / "it.lock", "a thing", wait=False).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpikinessError, match="cannot"):
        locks.hold(tmp_path / "file" / "it.lock", "a thing").__enter__()


def test_unlock_removes_all_of_a_lock(tmp_path):
    path = tmp_path / "it.lock"
    locks.write_json(path, elsewhere(token="t"))
    locks.write_json(tmp_path / "it.lock.t.beat", {"beat": 4})
    locks.unlock(path)
    assert not list(tmp_path.iterdir())
