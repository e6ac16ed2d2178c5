"""What a chapter's notebook calls: begin after its parameters cell, record, and finish in its last cell.

    run = runs.begin("memorization", globals())
    run.metric("gain_error", 0.0014, interval=(0.001, 0.002), over="images", n=5, subset="separable")
    run.figure(fig, "columns", data=frame)
    run.say("The worst gain is off by {gain_error[subset=separable]:.2%}.")
    run.finish()

`finish` writes two files beside the artefacts. `result.json` is compared between machines and holds no time and no
version: chapter, profile, id, parameters, inputs, findings (see `findings`) and the sha256 of every artefact.
`environment.json` is not compared: versions, threads, device, commit, seconds, timings.
"""

import ast
import io
import os
import platform
import re
import string
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import devices, findings, parameters, store

PACKAGES = ("spikiness", "torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib")


_training_seconds: list[float] = []  # of every training whose networks this process used, now or when they were cached


def count_training(seconds: float) -> None:
    """Add the seconds a training took to the record, whoever ran it: a run that finds its networks cached says so."""
    _training_seconds.append(seconds)


def begin(chapter: str, namespace: Mapping[str, Any]) -> "Run":
    """Start recording; `namespace` is the notebook's `globals()`, whose typed literals are the parameters.

    Under the runner the parameters must be those it was asked for. By hand (Jupyter, papermill) they are checked here,
    and the result goes to `<home>/by-hand/<chapter>/`, in place of the one before it.
    """
    store.slug(chapter, "chapter")
    if work := os.environ.get("SPIKINESS_RUN"):
        return _begin_asked(chapter, namespace, Path(work))
    declared = _declared(namespace)
    unknown = {name: None for name in _injected(namespace) if name not in {p.name for p in declared}}
    values = parameters.validate(declared, {**{p.name: p.default for p in declared}, **unknown}, chapter)
    folder = store.under(store.home(), "by-hand", chapter)
    for old in [path for path in folder.glob("*") if path.is_file()]:
        old.unlink()  # a result is of one run: nothing of the last one may be left beside it
    return Run(chapter, folder, {"profile": "by hand", "id": None, "parameters": values, "inputs": {}})


def _begin_asked(chapter: str, namespace: Mapping[str, Any], work: Path) -> "Run":
    request = store.read_json(work / "request.json")
    if request["chapter"] != chapter:
        raise SpikinessError(f"this is the notebook of {request['chapter']!r}, but it begins {chapter!r}")
    for name, value in request["parameters"].items():
        if name not in namespace or namespace[name] != value:
            raise SpikinessError(f"{chapter}: {name} is {namespace.get(name)!r}, but this run was asked for {value!r}")
    return Run(chapter, work, request)


def _declared(namespace: Mapping[str, Any]) -> list[parameters.Parameter]:
    """The typed literals of a notebook's namespace, with their present values."""
    found = []
    for name, kind in {**_cell_annotations(namespace), **namespace.get("__annotations__", {})}.items():
        text = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        text = str(kind) if "[" in str(kind) else text  # list[int] has the name "list"
        if name in namespace and text.replace(" ", "") in parameters.TYPES:
            found.append(parameters.Parameter(name, text.replace(" ", ""), namespace[name], ""))
    return found


def _cells(namespace: Mapping[str, Any]) -> list[str]:
    return [cell for cell in namespace.get("In", []) if isinstance(cell, str)]


def _cell_annotations(namespace: Mapping[str, Any]) -> dict[str, str]:
    """The annotations in the cells run so far: Python 3.14 no longer keeps them in the namespace."""
    found = {}
    for cell in _cells(namespace):
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # IPython's own commands
            continue
        pairs = [(n.target.id, ast.unparse(n.annotation)) for n in body if isinstance(n, ast.AnnAssign)]
        if len(pairs) == len(body):
            found.update(pairs)
    return found


def _injected(namespace: Mapping[str, Any]) -> list[str]:
    """The names that plain papermill put into the notebook: it does not refuse a misspelt one itself."""
    cells = [cell for cell in _cells(namespace) if cell.startswith("# Parameters\n")]
    body = ast.parse(cells[-1]).body if cells else []
    return [
        node.targets[0].id for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]


