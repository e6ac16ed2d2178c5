"""What the chapter *where* records: which side settings take, what moves, what carries, how well one measure does."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spikiness.statistics import Interval
from spikiness_book.chapters.where import carries, measure
from spikiness_book.chapters.where.measure import ProbedNetwork

SIDES = {"spikier": measure.SPIKIER, "reversed": measure.REVERSED, "neither": measure.NEITHER}
DISAGREE = {"disagree": measure.DISAGREE}  # where there are several networks of a kind
PARTS = {"total": measure.TOTAL, "over space": measure.WITHIN, "between channels": measure.BETWEEN}
MODULES = {
    "norm": measure.NORM,
    "nonlinearity": measure.NONLINEARITY,
    "linear": measure.LINEAR,
    "residual": measure.BLOCK,
}
QUANTITIES = {
    "size": "size",
    "units near zero": "units near zero",
    "units that take part": "units that take part",
    "places": measure.PLACES,
    "channels": measure.CHANNELS,
}
RELATIONS = {carries.SEED: "seed", carries.WIDTH: "width", carries.DATA: "data"}
DIRECTIONS = {carries.OPEN: "open", carries.THEORY: "theory"}
IMAGES = "training images"  # what intervals of rates resample: samples near one image come and go together


def networks(
    run: Any, used_for: Mapping[str, Sequence[ProbedNetwork]], every: Sequence[ProbedNetwork], seeds: Sequence[int]
) -> None:
    """How many networks there are, of which sort, and how many memorized samples they have at least."""
    sorts = {**used_for, "with stand-ins": [network for network in every if network.stand_in]}
    for sort, found in sorts.items():
        run.metric("networks", len(found), seeds=seeds, tolerance=0, used_for=sort)
    rows = [
        {**n.name, "memorized": len(n.memorized), "generalized": len(n.generalized), "stand_in": n.stand_in}
        for n in every
    ]
    run.table("networks", pd.DataFrame(rows))
    run.metric("fewest_memorized", min(row["memorized"] for row in rows), tolerance=5)


def sides(run: Any, settings: pd.DataFrame, several: bool, seeds: Sequence[int]) -> None:
    """The share of settings in which memorized samples are the spikier ones, the less spiky ones, or neither."""
    run.table("settings", settings)
    shares = measure.side_shares(settings, ["kind", "pool"])
    run.table("shares", shares if several else shares[shares.side != measure.DISAGREE])
    run.metric("settings_tried", len(settings))
    by_pool = {"any": settings, **dict(iter(settings.groupby("pool")))}
    for side, name in (SIDES | (DISAGREE if several else {})).items():
        for pooling, rows in by_pool.items():
            share, interval = measure.share_of_rows(rows, rows.side == name)
            run.metric("share", share, interval, n=len(rows), seeds=seeds, side=side, pooling=pooling)
    sided = settings[settings.side.isin([measure.SPIKIER, measure.REVERSED])]
    share, interval = _share(sided, sided.side == measure.SPIKIER)
    run.metric("sided_spikier", share, interval, n=len(sided), seeds=seeds)


def default_layer(run: Any, lines: pd.DataFrame, sigmas: Sequence[float], count: int, seeds: Sequence[int]) -> None:
    """AUROC of Std in the default layer at the lowest and the highest noise level, over `count` networks."""
    std = lines[lines.measure == "std"]
    for noise, sigma in {"lowest": min(sigmas), "highest": max(sigmas)}.items():
        run.metric("sigma_tried", sigma, noise=noise)
        for pooling in ("all", "mean") if noise == "lowest" else ("all",):
            auroc = std[(std["pool"] == pooling) & (std.sigma == sigma)].auroc.mean()
            given = {"n": count, "seeds": seeds, "tolerance": 0.05}
            run.metric("default_auroc", auroc, **given, noise=noise, pooling=pooling)


def clear(layers: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """For each part of the variance, the layers in which it is clearly higher for memorized samples, and lower."""
    return {
        (part, way): sign * (layers[column] - 0.5) > measure.CLEAR
        for part, column in PARTS.items()
        for way, sign in (("up", 1), ("down", -1))
    }


def moves(run: Any, layers: pd.DataFrame, images: pd.Series, seeds: Sequence[int]) -> None:
    """In how many layers each part of the variance rises or falls, and where the fallen part went."""
    tests = clear(layers)
    for (part, way), hits in tests.items():
        share, interval = measure.share_of_rows(layers, hits)
        run.metric("layers", share, interval, n=len(layers), seeds=seeds, part=part, way=way)
    fallen = layers[tests["between channels", "down"]]
    share, interval = _share(fallen, fallen[measure.WITHIN] > 0.5 + measure.CLEAR)
    run.metric("moved_into_space", share, interval, n=len(fallen), seeds=seeds)
    run.metric("image_auroc", images.mean(), n=len(images), seeds=seeds, tolerance=0.05)


def coupling(run: Any, layers: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How the parts of the variance depend on each other after each sort of module, and what Std is made of."""
    for module, name in MODULES.items():
        value, interval = measure.median_over_layers(layers[layers.module == name], "coupling")
        run.metric("coupling", value, interval, seeds=seeds, module=module)
    nonlinearities = layers[layers.module == measure.NONLINEARITY]
    for quantity, column in QUANTITIES.items():
        value, interval = measure.median_over_layers(nonlinearities, column)
        run.metric("median_auroc", value, interval, seeds=seeds, quantity=quantity)
    gap = layers.assign(gap=(layers[measure.TOTAL] - layers["size"]).abs())
    value, interval = measure.median_over_layers(gap, "gap")
    run.metric("std_less_size", value, interval, seeds=seeds)


