"""The command that `pip install .` leaves: it works with the science alone, and says what the rest would need."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement

from spikiness import __version__, command

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

HIDING = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden!r} else find(name, path, target)

PathFinder.find_spec = find_others  # these packages are as if they were not installed
from {module} import {function}
{function}()
"""


def entry_point() -> tuple[str, str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["spikiness"].partition(":")
    return module, function


def typed(*words, hidden=(), place=None, source=ROOT / "src", **variables):
    """Run the entry point in a process of its own, where some packages are hidden; the finished process."""
    module, function = entry_point()
    code = HIDING.format(hidden=tuple(hidden), module=module, function=function)
    environment = {**os.environ, "PYTHONPATH": str(source), **variables}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, cwd=place, env=environment
    )


def imports_behind(*extras: str) -> list[str]:
    """The importable names of what some extras bring."""
    names = {"jupyter-book": "jupyter_book", "pyyaml": "yaml", "beautifulsoup4": "bs4", "ipython": "IPython"}
    wanted = [Requirement(line).name for extra in extras for line in EXTRAS[extra]]
    return [names.get(name, name.replace("-", "_")) for name in wanted if name != "spikiness"]


def test_help_and_version_need_nothing_of_the_book():
    done = typed("--version", hidden=["spikiness_book", "torch", *imports_behind("run", "book", "batch")])
    assert (done.returncode, done.stdout, done.stderr) == (0, f"spikiness {__version__}\n", "")
    for words in (["--help"], ["-h"], []):
        done = typed(*words, hidden=["spikiness_book", "torch", *imports_behind("run", "book", "batch")])
        assert (done.returncode, done.stdout, done.stderr) == (0, command.usage(), "")


def test_help_lists_the_commands_of_the_book_with_their_own_words():
    from spikiness_book.cli import app

    click = typer.main.get_command(app)
    assert command.BOOK.keys() == click.commands.keys()
    for name, (_, does) in command.BOOK.items():
        assert f"  {name} " in command.usage()
        assert click.commands[name].get_short_help_str(1000).startswith(does.rstrip(".")), name


@pytest.mark.parametrize("name", sorted(command.BOOK))
def test_a_command_of_the_book_says_which_extra_it_needs(name):
    extras = command.BOOK[name][0]
    assert set(extras.split(",")) <= command.MARKS.keys() == {"run", "book", "batch"} <= EXTRAS.keys()
    needs = command.MARKS[extras.partition(",")[0]]
    done = typed(name, "x", hidden=["typer", "jupyter_book"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"spikiness {name} needs {needs}: pip install 'spikiness[{extras}]'\n"


def test_a_package_missing_later_is_one_line_too(tmp_path):
    done = typed("show", "good", "--notebooks", str(tmp_path), hidden=["nbformat"])
    assert done.returncode == 2
    (tmp_path / "good.ipynb").write_text("{}")
    done = typed("show", "good", "--notebooks", str(tmp_path), hidden=["nbformat"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spikiness show needs nbformat: pip install 'spikiness[run]'\n"


def test_a_fault_of_our_own_is_not_taken_for_a_missing_package(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'spikiness.gone'", name="spikiness.gone")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        command.main(["list"])


def test_an_unknown_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["lst"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("spikiness: no command 'lst'; did you mean 'list'? (there are run, ")


def test_a_chapter_runs_without_the_book_engine(tmp_path):
    from sample_chapters import working

    hidden = ["snakemake", "pyarrow", *(set(imports_behind("book")) - set(imports_behind("run")))]
    assert {"sphinx", "jupyter_book"} <= set(hidden)
    words = ("--notebooks", str(working(tmp_path / "notebooks")))
    home = {"SPIKINESS_HOME": str(tmp_path / "home")}
    done = typed("run", "good", "--profile", "smoke", *words, hidden=hidden, **home)
    assert done.returncode == 0, done.stderr
    assert "twice" in done.stdout
    assert "good" in typed("list", *words, hidden=hidden, **home).stdout
    done = typed("site", hidden=hidden, place=tmp_path, **home)
    assert done.stderr == "spikiness site needs jupyter_book: pip install 'spikiness[book]'\n"


def test_the_shell_completes_commands():
    done = typed(_SPIKINESS_COMPLETE="complete_bash", COMP_WORDS="spikiness co", COMP_CWORD="1")
    assert done.stdout.split() == ["compare"]
    done = typed("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_SPIKINESS_COMPLETE=complete_bash" in done.stdout
    assert done.returncode == 0, done.stderr


# --- what is built -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, built from a copy of the tree by the installed setuptools."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    code = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_the_sdist_holds_the_package_and_no_half_of_the_tests(built):
    import tarfile

    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/spikiness/command.py"} <= names
    assert not {name for name in names if name.startswith("tests")}


def test_the_wheel_is_whole_and_its_command_works(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    made = {".pyc", ".txt", ".orig"}  # caches, and what an installation writes
    files = {path.relative_to(ROOT / "src") for path in (ROOT / "src").glob("spikiness*/**/*") if path.is_file()}
    sources = {path for path in files if path.suffix not in made and ".egg-info" not in path.parts[0]}
    packed = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in packed if ".dist-info" not in path.parts[0]} == sources
    assert Path("spikiness", "py.typed") in sources
    (info,) = tmp_path.glob("*.dist-info")
    assert (info / "entry_points.txt").read_text().split("\n")[1] == "spikiness = spikiness.command:main"
    metadata = (info / "METADATA").read_text()
    assert "Author: The spikiness contributors" in metadata
    assert "Project-URL: Paper, https://arxiv.org/abs/2512.20963" in metadata
    assert typed("--version", place=tmp_path, source=tmp_path).stdout == f"spikiness {__version__}\n"
