"""Figures of the chapter on sampling from two-layer networks."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import REGIMES


def fraction_dots(table: pd.DataFrame, criteria: dict[str, str]) -> Figure:
    """Memorized `fraction` with its interval: a line per `name`, a dot per seed, a panel for each of `criteria` (value
    of `criterion`: title)."""
    names = table.name.unique().tolist()
    table = table[table.criterion.isin(criteria)]
    table = table.assign(value=table.fraction, color=table.regime.map(REGIMES))
    fig, facets = plots.facets(table, "criterion", (3.3, 0.42 * len(names) + 1.1), (1.6, 0), sharey=True)
    plots.interval_dots(facets, "name", names, reach=0.22, ms=4, capsize=2)
    for criterion, axis, _ in facets:
        axis.set(xlim=(-0.03, 1.03), xlabel="memorized fraction", title=criteria[criterion])
    return fig


def along_noise(data: pd.DataFrame, columns: dict[str, str], log: Sequence[str] = ()) -> Figure:
    """A panel for each of `columns` (name: label) over `sigma`, on a log axis if in `log`: a dot per seed, a line
    through medians for each of two values of `subset`."""
    fig, axes = plots.panels(columns, (3.9, 3.3), (0.4, 0))
    for column, axis in axes.items():
        for (name, rows), color in zip(data.groupby("subset", sort=False), REGIMES.values(), strict=True):
            median = rows.groupby("sigma")[column].median()
            axis.plot(median.index, median, color=color, label=name)
            axis.scatter(rows.sigma, rows[column], s=18, alpha=0.6, color=color, lw=0)
        axis.set(xscale="log", xlabel="noise level $\\sigma$", ylabel=columns[column])
        plots.plain_ticks(axis, data.sigma.unique())
        if column in log:
            axis.set_yscale("log")
            plots.plain_log(axis.yaxis)
        else:
            axis.set_ylim(bottom=0)
    plots.legend(fig, "outside upper center", ncols=2)
    return fig
