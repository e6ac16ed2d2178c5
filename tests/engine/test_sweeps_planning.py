"""From a sweep to its runs: what changes a run's name, what is known beforehand, and the file that jobs read."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import nbformat
import pytest
from sample_chapters import GOOD, working, write
from test_sweeps_table import finished

from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.files import write_json
from spikiness_book.engine import runs, sweeps
from spikiness_book.engine.runs import digests, locks, store
from spikiness_book.engine.sweeps import grid, planning

ROOM = {"cpu": 1, "gpu": 0, "memory": 2000, "minutes": 10}
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of chapters and a home of its own."""
    working(tmp_path / "notebooks")
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package to change, with a module of its own."""
    root = tmp_path / "spikiness"
    for name in digests.PACKAGES:
        shutil.copytree(digests.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "box.py").write_text("def used(x):\n    return _helper(x)\n\ndef _helper(x):\n    return x\n\nunused = 1\n")
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    return root


def planned(place, text="grid: {n: [1, 2, 3, 4]}", chapter="good", profile="demo"):
    (place / "first.yaml").write_text(f"chapter: {chapter}\nprofile: {profile}\n{text}\n")
    return sweeps.plan(grid.read(place / "first.yaml"), place / "notebooks")


def ids(tasks):
    return [task.id for task in tasks]


def edit(place, old, new, chapter="good"):
    path = place / "notebooks" / f"{chapter}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert any(old in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)


# ---- the names of runs


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_a_run_has_the_name_that_the_runner_gives_it(place, profile):
    tasks = planned(place, "parameters: {label: x}\ngrid: {n: [1, 2], lr: [0.5, 1]}", profile=profile)
    points = [{"label": "x", "n": n, "lr": lr} for n in (1, 2) for lr in (0.5, 1.0)]
    found = [runs.find("good", point, profile, notebooks=place / "notebooks") for point in points]
    assert ids(tasks) == [state.id for state in found]
    assert [task.folder for task in tasks] == [state.folder for state in found]
    sigmas = [0.2, 1.0, 5.0] if profile == "paper" else [0.2, 1.0]
    assert [task.parameters for task in tasks] == [{**point, "sigmas": sigmas, "tied": True} for point in points]
    assert len(set(ids(tasks))) == 4


def test_one_changed_value_renames_its_run_alone(place):
    before = ids(planned(place, "list: [{n: 1}, {n: 2}, {n: 3, lr: 0.5}]"))
    after = ids(planned(place, "list: [{n: 1}, {n: 20}, {lr: 0.5, n: 3}]"))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert ids(planned(place, "list: [{n: 3, lr: 0.5}, {n: 1}]")) == [before[2], before[0]]
    fixed = ids(planned(place, "parameters: {lr: 0.01}\nlist: [{n: 1}, {n: 2}]"))  # the chapter's own value
    assert fixed == before[:2]


def test_code_renames_every_run_and_prose_none(place):
    before = planned(place)
    edit(place, "# good", "# good and longer")
    edit(place, "2 * n, tolerance=1)", "2 * n, tolerance=1)  # a comment")
    os.utime(place / "notebooks" / "good.ipynb", (1, 1))
    os.utime(place / "first.yaml", (1, 1))
    assert planned(place) == before
    edit(place, "2 * n, tolerance", "3 * n, tolerance")
    after = planned(place)
    assert not set(ids(after)) & set(ids(before))
    assert [task.parameters for task in after] == [task.parameters for task in before]


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("return x", "return -x", True),  # not called by the chapter itself
        ("unused = 1", "unused = 2", False),
        ("unused = 1", "def more():\n    return 1", False),
        ("return x", 'return x  # "a comment"', False),
    ],
)
def test_of_the_package_only_what_a_chapter_uses_counts(place, package, old, new, counts):
    write(place / "notebooks", "boxed", ["from spikiness import box", "run.metric('x', box.used(n))"])
    before, other = planned(place, chapter="boxed"), planned(place)
    text = (package / "box.py").read_text()
    assert old in text
    (package / "box.py").write_text(text.replace(old, new))
    after = ids(planned(place, chapter="boxed"))
    assert len(set(ids(before)) & set(after)) == (0 if counts else 4)
    assert planned(place) == other  # a chapter that does not use it


def test_a_version_of_torch_renames_every_run_and_a_build_of_it_none(place, monkeypatch):
    names = {}
    for version in ("2.10.0", "2.10.0+cpu", "2.11.0"):
        monkeypatch.setattr("spikiness_book.engine.runs.notebook.installed", lambda name, v=version: v)
        names[version] = ids(planned(place))
    assert names["2.10.0"] == names["2.10.0+cpu"]
    assert not set(names["2.10.0"]) & set(names["2.11.0"])


def test_planning_writes_nothing(place):
    planning.summary(planned(place), ROOM, 2)
    assert sorted(path.name for path in place.iterdir()) == ["first.yaml", "notebooks"]


# ---- how they stand


def test_status_sees_every_state(place):
    tasks = planned(place)
    finished(tasks[0])
    write_json(store.partial(tasks[1].folder) / "failed.json", {"reason": "kernel died"})
    store.partial(tasks[2].folder).mkdir(parents=True)
    with locks.hold(store.lock(tasks[2].folder), "a test"):
        found = [(s.state, s.reason) for s in planning.status(tasks)]
    assert found == [
        ("complete", ""), ("failed", "kernel died"), ("in progress", f"by process {os.getpid()}"), ("absent", ""),
    ]  # fmt: skip


def test_an_altered_artefact_is_seen_when_asked_and_an_altered_result_always(place):
    tasks = planned(place, "grid: {n: [1, 2]}")
    (finished(tasks[0]) / "t.csv").write_text("x\n2\n")
    (finished(tasks[1]) / "result.json").write_text("{}")
    assert [s.state for s in planning.status(tasks)] == ["complete", "failed"]
    assert [s.state for s in planning.status(tasks, verified=True)] == ["failed", "failed"]
    assert "t.csv" in planning.status(tasks, verified=True)[0].reason


@pytest.mark.parametrize(
    ("change", "says"), [({"format": store.FORMAT + 1}, "another format"), ({"id": "0" * 16}, "expected the")]
)
def test_the_result_of_another_format_or_run_does_not_count(place, change, says):
    tasks = planned(place, "grid: {n: [1, 2]}")
    for task in tasks:
        finished(task)
    write_json(tasks[1].folder / "result.json", {**store.read_json(tasks[1].folder / "result.json"), **change})
    assert [planning.complete(task) for task in tasks] == [True, False]
    found = planning.status(tasks)
    assert [s.state for s in found] == ["complete", "failed"]
    assert says in found[1].reason


# ---- what it will take


def padded(task, seconds, size, **options):
    """A finished run whose files have `size` bytes in all."""
    folder = finished(task, seconds=seconds, **options)
    there = sum(file.stat().st_size for file in folder.iterdir())
    (folder / "more.bin").write_bytes(b"x" * (size - there))
    return folder


def test_the_estimate_is_the_median_of_the_finished_runs_of_the_sweep(place):
    tasks = planned(place, "grid: {n: [1, 2, 3, 4, 5, 6, 7]}")
    for task, seconds, size in zip(tasks, (10, 30, 500), (4000, 6000, 90_000), strict=False):
        padded(task, seconds, size)
    assert planning.estimate(tasks, tasks[3:], 60) == (30.0 * 4, 6000 * 4, "3 finished runs of this sweep")


def test_else_of_the_chapters_other_runs_but_not_of_failed_ones(place):
    for task, seconds, size in zip(planned(place), (10, 20, 30, 40), (3000, 4000, 5000, 6000), strict=True):
        padded(task, seconds, size)
    tasks = planned(place, "grid: {n: [10, 20, 30]}")
    padded(tasks[0], 9999, 99_999, folder=store.partial(tasks[0].folder))
    assert planning.estimate(tasks, tasks, 60) == (25.0 * 3, 4500 * 3, "4 other runs of good (demo)")


def test_else_the_minutes_that_the_sweep_asks_for(place):
    tasks = planned(place)
    assert planning.estimate(tasks, tasks, 7) == (7 * 60 * 4, 4 * 2e6, "the minutes it asks")
    (finished(tasks[0]) / "environment.json").write_text("broken")
    assert planning.estimate(tasks, tasks[1:], 7)[::2] == (7 * 60 * 3, "the minutes it asks")


@pytest.mark.parametrize(
    ("cores", "cpu", "time"), [(1, 1, "20 min"), (2, 1, "10 min"), (2, 2, "20 min"), (64, 1, "5 min"), (4, 3, "20 min")]
)
def test_the_summary_counts_and_shares_out_the_cores(place, monkeypatch, cores, cpu, time):
    tasks = planned(place, "grid: {n: [1, 2, 3, 4, 5, 6]}")
    padded(tasks[0], 300, 2_000_000)
    write_json(store.partial(tasks[1].folder) / "failed.json", {"reason": "kernel died"})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 10e6))
    tasks = tasks[:5]  # 4 runs of 300 s are left
    assert planning.summary(tasks, {**ROOM, "cpu": cpu}, cores).split("\n") == [
        "5 runs of good: 3 absent, 1 complete, 1 failed",
        f"to do: 4, about {time} on {cores} core{'' if cores == 1 else 's'} and 8 MB of disk "
        "(from 1 finished runs of this sweep)",
    ]


def test_more_than_the_free_disk_is_said(place, monkeypatch):
    tasks = planned(place, "grid: {n: [1, 2, 3]}")
    padded(tasks[0], 1, 3_000_000)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or Disk(0, 0, 5_999_999))
    assert planning.summary(tasks, ROOM, 1).split("\n")[2:] == [f"only 6 MB are free in {place / 'home'}"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 6_000_000))
    assert len(planning.summary(tasks, ROOM, 1).split("\n")) == 2
    assert asked == [place / "home"]


def test_when_all_is_there_nothing_is_estimated(place):
    tasks = planned(place, "grid: {n: [1, 2]}")
    for task in tasks:
        finished(task)
    assert planning.summary(tasks, ROOM, 2) == "2 runs of good: 2 complete"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (5999, "100 min"),
        (6000, "1.7 h"),
        (9e5, "250.0 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert planning.duration(seconds) == words


# ---- plan.json


def test_a_plan_comes_back_and_brings_its_home(place, monkeypatch):
    tasks = planned(place, "grid: {n: [1, 2], lr: [0.1, 1.0e-300], sigmas: [[0.1], [1, 2.5]]}")
    write(place / "notebooks", "other", GOOD)
    tasks += planned(place, "grid: {n: [1, 2]}", chapter="other")  # other inputs
    assert len({str(task.inputs) for task in tasks}) == 2
    path = place / "a b" / "plan.json"
    planning.save(path, tasks, ROOM, place / "notebooks", "true")
    monkeypatch.setenv("SPIKINESS_HOME", str(place / "elsewhere"))
    content = planning.load(path)
    assert list(content["tasks"]) == ids(tasks)
    assert list(content["tasks"].values()) == tasks
    assert (content["resources"], content["command"]) == (ROOM, "true")
    assert content["notebooks"] == str(place / "notebooks")
    assert os.environ["SPIKINESS_HOME"] == str(place / "home")


def test_relative_places_are_saved_whole(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SPIKINESS_HOME", "home")
    planning.save(place / "plan.json", planned(place), ROOM, Path("notebooks"))
    monkeypatch.chdir("/")
    content = planning.load(place / "plan.json")
    assert (content["home"], content["notebooks"]) == (str(place / "home"), str(place / "notebooks"))


def test_a_job_reads_relative_data_from_where_the_sweep_was_planned(place, monkeypatch):
    from spikiness_book.engine.sweeps import job

    seen = []
    monkeypatch.setattr(
        job.runner, "execute", lambda *_, **__: seen.append((os.getcwd(), os.environ["SPIKINESS_DATA"]))
    )
    monkeypatch.chdir(place)
    monkeypatch.setenv("SPIKINESS_DATA", "data")
    write(place / "notebooks", "pictures", [], parameters='data: str = "folder:faces"\n')
    (place / "faces" / "a").mkdir(parents=True)
    (place / "faces" / "a" / "1.png").write_bytes(b"a picture")
    (task,) = planned(place, "parameters: {}", chapter="pictures")
    planning.save(place / "plan.json", [task], ROOM, place / "notebooks")
    assert task.parameters["data"] == "folder:faces"  # part of the run's name, the same in every folder
    monkeypatch.chdir("/")
    monkeypatch.delenv("SPIKINESS_DATA")
    assert job.make(place / "plan.json", task.id) == 0
    assert seen == [(str(place), str(place / "data"))]


def test_a_plan_of_another_version_is_refused(place):
    path = place / "plan.json"
    planning.save(path, planned(place), ROOM, place / "notebooks")
    content = store.read_json(path)
    write_json(path, {**content, "format": planning.FORMAT + 1})
    home = os.environ["SPIKINESS_HOME"]
    with pytest.raises(SpikinessError, match=r"plan\.json is of another version of spikiness: plan the sweep again"):
        planning.load(path)
    assert os.environ["SPIKINESS_HOME"] == home


def test_a_truncated_or_altered_plan_is_corrupt(place):
    path = place / "plan.json"
    planning.save(path, planned(place), ROOM, place / "notebooks")
    whole = path.read_bytes()
    assert b'"n": 1' in whole
    changed = [whole[:size] for size in range(0, len(whole), 100)] + [whole.replace(b'"n": 1', b'"n": 3')]
    for data in changed:
        path.write_bytes(data)
        with pytest.raises(CorruptArtifact, match=r"plan\.json"):
            planning.load(path)
    path.unlink()
    with pytest.raises(CorruptArtifact, match=r"plan\.json is missing"):
        planning.load(path)


def test_inputs_that_all_runs_share_are_once_in_the_plan(place):
    tasks = planned(place, f"grid: {{n: {list(range(1, 21))}, lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}")
    assert len({task.id for task in tasks}) == 100
    planning.save(place / "plan.json", tasks, ROOM, place / "notebooks")
    assert len(store.read_json(place / "plan.json")["inputs"]) == 1
    assert list(planning.load(place / "plan.json")["tasks"].values()) == tasks
