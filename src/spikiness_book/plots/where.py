"""Figures of where spikiness separates: grids of panels, a row per kind of network or wrapped, as wide as the page."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spikiness_book.plots.phase import WIDEST
from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_ticks

MARKERS = "osD^vP"
SHADES = (MEMORIZED, GENERALIZED, "#009E73", "#CC79A7", "#E69F00", "#555555")


def measure_maps(table: pd.DataFrame, panel: str, row: str, column: str, value: str, label: str) -> Figure:
    """`value` as colors, 0 in blue over 0.5 in white to 1 in orange: a map per `panel`, two beside each other, named
    below. With one panel its cells hold the numbers too.
    """
    names = list(dict.fromkeys(table[panel]))
    across = min(2, len(names))
    down = -(-len(names) // across)
    tall = max(table[table[panel] == name][row].nunique() for name in names)
    size = (WIDEST, (0.24 * tall + 0.3) * down + 1.5)
    fig, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    looks = {"vmin": 0, "vmax": 1, "cmap": sns.blend_palette([GENERALIZED, "white", MEMORIZED], as_cmap=True)}
    looks |= {"annot": len(names) == 1, "fmt": ".2f", "annot_kws": {"size": 7}, "linewidths": 0.4, "cbar": False}
    for k, axis in enumerate(axes.flat):
        if k >= len(names):
            axis.set_axis_off()
            continue
        mine = table[table[panel] == names[k]]
        rows, columns = list(dict.fromkeys(mine[row])), list(dict.fromkeys(mine[column]))
        sns.heatmap(mine.pivot(index=row, columns=column, values=value).loc[rows, columns], ax=axis, **looks)
        axis.set(xlabel=names[k] if len(names) > 1 else "", ylabel="")
        axis.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0, fontsize=8)
        axis.xaxis.tick_top()
        axis.set_xticks(np.arange(len(columns)) + 0.5, columns if k < across else [""] * len(columns), fontsize=8)
        axis.tick_params(axis="x", rotation=90)
    bar = fig.colorbar(axes[0, 0].collections[0], ax=axes, shrink=min(1, 3 / size[1]), pad=0.02)
    bar.set_label(label)
    return fig


def _grid(
    data: pd.DataFrame, row: str, column: str, height: float, names: dict[str, str], **shared: object
) -> tuple[Figure, dict[tuple, plt.Axes]]:
    """Axes by (row, column), the rows named at the left where there are several, the columns above."""
    rows, columns = (list(dict.fromkeys(data[key])) for key in (row, column))
    size = (WIDEST, height * len(rows) + 0.9)
    fig, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, **shared)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(names.get(name, name))
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(f"{name}\n".replace(", ", "\n") if len(rows) > 1 else "")
    return fig, {(r, c): axes[i, j] for i, r in enumerate(rows) for j, c in enumerate(columns)}


def noise_lines(data: pd.DataFrame, row: str, column: str, hue: str, labels: dict[str, str]) -> Figure:
    """`auroc` over `sigma` (log), a line per `hue` in a band from `low` to `high`; panels by `row` and `column`."""
    fig, axes = _grid(data, row, column, 1.9, labels, sharex=True, sharey=True)
    hues = list(dict.fromkeys(data[hue]))
    for (r, c), axis in axes.items():
        panel = data[(data[row] == r) & (data[column] == c)]
        for name, color, marker in zip(hues, SHADES, MARKERS, strict=False):
            mine = panel[panel[hue] == name].sort_values("sigma")
            axis.plot(mine.sigma, mine.auroc, color=color, marker=marker, ms=4, label=labels.get(name, name))
            axis.fill_between(mine.sigma, mine.low, mine.high, color=color, alpha=0.2, lw=0)
        axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        plain_ticks(axis, sorted(data.sigma.unique()))
        axis.set_ylabel(axis.get_ylabel() + (labels["auroc"] if c == next(iter(axes))[1] else ""))
        if r == list(axes)[-1][0]:
            axis.set_xlabel(labels["sigma"])
    handles, names = next(iter(axes.values())).get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=len(names))
    return fig


def along_depth(data: pd.DataFrame, row: str, column: str, hue: str, label: str, hues: Sequence[str]) -> Figure:
    """`auroc` of each layer by its `place` in the pass, a dot per network in the color of its `hue`, one of `hues`, and
    the mean as a line."""
    fig, axes = _grid(data, row, column, 2.0, {}, sharex="row", sharey=True)
    for (r, c), axis in axes.items():
        mine = data[(data[row] == r) & (data[column] == c)].dropna(subset=["auroc"])
        mean = mine.groupby("place").auroc.mean()
        axis.plot(mean.index, mean, color="0.75", lw=1, zorder=1)
        for name, color, marker in zip(hues, SHADES, MARKERS, strict=False):
            dots = mine[mine[hue] == name]
            axis.scatter(dots.place, dots.auroc, s=16, color=color, marker=marker, lw=0, alpha=0.85, zorder=2)
        axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set_ylim(-0.03, 1.03)
        if c == next(iter(axes))[1]:
            axis.set_ylabel(axis.get_ylabel() + label)
        if r == list(axes)[-1][0]:
            axis.set_xlabel("layer, first to last")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _marker_legend(fig, hues)
    return fig


def _marker_legend(fig: Figure, names: Sequence[str]) -> None:
    handles = [
        Line2D([], [], ls="", marker=marker, color=color, ms=5)
        for _, marker, color in zip(names, MARKERS, SHADES, strict=False)
    ]
    fig.legend(handles, names, loc="outside upper center", ncols=len(names), columnspacing=1.2, handletextpad=0.3)


def module_dots(data: pd.DataFrame, panel: str, x: str, y: str, label: str, kinds: Sequence[str]) -> Figure:
    """`y` of every layer as a dot beside others of its `x`, one of `kinds`, a bar at their median; a panel per `panel`,
    three beside each other."""
    names = list(dict.fromkeys(data[panel]))
    across = min(3, len(names))
    down = -(-len(names) // across)
    size = (WIDEST if across > 1 else 5.6, 1.9 * down + 1.5)
    fig, axes = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
    for k, axis in enumerate(axes.flat):
        if k >= len(names):
            axis.set_axis_off()
            continue
        mine = data[data[panel] == names[k]]
        for i, (kind, color, marker) in enumerate(zip(kinds, SHADES, MARKERS, strict=False)):
            values = mine[mine[x] == kind][y].dropna().to_numpy()
            shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
            axis.scatter(i + shift, values, s=14, color=color, marker=marker, alpha=0.7, lw=0)
            if len(values):
                axis.plot([i - 0.35, i + 0.35], [np.median(values)] * 2, color=THEORY, lw=1.6)
        axis.axhline(0, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(ylim=(-1.05, 1.05), title=names[k] if len(names) > 1 else "")
        axis.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds], fontsize=8.5)
        axis.tick_params(axis="x", rotation=0 if across == 1 else 60)
    fig.supylabel(label, fontsize=10.5)
    return fig


def carried_settings(points: pd.DataFrame, panel: str, hue: str, labels: dict[str, str]) -> Figure:
    """`auroc_b` against `auroc_a` of every setting, colored by `hue`; shaded corners are settings that flip."""
    names, hues = list(dict.fromkeys(points[panel])), list(dict.fromkeys(points[hue]))
    size = (min(2.7 * len(names) + 2.4, WIDEST), 3.3)
    fig, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False, layout="compressed")
    for axis, name in zip(axes[0], names, strict=True):
        mine = points[points[panel] == name]
        for value, color in zip(hues, SHADES, strict=False):
            dots = mine[mine[hue] == value]
            axis.scatter(dots.auroc_a, dots.auroc_b, s=5, color=color, alpha=0.5, lw=0, rasterized=True)
        for x, y in ((0, 0.7), (0.7, 0)):
            axis.add_patch(plt.Rectangle((x, y), 0.3, 0.3, color="0.88", lw=0, zorder=0))
        axis.plot([0, 1], [0, 1], color=THEORY, lw=1, zorder=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=labels["auroc_a"], title=name)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes[0, 0].set_ylabel(labels["auroc_b"])
    handles = [Line2D([], [], ls="", marker="o", ms=5, color=color) for _, color in zip(hues, SHADES, strict=False)]
    fig.legend(handles, [labels.get(h, h) for h in hues], loc="outside right center")
    return fig


def measure_dots(data: pd.DataFrame, row: str, column: str, y: str, hue: str, marks: dict[str, float]) -> Figure:
    """`value` with its interval `low` to `high` against the names `y`, a color per `hue`; panels by `row` and `column`,
    dotted at the column's mark."""
    names, hues = list(dict.fromkeys(data[y])), list(dict.fromkeys(data[hue]))
    fig, axes = _grid(data, row, column, 0.27 * len(names) + 0.5, {}, sharex="col", sharey=True)
    for (r, c), axis in axes.items():
        panel = data[(data[row] == r) & (data[column] == c)]
        for k, (name, color, marker) in enumerate(zip(hues, SHADES, MARKERS, strict=False)):
            for i, text in enumerate(names):
                mine = panel[(panel[hue] == name) & (panel[y] == text)]
                step = np.linspace(-0.07, 0.07, len(mine)) if len(mine) > 1 else np.zeros(len(mine))
                at = i + (k - (len(hues) - 1) / 2) * 0.36 + step
                spread = np.clip([mine.value - mine.low, mine.high - mine.value], 0, None)
                label = name if i == 0 else None
                looks = {"fmt": marker, "ms": 3.5, "color": color, "elinewidth": 0.8, "alpha": 0.85}
                axis.errorbar(mine.value, at, xerr=spread, label=label, **looks)
        if c in marks:
            axis.axvline(marks[c], color=THEORY, lw=1, ls=":", zorder=0)
        axis.grid(visible=False, axis="y")
        every, mark = data[data[column] == c], marks.get(c, data.value.mean())
        low, high = min(every.low.min(), mark), max(every.high.max(), mark)
        edge = 0.04 * max(high - low, 0.1)
        axis.set(xlim=(low - edge, high + edge), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), names)
    handles, texts = next(iter(axes.values())).get_legend_handles_labels()
    fig.legend(handles, texts, loc="outside lower center", ncols=len(texts))
    return fig
