"""`spikiness sweep`: plan, run, status, collect, verify, clean."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import locks, store
from spikiness_book.engine.sweeps import driver, grid, planning, progress, table
from spikiness_book.engine.sweeps.planning import Status, Task

MANY = 1000  # runs; more ask for --yes

app = typer.Typer(
    help="A chapter over a grid of parameters: every run made, verified, and put into one table.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The sweep, say workflow/sweeps/first.yaml.")]
Notebooks = Annotated[Path | None, typer.Option(help="Folder of the chapters; the checkout's own by default.")]
Cores = Annotated[int | None, typer.Option(help="How many cores to share out; all by default.", min=1)]
Profile = Annotated[
    str | None, typer.Option(help="Profile of Snakemake in workflow/profiles (slurm), or a folder: where jobs go.")
]


@app.command("plan")
def plan_(file: File, cores: Cores = None, notebooks: Notebooks = None) -> None:
    """Show what a sweep would do: its runs, what is there already, expected time and disk. Nothing is started."""
    sweep, tasks = _read(file, notebooks)
    for status in planning.status(tasks)[:20]:
        echo(f"{status.task.id}  {status.state:11}  {_point(status.task, sweep.varied)}")
    if len(tasks) > 20:
        echo(f"... and {len(tasks) - 20} more")
    echo(planning.summary(tasks, sweep.resources, cores or driver.usable_cores()))


@app.command()
def run(
    file: File,
    cores: Cores = None,
    profile: Profile = None,
    gpus: Annotated[int | None, typer.Option(help="How many GPUs to share out; all by default.", min=0)] = None,
    yes: Annotated[bool, typer.Option("--yes", help=f"Start more than {MANY:,} runs without a question.")] = False,
    notebooks: Notebooks = None,
) -> None:
    """Make the runs that are missing. After Ctrl-C or any crash the same command goes on where it was.

    A run that fails does not stop the others: the summary names each, why, and where its notebook is; the exit status
    is then 1.
    """
    sweep, tasks = _read(file, notebooks)
    cores = cores or driver.usable_cores()
    echo(planning.summary(tasks, sweep.resources, cores), err=True)
    left = sum(not planning.complete(task) for task in tasks)
    if left > MANY and not yes:
        raise SpikinessError(f"{left:,} runs to do: look at the plan above, then add --yes")
    try:
        statuses = driver.drive(
            tasks,
            sweep.name,
            cores,
            resources=sweep.resources,
            gpus=gpus,
            notebooks=notebooks,
            executor=_executor(profile),
        )
    except (KeyboardInterrupt, SystemExit):
        done = sum(planning.complete(task) for task in tasks)
        echo(f"\nstopped: {done} of {len(tasks)} runs are done; the same command goes on from here", err=True)
        raise
    _summary(statuses)
    for path in table.write(table.collect(tasks), planning.place(sweep.name), sweep.name):
        echo(str(path))
    if any(status.state != "complete" for status in statuses):
        raise typer.Exit(1)


@app.command()
def status(file: File, notebooks: Notebooks = None) -> None:
    """Show how the runs of a sweep stand, and why failed ones did."""
    sweep, tasks = _read(file, notebooks)
    statuses = planning.status(tasks)
    for status in statuses:
        if status.state in ("failed", "in progress"):
            echo(f"{status.task.id}  {status.state:11}  {_point(status.task, sweep.varied)}: {status.reason}")
    _counts(statuses)


@app.command()
def collect(
    file: File,
    output: Annotated[Path | None, typer.Option(help="Folder for the tables; the sweep's own by default.")] = None,
    notebooks: Notebooks = None,
) -> None:
    """Write the results as one table, parquet and csv, and the costs (seconds, device, host, versions) as another.

    Runs without a readable result are left out, counted, and make the exit status 1.
    """
    sweep, tasks = _read(file, notebooks)
    tables = table.collect(tasks)
    for path in table.write(tables, output or planning.place(sweep.name), sweep.name):
        echo(str(path))
    echo(f"{len(tables.costs)} of {len(tasks)} runs, {len(tables.results)} rows", err=True)
    _skipped(tables.skipped)


@app.command()
def verify(file: File, notebooks: Notebooks = None) -> None:
    """Check every file of every run against its sha256; the exit status is 1 where one is missing or altered."""
    _, tasks = _read(file, notebooks)
    bad = table.verify(tasks)
    echo(f"{len(tasks) - len(bad)} of {len(tasks)} runs are complete and whole", err=True)
    _skipped(bad)


@app.command()
def clean(
    file: File,
    runs: Annotated[bool, typer.Option("--runs", help="The finished runs too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove finished runs without a question.")] = False,
    notebooks: Notebooks = None,
) -> None:
    """Remove what failed and interrupted runs left, and the sweep's tables; with --runs its finished runs too."""
    sweep, tasks = _read(file, notebooks)
    place = planning.place(sweep.name)
    if any(status.state == "in progress" for status in planning.status(tasks)) or _driven(place):
        raise SpikinessError(f"runs of {sweep.name} are in progress: stop them first")
    finished = [task.folder for task in tasks if task.folder.is_dir()] if runs else []
    if finished and not yes:
        raise SpikinessError(f"this removes {len(finished)} finished runs: add --yes")
    left = [work for task in tasks if (work := store.partial(task.folder)).is_dir()]
    try:
        for folder in [*finished, *left, *([place] if place.is_dir() else [])]:
            shutil.rmtree(folder)
        for task in tasks:
            if task.folder.parent.is_dir():
                locks.unlock(store.lock(task.folder))
    except OSError as error:
        raise SpikinessError(f"cannot remove {error.filename}: {error.strerror or error}") from error
    echo(f"{len(finished) + len(left)} folders of runs removed, and {place}", err=True)


