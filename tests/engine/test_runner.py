"""One chapter from parameters to verified result, by the runner and by plain papermill."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from sample_chapters import GOOD, notebook, working

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine import runs
from spikiness_book.engine.runs import digests, locks, runner, store
from spikiness_book.engine.runs.notebook import read, resolve

LABEL = 'a "quoted" {word} \\ 50 % é; import os'
VALUES = {"n": 10, "label": LABEL}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose name has what paths may have, with chapters in it, and the home of this module."""
    folder = tmp_path_factory.mktemp("ru ns") / "it's {here} 100% #é"
    working(folder / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def chapters(place):
    return place / "notebooks"


@pytest.fixture(scope="module")
def result(place, chapters):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return runs.run("good", VALUES, notebooks=chapters)


@pytest.fixture
def no_kernel(monkeypatch):
    """Nothing may start."""
    monkeypatch.setattr(runner, "_make", lambda *args: pytest.fail("a run was started"))


def test_the_result_is_verified_and_complete(result, place):
    assert result.parameters == {"n": 10, "lr": 0.01, "sigmas": [0.2, 1.0], "label": LABEL, "tied": True}
    assert (result.chapter, result.profile, result.value("twice"), result.value("level")) == ("good", "demo", 20, 0.25)
    assert set(result.artefacts) == {"levels.png", "levels.csv", "grid.npz"}
    assert result.folder == place / "home" / "demo" / "runs" / "good" / result.id
    files = {"executed.ipynb", "result.json", "environment.json", "log.txt", *result.artefacts}
    assert {path.name for path in result.folder.iterdir()} == files
    assert [path.name for path in result.folder.parent.iterdir()] == [result.id]
    assert store.load(result.folder, result.id) == result


def test_what_is_compared_holds_no_time_and_no_path(result, place):
    text = (result.folder / "result.json").read_text()
    content = json.loads(text)
    assert "seconds" not in text
    assert str(place) not in text
    assert list(content)[:6] == ["format", "chapter", "profile", "id", "parameters", "inputs"]
    assert result.environment["seconds"] > 0
    assert result.environment["files"] == {"executed.ipynb": store.sha256(result.notebook)}


def test_the_notebook_is_kept_with_its_parameters_in_a_tagged_cell(result, place):
    executed = nbformat.read(result.notebook, as_version=4)
    nbformat.validate(executed)
    injected = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert len(injected) == 1
    scope = {}
    exec(injected[0].source, scope)
    assert {name: scope[name] for name in VALUES} == VALUES
    assert injected[0].id == "injected-parameters"
    assert "papermill" not in executed.metadata
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in executed.cells)
    printed = [o.text for cell in executed.cells for o in cell.get("outputs", []) if o.output_type == "stream"]
    assert printed == [f"{place}|PASSIVE|{LABEL}\n"]  # relative paths mean what they mean where the command is typed
    said = [
        o.data["text/markdown"]
        for cell in executed.cells
        for o in cell.get("outputs", [])
        if "text/markdown" in o.get("data", {})
    ]
    assert said == ["Twice 10 is 20, at 0.2 to 0.3."]


def test_the_same_again_is_found_not_made(result, chapters, no_kernel, capsys):
    assert runs.run("good", VALUES, notebooks=chapters) == result
    assert "kept from before" in capsys.readouterr().err
    assert runs.find("good", VALUES, notebooks=chapters) == ("complete", "", result.folder, result.id)
    assert runs.find("good", notebooks=chapters).state == "absent"


