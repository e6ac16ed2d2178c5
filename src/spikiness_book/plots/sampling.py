"""Figures of the chapter on sampling from two-layer networks."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, plain_log, plain_ticks

COLORS = {"memorized": MEMORIZED, "generalized": GENERALIZED}


def fraction_dots(table: pd.DataFrame, criteria: dict[str, str]) -> Figure:
    """Memorized `fraction` with interval `low` to `high`: a row per `name`, a dot per seed, a panel per criterion."""
    names = list(table.name.unique())
    fig, axes = plt.subplots(
        1, len(criteria), figsize=(3.3 * len(criteria) + 1.6, 0.42 * len(names) + 1.1), sharey=True, squeeze=False
    )
    for axis, (criterion, title) in zip(axes[0], criteria.items(), strict=True):
        for row, name in enumerate(names):
            mine = table[(table.name == name) & (table.criterion == criterion)]
            y = row + np.linspace(-0.22, 0.22, len(mine)) if len(mine) > 1 else [row]
            spread = np.clip([mine.fraction - mine.low, mine.high - mine.fraction], 0, None)
            axis.errorbar(mine.fraction, y, xerr=spread, fmt="o", ms=4, capsize=2, color=COLORS[mine.regime.iloc[0]])
        axis.set(xlim=(-0.03, 1.03), xlabel="memorized fraction", title=title)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    return fig


def along_noise(
    data: pd.DataFrame, panels: dict[str, str], hue: str, colors: Sequence[str], log: Sequence[str] = ()
) -> Figure:
    """A panel per column of `panels` (name -> label) over `sigma`: a dot per seed, a line through medians per `hue`."""
    fig, axes = plt.subplots(1, len(panels), figsize=(3.9 * len(panels) + 0.4, 3.3), squeeze=False)
    for axis, (column, label) in zip(axes[0], panels.items(), strict=True):
        for (name, mine), color in zip(data.groupby(hue, sort=False), colors, strict=True):
            median = mine.groupby("sigma")[column].median()
            axis.plot(median.index, median, color=color, label=name)
            axis.scatter(mine.sigma, mine[column], s=18, alpha=0.6, color=color, lw=0)
        axis.set(xscale="log", xlabel="noise level $\\sigma$", ylabel=label)
        plain_ticks(axis, sorted(data.sigma.unique()))
        if column in log:
            axis.set_yscale("log")
            plain_log(axis.yaxis)
        else:
            axis.set_ylim(bottom=0)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=data[hue].nunique())
    return fig
