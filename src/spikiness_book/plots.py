"""The look of all figures, the parts they are made of, and those that several chapters draw.

Tidy tables and arrays in, matplotlib figures out. Nothing is computed here but layout, and the means and medians that
lines are drawn through. Where a value has an interval, its ends are in the columns `low` and `high`.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Colors that the color-blind can tell apart (Okabe and Ito).
MEMORIZED, GENERALIZED, THEORY = "#D55E00", "#0072B2", "#333333"
GREEN, PINK, AMBER, SKY, GRAY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"
REGIMES = {"memorized": MEMORIZED, "generalized": GENERALIZED}
SHADES = (MEMORIZED, GENERALIZED, GREEN, PINK, AMBER, GRAY)  # of groups that are neither
MARKERS = "osD^vPX*"
WIDEST = 8.8  # inches of a figure: more would be shrunk on the page, letters and all

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler("color", [GENERALIZED, MEMORIZED, GREEN, PINK, AMBER, SKY, GRAY]),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "image.interpolation": "nearest",
    "image.cmap": "gray",
}
plt.rcParams.update(STYLE)

Size = tuple[float, float]  # width and height in inches


# ---- panels, their names, one legend for all


class Facet(NamedTuple):
    """One panel of several, and what it shows of a table."""

    name: Any  # the value of one column, or the pair of values of two
    axis: plt.Axes
    rows: pd.DataFrame


def panels(
    names: Iterable[Hashable], each: Size, frame: Size = (0, 0), across: int | None = None, **shared: object
) -> tuple[Figure, dict[Any, plt.Axes]]:
    """A figure and its axes by name, at most `across` side by side: every panel is `each` (width, height) inches large,
    beside them a `frame` (width, height) for labels and legends. `shared` as for matplotlib's `subplots`."""
    names = list(names)
    across = min(across or len(names), len(names))
    down = -(-len(names) // across)
    size = (each[0] * across + frame[0], each[1] * down + frame[1])
    fig, axes = plt.subplots(down, across, figsize=size, squeeze=False, **shared)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    return fig, dict(zip(names, axes.flat, strict=False))


def facets(
    data: pd.DataFrame, by: str | tuple[str, str], each: Size, frame: Size = (0, 0), across: int | None = None, **shared
) -> tuple[Figure, list[Facet]]:
    """A panel for each value of the column `by`, in the order of the table; of two columns, the values of the first are
    the rows of panels and those of the second the columns."""
    if isinstance(by, str):
        fig, axes = panels(data[by].unique().tolist(), each, frame, across, **shared)
        return fig, [Facet(name, axis, data[data[by] == name]) for name, axis in axes.items()]
    rows, columns = (data[column].unique().tolist() for column in by)
    fig, axes = panels(product(rows, columns), each, frame, len(columns), **shared)
    return fig, [Facet(at, axis, data[(data[by[0]] == at[0]) & (data[by[1]] == at[1])]) for at, axis in axes.items()]


def outer_labels(fig: Figure, x: str | None = None, y: str | None = None) -> None:
    """Name x under the lowest panel of each column, y beside the first panel of each row."""
    shown = [axis for axis in fig.axes if axis.axison]
    for i, axis in enumerate(shown):
        across = axis.get_gridspec().ncols
        if x and i + across >= len(shown):
            axis.set_xlabel(x)
        if y and i % across == 0:
            axis.set_ylabel(y)


def legend(fig: Figure, loc: str, **looks: object) -> None:
    """The legend of a whole figure, each name once."""
    handles: dict = {}
    for axis in fig.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    fig.legend(handles.values(), handles.keys(), loc=loc, **looks)


def legend_beside(axis: plt.Axes, **looks: object) -> None:
    """The legend of a figure of one panel, to its right."""
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **looks)


# ---- ticks


