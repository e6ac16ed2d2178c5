"""The command as it is typed: what it prints, and its exit status."""

import re
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
from sample_chapters import working, write

from spikiness_book.cli import main
from spikiness_book.engine import runs
from spikiness_book.engine.runs import store

VALUES = ("-p", "n", "10", "-p", "sigmas", "0.5,2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    working(folder / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(folder / "home"))
        patch.setenv("COLUMNS", "200")
        yield folder


@pytest.fixture
def spikiness(place, capsys):
    """Type a command; get its exit status, output and error output."""

    def typed(*words, notebooks=True):
        arguments = list(words) + (["--notebooks", str(place / "notebooks")] if notebooks else [])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return typed


@pytest.fixture
def result(place, spikiness):
    """The one run of this module, made by the first test that asks."""
    code, _, err = spikiness("run", "good", *VALUES)
    assert code == 0, err
    return runs.run("good", {"n": 10, "sigmas": [0.5, 2.0]}, notebooks=place / "notebooks")


def test_every_command_has_help(spikiness):
    code, out, _ = spikiness("--help", notebooks=False)
    assert code == 0
    for command in ("run", "list", "show", "compare", "unlock", "sweep", "book", "site", "publish"):
        assert f"\n  {command} " in out
        code, help_, _ = spikiness(command, "--help", notebooks=False)
        assert (code, f"Usage: spikiness {command}" in help_) == (0, True)


def test_run_shows_metrics_and_notebook(spikiness, result):
    code, out, err = spikiness("run", "good", *VALUES)
    assert code == 0
    assert out.split()[:8] == ["metric", "of", "value", "interval", "is", "unit", "n", "seeds"]
    assert "twice 20" in " ".join(out.split())
    assert f"notebook: {result.notebook}" in out
    assert err == f"good: demo {result.id}, kept from before\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "goood"), "unknown chapter 'goood'; did you mean 'good'?"),
        (("run", "../good"), "unknown chapter '../good'"),
        (("run", "good", "-p", "sigmaz", "1"), "unknown parameter 'sigmaz'; did you mean 'sigmas'?"),
        (("run", "good", "-p", "n", "abc"), "n must be a whole number of at least 1, got 'abc'"),
        (("run", "good", "-p", "n", "-5"), "got -5"),
        (("run", "good", "-p", "n=0"), "got 0"),
        (("run", "good", "-p", "lr", "nan"), "lr must be a finite number above 0, got 'nan'"),
        (("run", "good", "-p", "tied", "maybe"), "tied must be true or false, got 'maybe'"),
        (("run", "good", "-p", "n", "5", "-p", "n", "6"), "n is given twice"),
        (("run", "good", "-p", "x;import os", "6"), "cannot be a parameter: not a name"),
        (("run", "good", "-p", "n"), "write -p NAME VALUE"),
        (("run", "good", "--profile", "dmo"), "unknown profile 'dmo'"),
        (("run", "good", "--timeout", "-1"), "timeout must be"),
        (("show", "goood"), "unknown chapter 'goood'"),
        (("compare", "goood"), "names no complete runs; did you mean 'good'?"),
        (("compare", "good", "good"), "good has no result (demo: absent): spikiness run good --profile demo"),
    ],
)
def test_bad_input_is_one_line_and_status_2(spikiness, place, words, says):
    before = sorted(place.rglob("*"))
    code, out, err = spikiness(*words)
    assert code == 2
    assert says in err
    assert err.startswith("spikiness: ")
    assert (err.count("\n"), out) == (1, "")
    assert sorted(place.rglob("*")) == before


def test_all_chapters_are_checked_before_the_first_starts(spikiness, place, monkeypatch):
    monkeypatch.setattr("spikiness_book.engine.runs.runner._make", lambda *args: pytest.fail("a run was started"))
    assert spikiness("run", "good", "goood")[0] == 2


