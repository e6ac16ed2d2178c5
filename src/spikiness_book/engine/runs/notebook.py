"""What could be run: the chapters, their parameters, and the name a run would have; nothing here starts anything."""

import contextlib
import copy
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikiness import images
from spikiness.errors import SpikinessError, suggest
from spikiness.images.sources import check_name
from spikiness_book.engine.runs import devices, digests, parameters, planned, store
from spikiness_book.engine.runs.chapter import installed


class DataMissing(SpikinessError):
    """The chapter is in order, but its data are not on this machine."""


@dataclass(frozen=True)
class Plan:
    """One run that could be made: everything is checked, nothing has started."""

    chapter: str
    profile: str
    source: "Source"
    parameters: dict[str, Any]
    changed: dict[str, Any]  # those that differ from the notebook's own
    inputs: dict[str, Any]
    id: str
    folder: Path

    def request(self) -> dict[str, Any]:
        return {
            "chapter": self.chapter,
            "profile": self.profile,
            "id": self.id,
            "parameters": self.parameters,
            "inputs": self.inputs,
        }


def folder(notebooks: Path | None = None) -> Path:
    """The folder of the chapters: the one given, else `notebooks/` of the checkout we stand in or run from."""
    if notebooks is not None:
        return Path(notebooks)
    root = store.checkout() or store.checkout(Path(__file__).parent)
    if root is None:
        raise SpikinessError(
            "no chapters here: stand in a checkout of the project, or name their folder (--notebooks, or notebooks=...)"
        )
    return root / "notebooks"


def chapters(notebooks: Path | None = None) -> list[str]:
    """The names of all chapters, sorted."""
    return sorted(path.stem for path in folder(notebooks).glob("*.ipynb"))


def path(chapter: str, notebooks: Path | None = None) -> Path:
    """The file of a chapter; an error with the nearest name where there is no such chapter."""
    names = chapters(notebooks)
    if chapter not in names:
        raise SpikinessError(
            f"unknown chapter {str(chapter)[:80]!r}{suggest(chapter, names)} (there are {', '.join(names) or 'none'})"
        )
    return store.under(folder(notebooks), f"{chapter}.ipynb")


def read(chapter: str, notebooks: Path | None = None) -> Any:
    """A chapter's notebook. Raises `SpikinessError` for an unknown chapter, or a file that is no notebook."""
    file = path(chapter, notebooks)
    return _parse(file.read_bytes(), file)


def _parse(content: bytes, file: Path) -> Any:
    import nbformat

    try:
        notebook = nbformat.v4.upgrade(nbformat.reads(content.decode(), as_version=4))
    except Exception as error:  # nbformat raises many kinds
        raise SpikinessError(f"{file} is not a notebook: {error}") from error
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])  # papermill expects them
    return notebook


def describe(chapter: str, notebooks: Path | None = None) -> list[dict[str, Any]]:
    """The parameters of a chapter: rows of name, type, default, help."""
    return [row._asdict() for row in parameters.read(read(chapter, notebooks), chapter)]


