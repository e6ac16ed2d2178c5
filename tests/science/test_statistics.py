"""Rates, hulls, crossings and onsets: against scipy where it has the same, and by hand."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from spikiness.errors import SpikinessError
from spikiness.statistics import (
    EARLIER,
    INSIDE,
    LATER,
    Interval,
    first_rise,
    hull,
    last_fall,
    onset,
    precedence,
    rate,
)

# ---- intervals


def test_an_interval_is_its_two_ends_and_says_what_it_is():
    interval = Interval(0.1, 0.4, over="samples")
    low, high = interval
    assert (low, high) == interval == (0.1, 0.4)
    assert (interval.level, interval.over) == (0.95, "samples")
    assert repr(interval) == "(0.1, 0.4), 95% interval over samples"
    spread = Interval.range(np.array([3, 1, 2]), "networks")
    assert (spread, spread.level) == ((1.0, 3.0), None)
    assert "range over networks" in repr(spread)


@pytest.mark.parametrize("values", [(2, 1), (0, math.nan), (0, 1, 0.0), (0, 1, 1.5)])
def test_an_impossible_interval_is_refused(values):
    with pytest.raises(ValueError, match=r"interval is|level must"):
        Interval(*values)


# ---- rates


@pytest.mark.parametrize(("hits", "total"), [(0, 12), (3, 12), (12, 12), (141, 2000)])
def test_a_rate_of_independent_samples_has_the_wilson_interval_of_scipy(hits, total):
    share, interval = rate([True] * hits + [False] * (total - hits))
    known = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert share == hits / total
    assert interval == pytest.approx((known.low, known.high), abs=1e-12)
    assert (interval.level, interval.over) == (0.95, "samples")


def test_a_rate_of_groups_of_one_size_has_the_bootstrap_interval_of_their_means():
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), 25)
    hits = draw.random(1000) < np.repeat(draw.random(40), 25)  # groups differ: samples are far from independent
    share, interval = rate(hits, groups, over="images")
    means = hits.reshape(40, 25).mean(axis=1)
    known = stats.bootstrap((means,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert share == pytest.approx(hits.mean())
    assert interval == pytest.approx((known.low, known.high), abs=0.01)
    assert interval.over == "images"
    naive = rate(hits)[1]
    assert interval[1] - interval[0] > 2 * (naive[1] - naive[0])


def test_a_rate_counts_groups_where_all_or_none_are_hits_and_where_there_is_one():
    for hits, groups, trials in (([0] * 4, "aabb", 2), ([1] * 6, "aabbcc", 3), ([1, 0, 1, 1], "aaaa", 1)):
        share, interval = rate(hits, list(groups))
        known = stats.binomtest(round(share * trials), trials).proportion_ci(0.95, method="wilson")
        assert interval == pytest.approx((known.low, known.high), abs=1e-12)


def test_no_samples_have_no_rate():
    with pytest.raises(SpikinessError, match="no samples"):
        rate([])


def test_a_hull_is_a_range_and_leaves_out_what_is_not_known():
    mean, interval = hull([0.2, 0.6, math.nan], [0.1, 0.5, math.nan], [0.3, 0.7, math.nan])
    assert mean == pytest.approx(0.4)
    assert interval == (0.1, 0.7)
    assert (interval.level, interval.over) == (None, "networks")
    with pytest.raises(SpikinessError, match="mean over models needs at least one value"):
        hull([math.nan], [math.nan], [math.nan], over="models")


# ---- crossings


def root(x, y, level, low, high):
    """Where the straight line through the points over log x is at the level, by scipy's root finder."""
    line = lambda log_x: np.interp(log_x, np.log(x), y) - level  # noqa: E731
    return math.exp(optimize.brentq(line, math.log(low), math.log(high), xtol=1e-14))


def test_the_first_rise_is_the_root_of_the_line_over_log_x():
    x, y = [1, 4, 16, 32, 90], [0.1, 0.25, 0.75, 0.2, 0.9]
    found = first_rise(x, y)
    assert found.value == pytest.approx(root(x, y, 0.5, 4, 16), rel=1e-12)
    assert (found.low, found.high, found.where, found.inside) == (4, 16, INSIDE, True)
    assert first_rise(x, y, 0.8).value == pytest.approx(root(x, y, 0.8, 32, 90), rel=1e-12)


def test_the_last_fall_is_the_root_of_the_line_behind_which_all_is_below():
    x, y = [10, 20, 40, 80, 200], [1.0, 0.2, 0.9, 0.1, 0.0]
    found = last_fall(x, y)
    assert found.value == pytest.approx(root(x, y, 0.5, 40, 80), rel=1e-12)
    assert (found.low, found.high, found.where) == (40, 80, INSIDE)
    assert last_fall(x, y, 0.15).value == pytest.approx(root(x, y, 0.15, 40, 80), rel=1e-12)


@pytest.mark.parametrize(
    ("find", "y", "value", "where"),
    [
        (first_rise, [0.1, 0.2], 4, LATER),
        (first_rise, [0.6, 0.2], 1, EARLIER),
        (last_fall, [0.1, 0.2], 1, EARLIER),
        (last_fall, [0.2, 0.6], 4, LATER),
        (last_fall, [0.9, 0.5], 4, LATER),  # the level itself is not below it
    ],
)
def test_a_crossing_outside_of_the_points_is_a_bound(find, y, value, where):
    found = find([1, 4], y)
    assert (found.value, found.low, found.high, found.where, found.inside) == (value, value, value, where, False)


@pytest.mark.parametrize("x", [[4, 1], [1, 1], [0, 1], []])
def test_points_of_a_curve_rise_and_are_positive(x):
    for find in (first_rise, last_fall):
        with pytest.raises(SpikinessError, match="rising"):
            find(x, [0.0, 1.0][: len(x)])


# ---- onsets


def test_an_onset_is_where_a_sign_comes_to_stay():
    draw = np.random.default_rng(0)
    x = np.cumsum(draw.integers(1, 9, size=8))
    for holds in draw.random((200, 8)) < 0.7:
        stays = [value for k, value in enumerate(x) if holds[k:].all()]  # by definition
        found = onset(x, holds)
        assert found == stays[0] if stays else math.isnan(found)
    assert math.isnan(onset([], []))
    with pytest.raises(SpikinessError, match="rising"):
        onset([2, 1], [True, True])


def test_precedence_counts_each_case_once():
    draw = np.random.default_rng(1)
    first, second = (np.where(draw.random(300) < 0.3, np.nan, draw.integers(0, 4, 300)) for _ in range(2))
    counts = dict.fromkeys(("before", "same", "after", "alone", "missed"), 0)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if a == a and b == b:
            counts["before" if a < b else "after" if a > b else "same"] += 1
        elif a == a or b == b:
            counts["alone" if a == a else "missed"] += 1
    assert precedence(first, second) == counts
    assert min(counts.values()) > 0
