"""What a notebook calls: parameters picked and checked, numbers and artefacts recorded, one result written last."""

import json
import os

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from spikiness.errors import SpikinessError
from spikiness.statistics import Interval
from spikiness_book.engine import runs
from spikiness_book.engine.runs import chapter, store

mpl.use("agg")


def namespace(**changes):
    """What `globals()` of a notebook holds after its parameters cell."""
    return {
        "__annotations__": {"n": int, "sigmas": list[float], "label": "str"},
        "In": ["", "n: int = 5"],
        "os": os,
        "n": 5,
        "sigmas": [0.2, 1.0],
        "label": "plain",
        **changes,
    }


@pytest.fixture(autouse=True)
def by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    monkeypatch.delenv("SPIKINESS_RUN", raising=False)
    return tmp_path / "by-hand" / "good"


@pytest.fixture
def run():
    return runs.begin("good", namespace())


def test_begin_by_hand_picks_the_typed_literals(run, by_hand):
    assert run.parameters == {"n": 5, "sigmas": [0.2, 1.0], "label": "plain"}
    assert (run.folder, run.profile) == (by_hand, "by hand")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": 0}, "good: n must be a whole number of at least 1, got 0"),
        ({"n": "10"}, "got '10'"),
        ({"sigmas": [0.2, float("nan")]}, "sigmas must be"),
        ({"In": ["", "# Parameters\nm = 10\n"], "m": 10}, "unknown parameter 'm'"),
        ({"In": ["", "# Parameters\nn = 5\nlabels = 10\n"]}, "did you mean 'label'?"),
    ],
)
def test_begin_by_hand_checks_what_papermill_does_not(changes, says):
    with pytest.raises(SpikinessError) as error:
        runs.begin("good", namespace(**changes))
    assert says in str(error.value)


def test_begin_reads_the_types_from_the_cells_where_the_namespace_has_none():
    scope = namespace(In=["", "%matplotlib inline", "n: int = 5\nsigmas: list[float] = [0.2, 1.0]  # levels"])
    del scope["__annotations__"]
    assert runs.begin("good", scope).parameters == {"n": 5, "sigmas": [0.2, 1.0]}


def test_begin_refuses_a_name_that_is_no_slug():
    with pytest.raises(SpikinessError, match=r"chapter '\.\./x'"):
        runs.begin("../x", namespace())


def test_begin_by_hand_again_leaves_nothing_of_the_last_result(run, by_hand):
    run.table("a", {"x": [1]})
    run.finish()
    assert {path.name for path in by_hand.iterdir()} == {"a.csv", "result.json", "environment.json"}
    runs.begin("good", namespace())
    assert not list(by_hand.iterdir())


def asked(work, monkeypatch, **changes):
    request = {
        "chapter": "good",
        "profile": "demo",
        "id": "0" * 16,
        "parameters": {"n": 5, "label": "plain"},
        "inputs": {"source": "s"},
        **changes,
    }
    store.write_json(work / "request.json", request)
    monkeypatch.setenv("SPIKINESS_RUN", str(work))


def test_begin_under_the_runner_takes_what_was_asked(tmp_path, monkeypatch):
    asked(tmp_path / "work", monkeypatch)
    run = runs.begin("good", namespace())
    assert (run.folder, run.profile, run.parameters) == (tmp_path / "work", "demo", {"n": 5, "label": "plain"})
    run.finish()
    result = store.load(tmp_path / "work", "0" * 16)
    assert (result.inputs, result.parameters) == ({"source": "s"}, {"n": 5, "label": "plain"})


def test_begin_under_the_runner_refuses_another_value_or_chapter(tmp_path, monkeypatch):
    asked(tmp_path / "work", monkeypatch)
    with pytest.raises(SpikinessError, match="n is 6, but this run was asked for 5"):
        runs.begin("good", namespace(n=6))
    with pytest.raises(SpikinessError, match="notebook of 'good', but it begins 'other'"):
        runs.begin("other", namespace())


