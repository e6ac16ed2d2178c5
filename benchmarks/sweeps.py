"""What sweeps cost beside the chapters they run: `make bench-sweeps`, or parts of it by name.

overhead   seconds per run beyond the notebook's own cells, on 2 cores
again      a sweep of 300 finished runs, started again
collect    10,000 results into tables: seconds and memory
jobs       10,000 trivial shell jobs through the same Snakefile (ARGS="jobs --jobs 300" for fewer)
kill       a sweep of 24 runs, its driver killed at 5 random moments: lost, repeated, and the table's bytes
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from spikiness.files import as_text
from spikiness_book.engine import sweeps
from spikiness_book.engine.runs import findings, store
from spikiness_book.engine.runs.notebook import Source
from spikiness_book.engine.sweeps import driver, planning, table
from spikiness_book.engine.sweeps.grid import RESOURCES

CELLS = [
    "import time\nfrom spikiness_book.engine import runs",
    'n: int = 1  # a number\nnapping: float = 1.0  # seconds\ndiary: str = ""  # a file',
    'run = runs.begin("nap", globals())',
    "if diary:\n    open(diary, 'a').write(f'start {n}\\n')",
    "time.sleep(napping)\nrun.metric('twice', 2 * n, interval=(2 * n - 1, 2 * n + 1), over='draws', n=n)",
    "run.finish()\nif diary:\n    open(diary, 'a').write(f'end {n}\\n')",
]


def chapters(place: Path) -> Path:
    """A folder of chapters with one that naps."""
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(CELLS)]
    cells[1].metadata["tags"] = ["parameters"]
    folder = place / "notebooks"
    folder.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), folder / "nap.ipynb")
    (folder / "profiles.yaml").write_text("nap: {smoke: {}, paper: {}}\n")
    return folder


def tasks(folder: Path, runs: int, **fixed) -> list[planning.Task]:
    source = Source("nap", "smoke", folder)
    return [planning.task(source.plan({**fixed, "n": n})) for n in range(1, runs + 1)]


def overhead(place: Path, runs: int = 16, cores: int = 2) -> None:
    folder = chapters(place)
    start = time.monotonic()
    statuses = driver.drive(tasks(folder, runs), "overhead", cores, notebooks=folder)
    wall = time.monotonic() - start
    assert all(status.state == "complete" for status in statuses)
    each = wall * cores / runs
    print(f"overhead: {runs} runs of 1 s on {cores} cores took {wall:.1f} s: {each - 1:.1f} s a run beyond its cells")


def again(place: Path, runs: int = 300) -> None:
    folder = chapters(place)
    for task in tasks(folder, runs):
        fabricate(task, 1)
    file = place / "again.yaml"
    file.write_text(f"chapter: nap\nprofile: smoke\ngrid: {{n: {list(range(1, runs + 1))}}}\n")
    command = cli("sweep", "run", file, "--notebooks", folder)
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"again: {runs} finished runs, started again: {time.monotonic() - start:.1f} s")


def cli(*words) -> list[str]:
    return [sys.executable, "-c", f"from spikiness_book.cli import main; main({[str(word) for word in words]!r})"]


def fabricate(task: planning.Task, metrics: int) -> None:
    """A finished run without running it: the same small files, written without waiting for the disk."""
    content = {
        "format": store.FORMAT, "chapter": task.chapter, "profile": task.profile, "id": task.id,
        "parameters": task.parameters, "inputs": task.inputs, "artefacts": {},
        "findings": [findings.make(f"metric_{i}", i + 0.5, (i, i + 1), over="draws", n=7) for i in range(metrics)],
    }  # fmt: skip
    task.folder.mkdir(parents=True)
    for name, what in (("result.json", content), ("environment.json", {"seconds": 1.0, "packages": {"torch": "2"}})):
        digest = store.sha256(as_text(what).encode())
        (task.folder / name).write_text(as_text({**what, "sha256": digest}))


def collect(place: Path, runs: int = 10_000) -> None:
    folder = chapters(place)
    found = tasks(folder, runs)
    for task in found:
        fabricate(task, 20)
    code = (
        "import sys, time, resource, pickle\nfrom pathlib import Path\nfrom spikiness_book.engine.sweeps import table\n"
        "tasks = pickle.load(open(sys.argv[1], 'rb'))\nstart = time.monotonic()\n"
        "made = table.collect(tasks)\ntable.write(made, Path(sys.argv[2]), 't')\n"
        "print(len(made.results), time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    import pickle

    (place / "tasks.pkl").write_bytes(pickle.dumps(found))
    done = subprocess.run(
        [sys.executable, "-c", code, place / "tasks.pkl", place / "tables"], check=True, capture_output=True, text=True
    )
    rows, seconds, memory = done.stdout.split()
    size = sum(file.stat().st_size for file in (place / "tables").glob("t.*")) / 1e6
    print(
        f"collect: {runs:,} runs, {int(rows):,} rows: {float(seconds):.1f} s, {float(memory):.0f} MB, "
        f"{size:.0f} MB written"
    )


def jobs(place: Path, runs: int = 10_000, cores: int = 2) -> None:
    folder = chapters(place)
    start = time.monotonic()
    found = tasks(folder, runs)
    planned = time.monotonic() - start
    planning.save(place / "plan.json", found, RESOURCES, folder, command="true")
    command = [sys.executable, "-m", "snakemake", "-s", driver.snakefile(), "--config", f"plan={place / 'plan.json'}"]
    command += ["--profile", driver.snakefile().parent / "profiles" / "local", "--cores", str(cores), "--quiet", "all"]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.monotonic() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    made = len(list((place / "done").iterdir()))
    print(
        f"jobs: {made:,} of {runs:,} shell jobs on {cores} cores: {wall:.0f} s, {1e3 * wall / runs:.0f} ms each, "
        f"{memory:.0f} MB; planning them {planned:.0f} s"
    )


def kill(place: Path, runs: int = 24, kills: int = 5, cores: int = 2) -> None:
    folder = chapters(place)
    diary = place / "diary"
    diary.write_text("")
    file = place / "kill.yaml"
    file.write_text(
        f"chapter: nap\nprofile: smoke\nparameters: {{diary: {diary}}}\ngrid: {{n: {list(range(1, runs + 1))}}}\n"
    )
    command = cli("sweep", "run", file, "--cores", cores, "--notebooks", folder)
    found, draw = sweeps.plan(sweeps.read(file), folder), random.Random()
    lost, sealed = 0, {}  # how often a run had begun when it was first seen finished
    for _ in range(kills):
        before = {t.id for t in found if planning.complete(t)}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(5 + 8 * draw.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(2)
        after = {t.id for t in found if planning.complete(t)}
        lost += len(before - after)
        lines = diary.read_text().split("\n")
        for task in found:
            if task.id in after:
                sealed.setdefault(task.parameters["n"], lines.count(f"start {task.parameters['n']}"))
        print(f"kill: driver killed with {len(after)} of {runs} runs done")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = diary.read_text().split("\n")
    repeated = sum(lines.count(f"start {n}") > begun for n, begun in sealed.items())
    interrupted = sum(max(0, lines.count(f"start {n}") - 1) for n in range(1, runs + 1))
    first = made(place / "killed", found)
    os.environ["SPIKINESS_HOME"] = str(place / "straight")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same = first == made(place / "straight", sweeps.plan(sweeps.read(file), folder))
    print(
        f"kill: {runs} runs, {kills} kills: {lost} finished runs lost, {repeated} made twice, {interrupted} begun "
        f"again; table {'byte-identical to' if same else 'DIFFERENT from'} an uninterrupted sweep's"
    )


def made(folder: Path, found: list[planning.Task]) -> bytes:
    paths = table.write(sweeps.collect(found), folder, "t")
    return b"".join(path.read_bytes() for path in paths if "costs" not in path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {f.__name__: f for f in (overhead, again, collect, jobs, kill)}
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts), help="which; all by default")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many shell jobs (default 10,000)")
    options = parser.parse_args()
    for name in options.parts:
        place = Path(tempfile.mkdtemp(prefix="sweeps-"))
        os.environ["SPIKINESS_HOME"] = str(place / "home")
        try:
            parts[name](place, **({"runs": options.jobs} if name == "jobs" else {}))
        finally:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