class Source:
    """A chapter as it stands, read once, in one profile: `plan` checks values and names the run, thousands a minute.

    Raises `SpikinessError` for an unknown chapter or profile, and for parameters that are not in order.
    """

    def __init__(
        self, chapter: str, profile: str = "demo", notebooks: Path | None = None, device: str | None = None
    ) -> None:
        store.profile_name(profile)
        self.chapter = chapter
        self._file = path(chapter, notebooks)
        self._content = self._file.read_bytes()
        self._known = planned.recall(chapter, self._read_from, self._read)
        self.code: dict[str, str] = self._known["code"]  # the digests of the notebook's code, and of what it uses
        self._fingerprints: dict[str | None, str | None] = {None: None}
        torch = (installed("torch") or "none").partition("+")[0]  # a CPU build gives its version's numbers
        self._platform = {"torch": torch, "device": device or devices.device()}
        self._enter(profile)

    def in_profile(self, profile: str) -> "Source":
        """The same chapter in another profile, without reading it again."""
        other = copy.copy(self)
        other._enter(profile)
        return other

    def _enter(self, profile: str) -> None:
        self.profile = store.profile_name(profile)
        self.values: dict[str, Any] = self._known["values"].get(profile) or self._values(profile)

    @functools.cached_property
    def notebook(self) -> Any:
        """The notebook as it was when this was made."""
        return _parse(self._content, self._file)

    @functools.cached_property
    def parameters(self) -> list[parameters.Parameter]:
        """The chapter's parameters."""
        return parameters.read(self.notebook, self.chapter)

    @functools.cached_property
    def _model(self) -> Any:
        return parameters.model(self.parameters)

    def _read_from(self) -> list[Any]:
        """What all that `_read` returns depends on."""
        profiles = self._file.with_name("profiles.yaml")
        files = [self._content, profiles.read_bytes() if profiles.is_file() else b""]
        return [sys.version, digests.content_digest(), *map(store.sha256, files)]

    def _read(self) -> dict[str, Any]:
        """The digests of the code, and the values of the chapter's own cell and of its profiles, all checked."""
        code, uses = digests.notebook_code(self.notebook)
        values = {}
        for profile in store.PROFILES:
            with contextlib.suppress(SpikinessError):  # told to who asks for that profile
                values[profile] = self._values(profile)
        return {
            "code": {"source": code, "modules": digests.code_digest(uses)},
            "own": self._checked({}, self.chapter),
            "values": values,
            "unread": parameters.unread(self.notebook, self.parameters),
        }

    def _values(self, profile: str) -> dict[str, Any]:
        chosen = parameters.profile_values(self._file.parent, self.chapter, profile)
        return self._checked(chosen, f"{self.chapter} ({profile} profile)")

    def _checked(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        checked = parameters.validate(self.parameters, values, where, self._model)
        parameters.check_images(checked, where)
        return checked

    def plan(self, values: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> Plan:
        """The run with `values` in place of the profile's; `inputs` of a planned run spare reading its data anew."""
        chosen = self._checked({**self.values, **values}, self.chapter) if values else self.values
        for name in self._known["unread"]:
            if chosen[name] != self._known["own"][name]:
                raise SpikinessError(
                    f"{self.chapter}: no cell reads {name}: another value of it gives the same numbers"
                )
        named = {
            **self.code,
            "data": inputs["data"] if inputs else self._fingerprint(chosen.get("data")),
            **self._more_data(chosen, inputs),
            **self._platform,
            **({"device": inputs["device"]} if inputs else {}),
        }
        content = {"format": store.FORMAT, "chapter": self.chapter, "parameters": chosen, **named}
        run_id = store.sha256(store.canonical(content).encode())[:16]
        changed = {name: value for name, value in chosen.items() if value != self._known["own"][name]}
        place = store.run_folder(self.profile, self.chapter, run_id)
        return Plan(self.chapter, self.profile, self, dict(chosen), changed, named, run_id, place)

    def _more_data(self, chosen: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> dict[str, Any]:
        """The fingerprints of other data sets that the chapter takes: a second one, or those of kinds, network:data."""
        more = {}
        if chosen.get("larger"):
            more["larger"] = inputs["larger"] if inputs else self._fingerprint(chosen["larger"])
        if chosen.get("kinds"):
            more["kinds"] = inputs["kinds"] if inputs else {name: self._fingerprint(name) for name in _of_kinds(chosen)}
        return more

    def _fingerprint(self, data: str | None) -> str | None:
        if data not in self._fingerprints:
            self._fingerprints[data] = _fingerprint(data)
        return self._fingerprints[data]


def _of_kinds(chosen: Mapping[str, Any]) -> list[str]:
    return sorted({kind.partition(":")[2] for kind in chosen.get("kinds") or ()} - {""})


def _fingerprint(data: str) -> str:
    """The fingerprint of a data set; `DataMissing` where its name is right and its file not here."""
    try:
        return images.fingerprint(data)
    except SpikinessError as error:
        check_name(data)  # raises for a name that means nothing
        raise DataMissing(str(error)) from None


def resolve(
    chapter: str, values: Mapping[str, Any] | None = None, profile: str = "demo", notebooks: Path | None = None
) -> Plan:
    """Check everything that can be checked without a kernel, and name the run.

    `values` replace the profile's, which replace the notebook's own. The id is a hash of the chapter's code, all
    parameters, the code of our packages that it uses, the data, torch's version and the class of the device: on one
    machine equal ids give equal numbers, on another nearly equal ones.
    Raises `SpikinessError` for an unknown chapter, profile, parameter or dataset, or an impossible value.
    """
    return Source(chapter, profile, notebooks).plan(values)


def find(
    chapter: str, values: Mapping[str, Any] | None = None, profile: str = "demo", notebooks: Path | None = None
) -> store.State:
    """The state of the run that `run` would give with the same arguments; nothing is started."""
    return store.state(resolve(chapter, values, profile, notebooks).folder)


def states(chapter: str, notebooks: Path | None = None) -> dict[str, store.State | SpikinessError]:
    """For each profile the state of the chapter's run, or why there can be none, at a glance: see `store.state`."""
    try:
        source, states = Source(chapter, "demo", notebooks), {}
    except SpikinessError as error:
        return dict.fromkeys(store.PROFILES, error)
    for profile in store.PROFILES:
        try:
            states[profile] = store.state(source.in_profile(profile).plan().folder, verify=False)
        except SpikinessError as error:
            states[profile] = error
    return states


def aside(cell: Any) -> bool:
    """Whether a cell is for who reads a chapter, tagged `do-it-yourself`, and not part of its runs."""
    return digests.DO_IT_YOURSELF in cell.metadata.get("tags", [])


def page(template: Any, executed: Any) -> Any:
    """A notebook to publish: today's prose and captions (`template`) with the outputs of a run (`executed`).

    Prose is not part of a run's id, so the run may have been made with older prose. Cells that a run leaves out stay
    without outputs. Raises `SpikinessError` where the two do not have the same code cells.
    """
    result, ran = copy.deepcopy(template), [cell for cell in executed.cells if cell.cell_type == "code"]
    injected = [cell for cell in ran if "injected-parameters" in cell.metadata.get("tags", [])]
    ran = [cell for cell in ran if cell not in injected]
    cells = [cell for cell in result.cells if cell.cell_type == "code" and not aside(cell)]
    if len(ran) != len(cells):
        raise SpikinessError(f"the run has {len(ran)} code cells and the notebook {len(cells)}: run the chapter again")
    for cell, done in zip(cells, ran, strict=True):
        cell.outputs, cell.execution_count = copy.deepcopy(done.outputs), done.execution_count
    for at, cell in enumerate(result.cells):
        if injected and "parameters" in cell.metadata.get("tags", []):
            result.cells.insert(at + 1, copy.deepcopy(injected[0]))
            break
    return result
