"""Each chapter's own figures draw what they are given, and mark what is only a bound."""

import matplotlib

matplotlib.use("agg")

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from spikiness_book import plots
from spikiness_book.chapters.audit import figures as audit
from spikiness_book.chapters.detection import figures as detection
from spikiness_book.chapters.duplicates import figures as duplicates
from spikiness_book.chapters.dynamics import figures as dynamics
from spikiness_book.chapters.generalization import figures as generalization
from spikiness_book.chapters.hybrid import figures as hybrid
from spikiness_book.chapters.memorization import figures as memorization
from spikiness_book.chapters.phase import figures as phase
from spikiness_book.chapters.representations import figures as representations
from spikiness_book.chapters.robustness import figures as robustness
from spikiness_book.chapters.sampling import figures as sampling
from spikiness_book.chapters.separability import figures as separability
from spikiness_book.chapters.where import figures as where


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def texts(artists):
    return [artist.get_text() for artist in artists]


def lines(axis, style="-"):
    """What the lines of this style on an axis join."""
    return [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == style and len(line.get_xdata())]


def marked(axis, marker):
    """The points with this marker on an axis."""
    shown = [line for line in axis.lines if line.get_marker() == marker]
    points = (point for line in shown for point in zip(*line.get_data(), strict=True))
    return [(round(float(x), 9), round(float(y), 9)) for x, y in points]


def scattered(axis):
    return [tuple(point) for c in axis.collections for point in np.asarray(c.get_offsets()).tolist()]


# ---- audit


def rates(**columns):
    """A table of rates, all 0.1 in an interval from 0 to 0.2."""
    data = pd.DataFrame(columns)
    ends = {"": 0.1, "_low": 0, "_high": 0.2}
    return data.assign(**{f"{rate}{end}": value for rate in ("fpr", "tpr") for end, value in ends.items()})


def test_flag_rates_have_a_dot_per_seed_and_name_the_seeds_of_every_kind():
    rows = rates(kind=["a", "a", "b", "b"], seed=[10, 11, 13, 14], way="carried")
    fig = audit.flag_rates(rows.assign(tpr=[0.6, 0.7, 0.8, 0.9]), 0.01)
    assert texts(fig.legends[0].get_texts()) == ["10", "11", "13", "14"]
    false, true = fig.axes[2:]
    assert marked(true, "o") == [(0.8, -0.1)]
    assert marked(true, "s") == [(0.9, 0.1)]
    assert fig.axes[0].get_title(loc="left") == "a"
    assert (false.get_xlabel(), true.get_xlabel()) == ("false positive rate", "true positive rate")
    assert [line.get_xdata() for line in false.lines if line.get_linestyle() == "--"] == [[0.01, 0.01]]
    assert texts(false.get_yticklabels()) == ["carried"]


def test_kind_curves_have_a_panel_for_each_kind_and_a_mark():
    line = pd.DataFrame({"x": [1.0, 10], "y": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3], "hue": "h", "seed": 1})
    every = pd.concat([line.assign(kind=kind) for kind in "abcdef"])
    fig = audit.kind_curves(every, "x", "y", "hue", {"x": "X", "y": "Y"}, {"h": "C0"}, mark=0.15)
    assert [axis.get_title() for axis in fig.axes] == list("abcdef")
    assert [axis.get_xlabel() for axis in fig.axes] == [""] * 3 + ["X"] * 3
    assert fig.get_figwidth() <= plots.WIDEST
    assert lines(fig.axes[0]) == [[0.1, 0.2]]
    assert lines(fig.axes[0], "--") == [[0.15, 0.15]]
    assert texts(fig.axes[0].get_xticklabels()) == ["1", "10"]


