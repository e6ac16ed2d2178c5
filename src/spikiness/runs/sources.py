"""Digests of code: what a run or a training depends on, blind to comments, docstrings and layout."""

import ast
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError
from spikiness.runs.store import sha256

PACKAGE = "spikiness"
# The runner decides whether a result exists, never what it says: a new progress line must not make a paper-scale
# result stale. What it writes is versioned by store.FORMAT instead.
IGNORED = f"{PACKAGE}.runs"


def modules_digest(names: Iterable[str]) -> str:
    """The sha256 of the code of the package's modules `names` and of all they import, directly or not."""
    return _digest([[name, _read(_module_file(name))[0]] for name in closure(names)])


def file_digest(path: Path) -> str:
    """The same for one file outside the package, together with the modules of the package that it imports."""
    code, names = _read(path)
    return _digest([code, modules_digest(names)])


def closure(names: Iterable[str]) -> list[str]:
    """`names` and the modules of the package they import, directly or not (imports inside functions count), sorted."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name == IGNORED or name.startswith(IGNORED + "."):
            continue
        found.add(name)
        path = _module_file(name)
        waiting += _read(path, name if path.name == "__init__.py" else name.rpartition(".")[0])[1]
    return sorted(found)


def _read(path: Path, package: str = PACKAGE) -> tuple[str, frozenset[str]]:
    """The digest of one file's code, and the modules of the package it imports."""
    try:
        code, imports = _analysed(path.read_bytes(), package)
    except (OSError, SyntaxError) as error:
        raise SpikinessError(f"cannot read the code of {path}: {error}") from error
    return code, frozenset(name for name in imports if _module_file(name).is_file())


@functools.lru_cache(1024)  # by content, so that an edit is seen; parsing takes most of the time
def _analysed(source: bytes, package: str) -> tuple[str, frozenset[str]]:
    tree = ast.parse(source)
    return _digest(_skeleton(tree)), frozenset(_imports(tree, package))


def notebook_code(notebook: Any) -> tuple[str, set[str]]:
    """The digest of a chapter's code, and the modules of the package it imports.

    Prose does not count: it cannot change a number, and the page takes it from the current notebook. The parameters
    cell does not count either: its values are part of a run's id themselves, and a default that a profile replaces
    must not make that profile's result stale.
    """
    cells = [
        c.source for c in notebook.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])
    ]
    parsed = [_cell(source) for source in cells]
    names = set().union(*(_imports(tree, PACKAGE) for tree in parsed if not isinstance(tree, str)))
    names = {name for name in names if _module_file(name).is_file()}
    return _digest([tree if isinstance(tree, str) else _skeleton(tree) for tree in parsed]), names


def imported_names(notebook: Any) -> set[str]:
    """The names that a chapter's imports bind: a parameter may not take one of them away."""
    names = set()
    for cell in notebook.cells:
        tree = _cell(cell.source) if cell.cell_type == "code" else ""
        for node in [] if isinstance(tree, str) else ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names


def _cell(source: str) -> ast.Module | str:
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]  # IPython's own
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:  # a cell magic's body: count every letter of it
        return source


def _module_file(name: str) -> Path:
    root = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
    return root / "__init__.py" if root.is_dir() else root.with_suffix(".py")


def _imports(tree: ast.AST, package: str) -> set[str]:
    """What the imports anywhere in `tree` name in the package, modules or not; `package` resolves relative ones."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == PACKAGE or name.startswith(PACKAGE + ".")}


def _skeleton(node: Any) -> Any:
    """A syntax tree as lists, the same on every Python version: no positions, no empty fields, no docstrings."""
    if isinstance(node, ast.AST):
        fields = [
            [name, _skeleton(_documented(node, value) if name == "body" else value)]
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment") and not (value is None or value == [])
        ]
        return [type(node).__name__, *fields]
    return [_skeleton(item) for item in node] if isinstance(node, list) else repr(node)


def _documented(node: ast.AST, body: Any) -> Any:
    """A body without its docstring; a module's also without its version, which says nothing about the code."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            body = body[1:]
    return [item for item in body if not _is_version(item)] if isinstance(node, ast.Module) else body


def _is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__version__"]


def _digest(content: Any) -> str:
    return sha256(json.dumps(content).encode())
