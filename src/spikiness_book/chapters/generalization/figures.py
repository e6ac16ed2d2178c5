"""Figures of the chapter on generalization: losses, distances, spectra, and the picture at its head."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import GENERALIZED, MEMORIZED, REGIMES, THEORY

LABELS = {  # of axes and legends, by the column that they show; a legend that explains itself has none
    "n": "training samples $n$",
    "distance": "relative distance",
    "batch": "batch size",
    "sigma": "noise level $\\sigma$",
    "value": "relative error",
    **dict.fromkeys(("between", "data", "measure", "steps"), ""),
}


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
    plots.plain_ticks(axis, data.n.unique())
    plots.legend_beside(axis)
    return fig


def errors(
    data: pd.DataFrame, x: str, y: str, hue: str, *, labels: dict[str, str] = LABELS, **scales: object
) -> Figure:
    """A dot per seed of `y` over the settings `x`, a line through the medians of each `hue`; `scales` as for
    matplotlib's `Axes.set`."""
    fig, axis = plt.subplots(figsize=(5.4, 3.4))
    plots.medians(axis, data, x, y, hue=hue)
    axis.set(xlabel=labels.get(x, x), ylabel=labels.get(y, y), **scales)
    for side in (axis.xaxis, axis.yaxis):
        plots.plain_log(side)
    plots.legend_beside(axis, title=labels.get(hue, hue) or None)
    return fig


def spectrum(curves: pd.DataFrame, kept: int) -> Figure:
    """The `share` of the energy within the first `directions`, a curve for each set of `columns`; "theory" is black and
    dashed, "random" gray; a mark where `kept` directions are kept."""
    fig, axis = plt.subplots(figsize=(5.8, 3.6))
    looks = {"theory": {"color": THEORY, "ls": "--", "zorder": 5}, "random": {"color": "0.6", "ls": ":"}}
    for name, curve in curves.groupby("columns", sort=False):
        axis.plot(curve.directions, curve.share, label=name, **looks.get(name, {}))
    axis.axvline(kept, color=THEORY, lw=0.8)
    axis.text(kept, 0.02, f" {kept} kept", fontsize=9, transform=axis.get_xaxis_transform())
    axis.set(xlabel="principal directions", ylabel="share of the columns' energy", ylim=(0, 1.03))
    plots.legend_beside(axis)
    return fig


def teaser(regimes: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One row per regime: columns of the weights as pictures [N, H, W], and one representation [p] as bars."""
    most = max(len(columns) for columns, _ in regimes.values())
    size, widths = (1.2 * most + 4.2, 1.5 * len(regimes)), [1] * most + [2.8]
    fig, axes = plt.subplots(len(regimes), most + 1, figsize=size, width_ratios=widths, squeeze=False)
    for row, (name, (columns, heights)), color in zip(axes, regimes.items(), REGIMES.values(), strict=False):
        plots.image_row(row[:-1], columns)
        plots.name_beside(row[0], name, color=color)
        row[-1].bar(range(len(heights)), heights, width=0.9, color=color)
        row[-1].set(xticks=[], yticks=[], ylabel="activation")
    axes[0, 0].set_title("columns of the weights", loc="left")
    axes[0, -1].set_title("representation of one image", loc="left")
    axes[-1, -1].set_xlabel("hidden unit")
    return fig