def test_pairs_and_shares_of_units():
    fig = audit.paired_rows({"a": {"hits": np.zeros((2, 4, 9))}}, {"a": {"hits": ["1", "2"]}}, 3)
    assert [axis.get_title() for axis in fig.axes] == ["1", "2", ""]
    assert texts(fig.axes[0].texts) == ["hits"]
    units = pd.DataFrame({"kind": "a", "sort": ["memorized", "new", "between"], "unit": "3", "share": [0.7, 0.1, 0.5]})
    fig = audit.unit_shares(units, {"memorized": "C1", "new": "C0"})
    heights = [[bar.get_height() for bar in axis.patches] for axis in fig.axes]
    assert heights == [pytest.approx([0.7, 0.3]), pytest.approx([0.1, 0.9])]  # the others last
    assert texts(fig.axes[0].get_xticklabels()) == ["3", "others"]


# ---- detection


def test_method_dots_are_orange_for_ours_with_rules_between_groups():
    data = pd.DataFrame({"kind": "k", "method": ["rival", "ours"], "auroc": [0.6, 0.9], "tpr": [0.1, 0.3]})
    data = data.assign(**{f"{r}_{end}": data[r] for r in ("auroc", "tpr") for end in ("low", "high")})
    labels, groups = {"auroc": "AUROC", "tpr": "TPR"}, {"ours": ["ours"], "rivals": ["rival"]}
    fig = detection.method_dots(data, labels, groups)
    axis = fig.axes[0]
    assert texts(axis.get_yticklabels()) == ["ours", "rival"]
    assert marked(axis, "o") == [(0.9, -0.17), (0.6, 0.83)]
    assert marked(axis, "s") == [(0.3, 0.17), (0.1, 1.17)]
    colors = [line.get_color() for line in axis.lines if line.get_marker() in "os"]
    assert colors == [plots.MEMORIZED, plots.THEORY, plots.GENERALIZED, plots.GENERALIZED]
    assert [0.5, 0.5] in lines(axis)  # between line 0 and line 1
    assert texts(fig.legends[0].get_texts()) == ["AUROC", "TPR"]


def test_method_dots_label_the_lowest_panel_of_each_column():
    data = pd.DataFrame({"kind": list("abcd"), "method": "m", "auroc": 0.6, "auroc_low": 0.5, "auroc_high": 0.7})
    fig = detection.method_dots(data, {"auroc": "AUROC"}, {"ours": ["m"]})
    assert [axis.get_xlabel() for axis in fig.axes[:4]] == ["", "AUROC", "AUROC", "AUROC"]
    assert [axis.xaxis.get_tick_params()["labelbottom"] for axis in fig.axes[:4]] == [False, True, True, True]


# ---- duplicates, dynamics


def test_sampled_frequencies_lie_over_a_diagonal_and_none_becomes_an_upper_limit():
    data = pd.DataFrame({"copies": [1, 8], "expected": [0.01, 0.08], "frequency": [0.0, 0.04]})
    data = data.assign(low=[0.0, 0.02], high=[0.002, 0.06])
    axis = duplicates.sampled_frequencies(data, data).axes[0]
    diagonal = next(line for line in axis.lines if line.get_label() == "in proportion")
    assert diagonal.get_xdata() == pytest.approx(diagonal.get_ydata())
    assert set(texts(axis.texts)) == {"1", "8"}
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert axis.containers[0].lines[0].get_ydata() == pytest.approx([0.04])
    assert axis.containers[1].lines[0].get_ydata() == pytest.approx([0.002])  # the limit


def test_copying_joins_means_over_seeds_and_names_each_text_once():
    rows = pd.DataFrame({"presentations": [1.0, 1.0, 10.0], "share": [0.0, 0.2, 0.8], "text": ["a", "a", "c"]})
    axis = duplicates.copying({"one": rows.assign(low=rows.share, high=rows.share)}).axes[0]
    assert lines(axis)[0] == pytest.approx([0.1, 0.8])
    assert {(t.get_text(), t.xy) for t in axis.texts} == {("a", (1.0, 0.2)), ("c", (10.0, 0.8))}
    assert lines(axis, ":") == [[0.5, 0.5]]


