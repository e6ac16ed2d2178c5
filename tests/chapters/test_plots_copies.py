"""The figures of the chapters on copies draw what they are given, and mark what is only a bound."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from spikiness_book import plots as figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_sampled_frequencies_lie_over_a_diagonal_and_none_becomes_an_upper_limit():
    data = pd.DataFrame({"copies": [1, 8], "expected": [0.01, 0.08], "frequency": [0.0, 0.04]})
    data = data.assign(low=[0.0, 0.02], high=[0.002, 0.06])
    axis = figures.sampled_frequencies(data, data, "expected", "frequency", "copies", {}).axes[0]
    diagonal = next(line for line in axis.lines if line.get_label() == "in proportion")
    assert diagonal.get_xdata() == pytest.approx(diagonal.get_ydata())
    assert {text.get_text() for text in axis.texts} == {"1", "8"}
    assert axis.get_xscale() == axis.get_yscale() == "log"
    limit = axis.containers[1]
    assert limit.lines[0].get_ydata() == pytest.approx([0.002])


def test_interval_curves_have_a_line_per_hue_and_seed_and_name_each_hue_once():
    frame = pd.DataFrame({"x": [1.0, 10, 1, 10, 1, 10], "y": [0, 0.5, 0, 1, 0.2, 0.3], "n": [20] * 4 + [700] * 2})
    frame = frame.assign(seed=[1, 1, 2, 2, 1, 1], low=frame.y - 0.1, high=frame.y + 0.1)
    fig = figures.interval_curves({"all": frame}, "x", "y", "n", {"n": "n"}, marks={"real": 0.4})
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert [line.get_ydata().tolist() for line in lines] == [[0, 0.5], [0, 1], [0.2, 0.3]]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["20", "700"]
    assert [text.get_text() for text in fig.axes[0].texts] == ["real"]


def test_interval_points_join_means_over_seeds():
    frame = pd.DataFrame({"x": [1.0, 1.0, 10.0], "y": [0.0, 0.2, 0.8], "text": ["a", "a", "c"]})
    fig = figures.interval_points({"one": frame.assign(low=frame.y, high=frame.y)}, "x", "y", {}, ["C0"])
    joined = [line for line in fig.axes[0].lines if line.get_linestyle() == "-"]
    assert joined[0].get_ydata().tolist() == pytest.approx([0.1, 0.8])
    assert {(t.get_text(), t.xy) for t in fig.axes[0].texts} == {
        ("a", (1.0, 0.2)),
        ("c", (10.0, 0.8)),
    }  # each name once


def test_copy_times_leave_bounds_open():
    data = pd.DataFrame({"n": [20, 700], "kind": "copies", "images_seen": [100.0, 900.0], "bound": ["inside", "after"]})
    data = data.assign(low=[90.0, 900.0], high=[110.0, 900.0])
    axis = figures.copy_times(data, {"copies": "C1"}, "n", "images_seen", {}).axes[0]
    marks = {tuple(line.get_ydata()): line.get_markerfacecolor() for line in axis.lines if line.get_marker() == "o"}
    assert marks[900.0,] == "white"
    assert marks[100.0,] != "white"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["20", "700"]


def test_auroc_map_keeps_the_order_of_rows_and_columns():
    cells = [("up", "std", 0.9), ("up", "gini", 0.1), ("act", "std", 0.5), ("act", "gini", 0.4)]
    axis = figures.auroc_map(pd.DataFrame(cells, columns=["layer", "what", "auroc"]), "layer", "what", "AUROC").axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["up", "act"]
    assert [text.get_text() for text in axis.texts] == ["0.90", "0.10", "0.50", "0.40"]
