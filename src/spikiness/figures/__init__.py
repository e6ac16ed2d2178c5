"""Figures: data in, matplotlib figure out. Nothing is computed here but layout."""

from spikiness.figures.style import GENERALIZED, MEMORIZED, THEORY, image_rows
from spikiness.figures.two_layers import (
    auroc_dots,
    cumulative,
    dots_by_group,
    error_panels,
    errors,
    histograms,
    losses,
    marked_histogram,
    over_threshold,
    points,
    predicted_learned,
    representation_bars,
    scatter_panels,
    settings,
    teaser,
)

__all__ = [
    "GENERALIZED",
    "MEMORIZED",
    "THEORY",
    "auroc_dots",
    "cumulative",
    "dots_by_group",
    "error_panels",
    "errors",
    "histograms",
    "image_rows",
    "losses",
    "marked_histogram",
    "over_threshold",
    "points",
    "predicted_learned",
    "representation_bars",
    "scatter_panels",
    "settings",
    "teaser",
]