def plain_log(side: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, 1, 2 and 5 of each decade."""
    if side.get_scale() == "log":
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(NullFormatter())


def sparse_log(axis: plt.Axes) -> None:
    """Plain numbers on log axes, one per decade on an x axis that spans many, thousands as k."""
    plain_log(axis.yaxis)
    low, high = axis.get_xlim()
    plain_log(axis.xaxis)
    if high / low > 100:
        axis.xaxis.get_major_locator().set_params(subs=(1,))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")


def plain_ticks(axis: plt.Axes, at: Iterable[float]) -> None:
    """Ticks of the x axis at these values, in ascending order, and nowhere else, as plain numbers."""
    at = sorted(at)
    axis.set_xticks(at, [f"{value:g}" for value in at])
    axis.set_xticks([], minor=True)


# ---- dots with intervals


def spread(rows: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high") -> np.ndarray:
    """Lengths [2, N] of the bars below and above each `value`, 0 for an end on its wrong side."""
    return np.clip([rows[value] - rows[low], rows[high] - rows[value]], 0, None)


def fan(count: int, reach: float) -> np.ndarray:
    """Shifts [count] from -`reach` to `reach` that set dots of one place apart."""
    return np.linspace(-reach, reach, count) if count > 1 else np.zeros(count)


def stacked(data: pd.DataFrame, columns: Iterable[str], name: str) -> pd.DataFrame:
    """The table once for each of `columns`, that column as `value`, its `_low` and `_high` as the interval, and which
    it is as `name`."""
    parts = ({name: c, "value": data[c], "low": data[f"{c}_low"], "high": data[f"{c}_high"]} for c in columns)
    return pd.concat([data.assign(**part) for part in parts], ignore_index=True)


def interval_dots(
    shown: Sequence[Facet],
    line: str,
    names: Sequence[str],
    hue: str | None = None,
    apart: float = 0,
    reach: float = 0,
    **looks: object,
) -> None:
    """In each panel the dots `value` with their intervals, on the `line` of that name, `names` from the top; in the
    `color` of the row, a marker for each `hue` of these panels.

    Dots of different hue are `apart` lines apart, several of one hue lie up to `reach` around their place.
    """
    hues = pd.concat([facet.rows for facet in shown])[hue].unique() if hue else [None]
    for _, axis, rows in shown:
        for i, (label, marker) in enumerate(zip(hues, MARKERS, strict=False)):
            group = rows[rows[hue] == label] if hue else rows
            for at, name in enumerate(names):
                dots = group[group[line] == name]
                if len(dots):
                    y = at + (i - (len(hues) - 1) / 2) * apart + fan(len(dots), reach)
                    look = {"fmt": marker, "color": dots.color.iloc[0], "label": label, **looks}
                    axis.errorbar(dots.value, y, xerr=spread(dots), **look)
                    label = None  # one entry in the legend
        axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def dot_columns(tables: dict[str, pd.DataFrame], x: str, y: str, *, label: str, **scales: object) -> Figure:
    """One panel per name: a dot per row of `y`, in columns by the text `x`, turned where there are many."""
    width = [table[x].nunique() for table in tables.values()]
    fig, axes = panels(tables, (3.2, 3.6), (0.6, 0), sharey=True, width_ratios=width)
    for (name, axis), color in zip(axes.items(), sns.color_palette(), strict=False):
        sns.stripplot(tables[name], x=x, y=y, color=color, size=6, alpha=0.7, jitter=False, ax=axis)
        axis.set(title=name, xlabel="", ylabel=label, **scales)
        if tables[name][x].nunique() > 3:
            axis.set_xticks(axis.get_xticks(), [t.get_text() for t in axis.get_xticklabels()], rotation=40, ha="right")
    return fig


# ---- curves


def seed_curves(axis: plt.Axes, rows: pd.DataFrame, x: str, y: str, hue: str, colors: dict, fade: float = 0.35) -> None:
    """A curve of `y` over `x` with intervals per `hue`, one of `colors`, and `seed`; without intervals (NaN) dotted."""
    for (value, color), marker in zip(colors.items(), MARKERS, strict=False):
        name = f"{value:g}" if isinstance(value, float) else str(value)
        for _, line in rows[rows[hue] == value].sort_values(x).groupby("seed", dropna=False):
            if line.low.isna().all():
                axis.plot(line[x], line[y], ":", color=color, lw=1.2, label=name, zorder=0)
                continue
            axis.plot(line[x], line[y], f"-{marker}", ms=4, lw=1.4, color=color, alpha=0.9, label=name)
            looks = {"fmt": "none", "color": color, "elinewidth": 1, "alpha": fade, "zorder": 1}
            axis.errorbar(line[x], line[y], yerr=spread(line, y), **looks)


def interval_curves(
    tables: dict[str, pd.DataFrame],
    x: str,
    y: str,
    hue: str,
    labels: dict[str, str],
    colors: dict | None = None,
    marks: dict[str, float] | None = None,
    **scales: object,
) -> Figure:
    """Panels by name: `y` over `x` on a log axis, a curve with intervals per `hue` and `seed`.

    `colors` of the values of `hue`, or shades from light to dark; named horizontal `marks`; scales as for matplotlib's
    `Axes.set`. A panel whose name is in `labels` has that under its axis x, others have it above.
    """
    hues = pd.concat(tables.values())[hue].unique().tolist()
    colors = colors or dict(zip(hues, sns.color_palette("flare", len(hues)), strict=True))
    fig, axes = panels(tables, (3.7, 3.4), (1.6, 0), sharey=True)
    for name, axis in axes.items():
        seed_curves(axis, tables[name], x, y, hue, {value: colors[value] for value in hues})
        for text, at in (marks or {}).items():
            axis.axhline(at, color=THEORY, lw=1, ls=":", zorder=0)
            axis.text(1, at, text, fontsize=8, ha="right", va="bottom", transform=axis.get_yaxis_transform())
        axis.set(xscale="log", xlabel=labels.get(name, labels.get(x, x)), **scales)
        axis.margins(x=0.06)
        axis.set_title(name if len(axes) > 1 and name not in labels else "")
        sparse_log(axis)
    outer_labels(fig, y=labels.get(y, y))
    legend(fig, "outside right center", title=labels.get(hue, "") or None)
    return fig


def mean_curves(
    tables: dict[str, pd.DataFrame],
    x: str,
    labels: dict[str, str],
    looks: dict[str, str],
    across: int = 3,
    limits: dict[str, tuple[float, float]] | None = None,
    **scales: object,
) -> Figure:
    """Panels of `value` (with its interval where given) over `x`, log axis: a dot per row, a line through the means of
    each `kind`.

    `labels` names the axis x, and `value` or, where panels differ, each panel's own axis, whose ends `limits` may give.
    `looks` gives the color of a kind, "memorized", "generalized" or "theory", perhaps "dashed"; others take the next
    color of the style. At most `across` panels stand side by side.
    """
    shared = "value" in labels
    fig, axes = panels(tables, (3.7, 3.3), (1.6, 0), across, sharey=shared)
    styles = _kind_styles(pd.concat(tables.values()).kind.unique().tolist(), looks)
    for name, axis in axes.items():
        rows = tables[name]
        for kind, style in styles.items():
            if kind in set(rows.kind):
                _mean_curve(axis, rows[rows.kind == kind], x, label=kind, **style)
        axis.set(xscale="log", xlabel=labels.get(x, x), title=name if shared and len(axes) > 1 else "", **scales)
        if not shared:
            axis.set(ylabel=labels.get(name, name), ylim=(limits or {}).get(name))
        plain_ticks(axis, _apart(sorted(rows[x].unique())))
        plain_log(axis.yaxis)
    outer_labels(fig, y=labels.get("value"))
    legend(fig, "outside right center")
    return fig


def _kind_styles(kinds: Sequence[str], looks: dict[str, str]) -> dict[str, dict[str, str]]:
    """Color, marker and dashes of each of `kinds`."""
    named = {**REGIMES, "theory": THEORY}
    taken = {kind: named[word] for kind in kinds for word in looks.get(kind, "").split() if word in named}
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    free = iter([color for color in cycle if color not in taken.values()] * len(kinds))
    return {
        kind: {
            "color": taken.get(kind) or next(free),
            "marker": MARKERS[i % 5],
            "ls": "--" if "dashed" in looks.get(kind, "") else "-",
        }
        for i, kind in enumerate(kinds)
    }


def _mean_curve(axis: plt.Axes, rows: pd.DataFrame, x: str, color: str, marker: str, ls: str, label: str) -> None:
    mean = rows.groupby(x).value.mean()
    axis.plot(mean.index, mean, color=color, ls=ls, lw=1.4)
    bars = spread(rows) if "low" in rows and rows.low.notna().all() else None
    looks = {"ms": 5, "alpha": 0.8, "capsize": 2.5, "elinewidth": 1}
    axis.errorbar(rows[x], rows.value, yerr=bars, fmt=marker, color=color, label=label, **looks)


def _apart(values: Sequence[float], factor: float = 1.6) -> list[float]:
    """Those of ascending values that lie at least a factor apart, the last one among them: labels need room."""
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] / value >= factor:
            kept.append(value)
    return kept[::-1]


def medians(axis: plt.Axes, data: pd.DataFrame, x: str, y: str, s: float = 30, **hues: object) -> None:
    """A dot per row of `y` over the settings `x`, a line through the medians; `hues` as for seaborn's functions."""
    sns.lineplot(data, x=x, y=y, estimator="median", errorbar=None, ax=axis, **hues)
    sns.scatterplot(data, x=x, y=y, s=s, alpha=0.75, legend=False, ax=axis, **hues)


def setting_curves(
    data: pd.DataFrame, x: str, y: str, hue: str, panel: str | None = None, *, labels: dict[str, str], **scales: object
) -> Figure:
    """`y` over the settings `x`, a dot per seed and a line through medians, colored by the ordered setting `hue`.

    One panel per value of `panel` where given; scales as for matplotlib's `Axes.set`.
    """
    hues = data[hue].unique()
    palette = dict(zip(hues, sns.color_palette("viridis", len(hues)), strict=True))
    each, frame = ((2.9, 3.3), (1.4, 0)) if panel else ((5.6, 3.5), (0, 0))
    fig, axes = panels(sorted(data[panel].unique()) if panel else [""], each, frame, sharey=True)
    for value, axis in axes.items():
        rows = data[data[panel] == value] if panel else data
        medians(axis, rows, x, y, s=26, hue=hue, palette=palette)
        axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), **scales)
        axis.set_title(f"{labels.get(panel, panel)} = {value:g}" if panel else "")
        plain_ticks(axis, rows[x].unique())
        axis.get_legend().remove()
    legend_beside(axis, title=labels.get(hue, hue))
    return fig


