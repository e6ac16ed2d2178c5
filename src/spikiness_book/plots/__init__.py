"""Figures: data in, matplotlib figure out. Nothing is computed here but layout."""

from spikiness_book.plots.audit import audit_rates, paired_rows, panel_curves, unit_shares
from spikiness_book.plots.copies import auroc_map, copy_times, interval_curves, interval_points, sampled_frequencies
from spikiness_book.plots.detection import method_dots, score_histograms
from spikiness_book.plots.phase import phase_maps, share_maps
from spikiness_book.plots.robustness import setting_dots, split_columns
from spikiness_book.plots.sampling import along_noise, fraction_dots
from spikiness_book.plots.sizes import size_curves
from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, image_rows
from spikiness_book.plots.two_layers import (
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
from spikiness_book.plots.where import (
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
