"""Chapters teach: each visible cell is one step, recording is out of sight, and a reader can redo the main finding."""

import ast
import contextlib
import io
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUT_OF_SIGHT = {"remove-input", "remove-cell", "hide-cell"}
DO_IT_YOURSELF = "do-it-yourself"
LINES, STEP = 1900, 15  # that runs of all notebooks execute; of a cell that a reader sees


def cells(path: Path) -> list:
    """The code cells of a chapter, without that of its parameters."""
    notebook = nbformat.read(path, as_version=4)
    return [c for c in notebook.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def by_hand(path: Path) -> str:
    (cell,) = (cell for cell in cells(path) if DO_IT_YOURSELF in tags(cell))
    return cell.source


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_visible_cell_is_one_step_and_records_nothing(path):
    seen = [cell for cell in cells(path) if not OUT_OF_SIGHT & tags(cell)]
    assert {cell.source: lines(cell) for cell in seen if lines(cell) > STEP} == {}
    assert [cell.source for cell in seen if "run.metric(" in cell.source] == []
    tree = [ast.parse(cell.source) for cell in cells(path)]
    assert [
        node.name for part in tree for node in ast.walk(part) if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ] == []


def test_all_notebooks_together_are_short():
    executed = [cell for path in CHAPTERS for cell in cells(path) if DO_IT_YOURSELF not in tags(cell)]
    assert sum(map(lines, executed)) <= LINES


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_cell_to_do_it_yourself_runs_from_the_public_package_alone(path):
    source = by_hand(path)
    assert 5 <= sum(bool(line.strip()) for line in source.splitlines()) <= STEP
    modules = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in modules} <= {"spikiness", "torch", "numpy", "pandas", "functools"}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, path.name, "exec"), {})
    assert said.getvalue().strip()
