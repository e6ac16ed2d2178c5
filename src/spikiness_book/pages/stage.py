"""The tree that Sphinx builds: prose with its numbers filled in, executed notebooks in place of their templates."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine import runs
from spikiness_book.engine.runs import notebook as notebooks
from spikiness_book.engine.runs.store import Result
from spikiness_book.pages import blocks as pages
from spikiness_book.pages import claims, numbers, scan

HIDDEN = {"parameters", "injected-parameters", "hide-input", "hide-cell", "remove-input", "remove-cell"}


class Chapter(NamedTuple):
    """One chapter's page: its verified result, whether that is a published one, and what changed since it was made."""

    result: Result
    published: bool = False
    stale: tuple[str, ...] = ()


def toc(root: Path) -> list[str]:
    """The chapters of the book in reading order, from `book/_toc.yml`."""
    content = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in content["parts"] for entry in part["chapters"]]
    return [Path(file).name for file in files if file.startswith("notebooks/")]


def choose(root: Path, wanted: Sequence[str] | None) -> list[str]:
    """The wanted chapters in reading order (all, where none is named); `SpikinessError` for one that the book lacks."""
    names = toc(root)
    for name in wanted or ():
        if name not in names:
            raise SpikinessError(f"the book has no chapter {name!r}{suggest(name, names)} (it has {', '.join(names)})")
    return [name for name in names if not wanted or name in wanted]


def changed(result: Result, root: Path) -> tuple[str, ...]:
    """What changed since a run was made: nothing, or the chapter's code, the package's, the parameters.

    Data and torch's version are left out: neither needs to be there to build pages.
    """
    source = notebooks.Source(result.chapter, result.profile, root / "notebooks")
    found = {
        "the code of the chapter": source.code["source"] != result.inputs["source"],
        "the code of the package that it uses": source.code["modules"] != result.inputs["modules"],
        "its parameters": source.values != result.parameters,
    }
    return tuple(what for what, differs in found.items() if differs)


def lay(root: Path, stage: Path, chapters: Mapping[str, Chapter], skipped: Sequence[str] = ()) -> None:
    """Write the tree under `stage`, anew; every missing result, number or bad output is in one `SpikinessError`."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    shutil.copy(root / "_config.yml", stage)
    shutil.copytree(root / "book", stage / "book", ignore=shutil.ignore_patterns("*.md", "claims.yaml"))
    results = {name: chapter.result for name, chapter in chapters.items()}
    problems: list[str] = []
    try:
        verdicts = claims.evaluate(claims.read(root / "book" / "claims.yaml"), results, skipped)
    except SpikinessError as error:
        raise SpikinessError(f"the scorecard cannot be made:\n{error}") from None
    blocks = pages.blocks(verdicts, results)
    for page in sorted((root / "book").glob("*.md")):
        problems += _put(stage / "book" / page.name, _prose, page, results, blocks, skipped)
    for name in toc(root):
        if name in chapters:
            problems += _put(stage / "notebooks" / f"{name}.ipynb", _chapter, root, chapters[name])
        else:
            problems += _put(stage / "notebooks" / f"{name}.md", _stub, root, name)
    if problems:
        raise SpikinessError("the book cannot be built:\n" + "\n".join(problems))


def _put(path: Path, make: Any, *arguments: Any) -> list[str]:
    """Write what `make` gives; its error, where there is one, as a list to add to the others."""
    try:
        text = make(*arguments)
    except SpikinessError as error:
        return str(error).splitlines()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return []


def _prose(page: Path, results: Mapping[str, Result], blocks: Mapping[str, str], skipped: Sequence[str]) -> str:
    return numbers.substitute(page.read_text(encoding="utf-8"), f"book/{page.name}", results, blocks, skipped)


def _stub(root: Path, name: str) -> str:
    title = _title(notebooks.read(name, root / "notebooks"), name)
    return f"# {title}\n\nThis chapter was left out of this book. `make book CHAPTERS={name}` runs it.\n"


def _title(notebook: Any, name: str) -> str:
    found = re.match(r"#\s+(.+)", notebook.cells[0].source) if notebook.cells else None
    if not found or notebook.cells[0].cell_type != "markdown":
        raise SpikinessError(f"notebooks/{name}.ipynb: the first cell must be Markdown and start with '# Title'")
    return found[1].strip()


def _chapter(root: Path, chapter: Chapter) -> str:
    """The notebook of one page: today's prose where the code is that of the run, the run's own otherwise."""
    name, executed = chapter.result.chapter, nbformat.read(chapter.result.notebook, as_version=4)
    page = executed
    if "the code of the chapter" not in chapter.stale:
        page = runs.page(notebooks.read(name, root / "notebooks"), executed)
    if problems := scan.outputs(page):
        raise SpikinessError("\n".join(f"notebooks/{name}.ipynb: {what}" for what in problems))
    _title(page, name)
    heading, _, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = "\n\n".join([heading, pages.information(chapter), *pages.warnings(chapter), rest.strip()])
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not HIDDEN & set(tags) and not notebooks.aside(cell):
            cell.metadata["tags"] = [*tags, "hide-input"]
    return nbformat.writes(page)


def digest(stage: Path) -> str:
    """One hash of everything that decides how the pages look: the tree, the package (its API page) and the tools."""
    seen = hashlib.sha256()
    packages = Path(__file__).parents[2]  # of the science and of the book
    for folder, pattern in ((stage, "*"), (packages, "spikiness*/**/*")):
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and path.suffix != ".pyc":
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                seen.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    for tool in ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "sphinx-proof"):
        seen.update(f"{tool} {metadata.version(tool)}\n".encode())
    return seen.hexdigest()
