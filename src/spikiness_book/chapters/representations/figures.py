"""Figures of the chapter on representations: how well measures tell two regimes apart, and size against spikiness."""

from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import REGIMES, THEORY


def auroc_dots(table: pd.DataFrame, line: str, panel: str, labels: dict[str, str]) -> Figure:
    """`auroc` with its interval: a dot on each `line`, a panel per `panel`, a color per `data` where there are several;
    both named by `labels` where these know them."""
    table = table.assign(value=table.auroc, **{column: table[column].replace(labels) for column in (line, panel)})
    table = table if "data" in table else table.assign(data="")
    kinds, names = table.data.unique(), table[line].unique().tolist()
    table["color"] = table.data.map(dict(zip(kinds, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False)))
    each = (2.6, 0.2 * len(names) * len(kinds) + 1.5)
    fig, facets = plots.facets(table, panel, each, (1.5, 0), sharex=True, sharey=True)
    plots.interval_dots(facets, line, names, "data", apart=0.3, capsize=2)
    for name, axis, _ in facets:
        axis.axvline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xlim=(-0.03, 1.03), xlabel="AUROC", title=name)
    if any(kinds):
        facets[0].axis.legend(loc="lower left")
    return fig


def size_panels(data: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """A row per `data`: the size of representations over that of inputs, Std over that size, colored by `regime`."""
    pairs = (("input", "norm"), ("norm", "std"))
    fig, axes = plots.panels(product(data.data.unique(), pairs), (3.8, 2.9), across=2)
    for (name, (x, y)), axis in axes.items():
        for (regime, color), marker in zip(REGIMES.items(), "^o", strict=True):
            dots = data[(data.data == name) & (data.regime == regime)]
            axis.scatter(dots[x], dots[y], s=12, alpha=0.45, color=color, marker=marker, label=regime, lw=0)
        axis.set(xlabel=labels[x], ylabel=labels[y], title=name)
    plots.legend(fig, "outside upper center", ncols=2)
    return fig
