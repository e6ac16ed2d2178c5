"""Figures of the chapter on detection: how well each method tells, over kinds of models."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY

COLUMNS = 3  # panels side by side at most


def method_dots(
    table: pd.DataFrame, values: dict[str, str], groups: dict[str, Sequence[str]], facet: str = "kind"
) -> Figure:
    """A row per `method`, a panel per `facet`: each of `values` (column -> label) with its `_low` and `_high`.

    `groups` names the methods in the order of rows; the first group is drawn in orange, the others in gray, and a line
    parts them. At most three panels stand side by side.
    """
    panels, names = list(dict.fromkeys(table[facet])), [name for group in groups.values() for name in group]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.25 * columns + 2.0, rows * (0.2 * len(names) + 1.1) + 0.3)
    fig, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    first = next(iter(groups.values()))
    for axis, panel in zip(axes.flat, panels, strict=False):
        mine = table[table[facet] == panel].set_index("method")
        for k, (value, label) in enumerate(values.items()):
            for ours in (True, False):
                part = mine[[(name in first) == ours for name in mine.index]]
                y = [names.index(name) + 0.34 * (k - (len(values) - 1) / 2) for name in part.index]
                spread = np.clip([part[value] - part[f"{value}_low"], part[f"{value}_high"] - part[value]], 0, None)
                color = (MEMORIZED if ours else THEORY, GENERALIZED)[k]
                looks = {"fmt": "os"[k], "ms": 4.5, "capsize": 2, "lw": 1, "color": color}
                axis.errorbar(part[value], y, xerr=spread, label=label if ours else None, **looks)
        edges = np.cumsum([len(group) for group in groups.values()])[:-1] - 0.5
        for at in edges:
            axis.axhline(at, color="0.8", lw=0.8, zorder=0)
        axis.axvline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xlim=(-0.03, 1.03), title=panel, xticks=[0, 0.5, 1])
        axis.grid(visible=False, axis="y")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("AUROC" if len(values) == 1 else "rate")
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    if len(values) > 1:
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(values))
    return fig


def score_histograms(bins: pd.DataFrame, label: str) -> Figure:
    """A panel per `data`: the `share` of memorized and of generalized samples per bin from `left` to `right`."""
    panels = list(dict.fromkeys(bins.data))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(2.8 * columns + 0.6, 2.2 * rows + 0.4), squeeze=False)
    for axis, name in zip(axes.flat, panels, strict=False):
        for regime, color in (("memorized", MEMORIZED), ("generalized", GENERALIZED)):
            mine = bins[(bins.data == name) & (bins.regime == regime)].sort_values("left")
            edges = [*mine.left, mine.right.iloc[-1]]
            axis.stairs(mine.share, edges, fill=True, color=color, alpha=0.55, label=regime)
        axis.set(xlabel=label, yticks=[], title=name)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(visible=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel("share of samples")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig
