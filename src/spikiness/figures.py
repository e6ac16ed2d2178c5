"""Figures: data in, matplotlib figure out. Nothing is computed here but layout; colors are safe for the color-blind."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

plt.style.use(Path(__file__).with_name("spikiness.mplstyle"))

MEMORIZED, GENERALIZED, THEORY = "#D55E00", "#0072B2", "#333333"


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
        for i, axis in enumerate(row):
            axis.set_axis_off()
            if i < len(images):
                limit = (shared if name in same else np.abs(images[i]).max()) or 1.0
                axis.imshow(images[i], vmin=-limit, vmax=limit)
                if captions and name in captions:
                    axis.set_title(captions[name][i], fontsize=8.5, pad=2)
        row[0].text(-0.12, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=9.5)
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
    if hue:
        axis.legend(title=labels.get(hue, hue))
    return fig


def error_panels(panels: dict[str, tuple[pd.DataFrame, str]], y: str, label: str) -> Figure:
    """Panels side by side: `y` over one setting each, a dot per seed and a line through the medians, log axes."""
    fig, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 0.4, 3.2), sharey=True, squeeze=False)
    for axis, (name, (data, x)) in zip(axes[0], panels.items(), strict=True):
        sns.lineplot(data, x=x, y=y, estimator="median", errorbar=None, ax=axis)
        sns.scatterplot(data, x=x, y=y, s=30, alpha=0.75, ax=axis)
        axis.set(xlabel=name, ylabel=label, xscale="log", yscale="log")
        ticks = sorted(data[x].unique())
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
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