def _driven(place: Path) -> bool:
    """Whether a driver of this sweep may be alive, here or on another machine, between two of its runs too."""
    owners = [locks.holder(path) for path in place.glob("driver-*/driver.lock")]
    return any(who and locks.alive(who) is not False for who in owners)


def _read(file: Path, notebooks: Path | None) -> tuple[grid.Sweep, list[Task]]:
    sweep = grid.read(file)
    return sweep, planning.plan(sweep, notebooks)


def _executor(profile: str | None) -> list[str]:
    if profile is None:
        return []
    named = driver.snakefile().parent / "profiles" / profile
    folder = named if named.is_dir() else Path(profile)
    if not folder.is_dir():
        there = sorted(path.name for path in named.parent.glob("*"))
        raise SpikinessError(
            f"no profile {profile!r}{suggest(profile, there)} (one of {', '.join(there)}, or a folder with a "
            "config.yaml)"
        )
    return ["--profile", str(folder)]


def _point(task: Task, varied: tuple[str, ...]) -> str:
    names = ["seed" if name == grid.SEEDS and name not in task.parameters else name for name in varied]
    return grid.shown({name: task.parameters[name] for name in names if name in task.parameters})


def _summary(statuses: list[Status]) -> None:
    for status in statuses:
        if status.state != "complete":
            echo(f"{progress.named(status.task)}, {status.state}: {status.reason}", err=True)
            if (notebook := store.partial(status.task.folder) / "executed.ipynb").is_file():
                echo(f"  notebook: {notebook}", err=True)
    if any(store.home().glob("networks/*.checkpoint")):
        echo(f"trainings cut short go on from their checkpoints in {store.home() / 'networks'}", err=True)
    _counts(statuses)


def _counts(statuses: list[Status]) -> None:
    counts = Counter(status.state for status in statuses)
    echo(f"{len(statuses)} runs: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))


def _skipped(reasons: dict[str, str]) -> None:
    for run_id, reason in list(reasons.items())[:20]:
        echo(f"{run_id}: {reason}", err=True)
    if reasons:
        echo(f"{len(reasons)} runs are missing or not whole", err=True)
        raise typer.Exit(1)