def test_copy_times_leave_bounds_open():
    data = pd.DataFrame({"n": [20, 700], "kind": "copies", "images_seen": [100.0, 900.0], "bound": ["inside", "after"]})
    axis = dynamics.copy_times(data.assign(low=[90.0, 900.0], high=[110.0, 900.0]), {"copies": "C1"}).axes[0]
    fills = {tuple(line.get_ydata()): line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"}
    assert fills[900.0,] == "white"
    assert fills[100.0,] != "white"
    assert texts(axis.get_xticklabels()) == ["20", "700"]


def test_a_layer_map_has_a_cell_per_layer_and_measure():
    cells = [("up", "std", 0.9), ("up", "gini", 0.1), ("act", "std", 0.5), ("act", "gini", 0.4)]
    fig = dynamics.layer_map(pd.DataFrame(cells, columns=["layer", "what", "auroc"]))
    assert texts(fig.axes[0].get_yticklabels()) == ["up", "act"]
    assert texts(fig.axes[0].texts) == ["0.90", "0.10", "0.50", "0.40"]
    assert fig.axes[1].get_ylabel() == "AUROC, memorized higher"


# ---- two layers


def test_gain_errors_draw_medians_over_seeds():
    data = pd.DataFrame({"sigma": [0.2] * 3 + [1.0] * 3, "lam": 0.1, "gain_error": [0.1, 0.2, 0.9, 0.3, 0.5, 0.4]})
    noise, penalty = memorization.gain_errors(data, data[:3]).axes
    assert lines(noise) == [[0.2, 0.4]]
    assert lines(penalty) == [[0.2]]
    assert noise.get_xscale() == noise.get_yscale() == "log"
    assert texts(noise.get_xticklabels()) == ["0.2", "1"]
    assert (noise.get_xlabel(), penalty.get_xlabel()) == ("noise level $\\sigma$", "penalty $\\lambda$")


def test_losses_draw_networks_as_dots_and_theory_as_lines():
    networks = pd.DataFrame({"n": [10, 100], "train": [1.0, 2.0], "test": [4.0, 3.0]})
    theory = pd.DataFrame({"n": [10, 10, 100], "train": [1.0, 1.2, 2.0], "test": [4.0, 4.2, 3.0]})
    axis = generalization.losses(networks, theory, {"limit": 2.5}).axes[0]
    assert lines(axis) == [pytest.approx([4.1, 3.0]), pytest.approx([1.1, 2.0])]
    assert lines(axis, "--") == [[2.5, 2.5]]
    assert sorted(scattered(axis)) == [(10, 1), (10, 4), (100, 2), (100, 3)]


def test_errors_join_medians_of_each_group():
    data = pd.DataFrame({"n": [1, 1, 1, 2], "error": [0.1, 0.2, 0.9, 0.3], "between": "halves"})
    axis = generalization.errors(data, "n", "error", "between", labels={"n": "samples", "between": ""}).axes[0]
    assert lines(axis) == [[0.2, 0.3]]
    assert sorted(scattered(axis)) == sorted(zip(data.n, data.error, strict=True))
    assert texts(axis.get_legend().get_texts()) == ["halves"]
    assert axis.get_xlabel() == "samples"


def test_the_spectrum_sets_theory_and_chance_apart():
    curves = [(name, d, 0.4 * d) for name in ("network", "theory", "random") for d in (1, 2)]
    curves = pd.DataFrame(curves, columns=["columns", "directions", "share"])
    axis = generalization.spectrum(curves, 20).axes[0]
    styles = {line.get_label(): line.get_linestyle() for line in axis.lines if line.get_label()[0] != "_"}
    assert styles == {"network": "-", "theory": "--", "random": ":"}
    assert texts(axis.texts) == [" 20 kept"]
    assert [line.get_xdata() for line in axis.lines if line.get_label()[0] == "_"] == [[20, 20]]


def test_the_teaser_has_one_row_per_regime():
    fig = generalization.teaser(
        {"few": (np.ones((3, 4, 4)), np.array([0, 1.0])), "many": (np.ones((2, 4, 4)), np.ones(2))}
    )
    assert len([axis for axis in fig.axes if axis.images]) == 5
    assert [[bar.get_height() for bar in axis.patches] for axis in fig.axes if axis.patches] == [[0, 1], [1, 1]]


def test_over_threshold_joins_medians_within_quarters_of_a_decade():
    data = pd.DataFrame({"relative": [1.0, 1.01, 1.02, 10.0], "cosine": [0.1, 0.2, 0.9, 1.0]})
    axis = hybrid.over_threshold({"images": data}).axes[0]
    assert lines(axis) == [[0.2, 1.0]]
    assert scattered(axis) == list(zip(data.relative, data.cosine, strict=True))
    assert [line.get_xdata() for line in axis.lines if line.get_linestyle() == "--"] == [[1, 1]]


def test_a_beta_histogram_counts_every_subset_and_marks_values():
    axis = separability.beta_histogram({"raw": np.array([0.1, 0.1, 0.5])}, {"classes": 0.9}).axes[0]
    assert sum(bar.get_height() for bar in axis.containers[0]) == pytest.approx(1)
    assert texts(axis.texts) == ["classes"]
    assert list(axis.lines[0].get_xdata()) == [0.9, 0.9]
    assert axis.get_xlabel() == "$\\beta$"


def test_residuals_have_a_dot_per_row_and_a_name_for_each_setting():
    data = pd.DataFrame({"margin": [-1.0, 2.0], "residual": [0.1, 0.01], "cosine": [0.5, 0.8], "sigma": 0.2})
    labels = {"margin": "M", "residual": "R", "cosine": "B", "sigma": "S"}
    axis = separability.residuals(data, labels, xticks=[-1, 2]).axes[0]
    assert sorted(scattered(axis)) == [(-1, 0.1), (2, 0.01)]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("M", "R", "log")
    assert texts(axis.get_legend().get_texts()) == ["B", "0.5", "0.8", "S", "0.2"]


def test_auroc_dots_are_named_and_apart_by_data():
    table = pd.DataFrame({"measure": ["a", "b"] * 2, "comparison": "c", "data": ["x", "x", "y", "y"]})
    table = table.assign(auroc=[0.2, 1.0, 0.4, 0.8], low=0.1, high=1.0)
    axis = representations.auroc_dots(table, "measure", "comparison", {"a": "A", "c": "C"}).axes[0]
    assert texts(axis.get_yticklabels()) == ["A", "b"]
    assert axis.get_title() == "C"
    assert marked(axis, "o") == [(0.2, -0.15), (1.0, 0.85)]
    assert marked(axis, "s") == [(0.4, 0.15), (0.8, 1.15)]
    assert texts(axis.get_legend().get_texts()) == ["x", "y"]
    alone = representations.auroc_dots(table[:2].drop(columns="data"), "measure", "comparison", {}).axes[0]
    assert marked(alone, "o") == [(0.2, 0), (1.0, 1)]
    assert alone.get_legend() is None


def test_size_panels_show_every_sample_in_its_regime():
    rows = pd.DataFrame({"data": "images", "regime": ["memorized", "generalized"], "input": [1.0, 2.0]})
    rows = rows.assign(norm=[3.0, 4.0], std=[5.0, 6.0])
    fig = representations.size_panels(rows, {"input": "x", "norm": "h", "std": "Std"})
    assert [scattered(axis) for axis in fig.axes] == [[(1, 3), (2, 4)], [(3, 5), (4, 6)]]
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in fig.axes] == [("x", "h"), ("h", "Std")]
    assert texts(fig.legends[0].get_texts()) == ["memorized", "generalized"]