class Run:
    """The open record of one run of one chapter; nothing counts until `finish`."""

    def __init__(self, chapter: str, folder: Path, request: Mapping[str, Any]) -> None:
        self.chapter = chapter
        self.folder = folder
        self.profile: str = request["profile"]
        self.parameters: dict[str, Any] = dict(request["parameters"])
        self._request = request
        self._findings: list[findings.Finding] = []
        self._timings: list[findings.Finding] = []
        self._artefacts: dict[str, str] = {}
        self._started = time.monotonic()
        self._finished = False

    def metric(
        self,
        name: str,
        value: float,
        interval: Sequence[float] | None = None,
        *,
        level: float | None = 0.95,
        over: str = "",
        unit: str = "",
        n: int | None = None,
        seeds: Sequence[int] | int | None = None,
        tolerance: float | None = None,
        **labels: Any,
    ) -> None:
        """Record one number under a name of a-z, 0-9 and _; `labels` say what it is of: `kind="unet:digits"`.

        `interval` is (low, high) of `level` (None: a range) and `over` what it resamples, "images" or "networks"; a
        `statistics.Interval` says both itself. `n` is how many things the value was taken over. `tolerance` is the
        absolute difference at which a rerun still agrees; without it, it comes from the width of the interval, and
        without that it is a thousandth of the value. Raises `SpikinessError` for a value that is not finite, for
        name and labels that are there already, and for other labels than the last finding of this name had.
        """
        self._open()
        finding = findings.make(
            name, value, interval, labels=labels, level=level, over=over, unit=unit, n=n, seeds=seeds,
            tolerance=tolerance,
        )  # fmt: skip
        self._check_name(name)
        findings.check_new(finding, self._findings + self._timings)
        self._findings.append(finding)

    def metrics(self, rows: Any, name: str, value: str, by: Sequence[str], **given: Any) -> None:
        """Record one finding per row of a table: `value` and the labels `by` name its columns.

        Columns `VALUE_low` and `VALUE_high` are the interval, where there are such; `given` goes to every row, and
        the name of a column given for `n` is that of each row's.
        """
        n = given.pop("n", None)
        for row in rows.to_dict("records"):
            ends = None
            if f"{value}_low" in row:
                ends = (row[f"{value}_low"], row[f"{value}_high"])
            labels = {key: row[key] for key in by}
            self.metric(name, row[value], ends, n=row[n] if isinstance(n, str) else n, **labels, **given)

    def timing(self, name: str, milliseconds: float, **labels: Any) -> None:
        """Record how long something takes, for prose: it goes to `environment.json` and is never compared."""
        self._open()
        self._check_name(name)
        timing = findings.make(name, milliseconds, labels=labels, unit="ms")
        findings.check_new(timing, self._findings + self._timings)
        self._timings.append(timing)

    def _check_name(self, name: str) -> None:
        if name in self.parameters:
            raise SpikinessError(f"metric {name!r} is a parameter: choose another name")

    def figure(self, fig: Any, name: str, data: Any) -> None:
        """Keep a matplotlib figure as `name.png` (twice its resolution) and what it shows, `data`, as `name.csv`."""
        frame = _frame(name, data)
        picture = io.BytesIO()
        fig.savefig(picture, format="png", dpi=2 * fig.dpi, metadata={"Software": None})  # equal bytes from equal data
        self._keep(name, ".png", picture.getvalue())
        self._keep(name, ".csv", _csv(frame))

    def table(self, name: str, data: Any) -> None:
        """Keep a DataFrame, or a dict of equally long columns, as `name.csv`, with every digit."""
        self._keep(name, ".csv", _csv(_frame(name, data)))

    def array(self, name: str, values: Any) -> None:
        """Keep an array or tensor of any shape as `name.npz`, under the key `values`."""
        import numpy as np

        plain = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        if plain.dtype.hasobject:
            raise SpikinessError(f"array {name!r} holds Python objects: give numbers")
        file = io.BytesIO()
        np.savez(file, values=plain)
        self._keep(name, ".npz", file.getvalue())

    def say(self, text: str, **labels: Any) -> None:
        """Show a paragraph of Markdown whose numbers come from the run: `"off by {gain_error:.2%} at n = {n}"`.

        Fields are findings and timings recorded so far, and parameters. A finding is selected by its labels,
        `{auroc[kind=unet:digits]:.3f}`, or by those given here: `run.say("{kind}: {auroc:.3f}", kind=kind)`.
        `{x.low}` and `{x.high}` are the ends of its interval; braces of formulas are doubled. Raises
        `SpikinessError` for a field that is none of these, or that several findings match.
        """
        fields = _Fields({**self.parameters, **labels}, self._findings + self._timings, labels)
        shown = fields.format(text)
        try:
            from IPython.display import Markdown, display
        except ImportError:
            sys.stdout.write(f"{shown}\n")
        else:
            display(Markdown(shown))

    def finish(self) -> Any:
        """Write `result.json`, last and whole; returns the findings as a DataFrame to show."""
        self._open()
        taken = environment(time.monotonic() - self._started)
        torch = sys.modules.get("torch")
        if self._request["inputs"].get("device") == devices.CUDA and torch and not torch.cuda.is_available():
            raise SpikinessError(f"{self.chapter} was planned for a GPU, but ran without: see that torch finds it here")
        store.write_json(
            self.folder / "environment.json",
            {**taken, "timings_ms": {findings.title(t): t["value"] for t in self._timings}},
        )
        store.write_json(
            self.folder / "result.json",
            {
                "format": store.FORMAT,
                "chapter": self.chapter,
                **{key: self._request[key] for key in ("profile", "id", "parameters", "inputs")},
                "findings": self._findings,
                "artefacts": self._artefacts,
            },
        )
        self._finished = True
        return findings.table(self._findings)

    def _open(self) -> None:
        if self._finished:
            raise SpikinessError(f"{self.chapter} is finished: record before run.finish(), or begin again")

    def _keep(self, name: str, ending: str, data: bytes) -> None:
        self._open()
        file = store.slug(name) + ending
        if file in self._artefacts:
            raise SpikinessError(f"{self.chapter} has kept {file!r} already: choose another name")
        store.write_bytes(store.under(self.folder, file), data)
        self._artefacts[file] = store.sha256(data)


