"""A sweep file: a chapter, and the points of its parameters at which to run it.

    chapter: memorization
    profile: demo                    # the default
    parameters: {n: 5}               # the same in every run
    grid: {sigma: [0.2, 1.0], width: [10, 20]}      # all combinations; or
    list: [{sigma: 0.2, width: 10}, {sigma: 1.0}]   # just these; or
    random: {count: 20, seed: 0, parameters: {sigma: {low: 0.1, high: 5.0, scale: log}, width: {choices: [10, 20]}}}
    seeds: [10, 11, 12]              # one run each: `seed`, or `seeds` of one, whichever the chapter has;
                                     # [[10, 11], [12, 13]] for runs of two seeds each
    resources: {cpu: 1, gpu: 0, memory: 2000, minutes: 10}      # of one run; memory in MB

Parameters have the names and the limits of the chapter's own parameters cell.
"""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikiness.errors import SpikinessError, suggest
from spikiness_book.engine.runs import parameters, store

KEYS = ("chapter", "profile", "parameters", "grid", "list", "random", "seeds", "resources")
WAYS = ("grid", "list", "random")
RESOURCES = {"cpu": 1, "gpu": 0, "memory": 2000, "minutes": 60}
LEAST = {"cpu": 1, "gpu": 0, "memory": 1, "minutes": 1}
MOST = 100_000  # runs; more is a slip of the keyboard, and fills the memory


@dataclass(frozen=True)
class Sweep:
    """A chapter at many points: `points` are what each run changes, in order, none twice."""

    name: str
    chapter: str
    profile: str
    points: list[dict[str, Any]]
    resources: dict[str, int] = field(default_factory=lambda: dict(RESOURCES))
    varied: tuple[str, ...] = ()
    where: str = ""  # the file, for messages