def test_metrics_are_plain_numbers_in_their_order(run, by_hand):
    ends = (0, torch.tensor(1.0))
    run.metric("z", np.float32(0.25), ends, over="digits", unit="dB", n=np.int64(3), seeds=range(2), sigma=0.2)
    run.metric("z", 0.5, Interval(0, 1, None, "networks"), sigma=np.float64(1))
    run.metric("a", torch.tensor(3), seeds=5, tolerance=0.5)
    run.metric("b", True)
    table = run.finish()
    assert table["metric"].tolist() == ["z", "z", "a", "b"]
    plain = {
        "labels": {},
        "interval": None,
        "level": None,
        "over": "",
        "unit": "",
        "n": None,
        "seeds": None,
        "tolerance": None,
    }
    wide = {**plain, "name": "z", "interval": [0.0, 1.0]}
    assert json.loads((by_hand / "result.json").read_text())["findings"] == [
        {**wide, "value": 0.25, "labels": {"sigma": 0.2}, "level": 0.95, "over": "digits", "unit": "dB", "n": 3,
         "seeds": [0, 1]},
        {**wide, "value": 0.5, "labels": {"sigma": 1.0}, "over": "networks"},
        {**plain, "name": "a", "value": 3, "seeds": 5, "tolerance": 0.5},
        {**plain, "name": "b", "value": 1},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "options", "says"),
    [
        ("x", float("nan"), {}, "x must be finite, got nan"),
        ("x", -np.inf, {}, "must be finite"),
        ("x", torch.zeros(2), {}, "x must be one number"),
        ("x", "a", {}, "x must be one number"),
        ("x", None, {}, "x must be one number"),
        ("x", 1.0, {"interval": (2, 1)}, r"an interval is \(low, high\)"),
        ("x", 1.0, {"interval": (0, np.nan)}, "x's interval must be finite"),
        ("x", 1.0, {"interval": (1, 2, 3)}, "an interval is"),
        ("x", 1.0, {"tolerance": -1}, "tolerance must be at least 0"),
        ("X", 1.0, {}, "metric 'X': use a-z"),
        ("x-y", 1.0, {}, "use a-z"),
        ("../x", 1.0, {}, "use a-z"),
        ("n", 1.0, {}, "'n' is a parameter"),
        ("taken", 1.0, {"kind": "a"}, r"taken\[kind=a\] is recorded already"),
        ("taken", 1.0, {"sort": "a"}, r"taken\[sort=a\]: taken has the labels kind"),
        ("taken", 1.0, {"kind": "a, b"}, "label kind is 'a, b': give a number, or text without"),
        ("taken", 1.0, {"kind": None}, "label kind is None"),
        ("x", 1.0, {"interval": (0, 2)}, "say what its interval is over"),
        ("x", 1.0, {"interval": (0, 2), "over": "images", "tolerance": 4}, "lets every rerun agree"),
    ],
)
def test_metrics_that_cannot_be_right_are_refused(run, name, value, options, says):
    run.metric("taken", 0, kind="a")
    with pytest.raises(SpikinessError, match=says):
        run.metric(name, value, **options)


def test_a_figure_is_kept_with_its_data(run, by_hand):
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(2, 1), dpi=50)
    ax.plot([0, 1])
    assert run.figure(fig, "line", data={"x": np.array([0.1, 1 / 3]), "y": torch.tensor([1, 2])}) is None
    plt.close(fig)
    picture = plt.imread(by_hand / "line.png")
    assert picture.shape[:2] == (100, 200)
    assert (by_hand / "line.csv").read_bytes() == f"x,y\n0.1,1\n{1 / 3!r},2\n".encode()  # every digit


