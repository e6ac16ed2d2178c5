"""The table of a sweep: equal to one written by hand, the same bytes every time, and nothing lost without a word."""

import importlib.util
import json

import pandas as pd
import pytest
from sample_chapters import write

from spikiness.errors import SpikinessError
from spikiness.files import write_json
from spikiness_book.engine import sweeps
from spikiness_book.engine.runs import findings, store
from spikiness_book.engine.runs.chapter import Run
from spikiness_book.engine.sweeps import machine, table

PARAMETERS = 'n: int = 5\nlr: float = 0.5\nsigmas: list[float] = [0.2]\nlabel: str = "a"\ntied: bool = True\n'
METRICS = {
    "gain": findings.make(
        "gain", 0.1 + 0.2, (0.25, 0.5), over="images", unit="dB", n=400, seeds=[0, 1], labels={"data": "digits"}
    ),
    "count": findings.make("count", 7, tolerance=1.0),
}
ENVIRONMENT = {
    "python": "3.11.2",
    "platform": "Linux x86_64",
    "packages": {"torch": "2.14.1", "numpy": "2.4.0"},
    "threads": 1,
    "device": "cpu",
    "commit": None,
    "seconds": 12.5,
    "training_seconds": 3.0,
    "peak_memory_mb": 321,
}


def finished(task, metrics=None, folder=None, format=store.FORMAT, **environment):
    """A complete run of a task, by hand: what the runner leaves, with one artefact and a notebook."""
    folder = folder or task.folder
    store.write_bytes(folder / "t.csv", b"x\n1\n")
    store.write_bytes(folder / "executed.ipynb", b"{}\n")
    seen = {**ENVIRONMENT, **environment, "files": {"executed.ipynb": store.sha256(b"{}\n")}}
    write_json(folder / "environment.json", seen)
    content = {
        "format": format,
        "chapter": task.chapter,
        "profile": task.profile,
        "id": task.id,
        "parameters": task.parameters,
        "inputs": task.inputs,
        "findings": list((METRICS if metrics is None else metrics).values()),
        "artefacts": {"t.csv": store.sha256(b"x\n1\n")},
    }
    write_json(folder / "result.json", content)
    return folder


def project(folder, monkeypatch):
    """A folder with one chapter, `good`, and a home of its own."""
    write(folder / "notebooks", "good", [], parameters=PARAMETERS)
    monkeypatch.setenv("SPIKINESS_HOME", str(folder / "home"))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    return project(tmp_path, monkeypatch)


def planned(place, text="grid: {n: [1, 2], sigmas: [[0.2], [0.2, 1.0]]}", name="first"):
    (place / f"{name}.yaml").write_text(f"chapter: good\n{text}\n")
    return sweeps.plan(sweeps.read(place / f"{name}.yaml"), place / "notebooks")


# ---- results and costs


def test_the_table_is_the_one_written_by_hand(place):
    tasks = planned(place)
    for at, task in enumerate(tasks):
        count = {**METRICS["count"], "value": at}
        if at == 1:
            count |= {"interval": [at, at + 0.5], "level": 0.9, "over": "networks"}
        finished(task, {"gain": METRICS["gain"], "count": count})
    points = [(1, "[0.2]"), (1, "[0.2, 1.0]"), (2, "[0.2]"), (2, "[0.2, 1.0]")]
    rows = []
    for at, (task, (n, sigmas)) in enumerate(zip(tasks, points, strict=True)):
        start = [task.id, n, 0.5, sigmas, "a", True]
        rows.append([*start, "gain", "digits", 0.30000000000000004, 0.25, 0.5, 0.95, "images", "dB", 400])
        ends = [1.0, 1.5, 0.9, "networks"] if at == 1 else [None, None, None, ""]
        rows.append([*start, "count", None, float(at), *ends, "", None])
    columns = ["run", "n", "lr", "sigmas", "label", "tied", "metric", "label_data"]
    columns += ["value", "low", "high", "level", "over", "unit", "count"]
    kinds = {"low": float, "high": float, "level": float, "count": "Int64"}
    expected = pd.DataFrame(rows, columns=columns).astype(kinds)
    tables = table.collect(tasks)
    pd.testing.assert_frame_equal(tables.results, expected)
    assert tables.skipped == {}
    assert [json.loads(cell) for cell in tables.results["sigmas"][::4]] == [[0.2], [0.2]]

    paths = table.write(tables, place / "tables", "first")
    assert [path.name for path in paths] == [
        "first.parquet", "first.csv", "first-costs.parquet", "first-costs.csv",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(paths[0]), expected)
    assert paths[1].read_text().split("\n")[:3] == [
        ",".join(columns),
        f"{tasks[0].id},1,0.5,[0.2],a,True,gain,digits,0.30000000000000004,0.25,0.5,0.95,images,dB,400",
        f"{tasks[0].id},1,0.5,[0.2],a,True,count,,0.0,,,,,,",
    ]


def test_a_table_without_any_interval_has_columns_of_numbers(place):
    tasks = planned(place, "grid: {n: [1]}")
    finished(tasks[0], {"count": METRICS["count"]})
    results = table.collect(tasks).results
    assert results.dtypes[["low", "high", "count"]].astype(str).tolist() == ["float64", "float64", "Int64"]
    assert results[["low", "high", "count"]].isna().all(axis=None)


def test_two_calls_give_the_same_bytes(place):
    tasks = planned(place)
    for task in tasks:
        finished(task)
    first, second = ([p.read_bytes() for p in table.write(table.collect(tasks), place / w, "x")] for w in "ab")
    assert first == second


def test_what_making_took_is_in_the_costs_alone(place):
    tasks = planned(place, "grid: {n: [1, 2]}")
    finished(tasks[0])
    finished(tasks[1])
    write_json(machine.records() / f"{tasks[0].id}.json", {"host": "node7", "job": "12"})
    before = [p.read_bytes() for p in table.write(table.collect(tasks), place / "a", "x")]
    costs = table.collect(tasks).costs
    row = {"run": tasks[0].id, **{k: v for k, v in ENVIRONMENT.items() if k != "packages"}, "host": "node7"}
    assert {**costs.iloc[0]} == {**row, **ENVIRONMENT["packages"]}
    assert costs["host"].tolist() == ["node7", ""]

    finished(tasks[0], seconds=99.0, device="NVIDIA H100", packages={"torch": "3.0", "pandas": "3.0"}, threads=64)
    write_json(machine.records() / f"{tasks[0].id}.json", {"host": "node8", "job": ""})
    after = [p.read_bytes() for p in table.write(table.collect(tasks), place / "b", "x")]
    assert before[:2] == after[:2]
    assert before[2] != after[2]
    assert before[3] != after[3]


def test_what_a_chapter_records_is_what_the_table_says(place):
    """The chapter's own recorder in place of files by hand."""
    (task,) = planned(place, "grid: {n: [3]}")
    task.folder.mkdir(parents=True)
    run = Run("good", task.folder, {k: getattr(task, k) for k in ("profile", "id", "parameters", "inputs")})
    run.metric("error", 1 / 3, interval=(0.25, 0.5), over="digits", unit="dB", n=9, seeds=[1], kind="a")
    run.finish()
    found = table.collect([task])
    columns = ["label_kind", "value", "low", "high", "level", "over", "unit", "count"]
    assert found.results[columns].values.tolist() == [["a", 1 / 3, 0.25, 0.5, 0.95, "digits", "dB", 9]]
    assert found.costs["seconds"].item() == store.read_json(task.folder / "environment.json")["seconds"]
    assert table.verify([task]) == {}


def test_a_parameter_with_the_name_of_a_column_keeps_its_value(place):
    write(place / "notebooks", "good", [], parameters='value: float = 1.0\nunit: str = "cm"\nn: int = 1\n')
    (task,) = planned(place, "list: [{value: 2.5}]")
    finished(task)
    row = table.collect([task]).results.iloc[0]
    assert (row["parameter_value"], row["parameter_unit"], row["value"], row["unit"], row["n"]) == (
        2.5, "cm", 0.1 + 0.2, "dB", 1,
    )  # fmt: skip


