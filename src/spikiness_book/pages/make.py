"""Ways to a book: `build` runs what is missing, `site` runs nothing, `publish` refreshes what `site` builds from."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spikiness.errors import CorruptArtifact, RunFailed, SpikinessError
from spikiness_book.engine.runs import notebook as notebooks
from spikiness_book.engine.runs import parameters, store
from spikiness_book.engine.runs.notebook import resolve
from spikiness_book.engine.runs.runner import WALL_LIMIT
from spikiness_book.engine.sweeps import planning as sweeps
from spikiness_book.engine.sweeps.driver import drive, usable_cores
from spikiness_book.engine.sweeps.progress import named
from spikiness_book.pages import scan, stage
from spikiness_book.pages.stage import Chapter

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PROBLEM = re.compile(r"WARNING: |ERROR: |CRITICAL: |SEVERE: |^[\w.]*(?:Error|Exception): .")
BUILT = ".digest"  # inside html/: what the pages were built from


def build(
    profile: str = "demo",
    chapters: Sequence[str] | None = None,
    home: Path | str | None = None,
    root: Path | None = None,
) -> Path:
    """Run the chapters that have no result yet, build the book, and return the path of its first page.

    Args:
        profile: smoke, demo or paper.
        chapters: run these only; the others come from `published/`, or are left out.
        home: where runs and pages are kept, in place of $SPIKINESS_HOME.
        root: the checkout, in place of the one we stand in.

    Raises `RunFailed` with every chapter's reason after all were tried, `SpikinessError` where a result, a number or
    a figure is missing, or a page is not fit to be shown. The previous book stays until the new one is complete.
    """
    root = _root(root)
    with _at(home):
        place = store.home() / store.profile_name(profile)
        made = _run(_to_run(root, profile, chapters), profile, root)
        left = {name: _published(name, root) for name in stage.toc(root) if name not in made}
        found = {name: chapter for name in stage.toc(root) if (chapter := made.get(name) or left[name])}
        return _render(root, place, found, [name for name in left if name not in found])


def _to_run(root: Path, profile: str, chapters: Sequence[str] | None) -> list[str]:
    """The wanted chapters; where none is named, the demo book leaves those out that show their published run."""
    names = stage.choose(root, chapters)
    if chapters or profile != "demo":
        return names
    return [name for name in names if not parameters.demo_is_published(root / "notebooks", name)]


def site(home: Path | str | None = None, root: Path | None = None) -> Path:
    """Build the online book from `published/`, without running anything; pages older than their code say so.

    Raises `SpikinessError` where a chapter has no published run, or one is altered.
    """
    root = _root(root)
    with _at(home):
        found = {name: _published(name, root) for name in stage.toc(root)}
        if missing := [name for name, chapter in found.items() if chapter is None]:
            raise SpikinessError(
                f"no published run of {', '.join(missing)}; `spikiness publish {' '.join(missing)}` makes "
                f"{'it' if len(missing) == 1 else 'them'} (--profile demo for a small one)"
            )
        return _render(root, store.home() / "site", {name: chapter for name, chapter in found.items() if chapter})


TEASER = "teaser.png"  # the front page's figure and the README's: published with the chapter that draws it


def publish(
    chapters: Sequence[str] | None = None,
    home: Path | str | None = None,
    root: Path | None = None,
    profile: str = "paper",
) -> list[Path]:
    """Run chapters at paper scale and copy each verified run into `published/<chapter>/`, all or nothing.

    A smaller `profile` never replaces a paper-scale run. Raises `RunFailed` as `build` does, and `SpikinessError`
    where a notebook gives away a path, a name or a token.
    """
    root = _root(root)
    with _at(home):
        names = stage.choose(root, chapters)
        for name in names:
            if profile != "paper" and (old := _published(name, root)) and old.result.profile == "paper":
                raise SpikinessError(f"published/{name} is a paper-scale run: a {profile} run does not replace it")
        return [_copy(chapter.result, root) for chapter in _run(names, profile, root).values()]


# ---- chapters


def _root(root: Path | None) -> Path:
    return Path(root) if root is not None else notebooks.folder().parent


@contextlib.contextmanager
def _at(home: Path | str | None) -> Iterator[None]:
    """Everything below here finds `home` where it always looks, in the environment."""
    old = os.environ.get("SPIKINESS_HOME")
    if home is not None:
        os.environ["SPIKINESS_HOME"] = str(home)
    try:
        yield
    finally:
        if home is not None:
            os.environ.pop("SPIKINESS_HOME")
            if old is not None:
                os.environ["SPIKINESS_HOME"] = old


def _run(names: Sequence[str], profile: str, root: Path) -> dict[str, Chapter]:
    """Run chapters as one small sweep, side by side where cores allow; the reasons of those that failed come together
    at the end. At paper scale a chapter takes all cores (or OMP_NUM_THREADS), so they come one after another."""
    notebooks = root / "notebooks"
    tasks, failed = [], []
    for name in names:
        try:
            tasks.append(sweeps.task(resolve(name, None, profile, notebooks)))
        except SpikinessError as error:
            failed.append(str(error))
    cores = usable_cores()
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores) if profile == "paper" else 1
    resources = {"cpu": min(threads, cores), "minutes": WALL_LIMIT // 60}
    costs = {name: _costs(name, root) for name in names}
    known = {name: seconds for name, (measured, seconds) in costs.items() if measured == profile}
    expected = sweeps.expected(tasks, {name: seconds for name, (_, seconds) in costs.items()})
    tasks.sort(key=lambda task: -expected.get(task.id, 0))  # the longest first, so that no core waits for it at the end
    statuses = drive(tasks, f"book-{profile}", cores, resources=resources, notebooks=notebooks, expected=known)
    statuses.sort(key=lambda status: names.index(status.task.chapter))
    failed += [f"{named(status.task)}: {status.reason}" for status in statuses if status.state != "complete"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(names)} chapters failed:\n" + "\n".join(failed))
    return {status.task.chapter: Chapter(store.load(status.folder)) for status in statuses}


def _costs(name: str, root: Path) -> tuple[str, float]:
    """The profile of a chapter's published run, and the seconds that it took; "" and 0 where there is none."""
    folder = store.under(root / "published", name)
    with contextlib.suppress(CorruptArtifact, KeyError):
        return store.read_json(folder / "result.json")["profile"], store.read_json(folder / "environment.json")[
            "seconds"
        ]
    return "", 0.0


def _published(name: str, root: Path) -> Chapter | None:
    """The published run of a chapter, every file checked, or None where there is none."""
    folder = store.under(root / "published", name)
    if not folder.is_dir():
        return None
    result = store.load(folder)
    return Chapter(result, published=True, stale=stage.changed(result, root))


def _copy(result: store.Result, root: Path) -> Path:
    """Put one run's files at `published/<chapter>/`, in place of the older ones."""
    if problems := scan.notebook(result.notebook, stored_allowed=True):
        raise SpikinessError("\n".join(f"{result.chapter} cannot be published: {what}" for what in problems))
    target = store.under(root / "published", result.chapter)
    fresh = target.with_name(f".{result.chapter}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name in ("result.json", "environment.json", result.notebook.name, *result.artefacts):
            shutil.copy(result.folder / name, fresh / name)
        store.load(fresh)
        _swap(fresh, target)
        if TEASER in result.artefacts:
            store.write_bytes(root / "book" / "_static" / TEASER, (target / TEASER).read_bytes())
    except OSError as error:
        raise SpikinessError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _say(f"{result.chapter}: published, {result.profile} {result.id}")
    return target


# ---- pages


def _render(root: Path, place: Path, chapters: Mapping[str, Chapter], skipped: Sequence[str] = ()) -> Path:
    """Stage, build, scan, and only then replace the old pages; with nothing changed, only stage."""
    tree, html = place / "stage", place / "html"
    stage.lay(root, tree, chapters, skipped)
    digest = stage.digest(tree)
    if (html / BUILT).is_file() and (html / BUILT).read_text() == digest:
        _say("nothing changed")
    else:
        built = _sphinx(tree, place / "sphinx")
        if problems := scan.html(built):
            raise SpikinessError(f"the pages in {built} must not be shown:\n" + "\n".join(problems))
        (built / BUILT).write_text(digest)
        _swap(built, html)
    _say(f"the book: {html / 'index.html'}")
    return html / "index.html"


def _sphinx(tree: Path, place: Path) -> Path:
    """Run Jupyter Book on the staged tree, warnings as errors; only problems are shown, as paths in the checkout."""
    shutil.rmtree(place, ignore_errors=True)
    _say("building the pages")
    command = [sys.executable, "-P", "-c", "from jupyter_book.cli.main import main; main()", "build", str(tree)]
    command += ["--path-output", str(place)]
    command += ["--config", str(tree / "_config.yml"), "--toc", str(tree / "book" / "_toc.yml")]
    source = str(Path(__file__).parents[2])  # the API page imports the package
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "-W", "-n", "--keep-going", "-q"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = COLOURS.sub("", done.stdout).replace(f"{tree}{os.sep}", "").splitlines()
        problems = [line for line in lines if PROBLEM.search(line)] or lines[-20:]
        raise SpikinessError("the pages were not built:\n" + "\n".join(problems))
    return place / "_build" / "html"


def _swap(fresh: Path, target: Path) -> None:
    """Give a finished folder its name; the older one goes only when the new one is in place."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
