"""The book's commands: run chapters, see what there is, compare a rerun with another, build the book.

`spikiness.command` is the entry point; it hands over to `main` here.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import echo

from spikiness.errors import RunFailed, SpikinessError, suggest
from spikiness_book.engine.runs import compare as comparison
from spikiness_book.engine.runs import locks, notebook, parameters, processes, runner, store
from spikiness_book.engine.sweeps.cli import app as sweeps

app = typer.Typer(
    help="Experiments on when diffusion models memorize and when they generalize.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(sweeps, name="sweep")

Profile = Annotated[str, typer.Option(help="Sizes: smoke (seconds), demo (laptop) or paper (hours).")]
Notebooks = Annotated[Path | None, typer.Option(help="Folder of the chapters; the checkout's own by default.")]


@app.command()
def run(
    chapters: Annotated[list[str], typer.Argument(metavar="CHAPTER", help="Which; `spikiness list` names them.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Replace a parameter; lists as 5,10. Repeatable."),
    ] = None,
    profile: Profile = "demo",
    timeout: Annotated[float | None, typer.Option(help="Stop a chapter after so many seconds.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    notebooks: Notebooks = None,
) -> None:
    """Run chapters, one after another, and show what they measured.

    For example: spikiness run memorization -p n 6 -p sigmas 0.2,1.0
    """
    pairs = [_pair(text) for text in parameter or []]
    values = {}
    for chapter in chapters:  # all input is checked before the first one starts
        values[chapter] = parameters.parse(_declared(chapter, notebooks), pairs, chapter)
        notebook.resolve(chapter, values[chapter], profile, notebooks)
    failed = []
    for chapter in values:
        try:
            result = runner.run(chapter, values[chapter], profile, notebooks=notebooks, timeout=timeout, force=force)
        except RunFailed as error:
            failed.append(str(error))
            continue
        echo(f"\n{_text(result.table())}\n\nnotebook: {result.notebook}")
    for line in failed:
        echo(f"spikiness: {line}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_(notebooks: Notebooks = None) -> None:
    """List the chapters, and the state of their runs in each profile.

    Runs are taken as they were when they were made; `spikiness sweep verify` and whatever uses a run check its files.
    """
    rows, notes, standard = [], [], set()
    for chapter in notebook.chapters(notebooks):
        states = notebook.states(chapter, notebooks)
        rows.append([chapter, *map(_in_a_word, states.values())])
        for profile, state in states.items():
            if isinstance(state, store.State):
                standard.add((profile, state.id))
                notes += [f"{chapter} ({profile}, {state.id}): {state.reason}"] if state.reason else []
            elif not isinstance(state, notebook.DataMissing):  # nobody asked for these data
                notes.append(str(state))
    echo(_columns(["chapter", *store.PROFILES], rows))
    others = [s for s in store.every(verify=False) if (s.folder.parents[2].name, s.id) not in standard]
    if others:
        echo("\nother runs (other parameters, or older code):")
        echo(_columns(["run", "chapter", "state", "reason"], [[s.id, s.folder.parent.name, *s[:2]] for s in others]))
    for note in dict.fromkeys(notes):
        echo(note, err=True)


def _in_a_word(state: store.State | SpikinessError) -> str:
    if isinstance(state, store.State):
        return state.state
    return "no data" if isinstance(state, notebook.DataMissing) else "-"


@app.command()
def show(
    target: Annotated[str, typer.Argument(metavar="CHAPTER|RUN", help="A chapter, the id of a run, or its folder.")],
    notebooks: Notebooks = None,
) -> None:
    """Show a chapter's parameters and runs, or what one run measured."""
    if target not in notebook.chapters(notebooks) and (states := _runs(target)):
        for state in states:
            _show_run(state)
        return
    parameters = notebook.describe(target, notebooks)
    echo(_columns(["name", "type", "default", "help"], [list(row.values()) for row in parameters]))
    for profile in store.PROFILES:
        try:
            state = notebook.find(target, None, profile, notebooks)
        except SpikinessError as error:
            echo(f"\n{profile}: {error}")
            continue
        echo(f"\n{profile}: {state.state}{f' ({state.reason})' if state.reason else ''}, run {state.id}")
        if state.state == "complete":
            result = store.load(state.folder)
            echo(f"{_text(result.table())}\nnotebook: {result.notebook}")


