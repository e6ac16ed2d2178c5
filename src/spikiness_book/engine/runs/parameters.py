"""A chapter's parameters: read from its own typed parameters cell; anything else is refused before a kernel starts."""

import ast
import builtins
import copy
import functools
import json
import keyword
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from spikiness.errors import SpikinessError, suggest
from spikiness.images.sources import TRAINING_IMAGES
from spikiness_book.engine.runs.digests import NOT_RUN, cell_code, imported_names
from spikiness_book.engine.runs.store import checkout, profile_name

TYPES = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list[int]": list[int],
    "list[float]": list[float],
    "list[str]": list[str],
}
DEEPEST = 20  # levels of a YAML file
PUBLISHED = "published"  # what `demo` may say in profiles.yaml
WORDS = {"int": "whole number", "float": "finite number", "str": "text", "bool": "true or false"}


class Parameter(NamedTuple):
    """One line of a parameters cell: `n: int = 5  # training images`."""

    name: str
    type: str
    default: Any
    help: str


class Meaning(NamedTuple):
    """What a parameter of this name is in every chapter: its type, the limits of each number in it, and the words."""

    type: str
    limits: dict[str, float]
    words: str
    unique: bool = False


LIMITS = {"at_least": "ge", "above": "gt", "below": "lt"}  # of parameters.yaml, and as pydantic calls them


def vocabulary() -> dict[str, Meaning]:
    """The meanings that parameter names have in every chapter, from `notebooks/parameters.yaml` of the checkout here.

    It is empty where there is no checkout: then a parameter is held to its declared type only. Raises `SpikinessError`
    for an entry that is no meaning.
    """
    for root in (checkout(), checkout(Path(__file__).parent)):
        if root is not None and (path := root / "notebooks" / "parameters.yaml").is_file():
            return _meanings(path, path.stat().st_mtime_ns)
    return {}


@functools.lru_cache(maxsize=4)
def _meanings(path: Path, changed: int) -> dict[str, Meaning]:
    """The meanings in one file, read once for each time that it `changed`."""
    return {name: _meaning_of(fields, f"{path}: {name}") for name, fields in read_yaml(path).items()}


def _meaning_of(fields: Any, where: str) -> Meaning:
    allowed = ("type", *LIMITS, "unique", "words", "meaning")
    for name in fields if isinstance(fields, dict) else ():
        if name not in allowed:
            raise SpikinessError(f"{where} has {name!r}{suggest(str(name), allowed)} (one of {', '.join(allowed)})")
    if not isinstance(fields, dict) or fields.get("type") not in TYPES or not isinstance(fields.get("meaning"), str):
        raise SpikinessError(f"{where} needs a type (one of {', '.join(TYPES)}) and a meaning")
    limits = {ours: fields[name] for name, ours in LIMITS.items() if name in fields}
    numbers = fields["type"].removeprefix("list[").rstrip("]") in ("int", "float")
    if not all(numbers and isinstance(limit, int | float) for limit in limits.values()):
        raise SpikinessError(f"{where}: only numbers have limits, and limits are numbers")
    words = [fields.get("words") or _limits_in_words(limits, "int" in fields["type"])]
    words += ["none twice"] if fields.get("unique") else []
    return Meaning(fields["type"], limits, ", ".join(filter(None, words)), bool(fields.get("unique")))


def _limits_in_words(limits: Mapping[str, float], whole: bool) -> str:
    low, high = limits.get("ge", limits.get("gt")), limits.get("lt")
    if low is not None and high is not None:
        return f"from {low} to {high - 1}" if whole else f"from {low} to below {high}"
    names = {"ge": "of at least", "gt": "above", "lt": "below"}
    return " and ".join(f"{names[name]} {limit}" for name, limit in limits.items())


# Of these a chapter takes as many training images of `data`, one network's at a time.
COUNTS_OF_DATA = ("n", "n_small", "n_large", "sizes_unet")


