"""What could be run: the chapters, their parameters, and the name a run would have; nothing here starts anything."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import devices, parameters, sources, store
from spikiness_book.engine.runs.chapter import installed


@dataclass(frozen=True)
class Plan:
    """One run that could be made: everything is checked, nothing has started."""

    chapter: str
    profile: str
    notebook: Any
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
            "no chapters here: stand in a checkout of the project, or name their folder (notebooks=...)"
        )
    return root / "notebooks"


def chapters(notebooks: Path | None = None) -> list[str]:
    """The names of all chapters, sorted."""
    return sorted(path.stem for path in folder(notebooks).glob("*.ipynb"))


def read(chapter: str, notebooks: Path | None = None) -> Any:
    """A chapter's notebook; an error with the nearest name where there is no such chapter."""
    import nbformat

    names = chapters(notebooks)
    if chapter not in names:
        raise SpikinessError(
            f"unknown chapter {str(chapter)[:80]!r}{suggest(chapter, names)} (there are {', '.join(names) or 'none'})"
        )
    path = store.under(folder(notebooks), f"{chapter}.ipynb")
    try:
        notebook = nbformat.v4.upgrade(nbformat.reads(path.read_text(encoding="utf-8"), as_version=4))
    except Exception as error:  # nbformat raises many kinds
        raise SpikinessError(f"{path} is not a notebook: {error}") from error
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])  # papermill expects them
    return notebook


def describe(chapter: str, notebooks: Path | None = None) -> list[dict[str, Any]]:
    """The parameters of a chapter: rows of name, type, default, help."""
    return [row._asdict() for row in parameters.read(read(chapter, notebooks), chapter)]


class Source:
    """A chapter as it stands, read once, in one profile: `plan` checks values and names the run, thousands a minute.

    Raises `SpikinessError` for an unknown chapter or profile.
    """

    def __init__(
        self, chapter: str, profile: str = "demo", notebooks: Path | None = None, device: str | None = None
    ) -> None:
        self.chapter, self.profile = chapter, store.profile_name(profile)
        self.notebook = read(chapter, notebooks)
        self.parameters = parameters.read(self.notebook, chapter)
        chosen = parameters.profile_values(folder(notebooks), chapter, profile)
        self._model = parameters.model(self.parameters)
        self._own = parameters.validate(self.parameters, {}, chapter, self._model)
        self._chosen = parameters.validate(self.parameters, chosen, f"{chapter} ({profile} profile)", self._model)
        code, uses = sources.notebook_code(self.notebook)
        self._inputs = {"source": code, "modules": sources.code_digest(uses)}
        self._fingerprints: dict[str | None, str | None] = {None: None}
        torch = (installed("torch") or "none").partition("+")[0]  # a CPU build gives its version's numbers
        self._platform = {"torch": torch, "device": device or devices.device()}

    def plan(self, values: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None) -> Plan:
        """The run with `values` in place of the profile's; `inputs` of a planned run spare reading its data anew."""
        chosen = parameters.validate(self.parameters, {**self._chosen, **(values or {})}, self.chapter, self._model)
        found = {
            **self._inputs,
            "data": inputs["data"] if inputs else self._fingerprint(chosen.get("data")),
            **self._more_data(chosen, inputs),
            **self._platform,
            **({"device": inputs["device"]} if inputs else {}),
        }
        content = {"format": store.FORMAT, "chapter": self.chapter, "parameters": chosen, **found}
        run_id = store.sha256(store.canonical(content).encode())[:16]
        changed = {name: value for name, value in chosen.items() if value != self._own[name]}
        place = store.run_folder(self.profile, self.chapter, run_id)
        return Plan(self.chapter, self.profile, self.notebook, chosen, changed, found, run_id, place)

    def _more_data(self, chosen: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> dict[str, Any]:
        """The fingerprints of other data sets that the chapter takes: a second one, or those of kinds, network:data."""
        more = {}
        if chosen.get("larger"):
            more["larger"] = inputs["larger"] if inputs else self._fingerprint(chosen["larger"])
        if chosen.get("kinds"):
            data = sorted({kind.partition(":")[2] for kind in chosen["kinds"]} - {""})
            more["kinds"] = inputs["kinds"] if inputs else {name: self._fingerprint(name) for name in data}
        return more

    def _fingerprint(self, data: str | None) -> str | None:
        if data not in self._fingerprints:
            from spikiness import images  # imports torch: seconds

            self._fingerprints[data] = images.fingerprint(data)
        return self._fingerprints[data]


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


def aside(cell: Any) -> bool:
    """Whether a cell is for who reads a chapter, tagged `do-it-yourself`, and not part of its runs."""
    return sources.DO_IT_YOURSELF in cell.metadata.get("tags", [])


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
