"""Digests of code: what a run or a training depends on, blind to comments, docstrings, layout, and to where it lies.

What counts is found name by name: a chapter that calls `plots.gains` depends on that function, on what it refers to in
our packages, and so on. In a digest a reference is replaced by the digest of what it refers to, so that a function
moved to another module, or called otherwise, makes no result stale and retrains nothing; a change of what it does, or
of anything it uses, does. Functions that refer to each other in a circle are one group.
"""

import ast
import contextlib
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError
from spikiness_book.engine.runs.store import sha256
from spikiness_book.engine.runs.syntax import (
    Mention,
    Skeleton,
    Surroundings,
    Target,
    bindings,
    binds,
    documented,
    skeleton,
)

PACKAGES = ("spikiness", "spikiness_book")
ROOT = Path(__file__).parents[3]  # the folder that holds both
# The engine decides whether a result or a network exists, never what it says: a new progress line must not make a
# paper-scale result stale. What it writes is versioned by its formats instead, and what chapters use of it counts by
# name only: `begin`, `cached`, `sampled`.
IGNORED = "spikiness_book.engine"
WHOLE = "*"  # every name of a module
IMPORT = ""  # what a module does when it is imported, beside defining names

Reference = tuple[str, str]  # a module of ours, and a name at its top, or WHOLE, or IMPORT


# ---- what a digest is of


def code_digest(references: Iterable[Reference]) -> str:
    """The sha256 of the code of all that `references` name, in their order, and of all that it refers to in turn."""
    graph = _graph()
    return _digest([graph.digest(found) for reference in references for found in [graph.resolve(*reference)[0]]])


def function_digest(module: str, name: str) -> str:
    """The same for one function of ours."""
    return code_digest([(module, name)])


