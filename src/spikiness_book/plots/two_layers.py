"""Figures of the two-layer chapters."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_log, plain_ticks


def predicted_learned(data: pd.DataFrame, hue: str, label: str) -> Figure:
    """Learned against predicted values (columns `predicted`, `learned`, and `hue`) from 0, the diagonal as theory."""
    fig, axis = plt.subplots(figsize=(4.6, 4.2))
    sns.scatterplot(data, x="predicted", y="learned", hue=hue, style=hue, s=40, alpha=0.8, ax=axis)
    high = data[["predicted", "learned"]].max().max() * 1.08
    axis.plot([0, high], [0, high], color=THEORY, lw=1, zorder=0, label="theory")
    axis.set(xlim=(0, high), ylim=(-0.02 * high, high), xlabel=f"predicted {label}", ylabel=f"learned {label}")
    axis.legend(title=None)
    return fig


def representation_bars(panels: dict[str, np.ndarray], color: str | Sequence[str] = MEMORIZED) -> Figure:
    """One panel per name: the heights of the units' activations [p], one bar per unit."""
    fig, axes = plt.subplots(1, len(panels), figsize=(2.5 * len(panels) + 0.8, 2.4), sharey=True, squeeze=False)
    colors = [color] * len(panels) if isinstance(color, str) else color
    for axis, (name, heights), fill in zip(axes[0], panels.items(), colors, strict=True):
        axis.bar(range(len(heights)), heights, width=0.9, color=fill)
        axis.set(title=name, xlabel="unit")
    axes[0, 0].set_ylabel("activation $h$")
    return fig


def errors(
    data: pd.DataFrame, x: str, y: str, hue: str | None = None, *, labels: dict[str, str], **scales: str
) -> Figure:
    """Points of `y` over the settings `x`, one per seed, with their median as a line; scales as xscale=, yscale=."""
    fig, axis = plt.subplots(figsize=(5.4, 3.4))
    sns.lineplot(data, x=x, y=y, hue=hue, estimator="median", errorbar=None, ax=axis)
    sns.scatterplot(data, x=x, y=y, hue=hue, s=30, alpha=0.75, legend=False, ax=axis)
    axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), **scales)
    for side in (axis.xaxis, axis.yaxis):
        plain_log(side)
    if hue:
        axis.legend(title=labels.get(hue, hue) or None, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def error_panels(panels: dict[str, tuple[pd.DataFrame, str]], y: str, label: str) -> Figure:
    """Panels side by side: `y` over one setting each, a dot per seed and a line through the medians, log axes."""
    fig, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 0.4, 3.2), sharey=True, squeeze=False)
    for axis, (name, (data, x)) in zip(axes[0], panels.items(), strict=True):
        sns.lineplot(data, x=x, y=y, estimator="median", errorbar=None, ax=axis)
        sns.scatterplot(data, x=x, y=y, s=30, alpha=0.75, ax=axis)
        axis.set(xlabel=name, ylabel=label, xscale="log", yscale="log")
        plain_ticks(axis, sorted(data[x].unique()))
    return fig