def read(notebook: Any, where: str) -> list[Parameter]:
    """The parameters of a notebook, from its cell tagged `parameters`; `where` names the chapter in errors.

    Raises `SpikinessError` where the cell is missing, or a line of it is not `name: type = literal  # help`.
    """
    import papermill

    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise SpikinessError(f"{where}: one cell tagged 'parameters' is needed, found {len(cells)}")
    seen = papermill.inspect_notebook(notebook)
    taken = imported_names(notebook)
    found = []
    for line in _statements(cells[0].source, where):
        name, kind = line.target.id, ast.unparse(line.annotation).replace(" ", "")
        if name not in seen:
            raise SpikinessError(
                f"{where}: papermill cannot read the line of parameter {name!r}: no '=' in its comment"
            )
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            raise SpikinessError(
                f"{where}: parameter {name!r} must be a literal, not {ast.unparse(line.value)}"
            ) from None
        found.append(Parameter(name, kind, default, seen[name]["help"]))
        _check_declared(found[-1], taken, where)
    return found


def _statements(source: str, where: str) -> list[ast.AnnAssign]:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise SpikinessError(f"{where}: the parameters cell is not Python: {error}") from None
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            line = ast.unparse(node)
            raise SpikinessError(f"{where}: the parameters cell holds `name: type = value  # help` only, not `{line}`")
    return body  # type: ignore[return-value]


def _check_declared(parameter: Parameter, taken: set[str], where: str) -> None:
    check_name(parameter.name, where, taken)
    if parameter.type not in TYPES:
        raise SpikinessError(
            f"{where}: parameter {parameter.name!r} is a {parameter.type}; use one of {', '.join(TYPES)}"
        )
    meaning = vocabulary().get(parameter.name)
    if meaning and parameter.type != meaning.type:
        raise SpikinessError(
            f"{where}: parameter {parameter.name!r} is declared {parameter.type}; in every chapter it is {meaning.type}"
        )


def check_name(name: object, where: str, taken: Iterable[str] = ()) -> None:
    """Refuse what must not become a variable of a notebook: code, keywords, builtins, private and imported names."""
    from pydantic import BaseModel

    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        reason = "not a name"
    elif name.startswith("_") or name in ("In", "Out", "exit", "quit") or hasattr(BaseModel, name):
        reason = "a reserved name"
    elif hasattr(builtins, name) or name in taken:
        reason = "the name of something the notebook uses"
    else:
        return
    raise SpikinessError(f"{where}: {str(name)[:80]!r} cannot be a parameter: {reason}")