# ---- what is not there


def damage(task, how):
    result = task.folder / "result.json"
    if how == "absent":
        return
    if how == "failed":
        write_json(store.partial(task.folder) / "failed.json", {"reason": "kernel died"})
        return
    finished(task, format=store.FORMAT + 1 if how == "another format" else store.FORMAT)
    data = result.read_bytes()
    if how == "truncated":
        result.write_bytes(data[:-20])
    if how == "a flipped bit":
        result.write_bytes(data.replace(b'"value": 7', b'"value": 5'))  # 7 and 5 differ in one bit
        assert result.read_bytes() != data
    if how == "another run":
        write_json(result, {**store.read_json(result), "id": "0" * 16})
    if how == "without a format":
        write_json(result, {k: v for k, v in store.read_json(result).items() if k != "format"})
    if how == "no environment":
        (task.folder / "environment.json").unlink()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("absent", "there is no result"),
        ("failed", "there is no result"),
        ("truncated", "result.json cannot be read"),
        ("a flipped bit", "result.json: expected sha256"),
        ("another format", f"another format than {store.FORMAT}"),
        ("another run", "or another run"),
        ("without a format", f"another format than {store.FORMAT}"),
        ("no environment", "environment.json is missing"),
    ],
)
def test_a_run_without_a_readable_result_is_left_out_with_its_reason(place, how, reason):
    tasks = planned(place, "grid: {n: [1, 2, 3]}")
    for task in (tasks[0], tasks[2]):
        finished(task)
    damage(tasks[1], how)
    tables = table.collect(tasks)
    assert list(tables.skipped) == [tasks[1].id]
    assert reason in tables.skipped[tasks[1].id]
    assert tables.results["run"].tolist() == [tasks[0].id] * 2 + [tasks[2].id] * 2
    assert tables.costs["run"].tolist() == [tasks[0].id, tasks[2].id]
    assert list(table.verify(tasks)) == [tasks[1].id]


def test_no_result_at_all_is_an_empty_table(place):
    tasks = planned(place)
    tables = table.collect(tasks)
    assert (len(tables.results), len(tables.costs), len(tables.skipped)) == (0, 0, 4)
    paths = table.write(tables, place / "tables", "first")
    assert len(pd.read_parquet(paths[0])) == 0


def test_a_folder_that_cannot_be_written_and_a_missing_library(place, monkeypatch):
    tasks = planned(place, "grid: {n: [1]}")
    finished(tasks[0])
    (place / "file").write_text("")
    with pytest.raises(SpikinessError, match=r"cannot write .*first\.parquet: Not a directory"):
        table.write(table.collect(tasks), place / "file" / "tables", "first")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(SpikinessError, match=r"pyarrow.* is not installed: pip install 'spikiness\[batch\]'"):
        table.write(table.collect(tasks), place / "tables", "first")


# ---- verify


@pytest.mark.parametrize("file", ["t.csv", "executed.ipynb", "result.json", "environment.json"])
def test_one_flipped_bit_in_any_file_is_found(place, file):
    tasks = planned(place, "grid: {n: [1, 2]}")
    for task in tasks:
        finished(task)
    assert table.verify(tasks) == {}
    path = tasks[1].folder / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    bad = table.verify(tasks)
    assert list(bad) == [tasks[1].id]
    assert file in bad[tasks[1].id]
    path.unlink()
    assert file in table.verify(tasks)[tasks[1].id]


def test_verify_says_how_the_others_stand(place):
    tasks = planned(place, "grid: {n: [1, 2, 3]}")
    finished(tasks[0])
    write_json(store.partial(tasks[1].folder) / "failed.json", {"reason": "kernel died"})
    assert table.verify(tasks) == {tasks[1].id: "kernel died", tasks[2].id: "absent"}
