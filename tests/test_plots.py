"""The shared figures draw what they are given: positions, lines, scales and names are read back from the axes."""

import subprocess
import sys

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from spikiness_book import plots
from spikiness_book.engine.runs import digests


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def lines(axis, style="-"):
    """What the lines of this style on an axis join."""
    return [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == style and len(line.get_xdata())]


def texts(artists):
    return [artist.get_text() for artist in artists]


def table(**columns):
    """A table with intervals of 0.1 on both sides of the column `value`."""
    data = pd.DataFrame(columns)
    return data.assign(low=data.value - 0.1, high=data.value + 0.1)


def test_plots_never_import_torch():
    chapters = "import importlib, pathlib, spikiness_book.chapters as c\n"
    chapters += "for file in pathlib.Path(c.__path__[0]).glob('*/figures.py'):\n"
    chapters += "    if file.parent.name != 'audit':\n"  # its colors go by names that its measuring code gives
    chapters += "        importlib.import_module(f'spikiness_book.chapters.{file.parent.name}.figures')\n"
    code = f"{chapters}import sys\nassert 'spikiness_book.chapters.where.figures' in sys.modules\n"
    code += "assert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_style_is_in_force():
    assert {name: plt.rcParams[name] for name in plots.STYLE} == plots.STYLE


def test_a_run_with_a_figure_depends_on_the_style():
    reached = digests.reach([("spikiness_book.chapters.hybrid.figures", "over_threshold")])
    assert ("spikiness_book.plots", "STYLE") in reached
    assert ("spikiness_book.plots", "histograms") not in reached


# ---- panels


def test_panels_wrap_and_places_without_a_name_stay_empty():
    fig, axes = plots.panels("abcd", (2, 1), (0.5, 0.25), across=3)
    assert list(axes) == list("abcd")
    assert fig.get_size_inches().tolist() == [6.5, 2.25]
    assert [axis.axison for axis in fig.axes] == [True] * 4 + [False] * 2
    plots.outer_labels(fig, "below", "beside")
    assert [axis.get_xlabel() for axis in axes.values()] == ["", "below", "below", "below"]
    assert [axis.get_ylabel() for axis in axes.values()] == ["beside", "", "", "beside"]


def test_facets_split_a_table_in_its_own_order():
    data = pd.DataFrame({"a": ["y", "x", "y"], "b": ["q", "p", "p"], "value": [1, 2, 3]})
    _, by_one = plots.facets(data, "a", (1, 1))
    assert [(name, rows.value.tolist()) for name, _, rows in by_one] == [("y", [1, 3]), ("x", [2])]
    _, by_two = plots.facets(data, ("a", "b"), (1, 1))
    assert {name: rows.value.tolist() for name, _, rows in by_two} == {
        ("y", "q"): [1], ("y", "p"): [3], ("x", "q"): [], ("x", "p"): [2]
    }  # fmt: skip
    place = by_two[2].axis.get_subplotspec()
    assert (place.rowspan.start, place.colspan.start) == (1, 0)


def test_a_legend_names_each_group_once():
    fig, axes = plots.panels("ab", (1, 1))
    axes["a"].plot([0], [0], label="one")
    for name in ("one", "two"):
        axes["b"].plot([0], [0], label=name)
    plots.legend(fig, "outside right center")
    assert texts(fig.legends[0].get_texts()) == ["one", "two"]


def test_ticks_are_plain_numbers():
    _, axes = plots.panels("ab", (2, 2))
    axes["a"].set(xscale="log", xlim=(1, 1e5), yscale="log", ylim=(0.1, 10))
    plots.sparse_log(axes["a"])
    axes["a"].figure.canvas.draw()
    assert {"1", "100", "10k"} <= set(texts(axes["a"].get_xticklabels()))
    assert {"0.5", "1", "2"} <= set(texts(axes["a"].get_yticklabels()))
    plots.plain_ticks(axes["b"], [700, 20])
    assert texts(axes["b"].get_xticklabels()) == ["20", "700"]


# ---- dots with intervals


