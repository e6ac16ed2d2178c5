"""The figure of the chapter on memorization that is its own: errors over two settings."""

import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots


def gain_errors(by_noise: pd.DataFrame, by_penalty: pd.DataFrame) -> Figure:
    """The worst `gain_error` over the noise level and over the penalty, a dot per seed and a line through the medians,
    log axes."""
    tables = {"sigma": (by_noise, "noise level $\\sigma$"), "lam": (by_penalty, "penalty $\\lambda$")}
    fig, axes = plots.panels(tables, (3.6, 3.2), (0.4, 0), sharey=True)
    for x, axis in axes.items():
        data, label = tables[x]
        plots.medians(axis, data, x, "gain_error")
        axis.set(xlabel=label, ylabel="worst gain error", xscale="log", yscale="log")
        plots.plain_ticks(axis, data[x].unique())
    return fig
