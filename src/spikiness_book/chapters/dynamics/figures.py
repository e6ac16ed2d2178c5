"""Figures of the chapter on training over time: when copies come, and which layers tell them apart."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import MARKERS

LABELS = {
    "images_seen": "images seen",
    "share": "memorized fraction",
    "quality": "kernel distance to held-out images",
    "to_empirical": "relative distance to $f_{emp}$",
    "loss": "loss",
    "n": "n",
}


def by_size(curves: pd.DataFrame, y: str, **looks: Any) -> Figure:
    """`y` over `images_seen`, a curve with intervals for each `n` and `seed`; looks as for `plots.interval_curves`."""
    return plots.interval_curves({"all": curves}, "images_seen", y, "n", LABELS, **looks)


def copy_times(data: pd.DataFrame, kinds: dict[str, str]) -> Figure:
    """Times (`images_seen`) over `n`, both log, with intervals, for `kinds` (value of `kind`: color); arrows where
    `bound` is after or at or before: the time itself is then not seen."""
    fig, axis = plt.subplots(figsize=(6.2, 3.6))
    for (kind, color), marker in zip(kinds.items(), MARKERS, strict=False):
        rows = data[data.kind == kind]
        sure = rows[rows.bound == "inside"]
        bars = plots.spread(sure, "images_seen")
        axis.errorbar(sure.n, sure.images_seen, yerr=bars, fmt=marker, color=color, capsize=3, label=kind)
        for bound, arrow, length in (("after", "lolims", 0.5), ("at or before", "uplims", 0.3)):
            part = rows[rows.bound == bound]
            looks = {"fmt": marker, "mfc": "white", "color": color, arrow: True}
            axis.errorbar(part.n, part.images_seen, yerr=length * part.images_seen, **looks)
        if sure.empty and len(rows):
            axis.plot([], [], marker, mfc="white", color=color, label=f"{kind} (bounds only)")
    axis.set(xscale="log", yscale="log", xlabel="training images $n$", ylabel="images seen")
    axis.margins(0.12)
    plots.sparse_log(axis)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    plots.plain_ticks(axis, data.n.unique())
    plots.legend_beside(axis)
    return fig


def layer_map(table: pd.DataFrame) -> Figure:
    """`auroc` as colors and as numbers: a row per `layer`, a column for each `what` that is measured."""
    size = (0.62 * table.what.nunique() + 2.4, 0.34 * table.layer.nunique() + 1.6)
    fig, axis = plt.subplots(figsize=size)
    looks = {"annot_kws": {"size": 8}, "linewidths": 0.5, "cbar_kws": {"label": "AUROC, memorized higher"}}
    plots.auroc_map(axis, table, "layer", "what", "auroc", annot=True, **looks)
    axis.tick_params(axis="x", rotation=60)
    for text in axis.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    axis.tick_params(axis="y", rotation=0)
    return fig
