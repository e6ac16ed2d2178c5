"""Run one chapter: parameters in, verified result out; a kernel that dies, hangs or gives up early is a failed run."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spikiness.errors import RunFailed, SpikinessError
from spikiness_book.engine.runs import devices, locks, processes, store
from spikiness_book.engine.runs.notebook import Plan, aside, resolve

WALL_LIMIT = 3 * 3600  # seconds; a paper-scale chapter may take an hour on two cores
PATIENCE = 5  # seconds an interrupted notebook has to write down where it was


def run(
    chapter: str,
    parameters: Mapping[str, Any] | None = None,
    profile: str = "demo",
    *,
    notebooks: Path | None = None,
    timeout: float | None = None,
    force: bool = False,
    wait: bool = True,
) -> store.Result:
    """Execute one chapter, or find that it was, and return its verified result.

    `parameters` replace those of `profile` (smoke, demo or paper); `timeout` is a wall limit in seconds; `force` runs
    it again; where another process runs it already, that one is waited for, or with `wait=False` it is refused. One
    line on stderr says how it went. Raises `SpikinessError` before anything starts where the input is wrong, and
    `RunFailed` with the reason afterwards; the notebook of a failed run is kept.
    """
    return execute(resolve(chapter, parameters, profile, notebooks), timeout=timeout, force=force, wait=wait)


def execute(task: Plan, timeout: float | None = None, force: bool = False, wait: bool = True) -> store.Result:
    """The same for a run that is planned already."""
    if timeout is not None and not 0 < timeout < float("inf"):
        raise SpikinessError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    if not force and (kept := _kept(task)):
        return kept
    with locks.hold(store.lock(task.folder), f"{task.chapter} ({task.profile}, {task.id})", wait) as ours:
        if not force and (kept := _kept(task)):  # made while we waited
            return kept
        if task.folder.is_dir() and not force:
            _report(f"{task.chapter}: {store.state(task.folder).reason}; running it again")
        return _make(task, timeout or WALL_LIMIT, ours)


def _kept(task: Plan) -> store.Result | None:
    """The verified result from before, if there is one."""
    if not task.folder.is_dir():
        return None
    with contextlib.suppress(SpikinessError):
        result = store.load(task.folder, task.id)
        _report(f"{task.chapter}: {task.profile} {task.id}, kept from before")
        return result
    return None


def _make(task: Plan, limit: float, ours: Callable[[], bool]) -> store.Result:
    start, work = time.monotonic(), store.partial(task.folder)
    reason = "interrupted"
    try:
        _prepare(task, work)
        reason = _execute(work, task, start, limit)
        if not ours():
            reason = "another process took this run over, and makes it"
        if not reason:
            _complete(task, work, time.monotonic() - start)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
    except Exception as error:  # Ctrl-C and SIGTERM are none: they leave the run interrupted
        reason = str(error) or type(error).__name__
        raise
    finally:
        seconds = time.monotonic() - start
        outcome = f"failed after {seconds:.0f} s: {reason}" if reason else f"done in {seconds:.0f} s"
        _report(f"{task.chapter}: {task.profile} {task.id}, {outcome}")
        if reason and work.is_dir() and ours():
            with contextlib.suppress(SpikinessError):  # a full disk: a run without a live owner reads as failed too
                store.write_json(work / "failed.json", {"reason": reason, "seconds": round(seconds, 2)})
    if reason:
        raise RunFailed(f"{task.chapter} ({task.profile}, {task.id}) failed: {reason}; see {work / 'executed.ipynb'}")
    return store.load(task.folder, task.id)


def _prepare(task: Plan, work: Path) -> None:
    """Lay out the work folder: the request, and the notebook with its changed parameters in a cell of their own."""
    import nbformat
    from papermill.parameterize import parameterize_notebook

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(work)
    work.mkdir(parents=True)
    store.write_json(work / "request.json", task.request())
    notebook = nbformat.from_dict(task.source.notebook)
    notebook.cells = [cell for cell in notebook.cells if not aside(cell)]
    if task.changed:
        notebook.metadata["papermill"] = {}
        comment = "This run's parameters, in place of those above"
        notebook = parameterize_notebook(
            notebook, task.changed, comment=comment, kernel_name="python3", language="python"
        )
        for cell in notebook.cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell["id"] = "injected-parameters"  # papermill's is random: no two runs would be equal
    store.write_bytes(work / "source.ipynb", nbformat.writes(notebook).encode())


def _execute(work: Path, task: Plan, start: float, limit: float) -> str:
    """Execute the notebook in a process of its own; returns why it failed, or an empty string."""
    sockets = _socket_folder()
    command = ["spikiness_book.engine.runs.execute", str(work.absolute()), str(sockets)]
    try:
        with processes.Family(command, work / "log.txt", _environ(work, task)) as family:
            late = _wait(family, task, start, limit)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    return f"timeout: not done after {limit:g} s" if late else _verdict(work, task, family.process.returncode)


def _verdict(work: Path, task: Plan, code: int) -> str:
    """Success is a verified result of this very run, and nothing else: papermill calls a dead kernel completed."""
    if (work / "failed.json").exists():
        return str(store.read_json(work / "failed.json")["reason"])
    if code != 0:
        return f"the notebook's process ended with status {code}: {_last_line(work / 'log.txt')}"
    if not (work / "result.json").exists():
        return "no result written: the notebook ended before run.finish()"
    try:
        store.load(work, task.id)
    except SpikinessError as error:
        return str(error)
    return ""


def _wait(family: processes.Family, task: Plan, start: float, limit: float) -> bool:
    """Wait for the notebook's process, showing the time; True where the limit passed first and it was interrupted."""
    live = sys.stderr.isatty()
    while time.monotonic() - start < limit:
        if live:
            seconds = time.monotonic() - start
            sys.stderr.write(f"\r{task.chapter}: {task.profile}, {seconds:.0f} s ")
            sys.stderr.flush()
        if family.ended(min(1.0, max(0.01, start + limit - time.monotonic()))):
            return False
    family.interrupt_children()  # the cell raises KeyboardInterrupt, and the notebook shows where
    family.ended(PATIENCE)
    return True