def test_setting_dots_say_where_nothing_is_left():
    rows = pd.DataFrame(
        {"setting": ["a", "b"] * 2, "group": ["x", "y"] * 2, "regime": ["memorizing"] * 2 + ["generalizing"] * 2,
         "operator_error": [0.1, np.nan, 0.2, 0.3]}
    )  # fmt: skip
    rows = rows.assign(low=[0.05, np.nan, np.nan, 0.2], high=[0.2, np.nan, np.nan, 0.4])
    left, right = robustness.setting_dots(rows, 0.1).axes
    assert texts(left.get_yticklabels()) == ["a", "b"]
    assert texts(left.texts) == ["diverged"]
    assert not right.texts
    assert [point for point in marked(left, "o") if not np.isnan(point[0])] == [(0.1, 0)]
    assert marked(right, "o") == [(0.2, 0), (0.3, 1)]  # also that without an interval


def test_split_columns_start_in_gray_and_end_with_their_range():
    moved = pd.DataFrame({"setting": "a", "column": [1, 2, 1], "start": [0.6, 0.4, 0.8], "end": [1.0, 0.0, 0.6]})
    axis = robustness.split_columns(moved).axes[0]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([0.7, 0.4, 0.8, 0.0])
    bars = [segment[:, 1].tolist() for c in axis.collections for segment in c.get_segments()]
    assert bars == [pytest.approx([0.6, 1.0]), pytest.approx([0, 0])]


