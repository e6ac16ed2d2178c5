"""A sweep that is killed, stopped, started twice: nothing lost, nothing done twice, the same table at the end."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from sample_chapters import hear_ctrl_c, write

from spikiness_book.engine import sweeps
from spikiness_book.engine.runs import locks, store
from spikiness_book.engine.sweeps import table

# Every start and every end of a run leaves a line; `napping` is how long a run takes.
DIARY = "import os, time\nopen(diary, 'a').write(f'start {n}\\n')\ntime.sleep(napping)"
CELLS = [
    DIARY,
    "run.metric('twice', 2 * n, interval=(2 * n - 1, 2 * n + 1), over='draws', n=3)",
    "run.table('t', {'n': [n]})",
]
END = "open(diary, 'a').write(f'end {n}\\n')"
PARAMETERS = 'n: int = 1  # a number\ndiary: str = ""  # a file\nnapping: float = 0.1  # seconds\n'
FAULTS = {
    "killed": "os.kill(os.getpid(), 9)",
    "early": "raise SystemExit(0)",
    "hangs": "while n == 3: pass",
    "raises": "1 / (n - 3)",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of its own, in a folder with an awkward name, with chapters that keep a diary."""
    root = tmp_path / "it's {here} 100% #é"
    folder = write(root / "notebooks", "naps", [*CELLS, END], parameters=PARAMETERS)
    for name, cell in FAULTS.items():
        cell = cell if "n ==" in cell or "n -" in cell else f"if n == 3: {cell}"
        write(folder, name, [DIARY, cell, *CELLS[1:]], parameters=PARAMETERS)
    (folder / "profiles.yaml").write_text("".join(f"{n}: {{smoke: {{}}, paper: {{}}}}\n" for n in ("naps", *FAULTS)))
    (root / "workflow").mkdir()
    (root / "workflow" / "Snakefile").write_bytes((Path(__file__).parents[2] / "workflow" / "Snakefile").read_bytes())
    monkeypatch.setenv("SPIKINESS_HOME", str(root / "home"))
    return root


def sweep(place, runs, chapter="naps", napping=0.1, name="many", **resources):
    file = place / f"{name}.yaml"
    fixed = f'parameters: {{diary: "{place / "diary"}", napping: {napping}}}'
    limits = f"resources: {{{', '.join(f'{k}: {v}' for k, v in resources.items())}}}\n" if resources else ""
    file.write_text(f"chapter: {chapter}\nprofile: smoke\n{fixed}\ngrid: {{n: {list(range(1, runs + 1))}}}\n{limits}")
    return file


def start(place, file, *options, command="run"):
    said = (place / "said.txt").open("ab")
    words = ["-m", "spikiness_book.cli", "sweep", command, str(file), "--notebooks", str(place / "notebooks"), *options]
    code = f"import sys; from spikiness_book.cli import main; main({words[2:]!r})"
    with said:
        return subprocess.Popen([sys.executable, "-c", code], stdout=said, stderr=said, preexec_fn=hear_ctrl_c)


def finish(place, file, *options, limit=240, **more):
    process = start(place, file, *options, **more)
    return process.wait(limit)


def said(place):
    return (place / "said.txt").read_text()


def diary(place):
    return Counter((place / "diary").read_text().split("\n")[:-1])


def planned(place, file):
    return sweeps.plan(sweeps.read(file), place / "notebooks")


def results(place, file):
    tables = sweeps.collect(planned(place, file))
    assert not tables.skipped
    paths = table.write(tables, place / "tables", "t")
    return b"".join(path.read_bytes() for path in paths if "costs" not in path.name)


