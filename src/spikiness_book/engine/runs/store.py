"""Where runs live and how their files are written, checked and found again: atomically, and with a sha256 each."""

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spikiness.errors import CorruptArtifact, RunFailed, SpikinessError, suggest
from spikiness.files import canonical, check_file, read_json, sha256, sync_folder, write_bytes, write_json
from spikiness_book.engine.runs import findings, locks

__all__ = [
    "canonical",
    "check_file",
    "read_json",
    "sha256",
    "sync_folder",
    "write_bytes",
    "write_json",
]  # from here too

PROFILES = ("smoke", "demo", "paper")
FORMAT = 2  # of result.json; part of every run's id, so that an old format is never read as a new one

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # not file names on Windows


# ---- names and places


def slug(name: object, what: str = "name") -> str:
    """`name` itself where it is safe as a file name on every system; an error that says what is allowed otherwise."""
    if isinstance(name, str) and _SLUG.fullmatch(name) and not _DEVICES.fullmatch(name) and not name.endswith("."):
        return name
    shown = repr(name) if len(repr(name)) < 80 else repr(name)[:77] + "..."
    raise SpikinessError(f"{what} {shown}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit")


def under(root: Path, *parts: str) -> Path:
    """The path of `parts` below `root`, each part a slug; refused where a link would lead it out of `root`."""
    path = root.joinpath(*(slug(part) for part in parts))
    if not path.resolve().is_relative_to(root.resolve()):
        raise SpikinessError(f"{path} leads out of {root}")
    return path


def profile_name(profile: str) -> str:
    """`profile` where it is one of smoke, demo, paper; an error with the nearest one otherwise."""
    if profile in PROFILES:
        return profile
    raise SpikinessError(f"unknown profile {profile!r}: use one of {', '.join(PROFILES)}{suggest(profile, PROFILES)}")


def checkout(start: Path | None = None) -> Path | None:
    """The nearest folder from `start` (the working folder) upwards whose pyproject.toml names spikiness, or None."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        with contextlib.suppress(OSError, tomllib.TOMLDecodeError):
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            if project.get("name") == "spikiness":
                return folder
    return None


def home() -> Path:
    """Where everything made is kept: $SPIKINESS_HOME, else `build/` of the checkout here, else the user's cache."""
    if chosen := os.environ.get("SPIKINESS_HOME"):
        return Path(chosen).expanduser().absolute()
    if root := checkout():
        return root / "build"
    from platformdirs import user_cache_path

    return user_cache_path("spikiness")


def run_folder(profile: str, chapter: str, run_id: str, root: Path | None = None) -> Path:
    """The folder of a complete run; while it is made, or after it failed, the same name ends in `.partial`."""
    return under(root or home(), profile_name(profile), "runs", slug(chapter, "chapter"), run_id)


def partial(folder: Path) -> Path:
    """The work folder of a run."""
    return folder.with_name(folder.name + ".partial")


def lock(folder: Path) -> Path:
    """The lock of a run: held while it is made."""
    return folder.with_name(folder.name + ".lock")


# ---- results


@dataclass(frozen=True)
class Result:
    """One verified result: what `result.json` says, what it ran on (`environment`), and the folder that holds it.

    `findings` is the list of what was measured, in the order it was recorded (see `findings`);
    `artefacts` maps a file name in `folder` to its sha256; `inputs` holds what the run's id was made from.
    """

    chapter: str
    profile: str
    id: str | None
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    findings: list[dict[str, Any]]
    artefacts: dict[str, str]
    environment: dict[str, Any]
    folder: Path

    @property
    def notebook(self) -> Path:
        return self.folder / "executed.ipynb"

    def finding(self, selector: str) -> dict[str, Any]:
        """The one finding that a text such as `auroc[method=paper]` selects; an error that names the chapter else."""
        try:
            return findings.select(self.findings, selector)
        except SpikinessError as error:
            raise RunFailed(f"{self.chapter}: {error}") from None

    def value(self, selector: str) -> float:
        """The value of one finding."""
        return self.finding(selector)["value"]

    def table(self) -> Any:
        """The findings as a DataFrame, one row each."""
        return findings.table(self.findings)


def load(folder: Path, run_id: str | None = None) -> Result:
    """The result in `folder`, every file of it checked against its sha256 (and its id against `run_id`).

    Raises `CorruptArtifact` naming the file where anything is missing, altered or from another run.
    """
    folder = Path(folder)
    content = read_json(folder / "result.json")
    environment = read_json(folder / "environment.json")
    if content.pop("format", None) != FORMAT:
        raise CorruptArtifact(f"{folder / 'result.json'}: another format than {FORMAT}; run the chapter again")
    if run_id is not None and content["id"] != run_id:
        raise CorruptArtifact(f"{folder / 'result.json'}: expected the result of run {run_id}, found {content['id']}")
    for name, digest in [*content["artefacts"].items(), *environment.get("files", {}).items()]:
        check_file(under(folder, name), digest)
    return Result(environment=environment, folder=folder, **content)


class State(NamedTuple):
    """What can be seen of a run: `state` is absent, in progress, failed (with `reason`) or complete (and verified)."""

    state: str
    reason: str
    folder: Path
    id: str


def state(folder: Path, verify: bool = True) -> State:
    """The state of the run of `folder` (the folder that is, or would be, there when it is complete).

    `verify` checks every file of a complete run against its sha256. Without it the run is taken as it was when it got
    that folder, which only a verified run does: for lists, where nobody waits for thousands of digests.
    """
    run_id, work = folder.name, partial(folder)
    if folder.is_dir():
        try:
            load(folder, run_id) if verify else _glance(folder)
        except SpikinessError as error:
            return State("failed", str(error), folder, run_id)
        return State("complete", "", folder, run_id)
    who = locks.holder(lock(folder))
    if who and locks.alive(who) is not False:  # on another machine only its heartbeat tells: who runs it looks
        return State("in progress", f"by {locks.name(who)}", work, run_id)
    if not work.is_dir():
        return State("absent", "", folder, run_id)
    with contextlib.suppress(CorruptArtifact):
        return State("failed", read_json(work / "failed.json")["reason"], work, run_id)
    return State("failed", "interrupted: the process that ran it is gone", work, run_id)


def _glance(folder: Path) -> None:
    """`CorruptArtifact` unless `folder` has a result of its own run; no digest is checked."""
    file = folder / "result.json"
    try:
        content = json.loads(file.read_bytes())
        named = (content["format"], content["id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptArtifact(f"{file} cannot be read ({type(error).__name__})") from error
    if named != (FORMAT, folder.name):
        raise CorruptArtifact(f"{file}: of another run, or another format than {FORMAT}; run the chapter again")


def every(root: Path | None = None, start: str = "", verify: bool = True) -> Iterator[State]:
    """The state of every run there is a folder of, of all profiles and chapters, whose id starts with `start`."""
    for profile in PROFILES:
        runs = (root or home()) / profile / "runs"
        for chapter in _folders(runs):
            # an older complete run beside the remains of a newer one is shown once, by its own folder
            for run_id in sorted({name.removesuffix(".partial") for name in _folders(runs / chapter)}):
                if run_id.startswith(start) and re.fullmatch(r"[0-9a-f]{16}", run_id):
                    yield state(runs / chapter / run_id, verify)


def _folders(place: Path) -> list[str]:
    """The names of the folders in a folder, sorted; none where it is not there."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
