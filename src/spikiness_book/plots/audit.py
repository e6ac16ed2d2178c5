"""Figures of the chapter on audits: rates of each way to flag, pairs of pictures, curves in panels, units."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book.plots.copies import MARKERS, sparse_log
from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_ticks


def audit_rates(data: pd.DataFrame, rates: dict[str, str], goal: float) -> Figure:
    """A row of panels per `kind`, one panel for each of `rates` (column: label): a line per `way`, a dot per `seed`
    with its interval, on a scale that is linear below `goal` for rates whose name starts with f; dashed: the goal."""
    kinds, ways = list(dict.fromkeys(data.kind)), list(dict.fromkeys(data.way))
    size = (8.4, ((0.24 + 0.03 * data.seed.nunique()) * len(ways) + 0.5) * len(kinds) + 0.5)
    fig, axes = plt.subplots(len(kinds), len(rates), figsize=size, sharey=True, squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        for axis, (rate, label) in zip(row, rates.items(), strict=True):
            mine = data[data.kind == kind]
            seeds = list(dict.fromkeys(mine.seed))
            shift = (np.arange(len(seeds)) - (len(seeds) - 1) / 2) * 0.2
            for seed, by, marker in zip(seeds, shift, MARKERS, strict=False):
                part = mine[mine.seed == seed]
                y = [ways.index(way) + by for way in part.way]
                spread = np.clip([part[rate] - part[f"{rate}_low"], part[f"{rate}_high"] - part[rate]], 0, None)
                color = GENERALIZED if rate.startswith("f") else MEMORIZED
                axis.errorbar(part[rate], y, xerr=spread, fmt=marker, ms=4, lw=1, capsize=1.5, color=color, label=seed)
            if rate.startswith("f"):
                axis.axvline(goal, color=THEORY, lw=1, ls="--", zorder=0)
                axis.set_xscale("symlog", linthresh=goal, linscale=0.6)
                axis.set_xlim(-goal / 10, 1)
                ticks = [0, goal, 10 * goal, 1]
                axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axis.set_xticks([], minor=True)
            else:
                axis.set_xlim(-0.03, 1.03)
            axis.set_xlabel(label if kind == kinds[-1] else "")
            axis.grid(visible=False, axis="y")
        row[0].set(yticks=range(len(ways)), yticklabels=ways, ylim=(len(ways) - 0.5, -0.5))
        if len(kinds) > 1:
            row[0].set_title(kind, loc="left")
    handles, names = axes[0, 0].get_legend_handles_labels()
    if len(names) > 1:
        fig.legend(handles, names, title="model", loc="outside right upper")
    return fig


def paired_rows(
    kinds: dict[str, dict[str, np.ndarray]], captions: dict[str, dict[str, Sequence[str]]], most: int
) -> Figure:
    """For each kind, rows of at most `most` wide pictures [N, H, W] (gray, NaN is blank) or [N, H, W, 3] under names,
    with a caption over each."""
    rows = [(kind, name) for kind, mine in kinds.items() for name in mine]
    size = (1.18 * most + 1.5, 0.86 * len(rows))
    fig, axes = plt.subplots(len(rows), most, figsize=size, squeeze=False)
    for row, (kind, name) in zip(axes, rows, strict=True):
        images = kinds[kind][name]
        for i, axis in enumerate(row):
            axis.set_axis_off()
            if i < len(images):
                limit = np.nanmax(np.abs(images[i])) or 1.0
                axis.imshow(images[i], vmin=-limit, vmax=limit)
                axis.set_title(captions[kind][name][i], fontsize=8.5, pad=2)
        text = f"{kind}\n{name}" if len(kinds) > 1 else name
        row[0].text(-0.1, 0.5, text, transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    return fig


def panel_curves(
    data: pd.DataFrame,
    panel: str,
    x: str,
    y: str,
    hue: str,
    labels: dict[str, str],
    colors: dict,
    mark: float | None = None,
    **scales: object,
) -> Figure:
    """A panel per value of `panel`, two or three in a row: `y` over `x` (log) with intervals `low` to `high`, a color
    for each value of `hue` in `colors`, a line per `seed`, dotted where it has no intervals (NaN); dashed, the `mark`.

    Where `x` has at most six values, these are the ticks. `scales` as for matplotlib's `Axes.set`.
    """
    panels = list(dict.fromkeys(data[panel]))
    across = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    down = -(-len(panels) // across)
    size = ({1: 6.9, 2: 7.6, 3: 8.7}[across], 2.6 * down + (0.5 if across == 1 else 0.7))
    fig, axes = plt.subplots(down, across, figsize=size, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for i, name in enumerate(panels):
        axis, mine = axes.flat[i], data[data[panel] == name]
        for (value, color), marker in zip(colors.items(), MARKERS, strict=False):
            for k, (_, line) in enumerate(mine[mine[hue] == value].groupby("seed")):
                _line(axis, line.sort_values(x), x, y, color, marker, None if k else value)
        axis.set(xscale="log", **scales)
        axis.set_title(name if len(panels) > 1 else "")
        if i + across >= len(panels):
            axis.set_xlabel(labels.get(x, x))
        if i % across == 0:
            axis.set_ylabel(labels.get(y, y))
        sparse_log(axis)
        if mine[x].nunique() <= 6:
            plain_ticks(axis, sorted(mine[x].unique()))
        if mark is not None:
            axis.axhline(mark, color=THEORY, lw=1, ls="--", zorder=0)
    found = {text: line for axis in axes.flat for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    where = "outside right center" if across == 1 else "outside lower center"
    fig.legend(found.values(), found.keys(), loc=where, ncols=1 if across == 1 else 2)
    return fig


def _line(axis: plt.Axes, line: pd.DataFrame, x: str, y: str, color: object, marker: str, label: object) -> None:
    if line.low.isna().all():
        axis.plot(line[x], line[y], ":", color=color, lw=1.2, label=label, zorder=0)
        return
    axis.plot(line[x], line[y], f"-{marker}", ms=4, lw=1.4, color=color, alpha=0.9, label=label)
    spread = np.clip([line[y] - line.low, line.high - line[y]], 0, None)
    axis.errorbar(line[x], line[y], yerr=spread, fmt="none", color=color, elinewidth=1, alpha=0.4, zorder=1)


def unit_shares(data: pd.DataFrame, sorts: dict[str, str]) -> Figure:
    """A row per `kind`, a panel for each of `sorts` (value of `sort`: color): the `share` of the energy of each `unit`,
    largest first, and what the rest holds."""
    kinds = list(dict.fromkeys(data.kind))
    size = (8.2, 2.6 * len(kinds) + 0.3)
    fig, axes = plt.subplots(len(kinds), len(sorts), figsize=size, sharey=True, squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        for axis, (sort, color) in zip(row, sorts.items(), strict=True):
            mine = data[(data.kind == kind) & (data.sort == sort)]
            names, rest = [*mine.unit, "others"], 1 - mine.share.sum()
            axis.bar(range(len(mine)), mine.share, color=color)
            axis.bar([len(mine)], [rest], color="0.75")
            axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8.5)
            axis.grid(visible=False, axis="x")
            axis.set(ylim=(0, 1))
            axis.set_title(f"{kind}: {sort}" if len(kinds) > 1 else f"{sort} sample", fontsize=9.5)
        row[0].set_ylabel("share of the energy")
    return fig