def test_spread_has_no_negative_bars():
    rows = pd.DataFrame({"value": [0.5, 0.5], "low": [0.2, 0.6], "high": [0.6, 0.9]})
    assert plots.spread(rows) == pytest.approx(np.array([[0.3, 0], [0.1, 0.4]]))


def test_interval_dots_lie_on_their_lines_apart_by_hue_and_fanned_out():
    data = table(value=[0.1, 0.2, 0.3, 0.4], line=["b", "a", "a", "b"], hue=["h", "h", "h", "i"], panel="p")
    _, facets = plots.facets(data.assign(color="C3"), "panel", (2, 2))
    plots.interval_dots(facets, "line", ["a", "b"], "hue", apart=0.4, reach=0.1)
    axis = facets[0].axis
    dots = {
        x: (y, line.get_marker())
        for line in axis.lines
        if line.get_marker() in "os"
        for x, y in zip(*line.get_data(), strict=True)
    }
    expected = {0.2: (-0.3, "o"), 0.3: (-0.1, "o"), 0.1: (0.8, "o"), 0.4: (1.2, "s")}
    assert {x: marker for x, (_, marker) in dots.items()} == {x: marker for x, (_, marker) in expected.items()}
    assert {x: y for x, (y, _) in dots.items()} == pytest.approx({x: y for x, (y, _) in expected.items()})
    assert {line.get_color() for line in axis.lines} == {"C3"}
    bars = [segment[:, 0].tolist() for c in axis.collections for segment in c.get_segments()]
    assert np.allclose(sorted(bars), sorted([value - 0.1, value + 0.1] for value in data.value))
    assert texts(axis.get_yticklabels()) == ["a", "b"]
    assert axis.get_ylim() == (1.5, -0.5)  # from the top
    assert axis.get_legend_handles_labels()[1] == ["h", "i"]


def test_stacked_columns_keep_their_intervals():
    data = pd.DataFrame({"kind": ["k"], "tpr": [0.9], "tpr_low": [0.8], "tpr_high": [1.0]})
    data = data.assign(fpr=0.1, fpr_low=0.0, fpr_high=0.2)
    long = plots.stacked(data, ["fpr", "tpr"], "rate")
    assert long[["kind", "rate", "value", "low", "high"]].values.tolist() == [
        ["k", "fpr", 0.1, 0.0, 0.2],
        ["k", "tpr", 0.9, 0.8, 1.0],
    ]


def test_dot_columns_put_each_row_in_the_column_of_its_text():
    frame = pd.DataFrame({"group": ["x", "y", "x"], "error": [1.0, 2.0, 3.0]})
    axis = plots.dot_columns({"all": frame}, "group", "error", label="how far").axes[0]
    dots = {tuple(point) for c in axis.collections for point in c.get_offsets().tolist()}
    assert dots == {(0, 1), (1, 2), (0, 3)}
    assert (axis.get_title(), axis.get_ylabel()) == ("all", "how far")
    assert texts(axis.get_xticklabels()) == ["x", "y"]


# ---- curves


def test_interval_curves_have_a_line_per_hue_and_seed_and_name_each_hue_once():
    frame = table(x=[1.0, 10, 1, 10, 1, 10], value=[0, 0.5, 0, 1, 0.2, 0.3], n=[20] * 4 + [700] * 2)
    frame = frame.assign(seed=[1, 1, 2, 2, 1, 1])
    fig = plots.interval_curves({"all": frame}, "x", "value", "n", {"n": "n"}, marks={"real": 0.4})
    axis = fig.axes[0]
    assert lines(axis) == [[0, 0.5], [0, 1], [0.2, 0.3]]
    assert lines(axis, ":") == [[0.4, 0.4]]
    bars = [segment[:, 1].tolist() for c in axis.collections for segment in c.get_segments()]
    assert np.allclose(sorted(bars), sorted([v - 0.1, v + 0.1] for v in frame.value))
    assert texts(fig.legends[0].get_texts()) == ["20", "700"]
    assert texts(axis.texts) == ["real"]


