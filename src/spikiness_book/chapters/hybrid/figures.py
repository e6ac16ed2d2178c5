"""The figure of the hybrid chapter that is its own: what is stored above its predicted threshold."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import MEMORIZED, THEORY


def over_threshold(tables: dict[str, pd.DataFrame]) -> Figure:
    """In a panel per name, the `cosine` of the best column over `relative` = copies / predicted copies, log axis: a dot
    per row, medians as a line, a mark at 1."""
    fig, axes = plots.panels(tables, (3.5, 3.2), (0.4, 0), sharey=True)
    for name, axis in axes.items():
        data = tables[name]
        bins = np.round(4 * np.log10(data.relative)) / 4  # medians over quarters of a decade
        median = data.groupby(bins)[["relative", "cosine"]].median()
        axis.plot(median.relative, median.cosine, color=MEMORIZED)
        axis.scatter(data.relative, data.cosine, s=16, alpha=0.55, color=MEMORIZED, lw=0)
        axis.axvline(1, color=THEORY, lw=1, ls="--")
        axis.set(xscale="log", xlabel="copies / predicted copies", title=name)
    plots.outer_labels(fig, y="cosine to the best column")
    return fig
