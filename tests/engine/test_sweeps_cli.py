"""`spikiness sweep` as it is typed, on states made by hand: what it prints, its exit status, what it leaves."""

import errno
import os
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from sample_chapters import write
from test_sweeps_table import finished, planned, project

from spikiness.files import write_json
from spikiness_book.cli import main
from spikiness_book.engine.runs import locks, store
from spikiness_book.engine.sweeps import driver, planning
from spikiness_book.engine.sweeps import table as tables

TEXT = "grid: {n: [1, 2, 3, 4]}\nresources: {minutes: 2}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    return project(tmp_path, monkeypatch)


@pytest.fixture
def spikiness(place, capsys):
    """Type a command about the sweep `first`; get its exit status, output and error output."""

    def typed(*words, file="first.yaml"):
        about = [str(place / file), "--notebooks", str(place / "notebooks")] if words[0] == "sweep" else []
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*words[:2], *about, *words[2:]])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return typed


@pytest.fixture
def four(place):
    """One run in each state: complete, failed, interrupted, absent."""
    tasks = planned(place, TEXT)
    finished(tasks[0])
    fail(tasks[1])
    store.partial(tasks[2].folder).mkdir(parents=True)
    return tasks


@pytest.fixture
def no_engine(monkeypatch):
    """A driver that makes nothing: what it was asked is kept, `makes` is what it does."""
    asked = SimpleNamespace(calls=[], makes=lambda tasks: None)

    def drive(tasks, name, cores, **options):
        asked.calls.append((name, cores, options))
        asked.makes(tasks)
        return planning.status(tasks)

    monkeypatch.setattr(driver, "drive", drive)
    return asked


def fail(task, reason="kernel died"):
    work = store.partial(task.folder)
    write_json(work / "failed.json", {"reason": reason})
    store.write_bytes(work / "executed.ipynb", b"{}")
    return work


def dead_lock(task):
    write_json(store.lock(task.folder), {**locks.owner(), "pid": 2**22 - 1, "started": 1.0})


def tree(place):
    """All that is there, but for what planning remembers."""
    paths = [path for path in place.rglob("*") if "planned" not in path.parts]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


# ---- plan and status


def test_plan_shows_runs_states_time_and_disk_and_starts_nothing(spikiness, place, four, monkeypatch):
    monkeypatch.setattr(driver, "drive", lambda *a, **k: pytest.fail("a sweep was started"))
    before = tree(place)
    code, out, err = spikiness("sweep", "plan", "--cores", "1")
    assert (code, err) == (0, "")
    lines = out.split("\n")
    states = ("complete", "failed", "failed", "absent")
    assert lines[:4] == [f"{t.id}  {s:11}  n {n}" for n, (t, s) in enumerate(zip(four, states, strict=True), start=1)]
    assert lines[4] == "4 runs of good: 1 absent, 1 complete, 2 failed"
    assert lines[5].startswith("to do: 3, about 38 s on 1 core and 0 MB")  # 3 runs of 12.5 s
    assert tree(place) == before


def test_plan_shows_twenty_and_counts_the_rest(spikiness, place):
    planned(place, f"grid: {{n: {list(range(1, 31))}}}")
    lines = spikiness("sweep", "plan")[1].split("\n")
    assert [line.split()[-1] for line in lines[:20]] == [str(n) for n in range(1, 21)]
    assert lines[20:22] == ["... and 10 more", "30 runs of good: 30 absent"]


@pytest.mark.parametrize(
    ("declared", "shown"),
    [("seed: int = 0", ["seed 10", "seed 11"]), ("seeds: list[int] = [0]", ["seeds [10]", "seeds [11]"])],
)
def test_plan_shows_the_seed_by_the_chapters_name_of_it(spikiness, place, declared, shown):
    write(place / "notebooks", "good", [], parameters=f"n: int = 5\n{declared}\n")
    planned(place, "parameters: {n: 3}\nseeds: [10, 11]")
    lines = spikiness("sweep", "plan")[1].split("\n")
    for line, words in zip(lines[:2], shown, strict=True):
        assert line.endswith(f"absent       {words}")


def test_status_tells_what_failed_and_runs_and_why(spikiness, four):
    with locks.hold(store.lock(four[3].folder), "a test"):
        store.partial(four[3].folder).mkdir()
        code, out, err = spikiness("sweep", "status")
    assert (code, err) == (0, "")
    assert out.split("\n") == [
        f"{four[1].id}  failed       n 2: kernel died",
        f"{four[2].id}  failed       n 3: interrupted: the process that ran it is gone",
        f"{four[3].id}  in progress  n 4: by process {os.getpid()}",
        "4 runs: 1 complete, 2 failed, 1 in progress",
        "",
    ]


def test_a_lock_of_another_machine_counts_as_in_progress(spikiness, four):
    write_json(store.lock(four[3].folder), {**locks.owner(), "machine": "another", "host": "node7"})
    assert f"{four[3].id}  in progress  n 4: by process {os.getpid()} on node7" in spikiness("sweep", "status")[1]


# ---- run


def test_run_starts_the_driver_and_writes_the_tables(spikiness, four, place, no_engine):
    no_engine.makes = lambda tasks: [finished(task) for task in tasks[1:]]
    code, out, err = spikiness("sweep", "run", "--cores", "3", "--gpus", "0")
    assert code == 0, err
    (name, cores, options), *more = no_engine.calls
    assert (name, cores, more) == ("first", 3, [])
    assert options["resources"] == {"cpu": 1, "gpu": 0, "memory": 2000, "minutes": 2}
    assert (options["gpus"], options["executor"], options["notebooks"]) == (0, [], place / "notebooks")
    assert "to do: 3" in err
    assert "4 runs: 4 complete" in out
    folder = place / "home" / "sweeps" / "first"
    assert out.split("\n")[1:5] == [
        str(folder / f"first{end}") for end in (".parquet", ".csv", "-costs.parquet", "-costs.csv")
    ]
    assert len(pd.read_parquet(folder / "first.parquet")) == 8


def test_a_failed_run_is_named_with_its_notebook_and_status_1(spikiness, four, no_engine):
    code, out, err = spikiness("sweep", "run")
    assert code == 1
    assert f"good: demo {four[1].id}, failed: kernel died\n" in err
    assert f"  notebook: {store.partial(four[1].folder) / 'executed.ipynb'}\n" in err
    assert "4 runs: 1 absent, 1 complete, 2 failed" in out
    assert "checkpoints" not in err
    store.write_bytes(store.home() / "networks" / "x.checkpoint", b"")
    assert f"checkpoints in {store.home() / 'networks'}" in spikiness("sweep", "run")[2]


def test_stopped_says_how_far_it_came(spikiness, four, no_engine):
    def stop(tasks):
        finished(tasks[1])
        raise SystemExit(143)

    no_engine.makes = stop
    code, _, err = spikiness("sweep", "run")
    assert code == 143
    assert "stopped: 2 of 4 runs are done; the same command goes on from here" in err


def test_more_than_a_thousand_runs_ask_for_yes(spikiness, place, no_engine, monkeypatch):
    planned(place, TEXT)
    monkeypatch.setattr("spikiness_book.engine.sweeps.cli.MANY", 3)
    code, out, err = spikiness("sweep", "run")
    assert (code, out, no_engine.calls) == (2, "", [])
    assert err.endswith("spikiness: 4 runs to do: look at the plan above, then add --yes\n")
    assert "4 runs of good: 4 absent" in err
    assert not (place / "home").exists()
    spikiness("sweep", "run", "--yes")
    assert len(no_engine.calls) == 1
    finished(planned(place, TEXT)[0])  # of those that are there already nobody asks
    spikiness("sweep", "run")
    assert len(no_engine.calls) == 2


def test_the_limit_is_a_thousand(spikiness, place, no_engine, monkeypatch):
    for runs, calls in ((1000, 1), (1001, 0)):
        tasks = [SimpleNamespace(chapter="good", folder=place / "nowhere", id=str(i)) for i in range(runs)]
        no_engine.calls.clear()
        planned(place, TEXT)
        with monkeypatch.context() as patch:
            patch.setattr(planning, "plan", lambda *a, found=tasks: found)
            patch.setattr(planning, "summary", lambda *a: "")
            patch.setattr(planning, "status", lambda *a: [])
            patch.setattr(tables, "collect", lambda *a: tables.Tables(pd.DataFrame(), pd.DataFrame(), {}))
            code, _, err = spikiness("sweep", "run")
        assert (code, len(no_engine.calls)) == ((0, 1) if calls else (2, 0)), err
    assert "1,001 runs to do" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--profile", "slrum"], "no profile 'slrum'; did you mean 'slurm'? (one of local, slurm, or a folder"),
        (["--cores", "0"], "Invalid value for '--cores'"),
        (["--gpus", "-1"], "Invalid value for '--gpus'"),
    ],
)
def test_run_refuses_before_anything_starts(spikiness, place, no_engine, words, says):
    planned(place, TEXT)
    code, out, err = spikiness("sweep", "run", *words)
    assert (code, out, no_engine.calls) == (2, "", [])
    assert says in err
    assert not (place / "home").exists()


