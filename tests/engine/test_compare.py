"""Agreement of two results, worked by hand."""

import copy
import dataclasses
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from spikiness_book.engine.runs import agreement, compare, differences, findings, store
from spikiness_book.engine.runs.store import Result

PUBLISHED = Path(__file__).parents[2] / "published"


def result(metrics, **parameters):
    named = [findings.make(name, **given) for name, given in metrics.items()]
    return Result("good", "demo", None, parameters, {}, named, {}, {}, Path("."))


def metric(value, interval=None, tolerance=None):
    return {"value": value, "interval": interval, "over": "draws", "tolerance": tolerance}


@pytest.mark.parametrize(
    ("rerun", "reference", "agrees"),
    [
        (metric(1.0), metric(1.0009), True),
        (metric(1.0), metric(1.0011), False),
        (metric(-1.0), metric(1.0), False),
        (metric(0.0), metric(0), True),
        (metric(1.0), metric(1.2, tolerance=0.25), True),
        (metric(1.5), metric(1.2, tolerance=0.25), False),
        (metric(1.0, tolerance=0.25), metric(1.2), True),
        (metric(1.0, tolerance=9), metric(1.2, tolerance=0.1), False),  # the published tolerance decides
        (metric(1.0, [0.9, 1.1]), metric(1.14, [1.1, 1.3]), True),  # two intervals .2 wide allow .1414
        (metric(1.0, [0.9, 1.1]), metric(1.15, [1.1, 1.3]), False),
        (metric(1.0, [0.9, 1.1]), metric(1.2, [0.9, 1.3]), True),  # the wider one counts: .283
        (metric(1.0), metric(1.2, [0.9, 1.3]), True),
        (metric(1.0, [0.9, 1.1]), metric(1.2), False),
        (metric(1.0, [1.0, 1.0]), metric(1.0005, [1.0005, 1.0005]), True),  # no width: a thousandth
        (metric(1.0, [0.0, 2.0]), metric(1.2, [0.0, 2.0], tolerance=0.1), False),  # a tolerance goes first
        (None, metric(1.0), False),
        (metric(1.0), None, False),
    ],
)
def test_one_metric(rerun, reference, agrees):
    table = agreement(result({"x": rerun} if rerun else {}), result({"x": reference} if reference else {}))
    assert table["metric"].tolist() == ["x"]
    assert table["agrees"].tolist() == [agrees]
    assert (table["allowed"].item() == "missing") == (rerun is None or reference is None)


def test_order_is_that_of_the_published_result():
    table = agreement(result({"c": metric(1), "a": metric(1)}), result({"b": metric(1), "a": metric(1)}))
    assert table["metric"].tolist() == ["b", "a", "c"]
    assert table["agrees"].tolist() == [False, True, False]
    assert agreement(result({}), result({})).columns.tolist() == ["metric", "rerun", "reference", "allowed", "agrees"]


def test_parameters_that_differ_are_named():
    a, b = result({}, n=10, lr=0.1, only=1), result({}, n=5, lr=0.1, data="mnist")
    assert differences(a, b) == ["n: 10 and 5", "data: None and 'mnist'", "only: 1 and None"]


def test_findings_are_matched_by_name_and_labels():
    ours, theirs = (
        Result(
            "good",
            "demo",
            None,
            {},
            {},
            [findings.make("x", value, labels={"kind": k}) for k, value in pairs],
            {},
            {},
            Path("."),
        )
        for pairs in ([("a", 1.0), ("b", 2.0)], [("b", 2.0), ("a", 1.5)])
    )
    table = agreement(ours, theirs).set_index("metric")
    assert table.agrees.to_dict() == {"x[kind=b]": True, "x[kind=a]": False}


def test_two_estimates_of_one_mean_agree_in_nineteen_of_twenty():
    """The share of pairs of sample means, each with its normal interval, that the rule calls equal."""
    draw = np.random.default_rng(0)
    means = draw.normal(5.0, 0.3, size=(4000, 2))
    half = NormalDist().inv_cdf(0.975) * 0.3
    pairs = [[findings.make("x", m, (m - half, m + half), over="draws") for m in pair] for pair in means]
    share = np.mean([abs(a["value"] - b["value"]) <= compare.tolerance(a, b) for a, b in pairs])
    assert 0.94 < share < 0.96


@pytest.mark.parametrize("chapter", sorted(path.parent.name for path in PUBLISHED.glob("*/result.json")))
def test_a_published_result_moved_by_twice_its_interval_fails(chapter):
    """Every finding of every chapter: a rerun that differs so much is not called the same."""
    reference = store.load(PUBLISHED / chapter)
    moved = copy.deepcopy(reference.findings)
    for finding in moved:
        width = finding["interval"][1] - finding["interval"][0] if finding["interval"] else 0.0
        least = compare.RELATIVE * abs(finding["value"])  # a narrower interval is narrower than two machines agree
        step = 2 * (max(width, least) if width else finding["tolerance"] or least or 1.0)
        finding["value"] += step
        finding["interval"] = finding["interval"] and [end + step for end in finding["interval"]]
    assert agreement(reference, reference)["agrees"].all()
    table = agreement(dataclasses.replace(reference, findings=moved), reference)
    assert table[table["agrees"]].metric.tolist() == []