# ---- histograms, bars, scatter, maps


def histograms(
    bins: pd.DataFrame,
    labels: dict[str, str],
    across: int | None = None,
    each: Size = (3.9, 2.35),
    frame: Size = (0, 0),
    ticks: int = 5,
) -> Figure:
    """A panel per `data` and `measure`: the `share` of each regime's samples per bin from `left` to `right`; `across`
    side by side, or as many as there are measures."""
    cells = bins.groupby(["data", "measure"], sort=False)
    fig, axes = panels(cells.groups, each, frame, across or bins.measure.nunique())
    for (data, measure), panel in cells:
        axis = axes[data, measure]
        for regime, color in REGIMES.items():
            rows = panel[panel.regime == regime].sort_values("left")
            axis.stairs(rows.share, [*rows.left, rows.right.iloc[-1]], fill=True, color=color, alpha=0.55, label=regime)
        axis.set(xlabel=labels.get(measure, measure), yticks=[], title=data)
        axis.locator_params(axis="x", nbins=ticks)
        axis.grid(visible=False)
    outer_labels(fig, y="share of samples")
    legend(fig, "outside upper center", ncols=2)
    return fig


def representation_bars(heights: dict[str, np.ndarray], color: str | Sequence[str] = MEMORIZED) -> Figure:
    """One panel per name: the units' activations [p], one bar per unit; one color, or one per panel."""
    fig, axes = panels(heights, (2.5, 2.4), (0.8, 0), sharey=True)
    colors = [color] * len(axes) if isinstance(color, str) else color
    for (name, axis), fill in zip(axes.items(), colors, strict=True):
        axis.bar(range(len(heights[name])), heights[name], width=0.9, color=fill)
        axis.set(title=name, xlabel="unit")
    outer_labels(fig, y="activation $h$")
    return fig


def predicted_learned(data: pd.DataFrame, hue: str, label: str) -> Figure:
    """Learned against predicted values (columns `predicted`, `learned`, and `hue`) from 0, the diagonal as theory."""
    fig, axis = plt.subplots(figsize=(4.6, 4.2))
    sns.scatterplot(data, x="predicted", y="learned", hue=hue, style=hue, s=40, alpha=0.8, ax=axis)
    high = data[["predicted", "learned"]].max().max() * 1.08
    axis.plot([0, high], [0, high], color=THEORY, lw=1, zorder=0, label="theory")
    axis.set(xlim=(0, high), ylim=(-0.02 * high, high), xlabel=f"predicted {label}", ylabel=f"learned {label}")
    axis.legend(title=None)
    return fig


def auroc_map(axis: plt.Axes, table: pd.DataFrame, row: str, column: str, value: str, **looks: object) -> None:
    """`value` as colors, 0 in blue over 0.5 in white to 1 in orange: a cell per `row` and `column`, in the order of the
    table; `looks` as for seaborn's `heatmap`."""
    cells = table.pivot(index=row, columns=column, values=value).loc[table[row].unique(), table[column].unique()]
    colors = sns.blend_palette([GENERALIZED, "white", MEMORIZED], as_cmap=True)
    sns.heatmap(cells, vmin=0, vmax=1, cmap=colors, fmt=".2f", ax=axis, **looks)
    axis.set(xlabel="", ylabel="")


