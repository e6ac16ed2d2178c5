"""The figure of the chapter *cifar* that is its own: curves of each network with few images and with many."""

import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots

NAMES = {"unet": "U-Net", "dit": "DiT"}


def network_curves(table: pd.DataFrame, x: str, value: str, labels: tuple[str, str], top: float = 1.0) -> Figure:
    """A panel per network: `value`, from 0 to `top`, over `x` on a log axis, a color per number of training images `n`.

    `labels` of the two axes.
    """
    colors = {few_or_many(n): "theory" for n in ()}
    return colors