def test_a_failed_chapter_is_status_1(spikiness, monkeypatch):
    monkeypatch.setattr("spikiness_book.engine.runs.runner._execute", lambda *args: "kernel died")
    code, out, err = spikiness("run", "good", "-p", "n", "3")
    assert (code, out) == (1, "")
    assert "failed: kernel died; see " in err


def test_a_home_that_cannot_be_written_is_a_clear_error(spikiness, place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "file"))
    code, _, err = spikiness("run", "good", "-p", "n", "3")
    assert code == 2
    assert re.search(r"cannot (lock|write) .*file.*Not a directory", err)


def test_list(spikiness, result):
    code, out, _ = spikiness("list")
    assert code == 0
    assert out.split()[:8] == ["chapter", "smoke", "demo", "paper", "good", "absent", "absent", "absent"]
    assert f"{result.id} good complete" in " ".join(out.split())


def test_list_takes_runs_as_they_were_made_and_show_checks_them(spikiness, result):
    data = (result.folder / "levels.csv").read_bytes()
    (result.folder / "levels.csv").write_bytes(data[:-2])
    try:
        assert f"{result.id} good complete" in " ".join(spikiness("list")[1].split())
        assert "levels.csv: expected sha256" in spikiness("show", result.id)[1]
    finally:
        (result.folder / "levels.csv").write_bytes(data)
    whole = (result.folder / "result.json").read_bytes()
    (result.folder / "result.json").write_bytes(whole[:-20])
    try:
        assert f"{result.id} good failed" in " ".join(spikiness("list")[1].split())
    finally:
        (result.folder / "result.json").write_bytes(whole)


def test_list_says_where_data_are_missing_and_complains_of_none(spikiness, place):
    text = 'data: str = "folder:nowhere.zip"\n'
    write(place / "others", "pictures", [], parameters=text)
    write(place / "others", "broken", [], parameters="n = 3\n")
    code, out, err = spikiness("list", "--notebooks", str(place / "others"), notebooks=False)
    assert code == 0
    lines = [line.split() for line in out.splitlines()[:3]]
    assert lines == [
        ["chapter", "smoke", "demo", "paper"],
        ["broken", "-", "-", "-"],
        ["pictures", "-", "no", "data", "-"],
    ]
    assert "nowhere.zip" not in err
    assert "broken: the parameters cell holds" in err
    assert "nowhere.zip" in spikiness("show", "pictures", "--notebooks", str(place / "others"), notebooks=False)[1]