def test_fractions_of_several_seeds_lie_beside_each_other():
    table = pd.DataFrame({"name": ["few"] * 2 + ["many"], "regime": ["memorized"] * 2 + ["generalized"]})
    table = table.assign(criterion="copy", fraction=[0.9, 1.0, 0.0], low=0.0, high=1.0)
    both = pd.concat([table, table.assign(criterion="other")])
    fig = sampling.fraction_dots(both, {"copy": "as they are"})
    assert [axis.get_title() for axis in fig.axes] == ["as they are"]
    assert marked(fig.axes[0], "o") == [(0.9, -0.22), (1.0, 0.22), (0.0, 1.0)]
    colors = [line.get_color() for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert colors == [plots.MEMORIZED, plots.GENERALIZED]


def test_along_noise_joins_medians():
    data = pd.DataFrame({"sigma": [0.1, 0.1, 0.1, 1.0], "std": [1.0, 2.0, 9.0, 3.0], "subset": "few"})
    both = pd.concat([data, data.assign(subset="many", std=5.0)])
    axis = sampling.along_noise(both, {"std": "Std"}, log=["std"]).axes[0]
    assert lines(axis) == [[2, 3], [5, 5]]
    assert len(scattered(axis)) == 8
    assert (axis.get_yscale(), axis.get_ylabel()) == ("log", "Std")


# ---- phase


LABELS = {"n": "samples", "width": "units", "lam": "penalty", "sigma": "noise"}


def test_phase_maps_show_every_cell_and_a_dot_for_each_difference():
    table = pd.DataFrame({"n": [1, 2, 4, 8], "width": 4, "sigma": 0.2, "lam": 0.1})
    table = table.assign(phase=list("mmgn"), theory=list("mggn"))
    axis = phase.phase_maps(table, list("mgn"), LABELS).axes[0]
    assert axis.images[0].get_array().tolist() == [[0, 0, 1, 2]]
    assert [line.get_xdata()[0] for line in axis.lines] == [1]
    assert (axis.get_xlabel(), axis.get_title()) == ("samples", "penalty = 0.1, noise = 0.2")


def test_share_maps_place_lines_by_the_logarithm():
    shares = pd.DataFrame({"n": [1, 2, 4, 8], "width": 4, "sigma": 0.2, "lam": 0.1, "value": [1.0, 0.5, 0.25, 0.0]})
    lines = pd.DataFrame({"kind": "a", "sigma": 0.2, "lam": 0.1, "n": [2, 2], "width": [4, 4]})
    fig = phase.share_maps(shares, lines, LABELS)
    assert fig.axes[0].images[0].get_array().tolist() == [[1, 0.5, 0.25, 0]]
    assert fig.axes[0].images[0].get_clim() == (0, 1)
    assert np.allclose(fig.axes[0].lines[0].get_xdata(), 1)  # n = 2 is the second cell
    assert texts(fig.legends[0].get_texts()) == ["a"]


# ---- where


@pytest.mark.parametrize("count", [1, 6])
def test_figures_stay_on_the_page(count):
    networks = [f"network {i}" for i in range(count)]
    cells = itertools.product(networks, "xyz", "pqr")
    maps = where.measure_maps(pd.DataFrame(cells, columns=["network", "layer", "what"]).assign(spikier=0.9))
    assert [axis.get_xlabel() for axis in maps.axes[:count]] == (networks if count > 1 else [""])
    assert ("0.90" in texts(maps.axes[0].texts)) == (count == 1)
    depth = [(network, "Std", module, 1, 0.2) for network in networks for module in "ab"]
    depth = pd.DataFrame(depth, columns=["network", "ingredient", "module", "place", "auroc"])
    tall = where.along_depth(depth, "ab")
    assert scattered(tall.axes[0]) == [(1, 0.2), (1, 0.2)]
    assert texts(tall.legends[0].get_texts()) == ["a", "b"]
    modules = where.module_dots(depth.assign(coupling=[0.1, 0.3] * count), "ab")
    assert scattered(modules.axes[0]) == [(0, 0.1), (1, 0.3)]
    for fig in (maps, tall, modules):
        assert fig.get_figwidth() <= plots.WIDEST


@pytest.mark.parametrize("count", [1, 6])
def test_rate_dots_have_an_axis_for_each_rate(count):
    networks = [f"network {i}" for i in range(count)]
    dots = pd.DataFrame(itertools.product(networks, "ab", "st", "uv"), columns=["network", "panel", "line", "hue"])
    fig = where.rate_dots(dots.assign(value=0.5, low=0.4, high=0.6), "line", "hue", {"a": 0.01})
    assert len(fig.axes) == 2 * count
    assert fig.axes[0].get_xlim()[0] < 0.01 < fig.axes[1].get_xlim()[0]
    assert marked(fig.axes[0], "o") == [(0.5, -0.18), (0.5, 0.82)]
    assert marked(fig.axes[0], "s") == [(0.5, 0.18), (0.5, 1.18)]
    assert texts(fig.legends[0].get_texts()) == ["u", "v"]
    assert fig.get_figwidth() <= plots.WIDEST


def test_noise_lines_have_a_band_per_pool():
    data = pd.DataFrame({"network": "n", "measure": "std", "pool": "all", "sigma": [1.0, 0.1], "auroc": [0.9, 0.2]})
    fig = where.noise_lines(data.assign(low=data.auroc - 0.1, high=data.auroc + 0.1))
    axis = fig.axes[0]
    assert lines(axis) == [[0.2, 0.9]]  # by noise level
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1, 1.0))
    assert axis.get_title() == "Std"
    assert texts(fig.legends[0].get_texts()) == ["all units"]


def test_flipped_settings_lie_in_the_shaded_corners():
    points = pd.DataFrame(
        {"relation": "another seed", "pool": ["all", "mean"], "auroc_a": [0.9, 0.2], "auroc_b": [0.1, 0.3]}
    )
    axis = where.carried_settings(points).axes[0]
    corners = [patch.get_bbox() for patch in axis.patches]
    assert any(box.contains(0.9, 0.1) for box in corners)
    assert not any(box.contains(0.2, 0.25) for box in corners)
    assert scattered(axis) == [(0.9, 0.1), (0.2, 0.3)]
