"""Figures of repeated images and of the way through training: curves with intervals, frequencies on a diagonal."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_log

MARKERS = "osD^vPX*"


def sampled_frequencies(
    data: pd.DataFrame, each: pd.DataFrame, x: str, y: str, hue: str, labels: dict[str, str]
) -> Figure:
    """`y` against `x` on log axes with its interval `low` to `high`, the diagonal as theory; `each` adds faint dots.

    A row of `data` per number `hue`, written beside it; where `y` is 0 only the upper end is known: an arrow down.
    """
    fig, axis = plt.subplots(figsize=(5.4, 4.0))
    some, none = data[data[y] > 0], data[data[y] == 0]
    floor = 0.5 * min(data[x].min(), some[y].min() if len(some) else np.inf, none.high.min() if len(none) else np.inf)
    dots = each[each[y] > 0]
    axis.scatter(dots[x], dots[y], s=14, color="0.6", alpha=0.6, lw=0, zorder=1)
    spread = [some[y] - some.low.clip(lower=floor / 2), some.high - some[y]]
    axis.errorbar(some[x], some[y], yerr=np.clip(spread, 0, None), fmt="o", color=MEMORIZED, capsize=3)
    axis.errorbar(none[x], none.high, yerr=0.5 * none.high, uplims=True, fmt="_", color=MEMORIZED)
    for row in data.itertuples():
        at = getattr(row, x), getattr(row, y) or row.high
        axis.annotate(f"{getattr(row, hue):g}", at, (7, -11), textcoords="offset points", fontsize=9)
    ends = [floor, 2 * max(data[x].max(), data.high.max())]
    axis.plot(ends, ends, color=THEORY, lw=1, zorder=0, label="in proportion")
    axis.set(xscale="log", yscale="log", xlabel=labels.get(x, x), ylabel=labels.get(y, y))
    axis.set_ylim(floor / 2, ends[1])
    axis.set_xlim(0.6 * data[x].min(), 1.8 * data[x].max())
    axis.legend(loc="upper left")
    return fig


def interval_curves(
    panels: dict[str, pd.DataFrame],
    x: str,
    y: str,
    hue: str,
    labels: dict[str, str],
    colors: dict | None = None,
    marks: dict[str, float] | None = None,
    **scales: object,
) -> Figure:
    """Panels by name: `y` over `x` on a log axis, a curve with intervals `low` to `high` per `hue` (and `seed`).

    `colors` of the values of `hue`, or shades from light to dark; named horizontal `marks`; scales as for
    matplotlib's `Axes.set`.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(3.7 * len(panels) + 1.6, 3.4), sharey=True, squeeze=False)
    hues = list(dict.fromkeys(value for frame in panels.values() for value in frame[hue]))
    shades = dict(zip(hues, sns.color_palette("flare", len(hues)), strict=True))
    for axis, (name, frame) in zip(axes[0], panels.items(), strict=True):
        for i, value in enumerate(hues):
            lines = frame[frame[hue] == value]
            for k, (_, mine) in enumerate(lines.groupby(lines.get("seed", 0), dropna=False)):
                _curve(axis, mine.sort_values(x), x, y, (colors or shades)[value], MARKERS[i % 8], None if k else value)
        for text, at in (marks or {}).items():
            axis.axhline(at, color=THEORY, lw=1, ls=":", zorder=0)
            axis.text(1, at, text, fontsize=8, ha="right", va="bottom", transform=axis.get_yaxis_transform())
        axis.set(xscale="log", xlabel=labels.get(name, labels.get(x, x)), **scales)
        axis.margins(x=0.06)
        axis.set_title(name if len(panels) > 1 and name not in labels else "")
        sparse_log(axis)
    axes[0, 0].set_ylabel(labels.get(y, y))
    handles = {text: line for axis in axes[0] for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), title=labels.get(hue, "") or None, loc="outside right center")
    return fig


def _curve(axis: plt.Axes, mine: pd.DataFrame, x: str, y: str, color: object, marker: str, label: object) -> None:
    spread = np.clip([mine[y] - mine.low, mine.high - mine[y]], 0, None)
    name = None if label is None else f"{label:g}" if isinstance(label, float) else str(label)
    looks = {"fmt": f"-{marker}", "ms": 4, "lw": 1.4, "alpha": 0.9}
    axis.errorbar(mine[x], mine[y], color=color, label=name, **looks)
    axis.errorbar(mine[x], mine[y], yerr=spread, fmt="none", color=color, elinewidth=1, alpha=0.35, zorder=1)


