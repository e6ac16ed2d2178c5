"""Chapters do not import each other: what they share lies in the zoo, the science, or a small module beside them."""

import ast
from pathlib import Path

import nbformat
import pytest

from spikiness_book import chapters

SOURCE = Path(chapters.__file__).parent
NOTEBOOKS = SOURCE.parents[2] / "notebooks"
PREFIX = "spikiness_book.chapters."


def of_chapters(source):
    """The chapters that some code imports from."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(PREFIX).partition(".")[0] for name in names if name.startswith(PREFIX)}


@pytest.mark.parametrize("folder", sorted(p for p in SOURCE.iterdir() if p.is_dir()), ids=lambda path: path.name)
def test_a_chapter_imports_no_other(folder):
    code = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    book = nbformat.read(NOTEBOOKS / f"{folder.name}.ipynb", as_version=4)
    code += [cell.source for cell in book.cells if cell.cell_type == "code"]
    assert set().union(*map(of_chapters, code)) <= {folder.name}


def test_an_import_of_another_chapter_is_seen():
    assert of_chapters("import spikiness_book.chapters.where.measure") == {"where"}
    assert of_chapters("def f():\n    from spikiness_book.chapters.phase import maps") == {"phase"}
    assert of_chapters("from spikiness_book import zoo") == set()
