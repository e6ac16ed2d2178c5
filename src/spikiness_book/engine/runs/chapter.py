"""What a chapter's notebook calls: begin after its parameters cell, record, and finish in its last cell.

    run = runs.begin("memorization", globals())
    run.metric("gain_error", 0.0014, interval=(0.001, 0.002), n=5)
    run.figure(fig, "columns", data=frame)
    run.say("The worst gain is off by {gain_error:.2%}.")
    run.finish()

`finish` writes two files beside the artefacts. `result.json` is compared between machines and holds no time and no
version: chapter, profile, id, parameters, inputs, metrics (name -> value, interval, unit, n, seeds, tolerance) and the
sha256 of every artefact. `environment.json` is not compared: versions, threads, device, commit, seconds, timings.
"""

import ast
import io
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import devices, parameters, store

PACKAGES = ("spikiness", "torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib")


_training_seconds: dict[str, float] = {}  # of every training whose networks this process used, by their digest


def count_training(digest: str, seconds: float) -> None:
    """Add the seconds that the training of some networks took to the record: once, however often they are loaded.

    They count whoever trained the networks, and whenever: a run that finds them cached says what it rests on.
    """
    _training_seconds[digest] = seconds


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
        self._metrics: dict[str, dict[str, Any]] = {}
        self._timings: dict[str, float] = {}
        self._artefacts: dict[str, str] = {}
        self._started = time.monotonic()
        self._finished = False

    def metric(
        self,
        name: str,
        value: float,
        interval: Sequence[float] | None = None,
        unit: str = "",
        n: int | None = None,
        seeds: Sequence[int] | int | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Record one number under a name of a-z, 0-9 and _: `interval` is its 95 % one, `n` what it was taken over.

        `tolerance` is the absolute difference at which a rerun still agrees; without it the intervals must overlap,
        and without those the values may differ by a thousandth. Raises `SpikinessError` for a value that is not finite.
        """
        self._open()
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise SpikinessError(
                f"metric {name!r}: use a-z, 0-9 and _, starting with a letter: prose refers to it by name"
            )
        if name in self._metrics or name in self._timings or name in self.parameters:
            what = "a parameter" if name in self.parameters else "recorded already"
            raise SpikinessError(f"metric {name!r} is {what}: choose another name")
        low_high = None if interval is None else [_number(f"{name}'s interval", end) for end in interval]
        if low_high is not None and (len(low_high) != 2 or low_high[0] > low_high[1]):
            raise SpikinessError(f"metric {name!r}: an interval is (low, high), got {interval!r}")
        if tolerance is not None and _number(f"{name}'s tolerance", tolerance) < 0:
            raise SpikinessError(f"metric {name!r}: tolerance must be at least 0, got {tolerance!r}")
        self._metrics[name] = {
            "value": _number(name, value),
            "interval": low_high,
            "unit": unit,
            "n": None if n is None else int(n),
            "seeds": int(seeds) if isinstance(seeds, int) else None if seeds is None else [int(seed) for seed in seeds],
            "tolerance": None if tolerance is None else float(tolerance),
        }

    def timing(self, name: str, milliseconds: float) -> None:
        """Record how long something takes, for prose: it goes to `environment.json` and is never compared."""
        self._open()
        if name in self._metrics or name in self._timings or name in self.parameters:
            raise SpikinessError(f"timing {name!r} is taken: choose another name")
        self._timings[name] = _number(name, milliseconds)

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

    def say(self, text: str) -> None:
        """Show a paragraph of Markdown whose numbers come from the run: `"off by {gain_error:.2%} at n = {n}"`.

        Fields are metrics recorded so far (`x`, and `x_low`, `x_high` where it has an interval), timings, parameters;
        braces of formulas are doubled. Raises `SpikinessError` for a field that is none of these.
        """
        fields: dict[str, Any] = {**self.parameters, **self._timings}
        for name, metric in self._metrics.items():
            fields[name] = metric["value"]
            if metric["interval"] is not None:
                fields[f"{name}_low"], fields[f"{name}_high"] = metric["interval"]
        try:
            shown = text.format(**fields)
        except (KeyError, IndexError) as error:
            name = str(error.args[0])
            raise SpikinessError(f"no metric or parameter {name!r} recorded so far{suggest(name, fields)}") from None
        try:
            from IPython.display import Markdown, display
        except ImportError:
            sys.stdout.write(f"{shown}\n")
        else:
            display(Markdown(shown))

    def finish(self) -> Any:
        """Write `result.json`, last and whole; returns the metrics as a DataFrame to show."""
        self._open()
        taken = environment(time.monotonic() - self._started)
        torch = sys.modules.get("torch")
        if self._request["inputs"].get("device") == devices.CUDA and torch and not torch.cuda.is_available():
            raise SpikinessError(f"{self.chapter} was planned for a GPU, but ran without: see that torch finds it here")
        store.write_json(self.folder / "environment.json", {**taken, "timings_ms": self._timings})
        store.write_json(
            self.folder / "result.json",
            {
                "format": store.FORMAT,
                "chapter": self.chapter,
                **{key: self._request[key] for key in ("profile", "id", "parameters", "inputs")},
                "metrics": self._metrics,
                "artefacts": self._artefacts,
            },
        )
        self._finished = True
        return store.metrics_table(self._metrics)

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


def _number(name: str, value: Any) -> float | int:
    """A plain finite number from a Python, numpy or torch one."""
    try:
        plain = value.item() if hasattr(value, "item") else value
        number = int(plain) if isinstance(plain, int) else float(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpikinessError(f"{name} must be one number, got {value!r}") from error
    if not math.isfinite(number):
        raise SpikinessError(f"{name} must be finite, got {value!r}")
    return number


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
        "training_seconds": round(sum(_training_seconds.values()), 2),
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