def teaser(regimes: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One row per regime: columns of the weights as pictures [N, H, W], and one representation [p] as bars."""
    most = max(len(columns) for columns, _ in regimes.values())
    fig, axes = plt.subplots(
        len(regimes),
        most + 1,
        figsize=(1.2 * most + 4.2, 1.5 * len(regimes)),
        width_ratios=[1] * most + [2.8],
        squeeze=False,
    )
    for row, (name, (columns, heights)), color in zip(axes, regimes.items(), (MEMORIZED, GENERALIZED), strict=False):
        for axis in row[:-1]:
            axis.set_axis_off()
        for axis, column in zip(row, columns, strict=False):
            limit = np.abs(column).max() or 1.0
            axis.imshow(column, vmin=-limit, vmax=limit)
        row[0].text(-0.12, 0.5, name, transform=row[0].transAxes, ha="right", va="center", color=color)
        row[-1].bar(range(len(heights)), heights, width=0.9, color=color)
        row[-1].set(xticks=[], yticks=[], ylabel="activation")
    axes[0, 0].set_title("columns of the weights", loc="left")
    axes[0, -1].set_title("representation of one image", loc="left")
    axes[-1, -1].set_xlabel("hidden unit")
    return fig


def marked_histogram(values: dict[str, np.ndarray], marks: dict[str, float], label: str) -> Figure:
    """Histograms of `values` [N] by name on shared bins, named lines at `marks`, the part below 0 shaded."""
    fig, axis = plt.subplots(figsize=(6.4, 3.4))
    everything = np.concatenate([*values.values(), list(marks.values())])
    bins = np.linspace(min(everything.min(), 0) - 0.1, everything.max() + 0.02, 60)
    for name, group in values.items():
        axis.hist(group, bins, weights=np.full(len(group), 1 / len(group)), alpha=0.6, label=name)
    axis.axvspan(bins[0], 0, color="0.92", zorder=0)
    top = axis.get_ylim()[1]
    for i, (name, at) in enumerate(marks.items()):
        axis.plot([at, at], [0, top * (1.1 + 0.13 * i)], color=THEORY, lw=1, ls="--")
        axis.text(at, top * (1.11 + 0.13 * i), name, ha="center", va="bottom", fontsize=9)
    axis.set(
        xlim=(bins[0], bins[-1]), ylim=(0, top * (1.2 + 0.13 * len(marks))), xlabel=label, ylabel="share of subsets"
    )
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def settings(
    data: pd.DataFrame, x: str, y: str, hue: str, col: str | None = None, *, labels: dict[str, str], **scales: object
) -> Figure:
    """`y` over the settings `x`, a dot per seed and a line through medians, colored by the ordered setting `hue`.

    One panel per value of `col` where given; scales as for matplotlib's `Axes.set`.
    """
    values = [None] if col is None else sorted(data[col].unique())
    hues = list(dict.fromkeys(data[hue]))
    palette = dict(zip(hues, sns.color_palette("viridis", len(hues)), strict=True))
    size = (5.6, 3.5) if col is None else (2.9 * len(values) + 1.4, 3.3)
    fig, axes = plt.subplots(1, len(values), figsize=size, sharey=True, squeeze=False)
    for axis, value in zip(axes[0], values, strict=True):
        part = data if value is None else data[data[col] == value]
        style = {"data": part, "x": x, "y": y, "hue": hue, "palette": palette, "ax": axis}
        sns.lineplot(**style, estimator="median", errorbar=None, legend=bool(axis is axes[0, -1]))
        sns.scatterplot(**style, s=26, alpha=0.75, legend=False)
        title = "" if value is None else f"{labels.get(col, col)} = {value:g}"
        axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), title=title, **scales)
        plain_ticks(axis, sorted(part[x].unique()))
    sns.move_legend(axes[0, -1], "center left", bbox_to_anchor=(1.0, 0.5), title=labels.get(hue, hue))
    return fig


def points(
    data: pd.DataFrame, x: str, y: str, hue: str, style: str, *, labels: dict[str, str], **scales: object
) -> Figure:
    """One dot per row at (x, y), colored by the ordered setting `hue`, its shape by the setting `style`."""
    fig, axis = plt.subplots(figsize=(6.4, 3.9))
    palette = sns.color_palette("viridis", data[hue].nunique())
    named = data.rename(columns={hue: labels.get(hue, hue), style: labels.get(style, style)})
    looks = {"hue": labels.get(hue, hue), "style": labels.get(style, style), "palette": palette}
    sns.scatterplot(named, x=x, y=y, **looks, s=45, alpha=0.85, ax=axis)
    axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), **scales)
    axis.set_xticklabels([f"{tick:g}" for tick in axis.get_xticks()])
    sns.move_legend(axis, "center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def dots_by_group(panels: dict[str, pd.DataFrame], x: str, y: str, *, label: str, **scales: object) -> Figure:
    """One panel per name: a dot per row of `y`, in columns by the text `x`, turned where there are many."""
    width = [frame[x].nunique() for frame in panels.values()]
    fig, axes = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels) + 0.6, 3.6), sharey=True, width_ratios=width, squeeze=False
    )
    for axis, (name, frame), color in zip(axes[0], panels.items(), sns.color_palette(), strict=False):
        sns.stripplot(frame, x=x, y=y, color=color, size=6, alpha=0.7, jitter=False, ax=axis)
        axis.set(title=name, xlabel="", ylabel=label, **scales)
        if frame[x].nunique() > 3:
            axis.set_xticks(axis.get_xticks(), [t.get_text() for t in axis.get_xticklabels()], rotation=40, ha="right")
    return fig


def histograms(bins: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Rows of `data`, columns of `measure`: the `share` of each `regime` per bin from `left` to `right`."""
    rows, columns = bins.data.unique(), bins.measure.unique()
    fig, axes = plt.subplots(len(rows), len(columns), figsize=(3.9 * len(columns), 2.35 * len(rows)), squeeze=False)
    for i, data in enumerate(rows):
        for axis, name in zip(axes[i], columns, strict=True):
            panel = bins[(bins.data == data) & (bins.measure == name)]
            for regime, color in (("memorized", MEMORIZED), ("generalized", GENERALIZED)):
                mine = panel[panel.regime == regime]
                edges = [*mine.left, mine.right.iloc[-1]]
                axis.stairs(mine.share, edges, fill=True, color=color, alpha=0.55, label=regime)
            axis.set(xlabel=labels.get(name, name), yticks=[], title=data)
            axis.locator_params(axis="x", nbins=5)
            axis.grid(False)
        axes[i, 0].set_ylabel("share of samples")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def auroc_dots(table: pd.DataFrame, row: str, facet: str, labels: dict[str, str] | None = None) -> Figure:
    """AUROC with its interval: a dot per `row` of the table, a panel per `facet`, a color per `data` where given."""
    labels, panels, rows = labels or {}, list(table[facet].unique()), list(table[row].unique())
    kinds = list(table.data.unique()) if "data" in table else [None]
    size = (2.6 * len(panels) + 1.5, 0.2 * len(rows) * len(kinds) + 1.5)
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for k, kind in enumerate(kinds):
            mine = table[(table[facet] == panel) & (True if kind is None else table.data == kind)].set_index(row)
            y = [rows.index(name) + 0.3 * (k - (len(kinds) - 1) / 2) for name in mine.index]
            spread = np.clip([mine.auroc - mine.low, mine.high - mine.auroc], 0, None)
            axis.errorbar(mine.auroc, y, xerr=spread, fmt="os"[k % 2], capsize=2, label=kind)
        axis.axvline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xlim=(-0.03, 1.03), xlabel="AUROC", title=labels.get(panel, panel))
    axes[0, 0].set(yticks=range(len(rows)), yticklabels=[labels.get(name, name) for name in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    if kinds != [None]:
        axes[0, 0].legend(loc="lower left")
    return fig


def scatter_panels(
    data: pd.DataFrame, axes_of: Sequence[tuple[str, str]], facet: str, labels: dict[str, str]
) -> Figure:
    """A row per `facet`, a panel per pair (x, y) of columns, a color per `regime`."""
    rows = list(data[facet].unique())
    size = (3.8 * len(axes_of), 2.9 * len(rows))
    fig, axes = plt.subplots(len(rows), len(axes_of), figsize=size, squeeze=False)
    for i, j in np.ndindex(axes.shape):
        axis, mine, (x, y) = axes[i, j], data[data[facet] == rows[i]], axes_of[j]
        for regime, color, marker in (("memorized", MEMORIZED, "^"), ("generalized", GENERALIZED, "o")):
            part = mine[mine.regime == regime]
            axis.scatter(part[x], part[y], s=12, alpha=0.45, color=color, marker=marker, label=regime, lw=0)
        axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), title=rows[i])
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def losses(data: pd.DataFrame, theory: pd.DataFrame, levels: dict[str, float]) -> Figure:
    """Loss over training set size n: `train` and `test` of networks as dots, of the theory as lines; named levels."""
    fig, axis = plt.subplots(figsize=(6.2, 3.9))
    mean = theory.groupby("n")[["train", "test"]].mean()
    for name, color, marker in (("test", MEMORIZED, "o"), ("train", GENERALIZED, "s")):
        axis.plot(mean.index, mean[name], color=color, label=f"{name}, theory")
        axis.scatter(data.n, data[name], s=26, color=color, marker=marker, alpha=0.6, label=f"{name}, networks")
    for (name, level), style in zip(levels.items(), ("--", ":"), strict=False):
        axis.axhline(level, color=THEORY, lw=1.2, ls=style, label=name)
    axis.set(xscale="log", xlabel="training samples $n$", ylabel="squared error per sample")
    axis.set_ylim(bottom=0)
    plain_ticks(axis, sorted(data.n.unique()))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def cumulative(data: pd.DataFrame, x: str, y: str, hue: str, labels: dict[str, str], mark: dict[str, float]) -> Figure:
    """Curves of `y` over `x`, one per `hue`; "theory" is black and dashed, "random" gray; named vertical marks."""
    fig, axis = plt.subplots(figsize=(5.8, 3.6))
    looks = {"theory": {"color": THEORY, "ls": "--", "zorder": 5}, "random": {"color": "0.6", "ls": ":"}}
    for name, curve in data.groupby(hue, sort=False):
        axis.plot(curve[x], curve[y], label=name, **looks.get(name, {}))
    for name, at in mark.items():
        axis.axvline(at, color=THEORY, lw=0.8)
        axis.text(at, 0.02, f" {name}", fontsize=9, transform=axis.get_xaxis_transform())
    axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), ylim=(0, 1.03))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def over_threshold(panels: dict[str, pd.DataFrame], x: str, y: str, labels: dict[str, str]) -> Figure:
    """Panels of `y` over `x` = value / predicted threshold, log axis: a dot per row, medians as a line, a mark at 1."""
    fig, axes = plt.subplots(1, len(panels), figsize=(3.5 * len(panels) + 0.4, 3.2), sharey=True, squeeze=False)
    for axis, (name, data) in zip(axes[0], panels.items(), strict=True):
        bins = np.round(4 * np.log10(data[x])) / 4  # medians over quarters of a decade
        median = data.groupby(bins)[[x, y]].median()
        axis.plot(median[x], median[y], color=MEMORIZED)
        axis.scatter(data[x], data[y], s=16, alpha=0.55, color=MEMORIZED, lw=0)
        axis.axvline(1, color=THEORY, lw=1, ls="--")
        axis.set(xscale="log", xlabel=labels.get(x, x), title=name)
    axes[0, 0].set_ylabel(labels.get(y, y))
    return fig