@pytest.mark.parametrize(
    ("chapter", "values", "options", "says"),
    [
        ("goood", {}, {}, "unknown chapter 'goood'; did you mean 'good'? (there are good)"),
        ("../good", {}, {}, "unknown chapter '../good'"),
        ("good", {"m": 1}, {}, "good: unknown parameter 'm'"),
        ("good", {"n_": 1}, {}, "did you mean 'n'?"),
        ("good", {"n": "abc"}, {}, "n must be a whole number"),
        ("good", {"n; import os": 1}, {}, "not a name"),
        ("good", {}, {"profile": "dmo"}, "unknown profile 'dmo'"),
        ("good", {}, {"timeout": 0}, "timeout must be"),
        ("good", {}, {"timeout": float("nan")}, "timeout must be"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(place, chapters, no_kernel, chapter, values, options, says):
    before = sorted(place.rglob("*"))
    with pytest.raises(SpikinessError) as error:
        runs.run(chapter, values, notebooks=chapters, **options)
    assert says in str(error.value)
    assert not isinstance(error.value, RunFailed)
    assert sorted(place.rglob("*")) == before


def test_a_parameter_that_no_cell_reads_is_refused_before_anything_starts(tmp_path, no_kernel):
    book = notebook("good", GOOD)
    cell = next(cell for cell in book.cells if "runs.begin" in cell.source)
    cell.source = cell.source.split("\n")[0]  # now nothing reads lr and tied
    nbformat.write(book, working(tmp_path) / "good.ipynb")
    with pytest.raises(SpikinessError, match=r"good: no cell reads tied: another value of it gives the same numbers"):
        runs.run("good", {"tied": False}, notebooks=tmp_path)
    assert resolve("good", {"tied": True, "n": 3}, "demo", tmp_path).changed == {"n": 3}
    assert resolve("good", {"label": "in a text only"}, "demo", tmp_path).changed == {"label": "in a text only"}


@pytest.mark.parametrize(("values", "says"), [
    ({"n": 1401}, "data: n must be at most 1,400, the training images of digits, got 1401"),
    ({"n": 60_001, "data": "mnist"}, "at most 60,000, the training images of mnist"),
    ({"sizes_unet": [20, 1500]}, "sizes_unet must be at most 1,400"),
])  # fmt: skip
def test_more_images_than_there_are_are_refused_before_anything_starts(tmp_path, no_kernel, values, says):
    from sample_chapters import write

    text = 'data: str = "digits"\nn: int = 5\nsizes_unet: list[int] = [20]\n'
    folder = write(tmp_path, "data", [], parameters=text)
    with pytest.raises(SpikinessError, match=says):
        runs.run("data", values, notebooks=folder)
    assert resolve("data", {"n": 1400}, "demo", folder).parameters["n"] == 1400
    assert resolve("data", {"n": 10_000, "data": "mnist"}, "demo", folder).parameters["n"] == 10_000


def test_an_unknown_dataset_is_refused_before_anything_starts(tmp_path, no_kernel):
    from sample_chapters import write

    folder = write(tmp_path, "data", [], parameters='data: str = "digits"')
    with pytest.raises(SpikinessError, match=r"mnst.*did you mean 'mnist'"):
        runs.run("data", {"data": "mnst"}, notebooks=folder)


def test_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "odd.ipynb").write_text("{")
    with pytest.raises(SpikinessError, match=r"odd\.ipynb is not a notebook"):
        runs.run("odd", notebooks=tmp_path)


def test_a_notebook_that_names_no_kernel_can_be_read(tmp_path):
    book = notebook("good", GOOD)
    book.metadata.clear()
    nbformat.write(book, working(tmp_path) / "good.ipynb")
    assert runs.describe("good", tmp_path)[0]["name"] == "n"


@pytest.fixture
def forgetful(tmp_path, monkeypatch):
    """No home, so that planning remembers nothing."""
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "no home yet"))


def test_the_id_depends_on_what_can_change_a_number(tmp_path, monkeypatch, forgetful):
    chapters = working(tmp_path / "notebooks")
    same = resolve("good", {}, "demo", chapters)
    ids = {same.id}

    def differs(**options):
        ids.add(resolve("good", options.pop("values", {}), options.pop("profile", "demo"), chapters).id)

    differs(values={"n": 6})
    differs(profile="paper")
    monkeypatch.setattr(digests, "code_digest", lambda names: "other code")
    differs()
    monkeypatch.undo()
    monkeypatch.setattr("spikiness_book.engine.runs.notebook.installed", lambda name: "2.99")
    differs()
    monkeypatch.undo()
    nbformat.write(notebook("good", [*GOOD, "run.metric('one', 1)"]), chapters / "good.ipynb")
    differs()
    assert len(ids) == 6


def test_the_id_is_blind_to_prose_and_to_a_local_build_of_torch(tmp_path, monkeypatch):
    chapters = working(tmp_path)
    first = resolve("good", {}, "demo", chapters)
    monkeypatch.setattr("spikiness_book.engine.runs.notebook.installed", lambda name: first.inputs["torch"] + "+cpu")
    book = notebook("good", GOOD)
    book.cells[0].source = "# Another title"
    nbformat.write(book, chapters / "good.ipynb")
    assert resolve("good", {"n": 5}, "demo", chapters).id == first.id


def test_the_id_depends_on_the_data(tmp_path, monkeypatch, forgetful):
    from sample_chapters import write

    from spikiness import images

    folder = write(tmp_path / "notebooks", "data", [], parameters='data: str = "digits"')
    ids = []
    for print_ in ("one", "two"):
        monkeypatch.setattr(images, "fingerprint", lambda name, print_=print_: f"{name} {print_}")
        ids.append(resolve("data", {}, "demo", folder).id)
    assert len(set(ids)) == 2


