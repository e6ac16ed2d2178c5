"""Figures of the chapter on separability: where real data lie, and residuals over the margin."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import THEORY


def beta_histogram(values: dict[str, np.ndarray], marks: dict[str, float]) -> Figure:
    """Histograms of beta of subsets [N] by name on shared bins, named lines at `marks`, the part below 0 shaded."""
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
    axis.set(xlim=(bins[0], bins[-1]), ylim=(0, top * (1.2 + 0.13 * len(marks))))
    axis.set(xlabel="$\\beta$", ylabel="share of subsets")
    plots.legend_beside(axis)
    return fig


def residuals(data: pd.DataFrame, labels: dict[str, str], **scales: object) -> Figure:
    """The `residual` of each row over its `margin`, colored by the `cosine`, its shape by `sigma`; `labels` of these
    columns, `scales` as for matplotlib's `Axes.set`."""
    fig, axis = plt.subplots(figsize=(6.4, 3.9))
    palette = sns.color_palette("viridis", data.cosine.nunique())
    columns = {"x": "margin", "y": "residual", "hue": "cosine", "style": "sigma"}
    looks = {role: labels[column] for role, column in columns.items()} | {"s": 45, "alpha": 0.85}
    sns.scatterplot(data.rename(columns=labels), **looks, palette=palette, ax=axis)
    axis.set(yscale="log", **scales)
    axis.set_xticklabels([f"{tick:g}" for tick in axis.get_xticks()])
    sns.move_legend(axis, "center left", bbox_to_anchor=(1.0, 0.5))
    return fig
