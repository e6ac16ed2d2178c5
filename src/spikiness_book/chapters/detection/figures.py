"""The figure of the chapter on detection: how well each method tells, over kinds of models."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import GENERALIZED, MEMORIZED, THEORY


def method_dots(table: pd.DataFrame, values: dict[str, str], groups: dict[str, Sequence[str]]) -> Figure:
    """A line per `method`, a panel per `kind`, three side by side: each of `values` (column: label) with its `_low` and
    `_high`.

    `groups` names the methods in the order of lines, with a rule between groups; the first group is drawn in orange,
    the others in gray.
    """
    names, ours = [name for group in groups.values() for name in group], next(iter(groups.values()))
    table = plots.stacked(table, values, "rate").replace({"rate": values})
    table["color"] = table.method.isin(ours).map({True: MEMORIZED, False: THEORY})
    table.loc[table.rate != next(iter(values.values())), "color"] = GENERALIZED
    each, frame = (2.25, 0.2 * len(names) + 1.1), (2.0, 0.3)
    fig, facets = plots.facets(table, "kind", each, frame, across=3, sharex=True, sharey=True)
    plots.interval_dots(facets, "method", names, "rate", apart=0.34, ms=4.5, capsize=2, lw=1)
    for kind, axis, _ in facets:
        for edge in np.cumsum([len(group) for group in groups.values()])[:-1] - 0.5:
            axis.axhline(edge, color="0.8", lw=0.8, zorder=0)
        axis.axvline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xlim=(-0.03, 1.03), title=kind, xticks=[0, 0.5, 1])
        axis.grid(visible=False, axis="y")
    for _, axis, _ in facets[-3:]:
        axis.tick_params(labelbottom=True)
    plots.outer_labels(fig, "AUROC" if len(values) == 1 else "rate")
    if len(values) > 1:
        plots.legend(fig, "outside upper center", ncols=len(values))
    return fig