def sparse_log(axis: plt.Axes) -> None:
    """Plain numbers on log axes, one per decade on an x axis that spans many."""
    plain_log(axis.yaxis)
    low, high = axis.get_xlim()
    plain_log(axis.xaxis)
    if high / low > 100:
        axis.xaxis.get_major_locator().set_params(subs=(1,))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")


def interval_points(
    groups: dict[str, pd.DataFrame], x: str, y: str, labels: dict[str, str], colors: Sequence
) -> Figure:
    """`y` over `x` (log) for each named group of rows with intervals `low` to `high`, on one pair of axes."""
    fig, axis = plt.subplots(figsize=(6.6, 3.6))
    for (name, frame), color, marker, turn in zip(groups.items(), colors, MARKERS, (0, 90, 90), strict=False):
        spread = np.clip([frame[y] - frame.low, frame.high - frame[y]], 0, None)
        axis.errorbar(frame[x], frame[y], yerr=spread, fmt=marker, ms=6, color=color, capsize=2, lw=1, label=name)
        mean = frame.groupby(x)[y].mean()
        axis.plot(mean.index, mean, color=color, lw=1.2, alpha=0.7)
        if "text" in frame:
            once = frame.sort_values(y, ascending=False).drop_duplicates("text")  # the highest of several seeds
            for row in once.itertuples():
                at, shift = (getattr(row, x), getattr(row, y)), (-4, 8) if turn else (6, -3)
                axis.annotate(row.text, at, shift, textcoords="offset points", fontsize=8.5, color=color, rotation=turn)
    axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
    axis.set(xscale="log", ylim=(-0.03, 1.22), xlabel=labels.get(x, x), ylabel=labels.get(y, y))
    sparse_log(axis)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def auroc_map(table: pd.DataFrame, row: str, column: str, label: str) -> Figure:
    """`auroc` as colors, 0 in blue over 0.5 in white to 1 in orange, and as numbers: a cell per `row` and `column`."""
    rows, columns = list(dict.fromkeys(table[row])), list(dict.fromkeys(table[column]))
    values = table.pivot_table(index=row, columns=column, values="auroc", sort=False).loc[rows, columns]
    fig, axis = plt.subplots(figsize=(0.62 * len(columns) + 2.4, 0.34 * len(rows) + 1.6))
    colors = sns.blend_palette([GENERALIZED, "white", MEMORIZED], as_cmap=True)
    looks = {"vmin": 0, "vmax": 1, "annot_kws": {"size": 8}, "cbar_kws": {"label": label}}
    sns.heatmap(values, cmap=colors, annot=True, fmt=".2f", linewidths=0.5, ax=axis, **looks)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=60)
    for text in axis.get_xticklabels():
        text.set_ha("right")
        text.set_rotation_mode("anchor")
    axis.tick_params(axis="y", rotation=0)
    return fig


def copy_times(data: pd.DataFrame, kinds: dict[str, str], x: str, y: str, labels: dict[str, str]) -> Figure:
    """Times `y` over `x`, both log, a color per `kind`, intervals `low` to `high`; arrows where `bound` is after or
    at or before: the time itself is then not seen."""
    fig, axis = plt.subplots(figsize=(6.2, 3.6))
    for i, (kind, color) in enumerate(kinds.items()):
        mine = data[data.kind == kind]
        sure, later = mine[mine.bound == "inside"], mine[mine.bound == "after"]
        earlier = mine[mine.bound == "at or before"]
        spread = np.clip([sure[y] - sure.low, sure.high - sure[y]], 0, None)
        axis.errorbar(sure[x], sure[y], yerr=spread, fmt=MARKERS[i], color=color, capsize=3, label=kind)
        for part, option in ((later, "lolims"), (earlier, "uplims")):
            size = 0.5 * part[y] if option == "lolims" else 0.3 * part[y]
            axis.errorbar(part[x], part[y], yerr=size, fmt=MARKERS[i], mfc="white", color=color, **{option: True})
        if sure.empty and len(mine):
            axis.plot([], [], MARKERS[i], mfc="white", color=color, label=f"{kind} (bounds only)")
    axis.set(xscale="log", yscale="log", xlabel=labels.get(x, x), ylabel=labels.get(y, y))
    axis.margins(0.12)
    sparse_log(axis)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_xticks(sorted(data[x].unique()), [f"{v:g}" for v in sorted(data[x].unique())])
    axis.set_xticks([], minor=True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig
