"""Figures of where spikiness separates: grids of panels, a row per kind of network or wrapped, as wide as the page."""

from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spikiness_book import plots
from spikiness_book.plots import MARKERS, SHADES, THEORY, WIDEST

LABELS = {
    "std": "Std",
    "participation_ratio": "participation ratio",
    "all": "all units",
    "mean": "means over space",
    "max": "maxima over space",
}


def _looks(hues: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each hue with its color and marker."""
    return zip(hues, SHADES, MARKERS, strict=False)


def _dot(color: str, marker: str) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], ls="", marker=marker, color=color, ms=5)


def _networks(data: pd.DataFrame, column: str, height: float, label: str = "", **shared) -> tuple[Figure, list]:
    """A row of panels per `network`, named at the left where there are several, and a panel for each value of `column`,
    which is its title; `label` of the axis y."""
    networks, columns = data.network.unique(), data[column].unique()
    each = (WIDEST / len(columns), height)
    fig, facets = plots.facets(data, ("network", column), each, (0, 0.9), **shared)
    for (network, name), axis, _ in facets:
        axis.set_title(LABELS.get(name, name) if network == networks[0] else "")
        if name == columns[0]:
            axis.set_ylabel((f"{network}\n".replace(", ", "\n") if len(networks) > 1 else "") + label)
    return fig, facets


def measure_maps(table: pd.DataFrame) -> Figure:
    """AUROC of `spikier` as colors, `layer` by `what` is measured: a map per `network`, two beside each other, named
    below. With one network its cells hold the numbers too."""
    count, tall = table.network.nunique(), table.groupby("network").layer.nunique().max()
    across = min(2, count)
    fig, facets = plots.facets(table, "network", (WIDEST / across, 0.24 * tall + 0.3), (0, 1.5), across)
    looks = {"annot": count == 1, "annot_kws": {"size": 7}, "linewidths": 0.4, "cbar": False}
    for k, (network, axis, cells) in enumerate(facets):
        plots.auroc_map(axis, cells, "layer", "what", "spikier", **looks)
        layers, columns = cells.layer.unique(), cells.what.unique()
        axis.set_xlabel(network if count > 1 else "")
        axis.set_yticks(np.arange(len(layers)) + 0.5, layers, rotation=0, fontsize=8)
        axis.xaxis.tick_top()
        axis.set_xticks(np.arange(len(columns)) + 0.5, columns if k < across else [""] * len(columns), fontsize=8)
        axis.tick_params(axis="x", rotation=90)
    picture, shrink = facets[0].axis.collections[0], min(1, 3 / fig.get_figheight())
    fig.colorbar(picture, ax=fig.axes, shrink=shrink, pad=0.02, label="AUROC, memorized spikier")
    return fig


def noise_lines(data: pd.DataFrame) -> Figure:
    """`auroc` over `sigma` (log), a line per `pool` in the band of its interval; panels by `network` and `measure`."""
    fig, facets = _networks(data, "measure", 1.9, "AUROC, spikier", sharex=True, sharey=True)
    for _, axis, rows in facets:
        for pool, color, marker in _looks(data["pool"].unique()):
            line = rows[rows["pool"] == pool].sort_values("sigma")
            axis.plot(line.sigma, line.auroc, color=color, marker=marker, ms=4, label=LABELS.get(pool, pool))
            axis.fill_between(line.sigma, line.low, line.high, color=color, alpha=0.2, lw=0)
        axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        plots.plain_ticks(axis, data.sigma.unique())
    plots.outer_labels(fig, "noise level")
    plots.legend(fig, "outside upper center", ncols=data["pool"].nunique())
    return fig


def along_depth(data: pd.DataFrame, modules: Sequence[str]) -> Figure:
    """`auroc` of each layer by its `place` in the pass, a dot per network in the color of its `module`, one of
    `modules`, and the mean as a line; panels by `network` and `ingredient`."""
    fig, facets = _networks(data, "ingredient", 2.0, "AUROC", sharex="row", sharey=True)
    for _, axis, rows in facets:
        mean = rows.dropna(subset=["auroc"]).groupby("place").auroc.mean()
        axis.plot(mean.index, mean, color="0.75", lw=1, zorder=1)
        for module, color, marker in _looks(modules):
            dots = rows[rows.module == module]
            axis.scatter(dots.place, dots.auroc, s=16, color=color, marker=marker, lw=0, alpha=0.85, zorder=2)
        axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set_ylim(-0.03, 1.03)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    plots.outer_labels(fig, "layer, first to last")
    looks = {"ncols": len(modules), "columnspacing": 1.2, "handletextpad": 0.3}
    handles = [_dot(color, marker) for _, color, marker in _looks(modules)]
    fig.legend(handles, modules, loc="outside upper center", **looks)
    return fig


def module_dots(data: pd.DataFrame, modules: Sequence[str]) -> Figure:
    """`coupling` of every layer as a dot beside others of its `module`, one of `modules`, a bar at their median; panels
    by `network`, three beside each other."""
    count = data.network.nunique()
    across = min(3, count)
    each = (WIDEST / across if across > 1 else 5.6, 1.9)
    fig, facets = plots.facets(data, "network", each, (0, 1.5), across, sharex=True, sharey=True)
    for network, axis, rows in facets:
        for i, (module, color, marker) in enumerate(_looks(modules)):
            values = rows[rows.module == module].coupling.dropna()
            axis.scatter(i + plots.fan(len(values), 0.22), values, s=14, color=color, marker=marker, alpha=0.7, lw=0)
            if len(values):
                axis.plot([i - 0.35, i + 0.35], [values.median()] * 2, color=THEORY, lw=1.6)
        axis.axhline(0, color=THEORY, lw=1, ls=":", zorder=0)
        axis.set(ylim=(-1.05, 1.05), title=network if count > 1 else "")
        axis.set_xticks(range(len(modules)), [module.replace(" ", "\n", 1) for module in modules], fontsize=8.5)
        axis.tick_params(axis="x", rotation=0 if across == 1 else 60)
    fig.supylabel("rank correlation over samples", fontsize=10.5)
    return fig


def carried_settings(points: pd.DataFrame) -> Figure:
    """`auroc_b` against `auroc_a` of every setting, a panel per `relation`, colored by `pool`; shaded corners are
    settings that flip."""
    count, pools = points.relation.nunique(), points["pool"].unique()
    each = (min(2.7 + 2.4 / count, WIDEST / count), 3.3)
    fig, facets = plots.facets(points, "relation", each, sharex=True, sharey=True, layout="compressed")
    for relation, axis, rows in facets:
        for pool, color, _ in _looks(pools):
            dots = rows[rows["pool"] == pool]
            axis.scatter(dots.auroc_a, dots.auroc_b, s=5, color=color, alpha=0.5, lw=0, rasterized=True)
        for corner in ((0, 0.7), (0.7, 0)):
            axis.add_patch(plt.Rectangle(corner, 0.3, 0.3, color="0.88", lw=0, zorder=0))
        axis.plot([0, 1], [0, 1], color=THEORY, lw=1, zorder=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="AUROC in one network", title=relation)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    plots.outer_labels(fig, y="AUROC in the other")
    handles = [_dot(color, "o") for _, color, _ in _looks(pools)]
    fig.legend(handles, [LABELS.get(pool, pool) for pool in pools], loc="outside right center")
    return fig


def rate_dots(data: pd.DataFrame, line: str, hue: str, marks: dict[str, float]) -> Figure:
    """`value` with its interval on each `line`, colored by `hue`; panels by `network` and `panel`, dotted at a mark."""
    names, hues = data[line].unique().tolist(), data[hue].unique()
    data = data.assign(color=data[hue].map(dict(zip(hues, SHADES, strict=False))))
    fig, facets = _networks(data, "panel", 0.27 * len(names) + 0.5, sharex="col", sharey=True)
    plots.interval_dots(facets, line, names, hue, apart=0.36, reach=0.07, ms=3.5, elinewidth=0.8, alpha=0.85)
    for (_, name), axis, _ in facets:
        if name in marks:
            axis.axvline(marks[name], color=THEORY, lw=1, ls=":", zorder=0)
        axis.grid(visible=False, axis="y")
        rows, mark = data[data.panel == name], marks.get(name, data.value.mean())
        low, high = min(rows.low.min(), mark), max(rows.high.max(), mark)
        edge = 0.04 * max(high - low, 0.1)
        axis.set_xlim(low - edge, high + edge)
    plots.legend(fig, "outside lower center", ncols=len(hues))
    return fig


RATES = {"AUROC": "", "TPR at the carried threshold": "tpr", "FPR at the carried threshold": "fpr"}


def rate_panels(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """AUROC, TPR and FPR of each row with their intervals, below each other: a `panel` of `rate_dots` each."""
    panels = []
    for panel, rate in RATES.items():
        value, start = (rate, f"{rate}_") if rate else ("auroc", "")
        ends = {"low": rows[f"{start}low"], "high": rows[f"{start}high"]}
        panels.append(rows[["kind", "seed", *by]].assign(panel=panel, value=rows[value], **ends))
    return pd.concat(panels, ignore_index=True)


def marks(fpr: float) -> dict[str, float]:
    """Where the panels of `rate_dots` have a dotted line: chance, and the FPR that a threshold was set for."""
    return {"AUROC": 0.5, "FPR at the carried threshold": fpr}