def test_list_of_chapters_that_did_not_change_imports_nothing_slow(spikiness, place, result):
    assert spikiness("list")[0] == 0
    code = (
        "import sys\nfrom spikiness_book.cli import main\n"
        f"try:\n    main(['list', '--notebooks', {str(place / 'notebooks')!r}])\n"
        "except SystemExit:\n    slow = {'torch', 'pandas', 'papermill', 'nbformat'}\n"
        "    print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout


def test_show_chapter_gives_parameters_with_their_help(spikiness):
    code, out, _ = spikiness("show", "good")
    assert code == 0
    assert "sigmas list[float] [0.2, 1.0] noise levels" in " ".join(out.split())
    assert out.count("absent, run ") == 3


def test_show_run_by_the_start_of_its_id(spikiness, result):
    code, out, _ = spikiness("show", result.id[:6])
    assert code == 0
    assert out.startswith(f"good, run {result.id}: complete\n")
    assert "\n  n = 10\n" in out
    assert out.endswith(f"notebook: {result.notebook}\n")
    assert spikiness("show", "0" * 16)[0] == 2


def published(place, result, parameters=(), environment=(), **changes):
    """A checkout in which `result`, with some metrics, parameters or costs changed, is the published one."""
    (place / "pyproject.toml").write_text('[project]\nname = "spikiness"\n')
    folder = place / "published" / "good"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(result.folder, folder)
    content = store.read_json(folder / "result.json")
    content["parameters"] |= dict(parameters)
    for name, value in changes.items():
        (finding,) = (finding for finding in content["findings"] if finding["name"] == name)
        finding["value"] = value
    store.write_json(folder / "result.json", content)
    store.write_json(folder / "environment.json", {**store.read_json(folder / "environment.json"), **dict(environment)})


def test_compare_with_the_published_result(spikiness, place, result, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = spikiness("compare", result.id)
    assert (code, "good is not published" in err) == (2, True)
    published(place, result, twice=20.9)
    code, out, _ = spikiness("compare", result.id)
    assert code == 0
    assert "twice 20 20.9 within 1 yes" in " ".join(out.split())
    assert "2 of 2 metrics agree" in out
    published(place, result, twice=21.5)
    code, out, _ = spikiness("compare", result.id)
    assert code == 1
    assert "twice 20 21.5 within 1 NO" in " ".join(out.split())
    assert "1 of 2 metrics agree" in out
    (place / "published" / "good" / "levels.csv").write_text("")
    code, _, err = spikiness("compare", result.id)
    assert (code, "levels.csv: expected sha256" in err) == (2, True)


def test_compare_says_what_to_run_and_how_long_it_takes(spikiness, place, result, monkeypatch):
    monkeypatch.chdir(place)
    published(place, result, environment={"seconds": 312.0, "training_seconds": 0.0, "device": "cpu", "threads": 2})
    how = "spikiness run good --profile demo repeats the published run, which took 5 min (cpu, 2 threads)"
    code, _, err = spikiness("compare", "good")  # its own demo run has other parameters
    assert (code, err) == (2, f"spikiness: good is absent in the demo profile. {how}\n")
    published(
        place, result, {"data": "mnist"}, {"seconds": 40, "training_seconds": 9000, "device": "cpu", "threads": 1}
    )
    code, out, err = spikiness("compare", result.id)
    assert (code, out) == (2, "")
    assert err == (
        "spikiness: good: this run learned from no data, the published one from mnist. spikiness run good --profile "
        "demo repeats the published run, which took 40 s (cpu, one thread), "
        "with networks that had taken 2.5 h to train\n"
    )


def test_compare_says_first_that_the_parameters_differ(spikiness, place, result, tmp_path):
    shutil.copytree(result.folder, tmp_path / "other")
    content = store.read_json(tmp_path / "other" / "result.json")
    content["parameters"]["n"] = 11
    store.write_json(tmp_path / "other" / "result.json", content)
    code, out, _ = spikiness("compare", result.id, str(tmp_path / "other"))
    assert code == 0
    assert out.startswith("the parameters differ: n: 10 and 11\n")


def test_compare_takes_the_run_by_hand_where_there_is_no_other(spikiness, place, result):
    by_hand = runs.begin("good", {"__annotations__": {"n": int}, "n": 5})
    by_hand.metric("twice", 20)
    by_hand.finish()
    code, out, _ = spikiness("compare", "good", result.id)
    assert code == 1  # it lacks a metric
    assert re.search("the parameters differ: .*n: 5 and 10", out)
    assert "level" in out


def test_the_book_is_made_elsewhere(spikiness, monkeypatch):
    called = []
    book = ModuleType("spikiness_book.pages")
    book.build = lambda *args, **options: called.append(("build", *args[:2]))
    book.site = lambda *args, **options: called.append(("site",))
    book.publish = lambda *args, **options: called.append(("publish", args[0], options))
    monkeypatch.setitem(sys.modules, "spikiness_book.pages", book)
    monkeypatch.setattr("spikiness_book.pages", book, raising=False)
    assert spikiness("book", "a", "b", "--profile", "smoke", notebooks=False)[0] == 0
    assert spikiness("site", notebooks=False)[0] == 0
    assert spikiness("publish", notebooks=False)[0] == 0
    assert called == [("build", "smoke", ["a", "b"]), ("site",), ("publish", None, {"profile": "paper"})]
