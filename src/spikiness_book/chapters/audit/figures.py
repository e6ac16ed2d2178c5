"""Figures of the chapter on audits: rates of each way to flag, curves by kind of network, pairs of pictures, units."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots, zoo
from spikiness_book.chapters.audit import measure, stages
from spikiness_book.plots import AMBER, GENERALIZED, MEMORIZED, SKY, THEORY

SHARES = (-0.03, 1.03)  # limits of an axis of shares
SORTS = {measure.COPY: MEMORIZED, measure.NEW: GENERALIZED}


def labeled(data: pd.DataFrame) -> pd.DataFrame:
    """The table with the name of each `kind` as figures show it."""
    return data.assign(kind=data.kind.map(zoo.label))


def flag_rates(data: pd.DataFrame, goal: float) -> Figure:
    """False and true positive rates with their intervals, a row of panels per `kind`: a line per `way`, a dot per
    `seed`. Dashed: the `goal` of the former, whose scale is linear below it."""
    data = plots.stacked(data, ["fpr", "tpr"], "rate")
    data["color"] = data.rate.map({"fpr": GENERALIZED, "tpr": MEMORIZED})
    ways = data.way.unique().tolist()
    each = (4.2, (0.24 + 0.03 * data.seed.nunique()) * len(ways) + 0.5)
    fig, facets = plots.facets(data, ("kind", "rate"), each, (0, 0.5), sharey=True)
    for kind in data.kind.unique():  # each has its own seeds
        row = [facet for facet in facets if facet.name[0] == kind]
        plots.interval_dots(row, "way", ways, "seed", apart=0.2, ms=4, lw=1, capsize=1.5)
    for (kind, rate), axis, _ in facets:
        axis.grid(visible=False, axis="y")
        if rate == "tpr":
            axis.set_xlim(-0.03, 1.03)
            continue
        axis.axvline(goal, color=THEORY, lw=1, ls="--", zorder=0)
        axis.set_xscale("symlog", linthresh=goal, linscale=0.6)
        axis.set_xlim(-goal / 10, 1)
        plots.plain_ticks(axis, [0, goal, 10 * goal, 1])
        axis.set_title(kind if data.kind.nunique() > 1 else "", loc="left")
    for (_, rate), axis, _ in facets[-2:]:
        axis.set_xlabel({"fpr": "false positive rate", "tpr": "true positive rate"}[rate])
    if data.seed.nunique() > 1:
        plots.legend(fig, "outside right upper", title="model")
    return fig


def kind_curves(
    data: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    labels: dict[str, str],
    colors: dict[str, str],
    mark: float | None = None,
    **scales: object,
) -> Figure:
    """A panel per `kind`, two or three in a row: `y` over `x` (log) with intervals, a color for each value of `hue` in
    `colors`, a line per `seed`, dotted where it has no intervals (NaN); dashed, the `mark`.

    Where `x` has at most six values, these are the ticks. `scales` as for matplotlib's `Axes.set`.
    """
    kinds = data.kind.nunique()
    across = {1: 1, 2: 2, 4: 2}.get(kinds, 3)
    each = ({1: 6.9, 2: 7.6, 3: 8.7}[across] / across, 2.6)
    fig, facets = plots.facets(data, "kind", each, (0, 0.5 if across == 1 else 0.7), across, sharey=True)
    for kind, axis, rows in facets:
        plots.seed_curves(axis, rows, x, y, hue, colors, fade=0.4)
        axis.set(xscale="log", title=kind if kinds > 1 else "", **scales)
        plots.sparse_log(axis)
        if rows[x].nunique() <= 6:
            plots.plain_ticks(axis, rows[x].unique())
        if mark is not None:
            axis.axhline(mark, color=THEORY, lw=1, ls="--", zorder=0)
    plots.outer_labels(fig, labels[x], labels[y])
    beside = across == 1
    plots.legend(fig, "outside right center" if beside else "outside lower center", ncols=1 if beside else 2)
    return fig


def known(data: pd.DataFrame) -> Figure:
    """Realized FPR over the number of known images: held-out ones, generated ones, and images like those judged."""
    colors = {measure.HELD: MEMORIZED, measure.GENERATED: GENERALIZED, measure.LIKE: THEORY}
    labels = {"known": "known images", "fpr": "realized FPR"}
    return kind_curves(labeled(data), "known", "fpr", "images", labels, colors)


def draws(drawn: pd.DataFrame) -> Figure:
    """AUROC and TPR over the draws of the noise that are averaged."""
    colors = {measure.AUROC: GENERALIZED, measure.TPR: MEMORIZED}
    labels = {"draws": "draws of the noise", "share": "rate"}
    return kind_curves(labeled(drawn), "draws", "share", "what", labels, colors, ylim=SHARES)


def shares(data: pd.DataFrame) -> Figure:
    """Share flagged and share memorized over the samples looked at."""
    labels = {"samples": "samples looked at", "share": "share of samples"}
    colors = {"flagged": MEMORIZED, measure.TRUE: THEORY}
    return kind_curves(labeled(data), "samples", "share", "what", labels, colors)


def shares_by_stage(data: pd.DataFrame) -> Figure:
    """Shares flagged and share memorized over images seen."""
    colors = {stages.FLAGGED: MEMORIZED, stages.ANEW: AMBER, measure.TRUE: THEORY}
    labels = {"images_seen": "images seen", "share": "share of samples"}
    return kind_curves(labeled(data), "images_seen", "share", "what", labels, colors, ylim=SHARES)


def scores_by_stage(data: pd.DataFrame) -> Figure:
    """Mean scores of training and held-out images over images seen, the fixed threshold at 0."""
    colors = {stages.REPEATED: MEMORIZED, stages.ONCE: SKY, measure.HELD: GENERALIZED}
    labels = {"images_seen": "images seen", "score": "score, in Std"}
    return kind_curves(labeled(data), "images_seen", "score", "images", labels, colors, mark=0, yscale="symlog")


def paired_rows(
    kinds: dict[str, dict[str, np.ndarray]], captions: dict[str, dict[str, Sequence[str]]], most: int
) -> Figure:
    """For each kind, rows of at most `most` wide pictures [N, H, W] (gray, NaN is blank) or [N, H, W, 3] under names,
    with a caption over each."""
    rows = [(kind, name) for kind, pictures in kinds.items() for name in pictures]
    fig, axes = plt.subplots(len(rows), most, figsize=(1.18 * most + 1.5, 0.86 * len(rows)), squeeze=False)
    for row, (kind, name) in zip(axes, rows, strict=True):
        plots.image_row(row, kinds[kind][name], captions[kind][name])
        plots.name_beside(row[0], f"{kind}\n{name}" if len(kinds) > 1 else name, x=-0.1, fontsize=9)
    return fig


def unit_shares(data: pd.DataFrame, sorts: dict[str, str]) -> Figure:
    """A row per `kind`, a panel for each of `sorts` (value of `sort`: color): the `share` of the energy of each `unit`,
    largest first, and what the rest holds."""
    data = data[data.sort.isin(sorts)]
    fig, facets = plots.facets(data, ("kind", "sort"), (4.1, 2.6), (0, 0.3), sharey=True)
    for (kind, sort), axis, rows in facets:
        names, rest = [*rows.unit, "others"], 1 - rows.share.sum()
        axis.bar(range(len(rows)), rows.share, color=sorts[sort])
        axis.bar([len(rows)], [rest], color="0.75")
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8.5)
        axis.grid(visible=False, axis="x")
        axis.set(ylim=(0, 1))
        axis.set_title(f"{kind}: {sort}" if data.kind.nunique() > 1 else f"{sort} sample", fontsize=9.5)
    plots.outer_labels(fig, y="share of the energy")
    return fig