def test_tables_and_arrays(run, by_hand):
    run.table("t", pd.DataFrame({"a": [1.5]}, index=[7]))
    run.array("grid", torch.arange(6, dtype=torch.float64).reshape(2, 3))
    run.finish()
    assert (by_hand / "t.csv").read_text() == "a\n1.5\n"
    with np.load(by_hand / "grid.npz") as kept:
        assert kept["values"].dtype == np.float64
        assert kept["values"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert set(store.load(by_hand).artefacts) == {"t.csv", "grid.npz"}


def test_artefacts_that_cannot_be_kept(run):
    run.table("t", {"a": [1]})
    with pytest.raises(SpikinessError, match=r"kept 't\.csv' already"):
        run.table("t", {"a": [1]})
    with pytest.raises(SpikinessError, match=r"columns of equal length, got \{'a': 1, 'b': 2\}"):
        run.table("u", {"a": [1], "b": [1, 2]})
    with pytest.raises(SpikinessError, match=r"name '\.\./u'"):
        run.table("../u", {"a": [1]})
    with pytest.raises(SpikinessError, match="holds Python objects"):
        run.array("o", np.array([print]))


def test_say_takes_its_numbers_from_the_run(run, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)  # without IPython it prints
    run.metric("error", 0.0125, (0.01, 0.02), over="images", kind="unet:digits", sigma=0.2)
    run.metric("error", 0.5, kind="unet:mnist", sigma=0.2)
    run.say("Off by {error[kind=unet:digits]:.1%} ({error[kind=unet:digits].low:.0%}) at n = {n}, $w_{{1}}$.")
    run.say("{words}: {error:.1%} to {error.high:.0%}", kind="unet:digits", words="U-Net")
    assert capsys.readouterr().out == "Off by 1.2% (1%) at n = 5, $w_{1}$.\nU-Net: 1.2% to 2%\n"
    with pytest.raises(SpikinessError, match="'error' selects 2 metrics, one is needed"):
        run.say("Off by {error}.")
    with pytest.raises(SpikinessError, match="has no interval"):
        run.say("{error.low}", kind="unet:mnist")
    with pytest.raises(SpikinessError, match=r"no metric or parameter 'eror' recorded so far; did you mean 'error'\?"):
        run.say("Off by {eror}.")
    with pytest.raises(SpikinessError, match="no metric or parameter"):
        run.say("Off by {}.")


def test_nothing_is_recorded_after_finish_and_nothing_counts_before(run, by_hand):
    run.table("t", {"a": [1]})
    assert not (by_hand / "result.json").exists()
    run.finish()
    for late in (lambda: run.metric("x", 1), lambda: run.table("u", {"a": [1]}), run.finish):
        with pytest.raises(SpikinessError, match="good is finished"):
            late()


def test_two_runs_of_the_same_write_the_same_result(by_hand):
    texts = []
    for _ in range(2):
        from matplotlib import pyplot as plt

        run = runs.begin("good", namespace())
        run.metric("x", 1 / 3)
        fig, ax = plt.subplots()
        ax.plot([1, 2])
        run.figure(fig, "line", data={"x": [1, 2]})
        plt.close(fig)
        run.array("a", np.arange(3))
        run.finish()
        texts.append((by_hand / "result.json").read_bytes())
    assert texts[0] == texts[1]


def test_the_environment_names_versions_and_no_person():
    found = chapter.environment(1.234)
    assert set(found) == {
        "python",
        "platform",
        "packages",
        "threads",
        "device",
        "commit",
        "seconds",
        "training_seconds",
        "peak_memory_mb",
    }
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["seconds"] == 1.23
    assert 10 < found["peak_memory_mb"] < 100_000
    assert os.path.expanduser("~") not in json.dumps(found)


def test_a_full_disk_at_the_end_leaves_no_result(run, by_hand, monkeypatch):
    run.metric("x", 1)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpikinessError, match="the disk is full"):
        run.finish()
    assert not list(by_hand.iterdir())


def test_timings_go_beside_the_result_and_into_prose_and_are_never_compared(run, by_hand, capsys):
    run.timing("ms_score", 1.25)
    run.say("{ms_score:.2f} ms")
    run.metric("error", 0.1)
    run.finish()
    assert json.loads((by_hand / "environment.json").read_text())["timings_ms"] == {"ms_score": 1.25}
    assert "1.25" not in (by_hand / "result.json").read_text()


def test_a_timing_has_a_name_of_its_own(run):
    run.timing("ms", 1.0)
    run.metric("error", 0.1)
    for name in ("ms", "error", "n"):
        with pytest.raises(SpikinessError, match=name):
            run.timing(name, 2.0)
    with pytest.raises(SpikinessError, match="ms is recorded already"):
        run.metric("ms", 1.0)
    with pytest.raises(SpikinessError, match="finite"):
        run.timing("other", float("inf"))
