"""Figures of the chapter on how networks are trained: one value per setting, and split columns before and after."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_log

COLORS = (MEMORIZED, GENERALIZED)


def setting_dots(rows: pd.DataFrame, value: str, label: str, limit: float) -> Figure:
    """`value` with its interval `low` to `high`, log axis: a row per `setting`, a line between every two of `group`, a
    panel per `regime`; dashed, `limit`; where a value is NaN the panel says "diverged"."""
    names, regimes = list(dict.fromkeys(rows.setting)), list(dict.fromkeys(rows.regime))
    group = rows.drop_duplicates("setting").set_index("setting").group
    fig, axes = plt.subplots(
        1, len(regimes), figsize=(2.7 * len(regimes) + 2.3, 0.26 * len(names) + 1.1), sharey=True, squeeze=False
    )
    for axis, regime, color in zip(axes[0], regimes, COLORS, strict=False):
        mine = rows[rows.regime == regime].set_index("setting")
        known, lost = mine[mine[value].notna()], mine[mine[value].isna()]
        spread = np.clip(np.nan_to_num([known[value] - known.low, known.high - known[value]]), 0, None)
        y = [names.index(name) for name in known.index]
        axis.errorbar(known[value], y, xerr=spread, fmt="o", ms=4.5, capsize=2.5, color=color)
        for name in lost.index:
            place = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 9}
            axis.text(0.98, names.index(name), "diverged", color=color, style="italic", **place)
        axis.axvline(limit, color=THEORY, lw=1, ls="--", zorder=0)
        for i in range(1, len(names)):
            if group[names[i]] != group[names[i - 1]]:
                axis.axhline(i - 0.5, color="0.85", lw=0.8, zorder=0)
        axis.grid(visible=False, axis="y")
        axis.set(xscale="log", xlabel=label, title=regime)
        _few_ticks(axis)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    return fig


def _few_ticks(axis: plt.Axes) -> None:
    """Plain numbers on the log axis x: each decade, or 1, 2 and 5 of it where the axis spans one or two."""
    low, high = axis.get_xlim()
    if high / low < 100:
        plain_log(axis.xaxis)
    else:
        axis.xaxis.set_major_formatter("{x:g}")


def split_columns(data: pd.DataFrame) -> Figure:
    """A panel per `setting`: mean share of an image's gain in its `column`, at `start` in gray and at the `end`."""
    panels = list(dict.fromkeys(data.setting))
    fig, axes = plt.subplots(1, len(panels), figsize=(2.4 * len(panels) + 0.4, 2.7), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], panels, strict=True):
        mine = data[data.setting == name].groupby("column")[["start", "end"]]
        mean, low, high = mine.mean(), mine.min(), mine.max()
        axis.bar(mean.index - 0.2, mean.start, width=0.38, color="0.7", label="start")
        spread = np.clip([mean.end - low.end, high.end - mean.end], 0, None)
        axis.bar(mean.index + 0.2, mean.end, width=0.38, color=MEMORIZED, label="after training")
        axis.errorbar(mean.index + 0.2, mean.end, yerr=spread, fmt="none", ecolor=THEORY, elinewidth=1, capsize=2)
        axis.set(title=name, xlabel="column, by size", xticks=list(mean.index), ylim=(0, 1.05))
    axes[0, 0].set_ylabel("share of the image's gain")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig
