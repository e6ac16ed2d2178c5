"""Figures of the chapter on how networks are trained: one value per setting, and split columns before and after."""

import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import GENERALIZED, MEMORIZED, THEORY


def setting_dots(rows: pd.DataFrame, limit: float) -> Figure:
    """`operator_error` with its interval, log axis: a line per `setting`, a rule between every two of `group`, a panel
    per `regime`; dashed, `limit`; where the error is NaN the panel says "diverged"."""
    names, group = (rows.drop_duplicates("setting")[column].tolist() for column in ("setting", "group"))
    rows = rows.assign(value=rows.operator_error)
    rows = rows.assign(low=rows.low.fillna(rows.value), high=rows.high.fillna(rows.value))
    rows["color"] = rows.regime.map(dict(zip(rows.regime.unique(), (MEMORIZED, GENERALIZED), strict=False)))
    fig, facets = plots.facets(rows, "regime", (2.7, 0.26 * len(names) + 1.1), (2.3, 0), sharey=True)
    plots.interval_dots(facets, "setting", names, ms=4.5, capsize=2.5)
    for regime, axis, panel in facets:
        for row in panel[panel.value.isna()].itertuples():
            place = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 9}
            axis.text(0.98, names.index(row.setting), "diverged", color=row.color, style="italic", **place)
        axis.axvline(limit, color=THEORY, lw=1, ls="--", zorder=0)
        for i in range(1, len(names)):
            if group[i] != group[i - 1]:
                axis.axhline(i - 0.5, color="0.85", lw=0.8, zorder=0)
        axis.grid(visible=False, axis="y")
        axis.set(xscale="log", xlabel="operator error", title=regime)
        low, high = axis.get_xlim()
        if high / low < 100:
            plots.plain_log(axis.xaxis)
        else:
            axis.xaxis.set_major_formatter("{x:g}")
    return fig


def split_columns(data: pd.DataFrame) -> Figure:
    """A panel per `setting`: mean share of an image's gain in its `column`, at `start` in gray and at the `end`."""
    fig, facets = plots.facets(data, "setting", (2.4, 2.7), (0.4, 0), sharey=True)
    for name, axis, rows in facets:
        columns = rows.groupby("column")
        start, end = columns.start.mean(), columns.end.agg(value="mean", low="min", high="max")
        axis.bar(start.index - 0.2, start, width=0.38, color="0.7", label="start")
        axis.bar(end.index + 0.2, end.value, width=0.38, color=MEMORIZED, label="after training")
        looks = {"fmt": "none", "ecolor": THEORY, "elinewidth": 1, "capsize": 2}
        axis.errorbar(end.index + 0.2, end.value, yerr=plots.spread(end), **looks)
        axis.set(title=name, xlabel="column, by size", xticks=list(end.index), ylim=(0, 1.05))
    plots.outer_labels(fig, y="share of the image's gain")
    plots.legend(fig, "outside upper center", ncols=2)
    return fig
