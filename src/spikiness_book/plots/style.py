"""The looks that all figures share: colors safe for the color-blind, plain numbers on axes, rows of images."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

plt.style.use(Path(__file__).with_name("spikiness.mplstyle"))

MEMORIZED, GENERALIZED, THEORY = "#D55E00", "#0072B2", "#333333"


def plain_log(side: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, 1, 2 and 5 of each decade."""
    if side.get_scale() == "log":
        side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(NullFormatter())


def plain_ticks(axis: plt.Axes, at: Sequence[float]) -> None:
    """Ticks of the x axis at these values and nowhere else, as plain numbers."""
    axis.set_xticks(at, [f"{value:g}" for value in at])
    axis.set_xticks([], minor=True)


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