def file_digest(path: Path) -> str:
    """The same for one file outside our packages, which counts whole."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError) as error:
        raise SpikinessError(f"cannot read the code of {path}: {error}") from error
    code, references = _outside([documented(tree, tree.body)])
    return _digest([code, code_digest(references)])


def reach(references: Iterable[Reference]) -> list[Reference]:
    """What `references` depend on in our packages, directly or not, sorted, themselves included."""
    graph = _graph()
    waiting = [graph.resolve(*reference)[0] for reference in references]
    reached: set[Reference] = set()
    while waiting:
        reference = waiting.pop()
        if reference not in reached and not _ignored(reference[0]):
            reached.add(reference)
            waiting += graph.references(reference)
    return sorted(reached)


def modules(references: Iterable[Reference]) -> list[str]:
    """The modules of ours that `references` depend on."""
    return sorted({module for module, _ in reach(references)})


def _ignored(module: str) -> bool:
    return module == IGNORED or module.startswith(f"{IGNORED}.")


# ---- one module


@dataclass(frozen=True)
class Part:
    """A statement at the top of a module: the names it binds, and its code."""

    binds: tuple[str, ...]
    skeleton: Skeleton


@dataclass(frozen=True)
class Module:
    """What a file defines. Functions, classes and assignments are parts of their own; statements that bind no name,
    or bind names under a condition, run with the import and count with every name of the module."""

    name: str
    parts: tuple[Part, ...]
    imports: dict[str, Target]  # of our packages: name here -> (module, name there, or "" for the module itself)

    def named(self, name: str) -> list[Part]:
        return [part for part in self.parts if (name in part.binds if name else not part.binds)]

    def names(self) -> list[str]:
        return sorted({name for part in self.parts for name in part.binds})


def _parse(path: Path, package: str, name: str) -> Module:
    try:
        return _parsed(path.read_bytes(), package, name)
    except (OSError, SyntaxError) as error:
        raise SpikinessError(f"cannot read the code of {path}: {error}") from error


@functools.lru_cache(1024)  # by content, so that an edit is seen
def _parsed(source: bytes, package: str, name: str) -> Module:
    tree = ast.parse(source)
    body = documented(tree, tree.body)
    imports: dict[str, Target] = {}
    for node in body:
        conditional = [] if isinstance(node, ast.Import | ast.ImportFrom) or binds(node) else ast.walk(node)
        for inner in [node, *conditional]:  # `if` and `try` around imports
            if isinstance(inner, ast.Import | ast.ImportFrom):
                imports |= bindings(inner, package)
    statements = [
        node for node in body if not isinstance(node, ast.Import | ast.ImportFrom) and binds(node) != ["__all__"]
    ]
    own = frozenset(bound for node in statements for bound in binds(node))
    around = Surroundings(package, _inside, imports, own)
    parts = tuple(Part(tuple(binds(node)), skeleton(node, around)) for node in statements)
    return Module(name, parts, {known: target for known, target in imports.items() if _inside(target)})


def _inside(target: Target) -> bool:
    return target[0].partition(".")[0] in PACKAGES


# ---- all modules


class Graph:
    """Our packages as they stand on disk: which name refers to which, and the digest of each."""

    def __init__(self) -> None:
        self._modules: dict[str, Module] = {}
        self._digests: dict[Reference, str] = {}

    def module(self, name: str) -> Module:
        if name not in self._modules:
            file = _module_file(name)
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            self._modules[name] = _parse(file, package, name)
        return self._modules[name]

    def resolve(self, module: str, name: str, attributes: Sequence[str] = ()) -> tuple[Reference, list[str]]:
        """Where `module.name.attributes` is defined, followed through modules that have it from elsewhere, and the
        attributes left. A name that cannot be seen may be anything: the whole module."""
        if name == WHOLE:
            return (module, WHOLE), []
        if not name:
            return self.resolve(module, *attributes[:1], attributes[1:]) if attributes else ((module, WHOLE), [])
        read = self.module(module)
        if name in read.imports and read.imports[name] != (module, name):
            return self.resolve(*read.imports[name], attributes)
        if read.named(name):
            return (module, name), list(attributes)
        if _is_module(f"{module}.{name}"):
            return self.resolve(f"{module}.{name}", "", attributes)
        return (module, WHOLE), []

    def follow(self, mention: Mention, target: Target | None, module: Module) -> tuple[Reference, list[str]]:
        """What a mention in `module` refers to."""
        if target is None:
            target = (module.name, mention[0]) if module.named(mention[0]) else module.imports.get(mention[0])
        return self.resolve(*(target or (module.name, mention[0])), mention[1:])

    def references(self, reference: Reference) -> list[Reference]:
        """What a name of ours refers to directly."""
        module, name = self.module(reference[0]), reference[1]
        if name == WHOLE:
            found = [(module.name, other) for other in module.names()]
            found += [self.resolve(*target)[0] for _, target in sorted(module.imports.items())]
        else:
            found = [
                self.follow(*mention, module)[0]
                for part in module.named(name)
                for mention in part.skeleton.mentions.items()
            ]
        return [*found, *([(module.name, IMPORT)] if name and module.named(IMPORT) else [])]

    def content(self, code: Skeleton, module: Module, label: Any = None) -> list[Any]:
        """A statement with the digest of each thing that it refers to."""
        label = label or self.digest
        followed = [self.follow(*mention, module) for mention in code.mentions.items()]
        return [code.tree, [[label(reference), attributes] for reference, attributes in followed]]

    def digest(self, reference: Reference) -> str:
        """The digest of what a name of ours does, and all it refers to; ignored code counts by name."""
        if _ignored(reference[0]):
            return f"engine: {reference[1]}"
        if reference not in self._digests:
            for group in self._groups(reference):
                self._seal(group)
        return self._digests[reference]

    def _seal(self, group: list[Reference]) -> None:
        """Digest a group of names that refer to each other: what tells them apart is found by looking again, as often
        as there are members, at who refers to whom."""
        labels = dict.fromkeys(group, "in a circle")
        for _ in range(len(group) + 1 if self._circular(group) else 1):
            label = functools.partial(self._seen_from, labels)
            labels = {member: self._label(member, label) for member in group}
        self._digests |= labels

    def _seen_from(self, labels: dict[Reference, str], other: Reference) -> str:
        return labels[other] if other in labels else self.digest(other)

    def _circular(self, group: list[Reference]) -> bool:
        return len(group) > 1 or group[0] in self.references(group[0])

    def _label(self, reference: Reference, label: Any) -> str:
        module, name = self.module(reference[0]), reference[1]
        effects = [label((module.name, IMPORT))] if name and module.named(IMPORT) else []
        if name == WHOLE:
            named = [[other, label((module.name, other))] for other in module.names()]
            named += [[known, label(self.resolve(*target)[0])] for known, target in sorted(module.imports.items())]
            return _digest([named, effects])
        parts = [[self._index(part, name), self.content(part.skeleton, module, label)] for part in module.named(name)]
        return _digest([parts, effects])

    def _index(self, part: Part, name: str) -> int:
        return part.binds.index(name) if name else 0

    def _groups(self, start: Reference) -> list[list[Reference]]:
        """What `start` depends on, as groups of names that refer to each other, those first that refer to no later
        one (Tarjan's strongly connected components)."""
        order: dict[Reference, int] = {}
        low: dict[Reference, int] = {}
        open_: list[Reference] = []
        groups: list[list[Reference]] = []

        def visit(reference: Reference) -> None:
            order[reference] = low[reference] = len(order)
            open_.append(reference)
            for other in self.references(reference):
                if _ignored(other[0]) or other in self._digests:
                    continue
                if other not in order:
                    visit(other)
                    low[reference] = min(low[reference], low[other])
                elif other in open_:
                    low[reference] = min(low[reference], order[other])
            if low[reference] == order[reference]:
                at = open_.index(reference)
                groups.append(sorted(open_[at:]))
                del open_[at:]

        visit(start)
        return groups


Files = tuple[tuple[Path, bytes], ...]


def _files() -> Files:
    """Every module of our packages, and its content."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple((path, path.read_bytes()) for path in paths)


def _graph() -> Graph:
    return _graph_of(_files())


@functools.lru_cache(2)  # by content, so that an edit is seen
def _graph_of(files: Files) -> Graph:
    return Graph()


def content_digest() -> str:
    """The sha256 of every letter of our packages: where it is equal, so are all digests of code."""
    return _digest([[path.relative_to(ROOT).as_posix(), sha256(content)] for path, content in _files()])


def _is_module(name: str) -> bool:
    return _inside((name, "")) and _module_file(name).is_file()


def _module_file(name: str) -> Path:
    root = ROOT.joinpath(*name.split("."))
    return root / "__init__.py" if (root / "__init__.py").is_file() else root.with_name(f"{root.name}.py")


# ---- chapters


DO_IT_YOURSELF = "do-it-yourself"
NOT_RUN = {"parameters", DO_IT_YOURSELF}  # tags of cells that do not count


def notebook_code(notebook: Any) -> tuple[str, list[Reference]]:
    """The digest of a chapter's own code, and what it refers to in our packages, in the order it does.

    Prose does not count: it cannot change a number, and the page takes it from the current notebook. The parameters
    cell does not count either: its values are part of a run's id themselves, and a default that a profile replaces
    must not make that profile's result stale. Cells tagged `do-it-yourself` are not run.
    """
    parsed = [
        cell_code(cell.source) for cell in notebook.cells if cell.cell_type == "code" and not NOT_RUN & set(_tags(cell))
    ]
    code, references = _outside([[] if isinstance(tree, str) else tree.body for tree in parsed])
    return _digest([code, [tree for tree in parsed if isinstance(tree, str)]]), references


def _outside(bodies: Sequence[Sequence[ast.stmt]]) -> tuple[Any, list[Reference]]:
    """Code that lies outside our packages, reduced, where every name that it gives counts; and all its references into
    them, in order."""
    imports: dict[str, Target] = {}
    for node in (node for body in bodies for node in body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= bindings(node, "")
    around, graph = Surroundings("", _inside, imports, frozenset(), keeps_names=True), _graph()
    here = Module("", (), {name: target for name, target in imports.items() if _inside(target)})
    code, references = [], []
    for body in bodies:
        reduced = [skeleton(node, around) for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
        followed = [[graph.follow(*mention, here) for mention in one.mentions.items()] for one in reduced]
        code.append([[one.tree, [rest for _, rest in found]] for one, found in zip(reduced, followed, strict=True)])
        references += [reference for found in followed for reference, _ in found]
    return code, references


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def imported_names(notebook: Any) -> set[str]:
    """The names that a chapter's imports bind: a parameter may not take one of them away."""
    names = set()
    for cell in notebook.cells:
        tree = cell_code(cell.source) if cell.cell_type == "code" else ""
        for node in [] if isinstance(tree, str) else ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= set(bindings(node, ""))
    return names


def cell_code(source: str) -> ast.Module | str:
    """The code of a cell without IPython's own lines; the text itself where it is not Python."""
    with contextlib.suppress(SyntaxError):
        return ast.parse(source)
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]  # IPython's own
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:  # a cell magic's body: count every letter of it
        return source


def _digest(content: Any) -> str:
    return sha256(json.dumps(content).encode())