def model(parameters: list[Parameter]) -> Any:
    """The pydantic model of a chapter's parameters: strict types, finite numbers, the vocabulary's limits."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )
    return create_model("Parameters", __config__=config, **{p.name: (_annotation(p), p.default) for p in parameters})


def _annotation(parameter: Parameter) -> Any:
    from pydantic import AfterValidator, Field

    meaning, item = _meaning(parameter), _item(parameter)
    limits = {"max_length": 1000, "pattern": r"^[^\x00-\x1f\x7f]*$"} if item == "str" else meaning.limits
    one = Annotated[TYPES[item], Field(**limits)] if limits else TYPES[item]
    if parameter.type == item:
        return one
    return Annotated[list[one], Field(min_length=1), *([AfterValidator(_unique)] if meaning.unique else [])]  # type: ignore[valid-type]


def _item(parameter: Parameter) -> str:
    return parameter.type.removeprefix("list[").rstrip("]")


def _meaning(parameter: Parameter) -> Meaning:
    return vocabulary().get(parameter.name, Meaning("", {}, ""))


def _unique(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("repeated")
    return values


def validate(
    parameters: list[Parameter], values: Mapping[Any, Any], where: str, checked_by: Any = None
) -> dict[str, Any]:
    """All parameters of a chapter, with `values` in place of its defaults; nothing is converted, except 1 to 1.0.

    `checked_by` is their `model`, where one is at hand: making it takes longer than using it.

    Raises one `SpikinessError` that names each field refused, its value, and what is allowed.
    """
    from pydantic import ValidationError

    known = {p.name: p for p in parameters}
    for name in values:
        _check_known(name, known, where)
    plain = {name: v.item() if getattr(v, "ndim", None) == 0 else v for name, v in values.items()}  # numpy's numbers
    try:
        return (checked_by or model(parameters))(**plain).model_dump()
    except ValidationError as error:
        names = dict.fromkeys(str(e["loc"][0]) for e in error.errors())
        refusals = [_refusal(known[name], plain.get(name, known[name].default)) for name in names]
        raise SpikinessError(f"{where}: {'; '.join(refusals)}") from None


def check_images(values: Mapping[str, Any], where: str) -> None:
    """Refuse more training images than the data have, where that is known without reading them."""
    there = TRAINING_IMAGES.get(values.get("data") or "")
    for name in [name for name in COUNTS_OF_DATA if there and name in values]:
        counts = values[name] if isinstance(values[name], list) else [values[name]]
        if max(counts) > there:
            raise SpikinessError(
                f"{where}: {name} must be at most {there:,}, the training images of {values['data']}, got {max(counts)}"
            )


def unread(notebook: Any, parameters: list[Parameter]) -> list[str]:
    """The parameters that no cell reads, neither as a variable nor in a field of a text, "{n}" or "@n"."""
    names: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type != "code" or NOT_RUN & set(cell.metadata.get("tags", [])):
            continue
        tree = cell_code(cell.source)
        if isinstance(tree, str):  # a cell magic's: what it reads cannot be seen, so all of its words count
            names |= set(re.findall(r"\w+", tree))
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= {node.value, *re.findall(r"[{@](\w+)", node.value)}
    return [parameter.name for parameter in parameters if parameter.name not in names]


def _check_known(name: object, known: Mapping[str, Parameter], where: str) -> None:
    if name in known:
        return
    if isinstance(name, bool):
        raise SpikinessError(f"{where}: a parameter is named {name} (YAML reads on, off, yes and no as true or false)")
    check_name(name, where)
    raise SpikinessError(
        f"{where}: unknown parameter {name!r}{suggest(name, known)} (it has {', '.join(known) or 'none'})"
    )


def wanted(parameter: Parameter) -> str:
    """What a parameter may be, in words: "a whole number of at least 1"."""
    item, words = _item(parameter), _meaning(parameter).words
    noun = WORDS[item]
    if item != parameter.type:
        noun = f"a list, not empty, of {noun}s"
    elif item in ("int", "float"):
        noun = f"a {noun}"
    return f"{noun} {words}".rstrip()


def _refusal(parameter: Parameter, value: Any) -> str:
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    return f"{parameter.name} must be {wanted(parameter)}, got {shown}{_hint(parameter, value)}"


def _hint(parameter: Parameter, value: Any) -> str:
    """The nearest fix, where the value only has the wrong form."""
    if isinstance(value, str) and parameter.type in ("int", "float"):
        if match := re.fullmatch(r"([-+]?\d+(?:\.\d*)?)[eE]([-+]?)(\d+)", value):
            mantissa = match[1] if "." in match[1] else f"{match[1]}.0"
            return f" (YAML reads {value} as text: write {mantissa}e{match[2] or '+'}{match[3]})"
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", value):
            return " (a number in quotes: write it without)"
    if isinstance(value, str) and parameter.type == "bool" and value.lower() in ("true", "false"):
        return f" (text: write {value.lower()} without quotes)"
    if isinstance(value, float) and parameter.type == "int" and value.is_integer():
        return f" (write {int(value)})"
    if isinstance(value, int | float) and parameter.type.startswith("list"):
        return f" (write [{value}])"
    return ""


# ---- the command line: text, read by the declared type


def parse(parameters: list[Parameter], pairs: Iterable[tuple[str, str]], where: str) -> dict[str, Any]:
    """Values typed as `-p NAME TEXT`, read by each parameter's declared type; lists as `5,10` or `[5, 10]`.

    Raises `SpikinessError` for an unknown name, a name given twice, or a text that is no such value.
    """
    known = {p.name: p for p in parameters}
    values: dict[str, Any] = {}
    for name, text in pairs:
        _check_known(name, known, where)
        if name in values:
            raise SpikinessError(f"{where}: {name} is given twice")
        values[name] = _from_text(known[name], text)
    return values


def _from_text(parameter: Parameter, text: str) -> Any:
    """The value `text` stands for, or `text` itself where it stands for none: then `validate` refuses it by name."""
    if parameter.type.startswith("list"):
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                return text
        return [_scalar(_item(parameter), part.strip()) for part in text.split(",")]
    return _scalar(parameter.type, text)


def _scalar(kind: str, text: str) -> Any:
    if kind == "int" and re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        return int(text)
    if kind == "float" and re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


# ---- notebooks/profiles.yaml


def profile_values(notebooks: Path, chapter: str, profile: str) -> dict[str, Any]:
    """The values by which `profile` differs from a chapter's own parameters cell, which holds those of demo.

    They are read from `notebooks/profiles.yaml`, a map of chapter -> smoke or paper -> parameter -> value:

        memorization:
          smoke: {n: 3}
          paper: {n: 5, data: mnist, sigmas: [0.2, 1.0, 5.0]}

    `demo: published` beside them makes the demo book show the published run in place of one of its own.
    Raises `SpikinessError` where the file is not of that form, or has nothing for this chapter and profile.
    """
    if profile_name(profile) == "demo":
        return {}
    path = notebooks / "profiles.yaml"
    chapters = read_yaml(path)
    section = chapters.get(chapter, {})
    if not isinstance(section, dict) or {**section, "demo": PUBLISHED}.keys() - {"smoke", "paper", "demo"}:
        raise SpikinessError(
            f"{path}: {chapter} must map smoke and paper to parameters (demo is the notebook's own cell)"
        )
    if section.get("demo", PUBLISHED) != PUBLISHED:
        raise SpikinessError(
            f"{path}: demo of {chapter} is the notebook's own cell; only `demo: {PUBLISHED}` can stand here"
        )
    if not isinstance(section.get(profile), dict):
        raise SpikinessError(f"{path} has no {profile} values for {chapter!r}: add `{chapter}: {{{profile}: {{}}}}`")
    return section[profile]


def demo_is_published(notebooks: Path, chapter: str) -> bool:
    """Whether the demo book shows a chapter's published run, `demo: published`: its data are not embedded."""
    section = read_yaml(notebooks / "profiles.yaml").get(chapter)
    return isinstance(section, dict) and section.get("demo") == PUBLISHED


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML map, read without its surprises: 010 (8), 1:30 (90), yes and off (switches), double keys are errors."""
    import yaml

    try:
        content = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SpikinessError(f"{path} is missing: it gives the values of the smoke and paper profiles") from None
    except yaml.YAMLError as error:
        raise SpikinessError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise SpikinessError(f"{path} must be a map, name: value")
    return content or {}


@functools.lru_cache(16)
def _parsed(text: str) -> Any:
    import yaml

    return yaml.load(text, Loader=_strict_loader())  # a SafeLoader


def _strict_loader() -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """One value and all in it. Deep nesting ends in a full stack, and a few aliases of aliases in a full
            memory."""
            mark = self.peek_event().start_mark
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"an alias (*) is not read here: write what it stands for{mark}")
            if self.depth >= DEEPEST:
                raise yaml.YAMLError(f"nested deeper than {DEEPEST} levels{mark}")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    def number(loader: Any, node: Any) -> int:
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", node.value):
            raise yaml.YAMLError(f"{node.value!r} would be read in another base: write a plain number{node.start_mark}")
        return int(node.value)

    def switch(loader: Any, node: Any) -> bool:
        if node.value not in ("true", "false"):
            raise yaml.YAMLError(
                f"{node.value!r} would be read as true or false: write one of these, or quotes{node.start_mark}"
            )
        return node.value == "true"

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{', '.join(sorted(twice))} is given twice{node.start_mark}")
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor("tag:yaml.org,2002:int", number)
    Strict.add_constructor("tag:yaml.org,2002:bool", switch)
    Strict.add_constructor("tag:yaml.org,2002:map", mapping)
    return Strict
