"""Digests of code: what a run or a training depends on, blind to comments, docstrings and layout.

What counts is found name by name: a chapter that calls `figures.gains` depends on that function, on what it refers to
in the package, and so on. A change of another function of the same module reruns nothing.
"""

import ast
import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError
from spikiness.runs.store import sha256

PACKAGE = "spikiness"
# These decide whether a result or a network exists, never what it says: a new progress line must not make a
# paper-scale result stale. What they write is versioned by their formats instead.
IGNORED = (f"{PACKAGE}.runs", f"{PACKAGE}.cache")
WHOLE = "*"  # every name of a module

Reference = tuple[str, str]  # a module of the package, and a name at its top or WHOLE


# ---- what a digest is of


def code_digest(references: Iterable[Reference]) -> str:
    """The sha256 of the code of all that `references` name, and of all that it refers to in the package."""
    return _digest([[module, name, _module(module).codes(name)] for module, name in reach(references)])


def function_digest(module: str, name: str) -> str:
    """The same for one function of the package."""
    return code_digest([(module, name)])


def file_digest(path: Path) -> str:
    """The same for one file outside the package, which counts whole."""
    module = _parse(path)
    found = {known for target in module.imports.values() for known in _asked(*target)}
    found |= {known for part in module.parts for known in _references(part, module.imports)}
    return _digest([[part.code for part in module.parts], code_digest(found)])


def reach(references: Iterable[Reference]) -> list[Reference]:
    """`references` and what they refer to in the package, directly or not, sorted; see `Module` for what counts."""
    found: set[Reference] = set()
    waiting = [known for name in references for known in _asked(*name)]
    while waiting:
        module, name = waiting.pop()
        if (module, name) in found or _ignored(module):
            continue
        found.add((module, name))
        read = _module(module)
        waiting.append((module, ""))  # what the module does when it is imported
        if name == WHOLE:
            waiting += [known for target in read.imports.values() for known in _asked(*target)]
        waiting += [known for part in read.named(name) for known in _references(part, read.imports, module)]
    return sorted(found)


def modules(references: Iterable[Reference]) -> list[str]:
    """The modules of the package that `references` reach."""
    return sorted({module for module, _ in reach(references)})


def _ignored(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in IGNORED)


# ---- one module


@dataclass
class Part:
    """A statement at the top of a module: the names it binds, its code, and the names it mentions."""

    binds: frozenset[str]
    code: str
    mentions: frozenset[tuple[str, ...]]  # a name and the attributes asked of it: ("np", "linalg", "norm")
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # those inside the statement


@dataclass
class Module:
    """What a file defines. Functions, classes and assignments are parts of their own; statements that bind no name,
    or bind names under a condition, run with the import and count with every name (the part named "")."""

    parts: list[Part]
    imports: dict[str, tuple[str, str]]  # name here -> (module, name there, or "" for the module itself)

    def named(self, name: str) -> list[Part]:
        if name == WHOLE:
            return self.parts
        return [part for part in self.parts if (name in part.binds if name else not part.binds)]

    def codes(self, name: str) -> list[str]:
        return [part.code for part in self.named(name)]


def _module(name: str) -> Module:
    return _parse(_module_file(name), name if _module_file(name).name == "__init__.py" else name.rpartition(".")[0])


def _parse(path: Path, package: str = PACKAGE) -> Module:
    try:
        return _parsed(path.read_bytes(), package)
    except (OSError, SyntaxError) as error:
        raise SpikinessError(f"cannot read the code of {path}: {error}") from error


