"""Figures: data in, matplotlib figure out. Nothing is computed here but layout."""

from spikiness.figures.copies import auroc_map, copy_times, interval_curves, interval_points, sampled_frequencies
from spikiness.figures.phase import phase_maps, share_maps
from spikiness.figures.robustness import setting_dots, split_columns
from spikiness.figures.sampling import along_noise, fraction_dots
from spikiness.figures.sizes import size_curves
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
    "along_noise",
    "auroc_dots",
    "auroc_map",
    "copy_times",
    "cumulative",
    "dots_by_group",
    "error_panels",
    "errors",
    "fraction_dots",
    "histograms",
    "image_rows",
    "interval_curves",
    "interval_points",
    "losses",
    "marked_histogram",
    "over_threshold",
    "phase_maps",
    "points",
    "predicted_learned",
    "representation_bars",
    "sampled_frequencies",
    "scatter_panels",
    "setting_dots",
    "settings",
    "share_maps",
    "size_curves",
    "split_columns",
    "teaser",
]