def test_a_profile_of_snakemake_is_a_name_or_a_folder(spikiness, place, no_engine):
    planned(place, TEXT)
    (place / "mine").mkdir()
    for word, folder in (("slurm", driver.snakefile().parent / "profiles" / "slurm"), (place / "mine", place / "mine")):
        spikiness("sweep", "run", "--profile", str(word))
        assert no_engine.calls[-1][2]["executor"] == ["--profile", str(folder)]


@pytest.mark.parametrize("command", ["plan", "run", "status", "collect", "verify", "clean"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid: {n: []}", "first.yaml: grid: n must be a list of values, not empty, got []"),
        ("grid: {m: [1]}", "unknown parameter 'm'"),
        ("grid: {n: [0]}", "n must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(spikiness, place, no_engine, command, text, says):
    (place / "first.yaml").write_text(f"chapter: good\n{text}\n")
    code, out, err = spikiness("sweep", command)
    assert (code, out, err.count("\n"), no_engine.calls) == (2, "", 1, [])
    assert err.startswith(f"spikiness: {place / 'first.yaml'}: ")
    assert says in err
    assert "did you mean 'first.yaml'" in spikiness("sweep", command, file="frist.yaml")[2]


# ---- collect and verify


def test_collect_counts_what_is_left_out(spikiness, four, place):
    finished(four[3])
    (four[3].folder / "result.json").write_bytes((four[3].folder / "result.json").read_bytes()[:-20])
    code, out, err = spikiness("sweep", "collect", "--output", str(place / "tables"))
    assert code == 1
    assert [line.rpartition("/")[2] for line in out.split()] == [
        "first.parquet", "first.csv", "first-costs.parquet", "first-costs.csv",
    ]  # fmt: skip
    lines = err.split("\n")
    assert lines[:3] == [
        "1 of 4 runs, 2 rows",
        f"{four[1].id}: there is no result",
        f"{four[2].id}: there is no result",
    ]
    assert lines[3].startswith(f"{four[3].id}: ")
    assert "result.json cannot be read" in lines[3]
    assert lines[4] == "3 runs are missing or not whole"
    assert pd.read_csv(place / "tables" / "first.csv")["run"].tolist() == [four[0].id] * 2
    for task in four:
        finished(task)
    code, out, err = spikiness("sweep", "collect")
    assert (code, err) == (0, "4 of 4 runs, 8 rows\n")
    assert out.startswith(str(place / "home" / "sweeps" / "first" / "first.parquet"))


def test_verify_names_the_run_with_a_flipped_bit(spikiness, four):
    for task in four:
        finished(task)
    assert spikiness("sweep", "verify") == (0, "", "4 of 4 runs are complete and whole\n")
    data = (four[2].folder / "t.csv").read_bytes()
    (four[2].folder / "t.csv").write_bytes(bytes([data[0] ^ 1, *data[1:]]))
    code, _, err = spikiness("sweep", "verify")
    assert code == 1
    assert err.split("\n")[0] == "3 of 4 runs are complete and whole"
    assert err.split("\n")[1].startswith(f"{four[2].id}: {four[2].folder / 't.csv'}: expected sha256")
    assert spikiness("sweep", "status")[1] == "4 runs: 4 complete\n"  # a look at the small files only


# ---- clean


def test_clean_removes_what_failed_and_stale_locks_and_keeps_the_rest(spikiness, four, place):
    dead_lock(four[2])
    dead_lock(four[3])
    other = planned(place, "list: [{n: 99}]", name="other")[0]
    fail(other)
    planned(place, TEXT)
    spikiness("sweep", "collect")
    kept = tree(four[0].folder)
    code, out, err = spikiness("sweep", "clean")
    assert (code, out) == (0, "")
    assert err == f"2 folders of runs removed, and {place / 'home' / 'sweeps' / 'first'}\n"
    runs = four[0].folder.parent
    assert sorted(path.name for path in runs.iterdir()) == sorted([four[0].id, f"{other.id}.partial"])
    assert tree(four[0].folder) == kept
    assert not (place / "home" / "sweeps" / "first").exists()
    assert [found.state for found in planning.status(four)] == ["complete", "absent", "absent", "absent"]
    assert spikiness("sweep", "clean")[2].startswith("0 folders")


def test_clean_of_finished_runs_needs_yes(spikiness, four):
    fail(four[0])  # one that was forced to run again, and failed
    (finished(four[3]) / "result.json").write_text("broken")
    before = tree(four[0].folder.parent)
    code, _, err = spikiness("sweep", "clean", "--runs")
    assert (code, err) == (2, "spikiness: this removes 2 finished runs: add --yes\n")
    assert tree(four[0].folder.parent) == before
    code, _, err = spikiness("sweep", "clean", "--runs", "--yes")
    assert (code, err.split(",")[0]) == (0, "5 folders of runs removed")
    assert not list(four[0].folder.parent.iterdir())


@pytest.mark.parametrize("machine", ["here", "another"])
@pytest.mark.parametrize("owned", ["run", "driver"])
def test_clean_refuses_while_in_progress(spikiness, four, place, owned, machine):
    lock = store.lock(four[3].folder) if owned == "run" else planning.place("first") / "driver-12ab" / "driver.lock"
    who = locks.owner() if machine == "here" else {**locks.owner(), "machine": "another"}
    write_json(lock, who)
    before = tree(place)
    for words in ([], ["--runs", "--yes"]):
        code, _, err = spikiness("sweep", "clean", *words)
        assert (code, err) == (2, "spikiness: runs of first are in progress: stop them first\n")
    assert tree(place) == before
    write_json(lock, {**who, **locks.owner(), "pid": 2**22 - 1, "started": 1.0})
    assert spikiness("sweep", "clean")[0] == 0
    assert not lock.exists()


def test_clean_says_what_it_cannot_remove(spikiness, four, monkeypatch):
    def refuse(path, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    code, _, err = spikiness("sweep", "clean")
    assert (code, err) == (2, f"spikiness: cannot remove {store.partial(four[1].folder)}: Permission denied\n")


# ---- a results folder that cannot be written


def one_line(code, out, err, says):
    assert code == 2
    assert (err.count("\n"), err.startswith("spikiness: ")) == (1, True), err
    assert says in err


def test_a_file_in_place_of_the_results_folder(spikiness, place, monkeypatch):
    (place / "file").write_text("")
    monkeypatch.setenv("SPIKINESS_HOME", str(place / "file"))
    planned(place, TEXT)
    one_line(*spikiness("sweep", "collect"), f"cannot write {place / 'file'}")
    for command in ("plan", "status"):
        assert spikiness("sweep", command)[0] == 0
    assert spikiness("sweep", "verify")[0] == 1
    assert spikiness("sweep", "clean")[0] == 0


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "the disk is full")]
)
def test_a_results_folder_that_refuses_to_be_written(spikiness, four, monkeypatch, number, says):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    one_line(*spikiness("sweep", "collect"), says)
    assert not list(planning.place("first").glob("*"))


def test_run_says_at_once_that_the_results_folder_cannot_be_written(spikiness, place, monkeypatch):
    monkeypatch.setattr(
        "spikiness_book.engine.runs.processes.subprocess.Popen", lambda *a, **k: pytest.fail("an engine started")
    )
    (place / "file").write_text("")
    monkeypatch.setenv("SPIKINESS_HOME", str(place / "file"))
    planned(place, TEXT)
    code, out, err = spikiness("sweep", "run", "--cores", "2", "--gpus", "0")
    assert (code, out) == (2, "")
    assert err.split("\n")[-2].startswith("spikiness: cannot ")
    assert str(place / "file") in err.split("\n")[-2]
    assert "Traceback" not in err


# ---- unlock


def test_unlock_removes_the_lock_of_one_who_cannot_be_seen(spikiness, four):
    lock = store.lock(four[3].folder)
    write_json(lock, {**locks.owner(), "machine": "another", "host": "node7"})
    write_json(lock.with_name(f"{lock.name}.abcd.beat"), {"beat": 3})
    assert planning.status(four)[3].state == "in progress"
    assert spikiness("unlock", four[3].id[:8]) == (0, f"unlocked {four[3].id}\n", "")
    assert not list(lock.parent.glob("*.lock*"))
    assert planning.status(four)[3].state == "absent"
    assert store.partial(four[1].folder).is_dir()


def test_unlock_refuses_what_lives_here_and_what_is_not_there(spikiness, four):
    lock = store.lock(four[3].folder)
    with locks.hold(lock, "a test"):
        code, out, err = spikiness("unlock", four[3].id)
        assert (code, out) == (2, "")
        assert err == (f"spikiness: {four[3].id} is being run by process {os.getpid()}: stop that process instead\n")
        assert lock.exists()
    for target in (four[3].id, "0" * 16, "../..", "", "abc"):
        code, out, err = spikiness("unlock", target)
        assert (code, out) == (2, "")
        assert err.startswith("spikiness: no lock of a run ")
    dead_lock(four[3])
    assert spikiness("unlock", four[3].id)[0] == 0
