"""`make new CHAPTER=x`: the skeleton of a chapter runs, is tested, and keeps the rules, as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("src", "notebooks", "book", "tests", "tools", "pyproject.toml", "requirements.lock")
CHANGED = ["book/_toc.yml", "notebooks/profiles.yaml"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout with a chapter `moss` made in it, and what `tools/new.py` printed."""
    place = tmp_path_factory.mktemp("tree")
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "mathjax")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / name, **({"ignore": leave} if copy is shutil.copytree else {}))
    done = make(place, "moss")
    assert done.returncode == 0, done.stderr
    return place, done.stdout


def call(place, *words):
    """Run Python in a copy of the checkout, on its own packages."""
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "SPIKINESS_HOME": str(place / "build")}
    return subprocess.run(
        [sys.executable, "-P", *words], cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )


def make(place, name):
    return call(place, str(place / "tools" / "new.py"), name)


def test_it_says_what_it_wrote(tree):
    place, said = tree
    written = said.partition("\n\n")[0].splitlines()
    assert [name for name in written if (ROOT / name).exists()] == CHANGED
    assert len(written) == 7
    assert all((place / name).is_file() for name in written)
    toc = yaml.safe_load((place / "book" / "_toc.yml").read_text())
    before = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    files, old = ([entry["file"] for part in t["parts"] for entry in part["chapters"]] for t in (toc, before))
    assert sorted(files) == sorted([*old, "notebooks/moss"])
    assert [file for file in files if file != "notebooks/moss"] == old


def test_its_smoke_profile_runs_with_two_figures(tree):
    place, _ = tree
    done = call(place, "-c", "from spikiness.command import main; main()", "run", "moss", "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert "units" in done.stdout
    (result,) = place.glob("build/smoke/runs/moss/*/result.json")
    assert len(list(result.parent.glob("*.png"))) >= 2


def test_it_keeps_the_rules_of_chapters(tree):
    place, _ = tree
    done = call(
        place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "moss", "tests/chapters/test_measure_moss.py",
        "tests/chapters/test_notebooks.py", "tests/test_project.py", "tests/chapters/test_chapters.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    made = ["src/spikiness_book/chapters/moss", "tests/chapters/test_measure_moss.py", "notebooks/moss.ipynb"]
    for words in (["check"], ["format", "--check"]):
        ruff = subprocess.run(["ruff", *words, *made], cwd=place, capture_output=True, text=True, env=path_of_tools())
        assert ruff.returncode == 0, ruff.stdout
    contracts = call(place, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache")
    assert contracts.returncode == 0, contracts.stdout


def path_of_tools():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def sources(place):
    """The content of the files that a skeleton changes, and which notebooks there are."""
    return [*sorted(place.glob("notebooks/*.ipynb")), *((place / name).read_text() for name in CHANGED)]


@pytest.mark.parametrize("name", ["moss", "Moss", "1a", "a-b", "../a", "class", ""])
def test_a_name_that_is_taken_or_no_name_changes_nothing(tree, name):
    place, _ = tree
    before = sources(place)
    done = make(place, name)
    assert done.returncode == 2
    assert ("is there already" if name == "moss" else "make new CHAPTER=name") in done.stderr
    assert sources(place) == before