@functools.lru_cache(1024)  # by content, so that an edit is seen; parsing takes most of the time
def _parsed(source: bytes, package: str) -> Module:
    tree = ast.parse(source)
    module = Module([], {})
    for node in _documented(tree, tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            own = _bindings(node, package)
            inside = {name: target for name, target in own.items() if _inside(target[0])}
            module.imports |= inside
            outside = [(name, target) for name, target in own.items() if name not in inside]
            module.parts += [Part(frozenset([name]), _digest(target), frozenset()) for name, target in outside]
        elif _binds(node) != {"__all__"}:
            part = _part(node, package)
            module.parts.append(part)
            if not part.binds:  # `if` and `try` around imports
                module.imports |= part.imports
    return module


def _part(node: ast.stmt, package: str) -> Part:
    inner: dict[str, tuple[str, str]] = {}
    for found in ast.walk(node):
        if isinstance(found, ast.Import | ast.ImportFrom):
            inner |= _bindings(found, package)
    return Part(frozenset(_binds(node)), _digest(_skeleton(node)), frozenset(_mentions(node)), inner)


def _binds(node: ast.stmt) -> set[str]:
    """The names that a statement defines, whatever happens; one that also does something else binds none."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else targets
    names = [t.elts if isinstance(t, ast.Tuple | ast.List) else [t] for t in targets]
    flat = [t for group in names for t in group]
    return {t.id for t in flat if isinstance(t, ast.Name)} if all(isinstance(t, ast.Name) for t in flat) else set()


def _mentions(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Names with the attributes asked of them: `a.b.c` is one mention, not three."""
    if isinstance(node, ast.Attribute):
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *reversed(chain))
            return
    if isinstance(node, ast.Name):
        yield (node.id,)
    for child in ast.iter_child_nodes(node):
        yield from _mentions(child)


# ---- from names to modules


def _references(part: Part, imports: dict[str, tuple[str, str]], module: str = "") -> set[Reference]:
    """What a part refers to in the package: by imported names, and in its own module."""
    known = {**imports, **part.imports}
    found: set[Reference] = set()
    for first, *rest in part.mentions:
        if first in known:
            found.update(_asked(*known[first], rest))
        elif module and _module(module).named(first):
            found.add((module, first))
    return found


def _asked(module: str, name: str, attributes: Sequence[str] = ()) -> list[Reference]:
    """Where `module.name.attributes` is defined ("" for the module itself), followed through modules that have it
    from elsewhere; nothing outside the package. A name that cannot be seen may be anything: the whole module."""
    if not _inside(module):
        return []
    if _ignored(module) or name == WHOLE:
        return [(module, name)]
    read = _module(module)
    if name and name in read.imports and read.imports[name] != (module, name):
        return _asked(*read.imports[name], attributes)
    if name and read.named(name):
        return [(module, name)]
    inner = f"{module}.{name}" if name else module
    if not _is_module(inner):
        return [(module, WHOLE)]
    return _asked(inner, attributes[0], attributes[1:]) if attributes else [(inner, WHOLE)]


def _inside(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _is_module(name: str) -> bool:
    return _inside(name) and _module_file(name).is_file()


def _module_file(name: str) -> Path:
    root = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
    return root / "__init__.py" if (root / "__init__.py").is_file() else root.with_name(f"{root.name}.py")


def _bindings(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, tuple[str, str]]:
    """The names that an import binds, and what each is."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.partition(".")[0]: (a.name if a.asname else a.name.partition(".")[0], "")
                for a in node.names}  # fmt: skip
    base = node.module or ""
    if node.level:
        base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])])
    return {a.asname or a.name: (base, a.name) for a in node.names}


# ---- chapters


def notebook_code(notebook: Any) -> tuple[str, set[Reference]]:
    """The digest of a chapter's code, and what it refers to in the package.

    Prose does not count: it cannot change a number, and the page takes it from the current notebook. The parameters
    cell does not count either: its values are part of a run's id themselves, and a default that a profile replaces
    must not make that profile's result stale.
    """
    cells = [
        c.source for c in notebook.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])
    ]
    parsed = [_cell(source) for source in cells]
    statements = [node for tree in parsed if not isinstance(tree, str) for node in tree.body]
    imports: dict[str, tuple[str, str]] = {}
    for node in statements:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _bindings(node, PACKAGE)
    found: set[Reference] = set()
    for node in statements:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            found |= _references(_part(node, PACKAGE), imports)
    return _digest([tree if isinstance(tree, str) else _skeleton(tree) for tree in parsed]), found


def imported_names(notebook: Any) -> set[str]:
    """The names that a chapter's imports bind: a parameter may not take one of them away."""
    names = set()
    for cell in notebook.cells:
        tree = _cell(cell.source) if cell.cell_type == "code" else ""
        for node in [] if isinstance(tree, str) else ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= set(_bindings(node, PACKAGE))
    return names


def _cell(source: str) -> ast.Module | str:
    with contextlib.suppress(SyntaxError):
        return ast.parse(source)
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]  # IPython's own
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:  # a cell magic's body: count every letter of it
        return source


# ---- syntax trees


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