def marked(place):
    """Processes of sweeps of this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(place) in " ".join(process.environ().get(name, "") for name in ("SPIKINESS_HOME",)):
                found.append(process)
        except psutil.Error:
            continue
    return [p for p in found if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]


def gone(place, limit=15):
    end = time.monotonic() + limit
    while (left := marked(place)) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


def test_a_sweep_makes_every_run_once_and_then_nothing(place):
    file = sweep(place, 5)
    assert finish(place, file, "--cores", "2") == 0
    assert diary(place) == {f"{what} {n}": 1 for n in range(1, 6) for what in ("start", "end")}
    assert "5 runs: 5 complete" in said(place)
    frame = sweeps.collect(planned(place, file)).results
    assert dict(zip(frame["n"], frame["value"], strict=True)) == {n: 2 * n for n in range(1, 6)}
    assert not list((place / "home" / "sweeps" / "many").glob("driver-*"))
    os.utime(place / "notebooks" / "naps.ipynb")
    assert finish(place, file) == 0
    assert sum(diary(place).values()) == 10


def test_runs_start_in_the_order_of_the_plan(place):
    file = sweep(place, 1)
    file.write_text(file.read_text().replace("grid: {n: [1]}", "list: [{n: 3}, {n: 1}, {n: 4}, {n: 2}]"))
    assert finish(place, file, "--cores", "1") == 0
    lines = (place / "diary").read_text().split("\n")[:-1]
    assert lines == [f"{what} {n}" for n in (3, 1, 4, 2) for what in ("start", "end")]


def test_a_driver_killed_at_any_moment_loses_nothing_and_repeats_nothing(place):
    file = sweep(place, 6, napping=0.4)
    draw = random.Random(0)
    finished: dict[int, int] = {}  # how often a run had begun when it was seen complete: never again after that
    for _ in range(3):
        process = start(place, file, "--cores", "2")
        time.sleep(2.5 + 5 * draw.random())
        process.kill()
        process.wait()
        assert gone(place), marked(place)  # the engine and its jobs end with their driver
        complete = {
            found.task.parameters["n"] for found in sweeps.status(planned(place, file)) if found.state == "complete"
        }
        assert complete >= finished.keys()
        for n in complete - finished.keys():
            finished[n] = diary(place)[f"start {n}"]
    assert finish(place, file, "--cores", "2") == 0
    assert {n: diary(place)[f"start {n}"] for n in finished} == finished
    states = [found.state for found in sweeps.status(planned(place, file), verified=True)]
    assert states == ["complete"] * 6
    killed = results(place, file)
    os.environ["SPIKINESS_HOME"] = str(place / "other home")
    assert finish(place, file, "--cores", "2") == 0
    assert results(place, file) == killed


def test_sigterm_and_ctrl_c_stop_all_and_the_same_command_goes_on(place):
    file = sweep(place, 4, napping=30)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(place, file, "--cores", "2")
        end = time.monotonic() + 60
        while not (place / "diary").exists() and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == code
        assert gone(place), marked(place)
        os.unlink(place / "diary")
        assert "stopped: 0 of 4 runs are done" in said(place)
    assert {found.state for found in sweeps.status(planned(place, file))} <= {"absent", "failed"}
    assert not list(place.glob("home/smoke/runs/naps/*.lock"))


def test_nothing_is_started_after_the_driver_is_killed(place):
    file = sweep(place, 8, napping=20)
    process = start(place, file, "--cores", "2")
    end = time.monotonic() + 60
    while (not (place / "diary").exists() or len(diary(place)) < 2) and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert gone(place, limit=5), marked(place)  # long before the two runs would have ended by themselves
    begun = diary(place)
    assert sum(begun.values()) == 2  # and neither Snakemake nor an orphan of it began another
    time.sleep(3)
    assert diary(place) == begun


def test_two_sweeps_over_the_same_grid_share_the_runs(place):
    file = sweep(place, 6, napping=0.3)
    both = [start(place, file, "--cores", "2") for _ in range(2)]
    assert [process.wait(240) for process in both] == [0, 0]
    assert diary(place) == {f"{what} {n}": 1 for n in range(1, 7) for what in ("start", "end")}


@pytest.mark.parametrize(
    ("chapter", "reason"),
    [
        ("killed", "kernel died (signal 9, likely out of memory)"),
        ("early", "no result written"),
        ("raises", "ZeroDivisionError"),
    ],
)
def test_a_failed_run_stops_no_other_and_says_why(place, chapter, reason):
    file = sweep(place, 4, chapter)
    assert finish(place, file, "--cores", "2") == 1
    told = said(place)
    assert reason in told
    assert "4 runs: 3 complete, 1 failed" in told
    failed = [found for found in sweeps.status(planned(place, file)) if found.state != "complete"]
    assert [found.task.parameters["n"] for found in failed] == [3]
    assert f"notebook: {store.partial(failed[0].task.folder) / 'executed.ipynb'}" in told
    assert gone(place)


def test_a_run_that_hangs_meets_its_limit(place):
    file = sweep(place, 3, "hangs", minutes=1)
    assert finish(place, file, "--cores", "3", limit=200) == 1
    assert "timeout: not done after 60 s" in said(place)
    assert "3 runs: 2 complete, 1 failed" in said(place)
    assert gone(place)


def test_a_job_that_does_not_start_is_a_failure_with_the_engines_log(place):
    file = sweep(place, 2)
    path = place / "workflow" / "Snakefile"
    path.write_text(path.read_text().replace("spikiness_book.engine.sweeps.job", "spikiness_book.engine.sweeps.no_job"))
    assert finish(place, file) == 1
    (log,) = (place / "home" / "sweeps" / "many").glob("driver-*/engine.log")
    assert f"its job ended without a word: see {log}" in said(place)
    assert "No module named spikiness_book.engine.sweeps.no_job" in log.read_text()
    assert "2 runs: 2 failed" in said(place)


def test_a_dead_owners_lock_on_a_run_is_taken_over(place):
    file = sweep(place, 1)
    folder = planned(place, file)[0].folder
    who = {**locks.owner(), "pid": 2**22 - 1, "started": 1.0}
    locks.write_json(store.lock(folder), who)
    assert finish(place, file) == 0
    assert not store.lock(folder).exists()


def test_code_that_changes_after_planning_is_not_run_under_the_old_name(place):
    from spikiness_book.engine.sweeps import job, planning

    file = sweep(place, 1)
    tasks = planned(place, file)
    planning.save(place / "plan.json", tasks, {"cpu": 1, "gpu": 0, "memory": 1, "minutes": 1}, place / "notebooks")
    write(place / "notebooks", "naps", [*CELLS, END, "run.metric('more', 1)"], parameters=PARAMETERS)
    assert job.make(place / "plan.json", tasks[0].id) == 1
    assert "changed since this was planned" in (place / "failed" / tasks[0].id).read_text()


def test_more_than_there_is_is_refused_before_anything_starts(place):
    file = sweep(place, 2, cpu=64)
    assert finish(place, file, "--cores", "2") == 2
    assert "a run takes 64 cores and there are 2" in said(place)
    assert finish(place, sweep(place, 2, gpu=3), "--cores", "2", "--gpus", "1") == 2
    assert "a run takes 3 GPUs and there are 1" in said(place)
    assert not (place / "home" / "sweeps").exists()
