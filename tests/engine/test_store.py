"""Names, places, atomic files with checksums, and the four states of a run."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikiness.errors import CorruptArtifact, RunFailed, SpikinessError
from spikiness_book.engine.runs import findings, locks, store

RUN = "0123456789abcdef"


@pytest.mark.parametrize("name", ["a", "memorization", "0", "a.b_c-d", "x" * 64])
def test_slugs(name):
    assert store.slug(name) == name


BAD = ["a b", "é", "a\\b", "a.", "..", "a%00", "~", None, 3]


@pytest.mark.parametrize(
    "name",
    [
        *BAD,
        "../a",
        "/etc",
        "a/b",
        "{a}",
        "a\x00",
        "a\n",
        "x" * 65,
        "x" * 300,
        "CON",
        "con",
        "nul.txt",
        "com1",
        "-a",
        ".a",
        "",
        "A",
    ],
)
def test_what_is_no_slug(name):
    with pytest.raises(SpikinessError, match="a-z, 0-9"):
        store.slug(name)


@given(st.text())
def test_a_slug_never_leaves_its_folder(name):
    root = Path("/tmp/root")
    try:
        path = store.under(root, name)
    except SpikinessError:
        return
    assert path.parent == root
    assert path.name == name == name.lower()


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path)
    with pytest.raises(SpikinessError, match="leads out"):
        store.under(tmp_path / "root", "a", "b")


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "chosen"))
    assert store.home() == tmp_path / "chosen"
    monkeypatch.delenv("SPIKINESS_HOME")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "spikiness"\n')
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert store.home() == tmp_path.resolve() / "build"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert store.home().name == "spikiness"
    assert not store.home().is_relative_to(tmp_path)


def test_profiles_are_three():
    assert store.profile_name("smoke") == "smoke"
    with pytest.raises(
        SpikinessError, match=r"unknown profile 'smok': use one of smoke, demo, paper; did you mean 'smoke'"
    ):
        store.profile_name("smok")


# ---- files


def test_bytes_replace_the_previous_file_whole(tmp_path):
    path = tmp_path / "new" / "file"
    store.write_bytes(path, b"one")
    store.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]
    assert store.sha256(path) == store.sha256(b"two") == hashlib.sha256(b"two").hexdigest()
    old = os.umask(0o022)
    os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~old


def test_a_full_disk_leaves_the_previous_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store.write_bytes(path, b"before")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpikinessError, match=r"file: the disk is full \(1,000 bytes needed\)"):
        store.write_bytes(path, b"x" * 1000)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_a_clear_error(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(SpikinessError, match="cannot write"):
        store.write_bytes(tmp_path / "a" / "b", b"")


WRITER = """
import os, sys
from pathlib import Path
from spikiness_book.engine.runs import findings, locks, store
sync = os.fsync
def slow(handle):
    sys.stdout.write("."); sys.stdout.flush()
    sync(handle)
os.fsync = slow
for i in range(10**6):
    store.write_bytes(Path(sys.argv[1]), bytes([97 + i % 26]) * 50_000)