def test_curves_without_intervals_are_dotted():
    _, axis = plt.subplots()
    rows = table(x=[1, 2, 1, 2], value=[0.1, 0.2, 0.3, 0.4], hue=["a", "a", "b", "b"], seed=0)
    rows.loc[rows.hue == "b", ["low", "high"]] = np.nan
    plots.seed_curves(axis, rows, "x", "value", "hue", {"b": "C1", "a": "C0"})
    assert lines(axis) == [[0.1, 0.2]]
    assert lines(axis, ":") == [[0.3, 0.4]]
    assert axis.get_legend_handles_labels()[1] == ["b", "a"]  # in the order of the colors


def test_mean_curves_draw_means_intervals_and_looks():
    data = pd.DataFrame({"n": [10, 10, 100], "value": [0.2, 0.4, 0.9], "low": 0.1, "high": 1.0, "kind": "ours"})
    best = pd.DataFrame({"n": [10, 100], "value": [1.0, 1.0], "kind": "best"})
    fig = plots.mean_curves({"a": pd.concat([data, best])}, "n", {"value": "share"}, {"best": "theory dashed"})
    axis = fig.axes[0]
    assert lines(axis)[0] == pytest.approx([0.3, 0.9])
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [(line.get_color(), line.get_ydata().tolist()) for line in dashed] == [(plots.THEORY, [1, 1])]
    bars = [segment[:, 1].tolist() for c in axis.collections for segment in c.get_segments()]
    assert np.allclose(bars, [[0.1, 1.0]] * 3)  # none for those without an interval
    assert axis.get_ylabel() == "share"
    assert texts(fig.legends[0].texts) == ["ours", "best"]


def test_mean_curves_of_different_things_have_their_own_axes():
    data = pd.DataFrame({"n": [10, 100], "value": [0.2, 0.9], "kind": "ours"})
    tables, limits = dict.fromkeys("abcd", data), {"b": (0, 5)}
    fig = plots.mean_curves(tables, "n", {"a": "first"}, {}, limits=limits, ylim=(-1, 2))
    assert [axis.get_ylabel() for axis in fig.axes[:4]] == ["first", "b", "c", "d"]
    assert fig.axes[1].get_ylim() == (0, 5)
    assert [axis.axison for axis in fig.axes] == [True] * 4 + [False] * 2  # two rows of three


def test_ticks_that_would_touch_are_left_out():
    assert plots._apart([10, 12, 20, 100, 110]) == [12, 20, 110]


def test_setting_curves_draw_medians_over_seeds_and_name_the_panels():
    data = pd.DataFrame({"n": [10, 10, 10, 20], "error": [0.1, 0.2, 0.9, 0.3], "width": 4, "sigma": 0.5})
    labels = {"sigma": "noise", "width": "units"}
    both = pd.concat([data, data.assign(sigma=0.2)])
    fig = plots.setting_curves(both, "n", "error", "width", "sigma", labels=labels, xscale="log")
    assert [axis.get_title() for axis in fig.axes] == ["noise = 0.2", "noise = 0.5"]
    assert lines(fig.axes[1]) == [[0.2, 0.3]]
    dots = [tuple(point) for c in fig.axes[1].collections for point in c.get_offsets().tolist()]
    assert sorted(dots) == sorted(zip(data.n, data.error, strict=True))
    assert texts(fig.axes[1].get_xticklabels()) == ["10", "20"]
    legend = fig.axes[1].get_legend()
    assert (legend.get_title().get_text(), texts(legend.get_texts())) == ("units", ["4"])
    assert fig.axes[0].get_legend() is None


# ---- histograms, bars, scatter, maps