@app.command()
def compare(
    target: Annotated[str, typer.Argument(metavar="A", help="A chapter, the id of a run, or its folder.")],
    reference: Annotated[
        str | None, typer.Argument(metavar="B", help="Likewise; the chapter's published result by default.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Which run of a chapter; as the published one by default.")
    ] = None,
    notebooks: Notebooks = None,
) -> None:
    """Compare a rerun with the published result, or with another run.

    A metric agrees within its tolerance; the exit status is 1 where one does not. Against the published result only a
    run of the same data is compared.
    """
    if reference is None:
        a, b = _rerun_and_published(target, profile, notebooks)
    else:
        a, b = (_result(name, profile or "demo", notebooks) for name in (target, reference))
    if differences := comparison.differences(a, b):
        echo("the parameters differ: " + "; ".join(differences))
    table = comparison.agreement(a, b)
    values = {side: [f"{value:.6g}" for value in table[side].fillna(float("nan"))] for side in ("rerun", "reference")}
    echo(_text(table.assign(agrees=["yes" if agrees else "NO" for agrees in table["agrees"]], **values)))
    echo(f"{int(table['agrees'].sum())} of {len(table)} metrics agree: {a.folder} and {b.folder}")
    if not table["agrees"].all():
        raise typer.Exit(1)


@app.command()
def book(
    chapters: Annotated[list[str] | None, typer.Argument(metavar="[CHAPTER]", help="All by default.")] = None,
    profile: Profile = "demo",
) -> None:
    """Run the chapters that have no result yet, and build the book."""
    from spikiness_book import pages as builder

    builder.build(profile, chapters or None, store.home())


@app.command()
def site() -> None:
    """Build the online book from published/, running nothing."""
    from spikiness_book import pages as builder

    builder.site(store.home())


@app.command()
def publish(
    chapters: Annotated[list[str] | None, typer.Argument(metavar="[CHAPTER]", help="All by default.")] = None,
    profile: Profile = "paper",
) -> None:
    """Put the results of the paper-scale runs into published/."""
    from spikiness_book import pages as builder

    builder.publish(chapters or None, store.home(), profile=profile)