def read(path: Path) -> Sweep:
    """The sweep that a file describes, named like the file.

    Raises one `SpikinessError` that names the file, the key and what is allowed. Values are checked where the runs
    are planned, against the chapter.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise SpikinessError(f"no sweep file {path}{suggest(path.name, beside)}")
    where = str(path)
    try:
        content = parameters.read_yaml(path)
    except SpikinessError:
        raise
    except (OSError, ValueError) as error:  # no text, or an impossible date
        raise SpikinessError(f"{where} cannot be read: {error}") from None
    _known(content, KEYS, where)
    if not isinstance(content.get("chapter"), str):
        raise SpikinessError(f"{where}: chapter is missing: write `chapter: memorization`, the name of a notebook")
    try:
        profile = store.profile_name(content.get("profile", "demo"))
    except SpikinessError as error:
        raise SpikinessError(f"{where}: {error}") from None
    points = _points(content, where)
    fixed = _map(content.get("parameters"), f"{where}: parameters")
    varied = {name for point in points for name in point} | ({SEEDS} & set(content))
    for name in fixed:
        if name in varied:
            raise SpikinessError(f"{where}: {name} is both fixed under parameters and varied: leave one")
    points = [{**fixed, **point} for point in _seeded(points, content, where)]
    return Sweep(
        _name(path),
        content["chapter"],
        profile,
        _distinct(points, where),
        _resources(content.get("resources"), where),
        tuple(dict.fromkeys(name for point in points for name in point if name not in fixed)),
        where,
    )


SEEDS = "seeds"  # a point's seed, until it is known what the chapter calls it
RECORDS = "records"  # a folder beside those of sweeps: see `machine.records`


def _name(path: Path) -> str:
    try:
        name = store.slug(path.stem, "sweep file name")
    except SpikinessError as error:
        raise SpikinessError(f"{path}: {error}") from None
    if name == RECORDS:
        raise SpikinessError(f"{path}: sweep file name {name!r} is taken: choose another name")
    return name


def _points(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    ways = [key for key in WAYS if key in content]
    if len(ways) > 1:
        raise SpikinessError(f"{where}: {' and '.join(ways)} together: choose one of {', '.join(WAYS)}")
    if not ways:
        if "seeds" not in content and "parameters" not in content:
            raise SpikinessError(f"{where}: nothing to vary: give one of {', '.join(WAYS)}, or seeds")
        return [{}]
    if ways == ["grid"]:
        return _grid(content["grid"], f"{where}: grid")
    return _list(content["list"], where) if ways == ["list"] else _random(content["random"], f"{where}: random")


def _grid(grid: Any, where: str) -> list[dict[str, Any]]:
    for name, values in _map(grid, where, empty=False).items():
        if not isinstance(values, list) or not values:
            raise SpikinessError(f"{where}: {name} must be a list of values, not empty, got {values!r}")
    _few(math.prod(map(len, grid.values())), where)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _list(points: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(points, list) or not points:
        raise SpikinessError(f"{where}: list must be a list of maps, not empty, got {points!r}")
    return [_map(point, f"{where}: list, entry {i}") for i, point in enumerate(points, start=1)]


def _random(given: Any, where: str) -> list[dict[str, Any]]:
    given = _map(given, where, empty=False)
    _known(given, ("count", "seed", "parameters"), where)
    count, seed = given.get("count"), given.get("seed", 0)
    if not _whole(count, 1):
        raise SpikinessError(f"{where}: count must be a whole number of at least 1, got {count!r}")
    if not _whole(seed, 0):
        raise SpikinessError(f"{where}: seed must be a whole number of at least 0, got {seed!r}")
    _few(count, where)
    spans = _map(given.get("parameters"), f"{where}: parameters", empty=False)
    for name, span in spans.items():
        _check_span(span, f"{where}: {name}")
    possible = math.prod(map(_count, spans.values()))
    if count > possible:
        raise SpikinessError(f"{where}: count is {count}, and there are only {possible} different points: lower it")
    draw = random.Random(seed)
    points: dict[str, dict[str, Any]] = {}
    repeats = 0
    while len(points) < count:  # a point that was drawn already is drawn anew
        point = {name: _drawn(draw, span) for name, span in spans.items()}
        repeats = repeats + 1 if repr(point) in points else 0
        points.setdefault(repr(point), point)
        if repeats > 1000 + 20 * len(points) * math.log(1 + len(points)):  # bounds with hardly a number between them
            raise SpikinessError(
                f"{where}: count is {count}, and only {len(points)} different points were drawn: lower it"
            )
    return list(points.values())


def _check_span(span: Any, where: str) -> None:
    """Refuse what is neither `choices` nor a range from `low` to `high`."""
    span = _map(span, where, empty=False)
    _known(span, ("choices", "low", "high", "scale"), where)
    if "choices" in span:
        if not isinstance(span["choices"], list) or not span["choices"] or len(span) > 1:
            raise SpikinessError(f"{where}: choices must be a list, not empty and alone, got {span!r}")
        return
    low, high, scale = span.get("low"), span.get("high"), span.get("scale", "linear")
    numbers = _number(low) and _number(high)
    if not numbers or low >= high or scale not in ("linear", "log") or (scale == "log" and low <= 0):
        raise SpikinessError(
            f"{where}: give {{low: 0.1, high: 5.0, scale: log}} (or linear) with low below high, and above 0 for log, "
            f"or {{choices: [...]}}; got {span!r}"
        )


def _count(span: dict[str, Any]) -> float:
    """How many values a span has."""
    if "choices" in span:
        return len(set(map(repr, span["choices"])))
    return span["high"] - span["low"] + 1 if _is_whole(span) else math.inf


def _is_whole(span: dict[str, Any]) -> bool:
    return isinstance(span["low"], int) and isinstance(span["high"], int)


def _drawn(draw: random.Random, span: dict[str, Any]) -> Any:
    """One value: of `choices`, or between `low` and `high`, whole where both are, even in the logarithm if asked."""
    if "choices" in span:
        return draw.choice(span["choices"])
    low, high, scale, whole = span["low"], span["high"], span.get("scale", "linear"), _is_whole(span)
    if whole and scale == "linear":
        return draw.randint(low, high)
    low_, high_ = (math.log(low), math.log(high + whole)) if scale == "log" else (low, high)
    value = draw.uniform(low_, high_)
    value = math.exp(value) if scale == "log" else value
    if whole:
        return min(high, max(low, math.floor(value)))  # k as often as log(1 + 1/k), the ends too
    value = float(f"{value:.6g}")  # a value that people can type again
    return value if low <= value <= high else float(min(high, max(low, value)))


def _seeded(points: Iterable[dict[str, Any]], content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    if "seeds" not in content:
        return list(points)
    seeds = content["seeds"]
    groups = [seed if isinstance(seed, list) else [seed] for seed in seeds] if isinstance(seeds, list) else []
    if not groups or not all(group and all(_whole(seed, 0) for seed in group) for group in groups):
        raise SpikinessError(
            f"{where}: seeds must be a list of whole numbers of at least 0 (or of lists of them), got {seeds!r}"
        )
    points = list(points)
    if any(SEEDS in point for point in points):
        raise SpikinessError(f"{where}: {SEEDS} of the sweep and of its points: leave one")
    _few(len(points) * len(groups), where)
    return [{**point, SEEDS: group} for point in points for group in groups]


def _distinct(points: Sequence[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    seen: dict[str, int] = {}
    for at, point in enumerate(points, start=1):
        text = repr(sorted(point.items(), key=lambda item: str(item[0])))
        if text in seen:
            raise SpikinessError(f"{where}: runs {seen[text]} and {at} are the same, {shown(point)}: leave one")
        seen[text] = at
    return list(points)


def shown(point: Mapping[str, Any]) -> str:
    """A point in words."""
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "the profile's own parameters"


def _resources(given: Any, where: str) -> dict[str, int]:
    given = _map(given, f"{where}: resources")
    _known(given, tuple(RESOURCES), f"{where}: resources")
    for name, value in given.items():
        if not _whole(value, LEAST[name]):
            raise SpikinessError(
                f"{where}: resources: {name} must be a whole number of at least {LEAST[name]}, got {value!r}"
            )
    return {**RESOURCES, **given}


def _few(count: int, where: str) -> None:
    if count > MOST:
        raise SpikinessError(f"{where}: {count:,} runs: at most {MOST:,}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _map(given: Any, where: str, empty: bool = True) -> dict[str, Any]:
    if given is None and empty:
        return {}
    if not isinstance(given, dict) or not (given or empty):
        raise SpikinessError(f"{where} must be a map{'' if empty else ', not empty'}, got {given!r}")
    return given


def _known(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise SpikinessError(f"{where}: unknown key {key!r}{suggest(str(key), known)} (use {', '.join(known)})")
