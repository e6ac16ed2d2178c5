"""Agreement of two results, worked by hand."""

from pathlib import Path

import pytest

from spikiness_book.engine.runs import agreement, differences
from spikiness_book.engine.runs.store import Result


def result(metrics, **parameters):
    return Result("good", "demo", None, parameters, {}, metrics, {}, {}, Path("."))


def metric(value, interval=None, tolerance=None):
    return {"value": value, "interval": interval, "unit": "", "n": None, "seeds": None, "tolerance": tolerance}


@pytest.mark.parametrize(
    ("mine", "other", "agrees"),
    [
        (metric(1.0), metric(1.0009), True),
        (metric(1.0), metric(1.0011), False),
        (metric(-1.0), metric(1.0), False),
        (metric(0.0), metric(0), True),
        (metric(1.0), metric(1.2, tolerance=0.25), True),
        (metric(1.5), metric(1.2, tolerance=0.25), False),
        (metric(1.0, tolerance=0.25), metric(1.2), True),
        (metric(1.0, tolerance=9), metric(1.2, tolerance=0.1), False),  # the published tolerance decides
        (metric(1.0, [0.9, 1.1]), metric(1.2, [1.1, 1.3]), True),
        (metric(1.0, [0.9, 1.09]), metric(1.2, [1.1, 1.3]), False),
        (metric(1.0), metric(1.2, [0.9, 1.3]), True),
        (metric(1.0, [0.9, 1.1]), metric(1.2), False),
        (metric(1.0, [0.0, 2.0]), metric(1.2, [0.0, 2.0], tolerance=0.1), False),  # a tolerance goes first
        (None, metric(1.0), False),
        (metric(1.0), None, False),
    ],
)
def test_one_metric(mine, other, agrees):
    table = agreement(result({"x": mine} if mine else {}), result({"x": other} if other else {}))
    assert table["metric"].tolist() == ["x"]
    assert table["agrees"].tolist() == [agrees]
    assert (table["allowed"].item() == "missing") == (mine is None or other is None)


def test_order_is_that_of_the_published_result():
    table = agreement(result({"c": metric(1), "a": metric(1)}), result({"b": metric(1), "a": metric(1)}))
    assert table["metric"].tolist() == ["b", "a", "c"]
    assert table["agrees"].tolist() == [False, True, False]
    assert agreement(result({}), result({})).columns.tolist() == ["metric", "mine", "other", "allowed", "agrees"]


def test_parameters_that_differ_are_named():
    a, b = result({}, n=10, lr=0.1, only=1), result({}, n=5, lr=0.1, data="mnist")
    assert differences(a, b) == ["n: 10 and 5", "data: None and 'mnist'", "only: 1 and None"]