@app.command()
def unlock(
    target: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, as `spikiness list` shows it.")],
) -> None:
    """Remove the lock of a run whose owner is gone but cannot be seen from here, on another machine.

    Nobody needs this on one machine: there, a dead process's lock is taken over at once, and elsewhere after two
    minutes without a heartbeat.
    """
    known = store.PROFILES if re.fullmatch(r"[0-9a-f]{4,16}", target) else ()
    paths = [path for profile in known for path in store.home().glob(f"{profile}/runs/*/{target}*.lock")]
    if not paths:
        raise SpikinessError(f"no lock of a run {target!r} in {store.home()}")
    for path in paths:
        who = locks.holder(path)
        if who and locks.alive(who):
            raise SpikinessError(f"{path.stem} is being run by {locks.name(who)}: stop that process instead")
        locks.unlock(path)
        echo(f"unlocked {path.stem}")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command; bad input is one line on stderr and exit status 2."""
    processes.exit_on_sigterm()
    try:
        app(args=_joined(sys.argv[1:] if argv is None else argv), prog_name="spikiness")
    except SpikinessError as error:
        echo(f"spikiness: {error}", err=True)
        sys.exit(2)
    sys.exit(0)


def _joined(argv: Sequence[str]) -> list[str]:
    """`-p NAME VALUE` as `-p NAME=VALUE`: typer has no repeatable options of two values."""
    words, joined = list(argv), []
    while words:
        word = words.pop(0)
        joined.append(word)
        if (
            word in ("-p", "--parameter")
            and len(words) > 1
            and not (re.match(r"\w+=", words[0]) or words[1][:2] == "--")
        ):
            joined.append(f"{words.pop(0)}={words.pop(0)}")
    return joined


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SpikinessError(f"-p {text}: write -p NAME VALUE")
    return name, value


def _declared(chapter: str, notebooks: Path | None) -> list[parameters.Parameter]:
    return parameters.read(notebook.read(chapter, notebooks), chapter)


def _runs(target: str) -> list[store.State]:
    """The runs whose id starts with `target`."""
    if not re.fullmatch(r"[0-9a-f]{4,16}", target):
        return []
    return list(store.every(start=target))


def _show_run(state: store.State) -> None:
    echo(f"{state.folder.parent.name}, run {state.id}: {state.state}{f' ({state.reason})' if state.reason else ''}")
    if state.state == "complete":
        result = store.load(state.folder)
        for name, value in result.parameters.items():
            echo(f"  {name} = {value!r}")
        echo(f"\n{_text(result.table())}\n")
    echo(f"notebook: {state.folder / 'executed.ipynb'}")


def _result(target: str, profile: str, notebooks: Path | None) -> store.Result:
    """The verified result that `target` names: a folder, the id of a run, or a chapter (its run, or that by hand)."""
    if (Path(target) / "result.json").is_file():
        return store.load(Path(target))
    known = notebook.chapters(notebooks)
    if target not in known:
        complete = [s for s in _runs(target) if s.state == "complete"]
        if len(complete) != 1:
            raise SpikinessError(
                f"{target!r} names {len(complete) or 'no'} complete runs{suggest(target, known)}: "
                "give a chapter, the id of a run (spikiness list), or its folder"
            )
        return store.load(complete[0].folder, complete[0].id)
    state = notebook.find(target, None, profile, notebooks)
    if state.state == "complete":
        return store.load(state.folder, state.id)
    if by_hand := _by_hand(target):
        return store.load(by_hand)
    raise RunFailed(f"{target} has no result ({profile}: {state.state}): spikiness run {target} --profile {profile}")


DATA = ("data", "larger", "kinds")  # the parameters that name data sets


def _rerun_and_published(target: str, profile: str | None, notebooks: Path | None) -> tuple[store.Result, store.Result]:
    """The run that `target` names and its chapter's published one.

    Raises `SpikinessError`, with what to run, where the first is not there or learned from other data.
    """
    if target not in notebook.chapters(notebooks):
        rerun = _result(target, "demo", notebooks)
        published = _published(rerun.chapter)
    else:
        published = _published(target)
        profile = profile or published.profile
        state = notebook.find(target, None, profile, notebooks)
        if state.state != "complete" and not _by_hand(target) and profile == published.profile:
            raise RunFailed(f"{target} is {state.state} in the {profile} profile. {_how_to_rerun(published)}")
        rerun = _result(target, profile, notebooks)
    if _data(rerun) != _data(published):
        learned = f"this run learned from {_data(rerun)}, the published one from {_data(published)}"
        raise SpikinessError(f"{rerun.chapter}: {learned}. {_how_to_rerun(published)}")
    return rerun, published


def _data(result: store.Result) -> str:
    """The data sets that a run learned from, in words."""
    named = [result.parameters[name] for name in DATA if result.parameters.get(name)]
    return " and ".join(", ".join(value) if isinstance(value, list) else str(value) for value in named) or "no data"


def _how_to_rerun(published: store.Result) -> str:
    """One sentence: the command that repeats a published run, and how long that took."""
    taken = published.environment
    seconds, training = taken["seconds"], taken.get("training_seconds", 0)
    threads = "one thread" if taken["threads"] == 1 else f"{taken['threads']} threads"
    networks = f", with networks that had taken {_duration(training)} to train" if training > seconds else ""
    return (
        f"spikiness run {published.chapter} --profile {published.profile} repeats the published run, "
        f"which took {_duration(seconds)} ({taken['device']}, {threads}){networks}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _by_hand(chapter: str) -> Path | None:
    """The folder of a chapter's last finished run by hand, in Jupyter or with papermill."""
    folder = store.under(store.home(), "by-hand", chapter)
    return folder if (folder / "result.json").is_file() else None


def _published(chapter: str) -> store.Result:
    folder = (store.checkout() or store.checkout(Path(__file__).parent) or Path.cwd()) / "published" / chapter
    if not folder.is_dir():
        raise SpikinessError(f"{chapter} is not published ({folder}): name the other run, spikiness compare A B")
    return store.load(folder)


def _text(table: Any) -> str:
    """A DataFrame for a terminal."""
    return _columns(list(table.columns), [list(row) for row in table.itertuples(index=False)])


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table for a terminal: every word of it, left-aligned."""
    if not rows:
        return "nothing recorded"
    lines = [names, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