class _Fields(string.Formatter):
    """Fields of a sentence: plain values by name, and findings by selector."""

    _FIELD = re.compile(r"(\w+)(\[[^\]]*\])?(?:\.(low|high))?")

    def __init__(self, plain: Mapping[str, Any], known: Sequence[findings.Finding], context: Mapping[str, Any]) -> None:
        self.plain, self.known, self.context = plain, known, context

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        match = self._FIELD.fullmatch(field_name)
        if match is None:
            raise SpikinessError(f"field {{{field_name}}}: write a name, name[label=value], or name.low")
        name, labels, end = match.groups()
        if name in self.plain and not labels and not end:
            return self.plain[name], name
        if name not in {finding["name"] for finding in self.known}:
            names = [*self.plain, *(finding["name"] for finding in self.known)]
            raise SpikinessError(f"no metric or parameter {name!r} recorded so far{suggest(name, names)}")
        finding = findings.select(self.known, name + (labels or ""), self.context)
        if end and finding["interval"] is None:
            raise SpikinessError(f"{findings.title(finding)} has no interval: {{{field_name}}} is not there")
        return (finding["interval"][end == "high"] if end else finding["value"]), name


def _frame(name: str, data: Any) -> Any:
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data
    columns = {str(key): c.detach().cpu().numpy() if hasattr(c, "detach") else c for key, c in dict(data).items()}
    try:
        return pd.DataFrame(columns)
    except ValueError as error:
        lengths = {key: len(column) for key, column in columns.items() if hasattr(column, "__len__")}
        raise SpikinessError(f"the data of {name!r} must be columns of equal length, got {lengths}") from error


def _csv(frame: Any) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()  # floats with all the digits that tell them apart


def environment(seconds: float) -> dict[str, Any]:
    """Versions, machine, threads, device, commit and seconds of a run; nothing that names whose machine it was."""
    torch = sys.modules.get("torch")  # never imported for this: a chapter without torch has no device
    cuda = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
        "threads": torch.get_num_threads() if torch is not None else int(os.environ.get("OMP_NUM_THREADS", "1")),
        "device": torch.cuda.get_device_name() if torch is not None and cuda else "cpu",
        "commit": _commit(),
        "seconds": round(seconds, 2),
        "training_seconds": round(sum(_training_seconds), 2),
        **_peak_memory(),
    }


def _peak_memory() -> dict[str, int]:
    """The most memory this process held, in MiB, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20}


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "-dirty" where files differ from it, or None."""
    root = store.checkout(Path(__file__).parent)
    if root is None:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