# ---- images


def image_row(
    axes: Sequence[plt.Axes], images: np.ndarray, captions: Sequence[str] | None = None, reach: float | None = None
) -> None:
    """Images [N, H, W] (gray around 0; blank where NaN) or [N, H, W, 3], captions over them, on the first of `axes`.

    The gray scale ends at plus and minus `reach`, or at each image's largest magnitude.
    """
    for axis in axes:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes, images, strict=False)):
        limit = reach or np.nanmax(np.abs(image)) or 1.0
        axis.imshow(image, vmin=-limit, vmax=limit)
        if captions:
            axis.set_title(captions[i], fontsize=8.5, pad=2)


def name_beside(axis: plt.Axes, name: str, x: float = -0.12, **looks: object) -> None:
    """The name of a row of images, left of its first."""
    axis.text(x, 0.5, name, transform=axis.transAxes, ha="right", va="center", **looks)


def image_rows(
    rows: dict[str, np.ndarray], captions: dict[str, Sequence[str]] | None = None, same: Sequence[str] = ()
) -> Figure:
    """Rows of images under names: each [N, H, W] or [N, H, W, 3], on a gray scale symmetric around 0 for each image.

    Rows named in `same` share one scale, so that what is close to nothing looks like nothing.
    """
    most = max(len(images) for images in rows.values())
    shared = max((np.abs(rows[name]).max(initial=0) for name in same), default=0)
    fig, axes = plt.subplots(len(rows), most, figsize=(1.15 * most + 1.3, 1.28 * len(rows)), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        image_row(row, images, (captions or {}).get(name), shared if name in same else None)
        name_beside(row[0], name, fontsize=9.5)
    return fig
