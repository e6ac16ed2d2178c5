"""What planning keeps in the home: used again only while all that it came from is the same."""

import json
import os
import shutil

import pytest
from sample_chapters import working

from spikiness_book.engine.runs import digests, notebook, planned, store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def counted(values):
    """A function that gives one of `values` a call, and the list of those it gave."""
    given = []
    left = iter(values)
    return lambda: given.append(next(left)) or given[-1], given


def test_a_value_is_made_once_for_each_key():
    make, given = counted(["a", "b", "c"])
    assert [planned.recall("x", lambda key=key: [key], make) for key in (1, 1, 2, 2, 1)] == ["a", "a", "b", "b", "c"]
    assert given == ["a", "b", "c"]


def test_a_damaged_file_is_made_again(home):
    make, _ = counted([1, 2, 3])
    assert planned.recall("x", lambda: [], make) == 1
    file = home / "planned" / "x.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "value": 7}))
    assert planned.recall("x", lambda: [], make) == 2
    file.write_text("{")
    assert planned.recall("x", lambda: [], make) == 3


def test_what_changed_while_it_was_made_is_not_kept():
    keys = iter([1, 2, 2, 2, 2])
    make, _ = counted(["of 1 or 2", "of 2"])
    assert planned.recall("x", lambda: [next(keys)], make) == "of 1 or 2"
    assert planned.recall("x", lambda: [next(keys)], make) == "of 2"
    assert planned.recall("x", lambda: [next(keys)], make) == "of 2"


def test_without_a_home_nothing_is_written(home):
    home.rmdir()
    make, _ = counted([1, 2])
    assert [planned.recall("x", lambda: [], make) for _ in range(2)] == [1, 2]
    assert not home.exists()


def test_a_home_that_cannot_be_written_is_no_error(home, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert planned.recall("x", lambda: [], lambda: 5) == 5


@pytest.mark.parametrize("file", ["notebooks/good.ipynb", "notebooks/profiles.yaml", "spikiness/files.py"])
def test_a_chapter_is_read_again_after_any_edit_and_only_then(tmp_path, monkeypatch, file):
    chapters = working(tmp_path / "notebooks")
    for name in digests.PACKAGES:
        shutil.copytree(digests.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    read = []
    monkeypatch.setattr(digests, "notebook_code", lambda book: read.append(book) or ("code", []))

    def times_read():
        assert notebook.Source("good", "paper", chapters).plan().parameters["sigmas"] == [0.2, 1.0, 5.0]
        return len(read)

    assert [times_read(), times_read()] == [1, 1]
    with (tmp_path / file).open("a") as open_file:
        open_file.write("\n")
    assert [times_read(), times_read()] == [2, 2]


def test_a_kept_plan_is_that_of_a_fresh_look(tmp_path, home):
    chapters = working(tmp_path / "notebooks")
    plans = []
    for _ in range(2):
        plans += [notebook.resolve("good", values, p, chapters) for p in store.PROFILES for values in ({}, {"n": 9})]
    assert (home / "planned" / "good.json").is_file()
    told = [(plan.id, plan.parameters, plan.changed, plan.inputs) for plan in plans]
    assert told[:6] == told[6:]
    assert len({plan.id for plan in plans}) == 5  # with n = 9 smoke and demo are the same