def relations(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How much of one network's settings holds in another: flips, agreement, ranks, regret."""
    run.table("relations", table)
    for row in table.itertuples():
        given = {"n": row.pairs, "seeds": seeds, "relation": RELATIONS[row.relation]}
        run.metric("flip", row.flip, Interval(row.flip_low, row.flip_high, over="layers"), **given)
        run.metric("agree", row.agree, tolerance=0.1, **given)
        run.metric("ranks", row.ranks, tolerance=0.15, **given)
        run.metric("regret", row.regret, tolerance=0.03, **given)
        run.metric("regret_largest", row.regret_largest, tolerance=0.05, **given)
        run.metric("pairs", row.pairs, relation=RELATIONS[row.relation])


def other_widths(run: Any, used: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The choice of the calibration networks in networks of another width."""
    run.table("elsewhere", used)
    worst = used.loc[used.auroc.idxmin()]
    run.metric("choice_other_width_worst", worst.auroc, Interval(worst.low, worst.high, over=IMAGES), seeds=seeds)
    run.metric("choice_other_width_mean", used.auroc.mean(), n=len(used), seeds=seeds, tolerance=0.05)


def alone(run: Any, summary: pd.DataFrame, count: int, seeds: Sequence[int]) -> None:
    """Each measure alone in `count` networks: the worst and the mean AUROC, and rates above the carried threshold."""
    run.table("summary", summary)
    for row in summary.itertuples():
        given = {"n": count, "seeds": seeds, "measure": label(row.alone), "direction": DIRECTIONS[row.way]}
        run.metric("alone_worst", row.worst, Interval(row.worst_low, row.worst_high, over=IMAGES), **given)
        run.metric("alone_mean", row.mean, tolerance=0.03, **given)
        run.metric("alone_fpr", row.fpr, Interval(row.fpr_low, row.fpr_high, over=IMAGES), **given)
        run.metric("alone_tpr", row.tpr, Interval(row.tpr_low, row.tpr_high, over=IMAGES), **given)
    run.metric("measures_better_than_std", len(carries.better_than(summary)))


def label(measure_name: str) -> str:
    """A measure as a label: `any_of_them` for the measure left open."""
    return measure_name.replace(" ", "_")


def by_kind(run: Any, kind: str, settings: pd.DataFrame, layers: pd.DataFrame, std: Any, seeds: Sequence[int]) -> None:
    """The same for the networks of one kind; `std` is the row of `carries.by_measure` of Std."""
    for side in ("spikier", "reversed"):
        share, interval = measure.share_of_rows(settings, settings.side == SIDES[side])
        run.metric("share_by_kind", share, interval, n=len(settings), seeds=seeds, kind=kind, side=side)
    tests = clear(layers)
    for part, way in (("over space", "up"), ("between channels", "down")):
        share, interval = measure.share_of_rows(layers, tests[part, way])
        run.metric("layers_by_kind", share, interval, n=len(layers), seeds=seeds, kind=kind, part=part, way=way)
    given = {"n": len(seeds), "seeds": seeds, "kind": kind}
    run.metric("std_worst", std.worst, Interval(std.worst_low, std.worst_high, over=IMAGES), **given)
    run.metric("std_fpr", std.fpr, Interval(std.fpr_low, std.fpr_high, over=IMAGES), **given)


def search(run: Any, rows: pd.DataFrame, kind: str, networks_asked: str) -> None:
    """The choices of both searches in some networks of one kind: worst AUROC, what it lost, rates."""
    for among, part in rows.groupby("searched", sort=False):
        worst = part.loc[part.auroc.idxmin()]
        labels = {"kind": kind, "networks": networks_asked, "among": among}
        given = {"n": part.seed.nunique(), "seeds": list(part.seed), **labels}
        run.metric("search_worst", worst.auroc, Interval(worst.low, worst.high, over=IMAGES), **given)
        run.metric("search_loss", worst.worst - worst.auroc, tolerance=0.05, **given)
        run.metric("search_tpr", part.tpr.mean(), tolerance=0.2, **given)
        run.metric("search_fpr", part.fpr.mean(), tolerance=0.01, **given)
    settings = rows.drop_duplicates("searched").set_index("searched").settings["modules"]
    run.metric("search_settings", settings, kind=kind, networks=networks_asked)


def _share(rows: pd.DataFrame, hits: pd.Series) -> tuple[float, Interval]:
    """A share of layers, or one half and everything that is possible where there are none."""
    return measure.share_of_rows(rows, hits) if len(rows) else (0.5, Interval(0, 1, None, "no layers at all"))
