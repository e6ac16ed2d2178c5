"""Faults that a run survives. One promise: a run is absent, in progress with a live owner, failed with a reason, or
complete and verified; nothing else can be seen.

Full disks, torn writes, truncations and flips of single files are in test_runs_store and test_cache, odd names and
values in test_runs_parameters; downloads and archives in test_images.
"""

import ast
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sample_chapters import SPAWN, hear_ctrl_c, working, write

import spikiness
from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine import runs
from spikiness_book.engine.runs import runner, store

FAULTS = {  # what the cells do, and why the run says it failed
    "killed": ([SPAWN, "os.kill(os.getpid(), 9)"], "kernel died (signal 9, likely out of memory)"),
    "crashed": (["import os", "os._exit(3)"], "kernel died (exit status 3)"),
    "early": (["raise SystemExit(0)"], "no result written: the notebook ended before run.finish()"),
    "raises": (["run.metric('x', 1)", "1 / 0"], "cell [6] raised ZeroDivisionError: division by zero"),
    "hangs": ([SPAWN, "while True: pass"], "timeout: not done after 120 s"),
    "late": (["run.metric('x', 1)", "run.finish()", "1 / 0"], "cell [7] raised ZeroDivisionError: division by zero"),
    "altered": (
        ["run.table('t', {'a': [1]})", "run.finish()", "(run.folder / 't.csv').write_text('a\\n2\\n')"],
        "t.csv: expected sha256",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    for name, (cells, _) in FAULTS.items():
        write(folder / "notebooks", name, cells, finish=name not in ("late", "altered"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def failures(place):
    """What the run of each fault raised: most at once, and the one that hangs once its clock can be moved."""

    def attempt(name):
        with pytest.raises(RunFailed) as caught:
            runs.run(name, values(place, name), notebooks=place / "notebooks", timeout=120)
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        others = [name for name in FAULTS if name != "hangs"]
        said = dict(zip(others, pool.map(attempt, others), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        left = Path(values(place, "hangs")["label"])  # written when the kernel is about to hang: then the time is up
        patch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1e6 * left.exists()))
        return {**said, "hangs": attempt("hangs")}


def values(place, name):
    return {"label": str(place / f"{name}.pids")}


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def pids(place, name):
    """The kernel and the process it started, as the notebook left them."""
    return [int(pid) for pid in (place / f"{name}.pids").read_text().split()]


@pytest.mark.parametrize("name", FAULTS)
def test_a_failed_run_says_why_and_keeps_its_notebook(failures, place, name):
    assert FAULTS[name][1] in failures[name]
    state = runs.find(name, values(place, name), notebooks=place / "notebooks")
    assert state.state == "failed"
    assert FAULTS[name][1] in state.reason
    assert str(state.folder / "executed.ipynb") in failures[name]
    assert (state.folder / "executed.ipynb").is_file()
    assert state.folder.name.endswith(".partial")
    assert [path.name for path in state.folder.parent.iterdir()] == [state.folder.name]


@pytest.mark.parametrize("name", ["killed", "hangs"])
def test_no_process_outlives_a_failed_run(failures, place, name):
    assert len(pids(place, name)) == 2
    assert not alive(pids(place, name))


def test_a_notebook_stopped_by_the_limit_shows_where(failures, place):
    state = runs.find("hangs", values(place, "hangs"), notebooks=place / "notebooks")
    assert "KeyboardInterrupt" in (state.folder / "executed.ipynb").read_text()


# ---- signals: Ctrl-C, a preempted job, and the death of the command itself

COMMAND = "from spikiness_book.cli import main; main()"


@pytest.fixture(scope="module")
def stopped(place):
    """The same hanging chapter under three commands, one for each signal; exit status and what they said."""
    started = {}
    for name in ("SIGINT", "SIGTERM", "SIGKILL"):
        label = str(place / f"{name}.pids")
        command = [sys.executable, "-c", COMMAND, "run", "hangs", "-p", "label", label]
        command += ["--notebooks", str(place / "notebooks")]
        started[name] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    deadline = time.monotonic() + 120
    while not all((place / f"{name}.pids").exists() for name in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    for name, process in started.items():
        process.send_signal(getattr(signal, name))
    try:
        return {name: (process.communicate(timeout=60)[1], process.returncode) for name, process in started.items()}
    finally:  # one that did not end would compute beside every test that follows
        for process in started.values():
            process.kill()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_signal_stops_the_kernel_and_leaves_a_failed_run(stopped, place, name, code):
    said, status = stopped[name]
    assert status == code
    assert "Traceback" not in said
    deadline = time.monotonic() + 30  # after kill -9 the kernel is stopped by the process that the command left
    while alive(pids(place, name)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids(place, name))
    state = runs.find("hangs", {"label": str(place / f"{name}.pids")}, notebooks=place / "notebooks")
    assert (state.state, state.reason.partition(":")[0]) == ("failed", "interrupted")


# ---- results


def test_no_flip_and_no_truncation_of_a_result_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    run = runs.begin("good", {"__annotations__": {"n": int}, "n": 5})
    run.metric("x", 1 / 3, interval=(0.3, 0.4), over="draws")
    run.table("t", {"a": [1.5, 2.5]})
    run.finish()
    draw = random.Random(0)
    for path in sorted(run.folder.iterdir()):
        whole = path.read_bytes()
        changed = [whole[: draw.randrange(len(whole))] for _ in range(100)]
        for at, bit in [(draw.randrange(len(whole)), 1 << draw.randrange(8)) for _ in range(100)]:
            changed.append(bytes([*whole[:at], whole[at] ^ bit, *whole[at + 1 :]]))
        for data in changed:
            path.write_bytes(data)
            with pytest.raises(store.CorruptArtifact, match=path.name):
                store.load(run.folder)
        path.write_bytes(whole)
    assert store.load(run.folder).value("x") == 1 / 3


def test_a_missing_result_is_an_error_not_a_number(tmp_path):
    with pytest.raises(SpikinessError, match=r"result\.json is missing"):
        runs.load(tmp_path)


# ---- input that is code


def test_names_and_values_are_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = working(tmp_path / "notebooks")
    code = "__import__('os').system('touch ran')"
    for name in (code, f"n={code}", f"n;{code}", "n\nimport os", "__class__", "print", "np", "runs", "import"):
        with pytest.raises(SpikinessError):
            runs.find("good", {name: 1}, notebooks=folder)
    for value in (code, [code], {"a": code}, f"5; {code}"):
        with pytest.raises(SpikinessError, match="n must be"):
            runs.find("good", {"n": value}, notebooks=folder)
    assert not (tmp_path / "ran").exists()


SOURCES = sorted(Path(spikiness.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_in_the_package_reads_a_pickle_unchecked(path):
    """`torch.load` with `weights_only=True` at most, and no way round it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            called = ast.unparse(node.func)
            assert options.get("weights_only", "True") == "True", f"line {node.lineno}"
            assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
            assert called not in ("pickle.load", "pickle.loads", "eval", "exec"), f"line {node.lineno}"
            assert called != "torch.load" or "weights_only" in options, f"line {node.lineno}"
            assert called != "yaml.load" or "strict" in options["Loader"], f"line {node.lineno}"


def test_the_search_for_pickles_saw_the_package():
    assert len(SOURCES) > 20
    assert os.path.basename(SOURCES[0]) == "__init__.py"
