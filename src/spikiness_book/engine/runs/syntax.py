"""Python code reduced to what it does: blind to layout, comments, docstrings, types, and names of local variables.

A statement becomes nested lists. In them a name that the statement itself binds is a number, a name from a package
outside ours is its full dotted path, and a name that leads to our own code is a `Mention`, resolved by `digests`.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Target = tuple[str, str]  # what an import binds: a module, and a name in it ("" for the module itself)
Mention = tuple[str, ...]  # a name that leads to our own code, and the attributes asked of it: ("figures", "gains")

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass
class Scope:
    """The names that one function, class or comprehension binds; those of a class and parameters keep their names,
    since others use them by name."""

    bound: set[str]
    kept: frozenset[str] = frozenset()
    imports: dict[str, Target] = field(default_factory=dict)
    is_class: bool = False


@dataclass
class Skeleton:
    """A statement as nested lists, and the mentions in it, in the order of their first appearance."""

    tree: Any
    mentions: dict[Mention, Target | None]  # an import inside the statement, or None: a name of its module


@dataclass(frozen=True)
class Surroundings:
    """What a statement sees of its module."""

    package: str  # that relative imports start from
    inside: Callable[[Target], bool]  # whether an import leads to our own code
    imports: dict[str, Target]  # what the module's imports bind
    own: frozenset[str]  # the names that the module itself defines
    keeps_names: bool = False  # a notebook's variables count by name: others, parameters, refer to them so


def skeleton(node: ast.stmt, around: Surroundings) -> Skeleton:
    """Reduce a statement at the top of a module."""
    reducer = _Reducer(around, node)
    return Skeleton(reducer.reduce(node, ()), reducer.mentions)


class _Reducer:
    def __init__(self, around: Surroundings, node: ast.stmt) -> None:
        self.around, self.defined = around, [] if around.keeps_names else binds(node)
        self.spoken = _spoken(node)
        self.mentions: dict[Mention, Target | None] = {}
        self.numbers: dict[tuple[int, str], int] = {}
        self.scopes: list[Scope] = []  # kept alive: numbers are by identity

    def reduce(self, node: Any, scopes: tuple[Scope, ...]) -> Any:
        if isinstance(node, list):
            return [self.reduce(item, scopes) for item in node if not isinstance(item, ast.Import | ast.ImportFrom)]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Name):
            if not scopes and isinstance(node.ctx, ast.Store) and node.id in self.defined:
                return ["top", self.defined.index(node.id)]
            return self.name(node.id, (), scopes)
        if isinstance(node, ast.Attribute) and (chain := _chain(node)):
            return self.name(chain[0], chain[1:], scopes)
        if isinstance(node, _FUNCTIONS):
            return self.function(node, scopes)
        if isinstance(node, ast.ClassDef):
            return self.fields(node, scopes, {"body": self.scope(node.body, is_class=True)})
        if isinstance(node, _COMPREHENSIONS):
            return self.comprehension(node, scopes)
        return self.fields(node, scopes, {})

    def fields(self, node: ast.AST, scopes: tuple[Scope, ...], inner: dict[str, Scope]) -> list[Any]:
        """The fields of a node, those named in `inner` with one more scope around them."""
        reduced: list[Any] = [type(node).__name__]
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "kind", "type_comment") or value is None or value == []:
                continue
            if name == "returns" or (isinstance(node, ast.arg) and name == "annotation"):
                continue  # types of arguments and results are for readers and checkers
            if name == "body":
                value = documented(node, value)
            around = (*scopes, inner[name]) if name in inner else scopes
            if isinstance(value, str) and name in ("name", "rest") and not isinstance(node, ast.keyword | ast.alias):
                reduced.append([name, self.bound_name(node, value, scopes)])
            else:
                reduced.append([name, self.reduce(value, around)])
        return reduced

    def bound_name(self, node: ast.AST, value: str, scopes: tuple[Scope, ...]) -> Any:
        """The name of a definition, or one bound by `except` or `match`; at the top of a module it does not count."""
        return self.name(value, (), scopes) if scopes or self.around.keeps_names else "top"

    def function(self, node: ast.AST, scopes: tuple[Scope, ...]) -> list[Any]:
        """Defaults, decorators and annotations belong to the code around a function, its body to itself."""
        arguments = node.args  # type: ignore[attr-defined]
        parameters = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
        names = frozenset(parameter.arg for parameter in parameters if parameter)
        body = node.body if isinstance(node.body, list) else [node.body]  # type: ignore[attr-defined]
        return self.fields(node, scopes, {"body": self.scope(body, names)})

    def comprehension(self, node: ast.AST, scopes: tuple[Scope, ...]) -> list[Any]:
        """The first iterable belongs to the code around a comprehension, everything else to its own scope."""
        first = node.generators[0]  # type: ignore[attr-defined]
        targets = [generator.target for generator in node.generators]  # type: ignore[attr-defined]
        own = Scope({name for target in targets for name in _stored(target)})
        self.scopes.append(own)
        outer, inner = self.reduce(first.iter, scopes), (*scopes, own)
        parts = [self.reduce(getattr(node, name), inner) for name in ("key", "value", "elt") if hasattr(node, name)]
        loops = [
            [self.reduce(g.target, inner), outer if g is first else self.reduce(g.iter, inner),
             self.reduce(g.ifs, inner), g.is_async]
            for g in node.generators  # type: ignore[attr-defined]
        ]  # fmt: skip
        return [type(node).__name__, loops, parts]

    def scope(self, body: Iterable[ast.AST], kept: frozenset[str] = frozenset(), is_class: bool = False) -> Scope:
        bound, outer, imports = set(kept), set(), {}
        for node in _own_nodes(body):
            bound |= set(_binds_here(node))
            if isinstance(node, ast.Global | ast.Nonlocal):
                outer |= set(node.names)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports |= bindings(node, self.around.package)
        made = Scope(bound - outer - imports.keys(), kept, imports, is_class)
        self.scopes.append(made)
        return made

    def name(self, name: str, attributes: tuple[str, ...], scopes: tuple[Scope, ...]) -> Any:
        for depth, scope in enumerate(reversed(scopes)):
            if scope.is_class and depth:  # a class's names are seen in its own body only
                continue
            if name in scope.imports:
                return self.imported(name, scope.imports[name], attributes, local=True)
            if name in scope.bound:
                return self.bound(name, attributes, scope)
        if name in self.around.own:
            return self.mention((name, *attributes), None)
        if name in self.around.imports:
            return self.imported(name, self.around.imports[name], attributes, local=False)
        return ["G", name, *attributes]

    def bound(self, name: str, attributes: tuple[str, ...], scope: Scope) -> Any:
        if scope.is_class or name in scope.kept or self.spoken is None or name in self.spoken:
            return ["P", name, *attributes]
        return ["L", self.numbers.setdefault((id(scope), name), len(self.numbers)), *attributes]

    def imported(self, name: str, target: Target, attributes: tuple[str, ...], local: bool) -> Any:
        if self.around.inside(target):
            return self.mention((name, *attributes), target if local else None)
        return ["X", ".".join([*filter(None, target), *attributes])]

    def mention(self, mention: Mention, target: Target | None) -> Any:
        self.mentions.setdefault(mention, target)
        return ["@", list(self.mentions).index(mention)]


def _spoken(node: ast.AST) -> set[str] | None:
    """Local names that count, since text refers to them (pandas reads "a == @b"); None where any may be."""
    names: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in ("locals", "vars", "eval", "exec"):
            return None
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            names |= set(re.findall(r"@(\w+)", inner.value))
    return names


def _chain(node: ast.Attribute) -> Mention | None:
    """`a.b.c` as its names, or None where it starts with anything but a name."""
    attributes, inner = [node.attr], node.value
    while isinstance(inner, ast.Attribute):
        attributes.append(inner.attr)
        inner = inner.value
    return (inner.id, *reversed(attributes)) if isinstance(inner, ast.Name) else None


def _own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes that run in the same scope as `body`: not those inside functions, classes and comprehensions, but for
    names that `:=` binds in the latter."""
    for node in body:
        yield node
        if isinstance(node, _FUNCTIONS):
            outside = [*getattr(node, "decorator_list", []), *node.args.defaults, *filter(None, node.args.kw_defaults)]
            yield from _own_nodes(outside)
        elif isinstance(node, ast.ClassDef):
            yield from _own_nodes([*node.decorator_list, *node.bases, *node.keywords])
        elif isinstance(node, _COMPREHENSIONS):
            yield from (found for found in ast.walk(node) if isinstance(found, ast.NamedExpr))
            yield from (found.target for found in ast.walk(node) if isinstance(found, ast.NamedExpr))
        else:
            yield from _own_nodes(ast.iter_child_nodes(node))


def _binds_here(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    elif isinstance(node, (*_DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest


def _stored(target: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


# ---- statements at the top of a module


def binds(node: ast.stmt) -> list[str]:
    """The names that a statement defines, whatever happens; one that also does something else binds none."""
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else targets
    groups = [target.elts if isinstance(target, ast.Tuple | ast.List) else [target] for target in targets]
    flat = [item for group in groups for item in group]
    names = [item.id for item in flat if isinstance(item, ast.Name)]
    return names if len(names) == len(flat) else []


def bindings(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, Target]:
    """The names that an import in a module of `package` binds, and what each is."""
    if isinstance(node, ast.Import):
        return {
            a.asname or a.name.partition(".")[0]: (a.name if a.asname else a.name.partition(".")[0], "")
            for a in node.names
        }
    base = node.module or ""
    if node.level:
        base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])])
    return {a.asname or a.name: (base, a.name) for a in node.names}


def documented(node: ast.AST, body: Any) -> Any:
    """A body without its docstring; a module's also without its version, which says nothing about the code."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            body = body[1:]
    return [item for item in body if not _is_version(item)] if isinstance(node, ast.Module) else body


def _is_version(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__version__"]