def _threads(profile: str) -> str:
    """One thread count for the whole run, since another one gives other last digits: the user's, else all our cores.

    In the smaller profiles it is one: on networks that small a second thread waits more than it works, and a U-Net on
    digits trains 2.7 times as fast without it.
    """
    if profile != "paper":
        return os.environ.get("OMP_NUM_THREADS") or "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(cores)


def _environ(work: Path, task: Plan) -> dict[str, str]:
    fixed = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), _threads(task.profile))
    if task.inputs["device"] == devices.CPU:
        fixed["CUDA_VISIBLE_DEVICES"] = ""  # what was planned for a CPU runs on one
    return {
        **os.environ,
        **fixed,
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin beside a busy neighbour cost up to eight times
        "SPIKINESS_RUN": str(work.absolute()),
        "SPIKINESS_HOME": str(store.home().absolute()),
        "SPIKINESS_LOG": str((work / "log.txt").absolute()),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else every kernel prints a warning about its debugger
    }


def _socket_folder() -> Path:
    """A new folder with a short name: the path of a unix socket may have about 100 letters."""
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="spk-", dir=base if len(base) < 60 else "/tmp"))


def _complete(task: Plan, work: Path, seconds: float) -> None:
    """Seal the work folder and give it its final name."""
    import nbformat

    executed = work / "executed.ipynb"
    notebook = nbformat.read(executed, as_version=4)
    clean = nbformat.writes(_without_machinery(notebook)).encode()
    store.write_bytes(executed, clean)
    seen = store.read_json(work / "environment.json")
    files = {executed.name: store.sha256(clean)}
    store.write_json(work / "environment.json", {**seen, "seconds": round(seconds, 2), "files": files})
    for name in ("request.json", "source.ipynb"):
        (work / name).unlink()
    old = task.folder.with_name(task.folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if task.folder.exists():
        os.replace(task.folder, old)
    os.replace(work, task.folder)
    store.sync_folder(task.folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _without_machinery(notebook: Any) -> Any:
    """An executed notebook without papermill's times and statuses: two runs of one chapter then differ in nothing."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    return notebook


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]


def _report(line: str) -> None:
    start = "\r" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{start}{line}\n")
    sys.stderr.flush()
