"""A sweep of 24 runs on SLURM and the same one without it: `make test-slurm` makes a cluster of this host for it.

One of the runs sleeps past the time limit the first time; SLURM kills it, Snakemake submits it again. Both tables must
be equal, byte for byte.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from spikiness.files import read_json
from spikiness_book.engine import sweeps
from spikiness_book.engine.sweeps import driver, machine, table

RUNS, SLOW = 24, 7
CELLS = [
    "import time\nfrom pathlib import Path\nfrom spikiness_book.engine import runs",
    'n: int = 1  # a number\nslow: int = 0  # the run to sleep once\ntried: str = ""  # it leaves this file',
    'run = runs.begin("nap", globals())',
    "if n == slow and not Path(tried).exists():\n    Path(tried).touch()\n    time.sleep(600)",
    "run.metric('twice', 2 * n, interval=(2 * n - 1, 2 * n + 1), over='draws', n=n)\nrun.finish()",
]


def main() -> None:
    """Run the sweep both ways and compare; a cluster is there already."""
    with tempfile.TemporaryDirectory(prefix="slurm-sweep-") as folder:
        place = Path(folder)
        file, notebooks = project(place)
        clustered = through_slurm(place, file, notebooks)
        if clustered != straight(place, file, notebooks):
            raise SystemExit("the table of the sweep on SLURM differs from the local one")
        print(f"{RUNS} runs: the table is byte-identical to the local one")


def project(place: Path) -> tuple[Path, Path]:
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(CELLS)]
    cells[1].metadata["tags"] = ["parameters"]
    notebooks = place / "notebooks"
    notebooks.mkdir()
    nbformat.write(new_notebook(cells=cells), notebooks / "nap.ipynb")
    (notebooks / "profiles.yaml").write_text("nap: {smoke: {}, paper: {}}\n")
    file = place / "naps.yaml"
    file.write_text(
        f"chapter: nap\nprofile: smoke\nparameters: {{slow: {SLOW}, tried: {place / 'tried'}}}\n"
        f"grid: {{n: {list(range(1, RUNS + 1))}}}\nresources: {{memory: 300, minutes: 30}}\n"
    )
    return file, notebooks


def through_slurm(place: Path, file: Path, notebooks: Path) -> bytes:
    os.environ["SPIKINESS_HOME"] = str(place / "slurm home")
    profile = place / "profile"
    profile.mkdir()
    shipped = (driver.snakefile().parent / "profiles" / "slurm" / "config.yaml").read_text()
    (profile / "config.yaml").write_text(f"{shipped}\nset-resources:\n  - run:runtime=1\n")
    start = time.monotonic()
    words = ["sweep", "run", str(file), "--profile", str(profile), "--notebooks", str(notebooks)]
    done = subprocess.run(
        [sys.executable, "-c", f"from spikiness_book.cli import main; main({words!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr, f"{time.monotonic() - start:.0f} s", flush=True)
    if done.returncode:
        for log in Path(os.environ["SPIKINESS_HOME"]).glob("sweeps/*/driver-*/engine.log"):
            print(log.read_text()[-6000:])
        raise SystemExit(f"the sweep on SLURM ended with status {done.returncode}")
    if not (place / "tried").exists():
        raise SystemExit("no run was slow: nothing was killed by its time limit")
    jobs = Counter(read_json(path)["job"] for path in machine.records().glob("*.json"))
    if len(jobs) != RUNS or "" in jobs:
        raise SystemExit(f"{len(jobs)} SLURM jobs made the {RUNS} runs: {dict(jobs)}")
    print(f"{RUNS} runs by {len(jobs)} jobs of SLURM; run {SLOW} was killed by its time limit and submitted again")
    return written(place, file, notebooks)


def straight(place: Path, file: Path, notebooks: Path) -> bytes:
    os.environ["SPIKINESS_HOME"] = str(place / "home")
    found = driver.drive(sweeps.plan(sweeps.read(file), notebooks), "naps", notebooks=notebooks)
    assert all(run.state == "complete" for run in found)
    return written(place, file, notebooks)


def written(place: Path, file: Path, notebooks: Path) -> bytes:
    tables = sweeps.collect(sweeps.plan(sweeps.read(file), notebooks))
    paths = table.write(tables, place / "tables", "naps")
    return b"".join(path.read_bytes() for path in paths if "costs" not in path.name)


if __name__ == "__main__":
    main()