"""


def test_kill_9_inside_a_save_leaves_the_file_absent_or_whole(tmp_path):
    for trial in range(3):
        path = tmp_path / f"file{trial}"
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            writer.stdout.read(1 + 7 * trial)  # at least once between write and rename
            writer.kill()
        content = path.read_bytes() if path.exists() else b""
        assert content == b"" or (len(content) == 50_000 and len(set(content)) == 1)


def test_json_comes_back_and_keeps_its_order(tmp_path):
    content = {"b": [1, 2.5, None, "é"], "a": {"x": 1e-300}}
    store.write_json(tmp_path / "x.json", content)
    back = store.read_json(tmp_path / "x.json")
    assert back == content
    assert list(back) == ["b", "a"]
    (tmp_path / "x.json").write_bytes((tmp_path / "x.json").read_bytes().replace(b"\n", b"\r\n"))
    assert store.read_json(tmp_path / "x.json") == content


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_no_flip_and_no_truncation_of_a_json_file_passes(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"name": "café", "values": [0.1, 2, None, True], "inner": {"a": "b\n"}})
    whole = path.read_bytes()
    draw = random.Random(0)
    flips = [(draw.randrange(len(whole)), 1 << draw.randrange(8)) for _ in range(300)]
    changed = [bytes([*whole[:at], whole[at] ^ bit, *whole[at + 1 :]]) for at, bit in flips]
    changed += [whole[:size] for size in range(len(whole))]
    for data in changed:
        path.write_bytes(data)
        with pytest.raises(CorruptArtifact, match=r"x\.json"):
            store.read_json(path)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"sha256": 3}', "null", "[" * 100_000])
def test_other_json_is_corrupt(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(CorruptArtifact):
        store.read_json(tmp_path / "x.json")


# ---- runs


def result(folder: Path, **changes):
    """A complete run by hand, with one artefact."""
    store.write_bytes(folder / "a.csv", b"x\n1\n")
    content = {
        "format": store.FORMAT,
        "chapter": "good",
        "profile": "demo",
        "id": folder.name.removesuffix(".partial"),
        "parameters": {"n": 5},
        "inputs": {},
        "findings": [
            findings.make("x", 1.5, (1.0, 2.0), over="images", unit="dB", n=5, seeds=[0, 1], labels={"kind": "a"}),
            findings.make("y", 2, tolerance=0.1),
        ],
        "artefacts": {"a.csv": store.sha256(b"x\n1\n")},
    }
    store.write_json(folder / "environment.json", {"seconds": 1.0})
    store.write_json(folder / "result.json", {**content, **changes})
    return folder


@pytest.fixture
def folder(tmp_path):
    return store.run_folder("demo", "good", RUN, tmp_path)


def test_a_run_has_its_place(folder, tmp_path):
    assert folder == tmp_path / "demo" / "runs" / "good" / RUN
    with pytest.raises(SpikinessError, match="unknown profile"):
        store.run_folder("dem", "good", RUN, tmp_path)
    with pytest.raises(SpikinessError, match=r"chapter '\.\./x'"):
        store.run_folder("demo", "../x", RUN, tmp_path)


def test_a_result_is_loaded_and_shown(folder):
    found = store.load(result(folder), RUN)
    assert (found.chapter, found.profile, found.id, found.parameters) == ("good", "demo", RUN, {"n": 5})
    assert found.environment == {"seconds": 1.0}
    assert found.value("x") == 1.5
    assert found.table().to_dict("list") == {
        "metric": ["x", "y"],
        "of": ["kind a", ""],
        "value": ["1.5", "2"],
        "interval": ["[1, 2]", ""],
        "is": ["95 % interval over images", ""],
        "unit": ["dB", ""],
        "n": [5, ""],
        "seeds": [[0, 1], ""],
    }
    with pytest.raises(RunFailed, match="no metric 'xx'"):
        found.value("xx")


def test_a_result_of_another_run_or_format_is_refused(folder):
    with pytest.raises(CorruptArtifact, match="expected the result of run abc"):
        store.load(result(folder), "abc")
    with pytest.raises(CorruptArtifact, match="another format"):
        store.load(result(folder, format=0), RUN)


@pytest.mark.parametrize("name", ["a.csv", "result.json", "environment.json"])
def test_a_missing_or_altered_file_makes_a_run_unverified(folder, name):
    result(folder)
    assert store.state(folder).state == "complete"
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + b"?")
    assert store.state(folder).state == "failed"
    assert name in store.state(folder).reason
    (folder / name).unlink()
    assert name in store.state(folder).reason
    with pytest.raises(CorruptArtifact, match=name):
        store.load(folder)


def test_an_artefact_may_not_be_named_out_of_the_folder(folder):
    result(folder, artefacts={"../../secret": "0"})
    with pytest.raises(SpikinessError, match=r"name '\.\./\.\./secret'"):
        store.load(folder)


def test_states(folder):
    work = store.partial(folder)
    assert store.state(folder) == ("absent", "", folder, RUN)
    work.mkdir(parents=True)
    assert store.state(folder)[:2] == ("failed", "interrupted: the process that ran it is gone")
    with locks.hold(store.lock(folder), "a test"):
        assert store.state(folder)[:2] == ("in progress", f"by process {os.getpid()}")
    assert store.state(folder).state == "failed"
    me = locks.owner()
    store.write_json(store.lock(folder), {**me, "started": me["started"] - 100})  # the pid was used again
    assert store.state(folder).state == "failed"
    store.write_json(store.lock(folder), {**me, "machine": "another", "host": "node7"})
    assert store.state(folder)[:2] == ("in progress", f"by process {os.getpid()} on node7")
    locks.unlock(store.lock(folder))
    store.write_json(work / "failed.json", {"reason": "kernel died"})
    assert store.state(folder)[:3] == ("failed", "kernel died", work)
    result(folder)
    assert store.state(folder)[:3] == ("complete", "", folder)
    assert [(s.id, s.state) for s in store.every(folder.parents[3])] == [(RUN, "complete")]


def test_a_partial_folder_with_a_result_is_not_complete(folder):
    result(store.partial(folder))
    assert store.state(folder).state == "failed"


def test_every_lists_all_profiles_and_skips_strangers(tmp_path):
    result(store.run_folder("smoke", "good", RUN, tmp_path))
    store.partial(store.run_folder("paper", "other", "f" * 16, tmp_path)).mkdir(parents=True)
    (tmp_path / "demo" / "runs" / "good" / "notes").mkdir(parents=True)
    (tmp_path / "demo" / "runs" / "good" / f"{RUN}.old").mkdir(parents=True)
    assert [(s.folder.parents[2].name, s.state) for s in store.every(tmp_path)] == [
        ("smoke", "complete"),
        ("paper", "failed"),
    ]


def test_nothing_depends_on_the_time_of_a_file(folder):
    result(folder)
    for path in folder.iterdir():
        os.utime(path, (time.time() + 1e6, 0))
    assert store.state(folder).state == "complete"
    assert json.loads((folder / "result.json").read_text())["sha256"]
