"""What chapters on copied images share: samples planted at known places, curves that fall where it is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness_book import copying


def test_the_table_says_which_samples_copy_which_image():
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = copying.table(torch.cat([x[[4, 1]], (x[:1] + x[1:2]) / 2]), x)
    assert rows.nearest[:2].tolist() == [4, 1]
    assert rows.ratio[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert rows.memorized.tolist() == [True, True, False]


def test_over_networks_is_a_mean_and_a_range():
    rows = pd.DataFrame({"value": [0.2, 0.6], "low": [0.1, 0.5], "high": [0.3, 0.7]})
    mean, spread = copying.over_networks(rows)
    assert (mean, spread, spread.level) == (pytest.approx(0.4), (0.1, 0.7), None)


def fractions(table, width=16):
    rows = [(n, width, index, value) for index, line in enumerate(table) for n, value in line.items()]
    return pd.DataFrame(rows, columns=["n", "width", "index", "value"])


def test_turning_is_interpolated_in_the_logarithm_where_the_fraction_falls_for_good():
    rows = fractions([{10: 1.0, 1000: 0.0}, {10: 0.75, 1000: 0.25}]).sample(frac=1, random_state=1)
    turns = copying.turning(rows)
    assert turns.turning.tolist() == pytest.approx([100, 100])
    point, sizes = copying.turning_point(turns)
    assert (point, sizes, sizes.level) == (pytest.approx(100), (10, 1000), None)
    late = copying.turning(fractions([{10: 1.0, 20: 0.2, 40: 0.9, 80: 0.1}]))  # not the first crossing
    assert late.turning.item() == pytest.approx(40 * 2**0.5)
    assert (late.low.item(), late.high.item()) == (40, 80)


@pytest.mark.parametrize("line", [{10: 0.4, 20: 0.1}, {10: 1.0, 20: 0.6}])
def test_a_turn_that_is_not_reached_is_none(line):
    turns = copying.turning(fractions([{10: 1.0, 20: 0.0}, line]))
    assert turns.turning.notna().tolist() == [True, False]
    assert copying.turning_point(turns) is None


def test_turning_leaves_out_partners_that_have_one_size_and_f_emp():
    rows = pd.concat([fractions([{10: 1.0, 20: 0.0}, {20: 0.0}]), fractions([{10: 1.0, 20: 1.0}], width=0)])
    assert copying.turning(rows)[["width", "index"]].to_numpy().tolist() == [[16, 0]]
    assert copying.turning_point(copying.turning(rows)[:0]) is None


def test_pictures_are_gray_as_they_are_and_colored_from_0_to_1():
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    assert copying.pictures(x).shape == (2, 2, 2, 3)
    assert copying.pictures(x).min() == 0
    np.testing.assert_array_equal(copying.pictures(x[:, :1]), x[:, 0])
