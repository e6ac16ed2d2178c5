"""Every figure draws what it is given: marks, scales and labels are read back from the axes."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from spikiness_book import plots as figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_image_rows_share_a_scale_where_asked():
    rows = {"a": np.full((2, 3, 3), 5.0), "b": np.full((2, 3, 3), 2.0), "c": np.full((1, 3, 3), 0.01)}
    fig = figures.image_rows(rows, {"a": ["one", "two"]}, same=["b", "c"])
    limits = [axis.images[0].get_clim() for axis in fig.axes if axis.images]
    assert limits == [(-5, 5), (-5, 5), (-2, 2), (-2, 2), (-2, 2)]
    assert [axis.get_title() for axis in fig.axes[:2]] == ["one", "two"]


def test_an_empty_picture_does_not_divide_by_zero():
    fig = figures.image_rows({"nothing": np.zeros((1, 2, 2))})
    assert fig.axes[0].images[0].get_clim() == (-1, 1)


def test_predicted_learned_holds_every_point_and_the_diagonal():
    data = pd.DataFrame({"predicted": [0.1, 0.2, 0.3], "learned": [0.1, 0.0, 0.4], "kind": ["x", "y", "x"]})
    axis = figures.predicted_learned(data, "kind", "gain").axes[0]
    points = np.concatenate([c.get_offsets() for c in axis.collections])
    assert sorted(map(tuple, points.tolist())) == sorted(zip(data.predicted, data.learned, strict=True))
    assert axis.lines[-1].get_xdata() == pytest.approx(axis.lines[-1].get_ydata())
    assert axis.get_xlabel() == "predicted gain"


def test_bars_have_the_given_heights_on_one_scale():
    fig = figures.representation_bars({"a": np.array([1.0, 3.0]), "b": np.array([2.0, 0.0])})
    assert [[bar.get_height() for bar in axis.patches] for axis in fig.axes] == [[1, 3], [2, 0]]
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()


def test_error_panels_draw_medians_over_seeds():
    data = pd.DataFrame({"sigma": [0.2] * 3 + [1.0] * 3, "error": [0.1, 0.2, 0.9, 0.3, 0.5, 0.4]})
    axis = figures.error_panels({"noise": (data, "sigma")}, "error", "worst error").axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0.2, 0.4]
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.2", "1"]


def test_teaser_has_one_row_per_regime():
    fig = figures.teaser({"few": (np.ones((3, 4, 4)), np.array([0, 1.0])), "many": (np.ones((2, 4, 4)), np.ones(2))})
    assert len([axis for axis in fig.axes if axis.images]) == 5
    assert [len(axis.patches) for axis in fig.axes if axis.patches] == [2, 2]