def test_histograms_show_the_shares_of_both_regimes():
    shares = {"memorized": 0.2, "generalized": 0.8}
    bins = [("d", name, regime, i, i + 1, shares[regime]) for name in "uv" for regime in shares for i in (1, 0)]
    bins = pd.DataFrame(bins, columns=["data", "measure", "regime", "left", "right", "share"])
    fig = plots.histograms(bins, {"u": "first"})
    assert [axis.get_xlabel() for axis in fig.axes] == ["first", "v"]
    for axis in fig.axes:
        assert [patch.get_data().values.tolist() for patch in axis.patches] == [[0.2, 0.2], [0.8, 0.8]]
        assert [patch.get_data().edges.tolist() for patch in axis.patches] == [[0, 1, 2]] * 2
    assert texts(fig.legends[0].get_texts()) == ["memorized", "generalized"]
    three = pd.concat([bins[bins.measure == "u"].assign(data=name) for name in "abc"])
    wrapped = plots.histograms(three, {}, across=2)
    assert [axis.get_title() for axis in wrapped.axes[:3]] == ["a", "b", "c"]
    assert [axis.get_ylabel() for axis in wrapped.axes[:3]] == ["share of samples", "", "share of samples"]


def test_bars_have_the_given_heights_on_one_scale():
    fig = plots.representation_bars({"a": np.array([1.0, 3.0]), "b": np.array([2.0, 0.0])}, ["C0", "C1"])
    assert [[bar.get_height() for bar in axis.patches] for axis in fig.axes] == [[1, 3], [2, 0]]
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()
    colors = [axis.patches[0].get_facecolor() for axis in fig.axes]
    assert colors == [matplotlib.colors.to_rgba(name) for name in ("C0", "C1")]


def test_predicted_learned_holds_every_point_and_the_diagonal():
    data = pd.DataFrame({"predicted": [0.1, 0.2, 0.3], "learned": [0.1, 0.0, 0.4], "kind": ["x", "y", "x"]})
    axis = plots.predicted_learned(data, "kind", "gain").axes[0]
    points = np.concatenate([c.get_offsets() for c in axis.collections])
    assert sorted(map(tuple, points.tolist())) == sorted(zip(data.predicted, data.learned, strict=True))
    assert axis.lines[-1].get_xdata() == pytest.approx(axis.lines[-1].get_ydata())
    assert axis.get_xlabel() == "predicted gain"


def test_auroc_maps_keep_the_order_of_rows_and_columns():
    cells = [("up", "std", 0.9), ("up", "gini", 0.1), ("act", "std", 0.5), ("act", "gini", 0.4)]
    _, axis = plt.subplots()
    data = pd.DataFrame(cells, columns=["layer", "what", "auroc"])
    plots.auroc_map(axis, data, "layer", "what", "auroc", annot=True)
    assert texts(axis.get_yticklabels()) == ["up", "act"]
    assert texts(axis.get_xticklabels()) == ["std", "gini"]
    assert texts(axis.texts) == ["0.90", "0.10", "0.50", "0.40"]
    assert axis.collections[0].get_clim() == (0, 1)


# ---- images


def test_image_rows_share_a_scale_where_asked():
    rows = {"a": np.full((2, 3, 3), 5.0), "b": np.full((2, 3, 3), 2.0), "c": np.full((1, 3, 3), 0.01)}
    fig = plots.image_rows(rows, {"a": ["one", "two"]}, same=["b", "c"])
    limits = [axis.images[0].get_clim() for axis in fig.axes if axis.images]
    assert limits == [(-5, 5), (-5, 5), (-2, 2), (-2, 2), (-2, 2)]
    assert [axis.get_title() for axis in fig.axes[:2]] == ["one", "two"]
    assert [text.get_text() for axis in fig.axes for text in axis.texts] == ["a", "b", "c"]


@pytest.mark.parametrize("same", [[], ["nothing"]])
def test_an_empty_picture_does_not_divide_by_zero(same):
    fig = plots.image_rows({"nothing": np.zeros((1, 2, 2))}, same=same)
    assert fig.axes[0].images[0].get_clim() == (-1, 1)


def test_blank_pixels_do_not_set_the_scale():
    _, axes = plt.subplots(1, 2)
    plots.image_row(axes, np.array([[[np.nan, 0.5], [-2.0, 0.0]]]), ["half blank"])
    assert axes[0].images[0].get_clim() == (-2, 2)
    assert [axis.axison for axis in axes] == [False, False]