def test_the_id_depends_on_the_data_of_every_kind(tmp_path, monkeypatch, forgetful):
    from sample_chapters import write

    from spikiness import images

    folder = write(
        tmp_path / "notebooks", "data", [], parameters='kinds: list[str] = ["unet:digits", "dit:folder:a.zip"]'
    )
    found = []
    for print_ in ("one", "two"):
        monkeypatch.setattr(images, "fingerprint", lambda name, print_=print_: f"{name} {print_}")
        found.append(resolve("data", {}, "demo", folder))
    assert found[0].inputs["kinds"] == {"digits": "digits one", "folder:a.zip": "folder:a.zip one"}
    assert found[0].id != found[1].id


def test_profiles_change_the_parameters(chapters):
    assert resolve("good", {}, "paper", chapters).changed == {"n": 7, "sigmas": [0.2, 1.0, 5.0]}
    assert resolve("good", {"n": 3}, "paper", chapters).parameters["n"] == 3
    assert resolve("good", {}, "demo", chapters).changed == {}


def test_a_corrupt_result_is_said_and_made_again(result, chapters, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_execute", lambda *rest: "stopped here")
    data = (result.folder / "levels.csv").read_bytes()
    (result.folder / "levels.csv").write_bytes(data[:-2])
    try:
        with pytest.raises(RunFailed, match="stopped here"):
            runs.run("good", VALUES, notebooks=chapters)
        assert "levels.csv: expected sha256" in capsys.readouterr().err
    finally:
        (result.folder / "levels.csv").write_bytes(data)


def test_a_failed_rerun_leaves_the_result_before_it(result, chapters, monkeypatch):
    monkeypatch.setattr(runner, "_execute", lambda *rest: "stopped here")
    with pytest.raises(RunFailed, match="stopped here"):
        runs.run("good", VALUES, notebooks=chapters, force=True)
    assert runs.find("good", VALUES, notebooks=chapters).state == "complete"
    assert store.load(result.folder) == result


def test_a_full_disk_before_the_start_leaves_nothing(place, chapters, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpikinessError, match="the disk is full"):
        runs.run("good", {"n": 77}, notebooks=chapters)
    monkeypatch.undo()
    monkeypatch.setenv("SPIKINESS_HOME", str(place / "home"))
    assert runs.find("good", {"n": 77}, notebooks=chapters).state == "absent"


def test_a_run_in_progress_is_not_started_twice(chapters, no_kernel):
    task = resolve("good", {"n": 8}, "demo", chapters)
    with locks.hold(store.lock(task.folder), "a test"):
        assert runs.find("good", {"n": 8}, notebooks=chapters)[:2] == ("in progress", f"by process {os.getpid()}")
        with pytest.raises(RunFailed, match=f"in use by process {os.getpid()}"):
            runs.run("good", {"n": 8}, notebooks=chapters, wait=False)


def test_a_page_has_todays_prose_and_the_runs_outputs(result, chapters):
    template = read("good", chapters)
    template.cells[0].source = "# A better title"
    template.cells[6].metadata["mystnb"] = {"figure": {"caption": "New"}}
    executed = nbformat.read(result.notebook, as_version=4)
    page = runs.page(template, executed)
    assert page.cells[0].source == "# A better title"
    assert [c.id for c in page.cells] == [c.id for c in executed.cells]
    assert [c.get("outputs") for c in page.cells] == [c.get("outputs") for c in executed.cells]
    assert page.cells[7].metadata["mystnb"] == {"figure": {"caption": "New"}}
    assert not any(c.get("outputs") for c in template.cells)
    del template.cells[5]
    with pytest.raises(SpikinessError, match="run the chapter again"):
        runs.page(template, executed)


def test_plain_papermill_works_and_refuses_what_papermill_would_not(chapters, tmp_path):
    env = {**os.environ, "SPIKINESS_HOME": str(tmp_path / "home")}

    def papermill(out, *values):
        command = [sys.executable, "-m", "papermill", "good.ipynb", str(tmp_path / out), "--no-progress-bar", *values]
        return subprocess.Popen(
            command, cwd=chapters, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    right, wrong = papermill("right.ipynb", "-p", "n", "10"), papermill("wrong.ipynb", "-p", "n_", "10")
    right_text, wrong_text = right.communicate(timeout=120)[0], wrong.communicate(timeout=120)[0]
    assert right.returncode == 0, right_text
    result = runs.load(tmp_path / "home" / "by-hand" / "good")
    assert (result.id, result.profile, result.value("twice"), result.parameters["n"]) == (None, "by hand", 20, 10)
    assert wrong.returncode != 0
    assert "good: unknown parameter 'n_'; did you mean 'n'?" in wrong_text
