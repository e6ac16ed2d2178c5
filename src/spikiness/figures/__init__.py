"""Figures: data in, matplotlib figure out. Nothing is computed here but layout."""

from spikiness.figures.audit import audit_rates, paired_rows, panel_curves, unit_shares
from spikiness.figures.copies import auroc_map, copy_times, interval_curves, interval_points, sampled_frequencies
from spikiness.figures.detection import method_dots, score_histograms
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
from spikiness.figures.where import (
    along_depth,
    carried_settings,
    measure_dots,
    measure_maps,
    module_dots,
    noise_lines,
)

__all__ = [
    "GENERALIZED",
    "MEMORIZED",
    "THEORY",
    "along_depth",
    "along_noise",
    "audit_rates",
    "auroc_dots",
    "auroc_map",
    "carried_settings",
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
    "measure_dots",
    "measure_maps",
    "method_dots",
    "module_dots",
    "noise_lines",
    "over_threshold",
    "paired_rows",
    "panel_curves",
    "phase_maps",
    "points",
    "predicted_learned",
    "representation_bars",
    "sampled_frequencies",
    "scatter_panels",
    "score_histograms",
    "setting_dots",
    "settings",
    "share_maps",
    "size_curves",
    "split_columns",
    "teaser",
    "unit_shares",
]
