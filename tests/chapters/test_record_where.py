"""What *where* and *cifar* record, where recording decides something: which network is the worst, which size is few."""

import pandas as pd
import pytest

from spikiness_book.chapters.cifar import record as cifar
from spikiness_book.chapters.where import carries, measure, record
from spikiness_book.engine.runs import findings


class Run:
    """Keeps findings as a run does, and nothing else."""

    def __init__(self):
        self.findings = []

    def metric(self, name, value, interval=None, **given):
        fields = {key: given.pop(key) for key in ("level", "over", "unit", "n", "seeds", "tolerance") if key in given}
        finding = findings.make(name, value, interval, labels=given, **fields)
        findings.check_new(finding, self.findings)
        self.findings.append(finding)

    def table(self, name, data):
        pass

    def value(self, selector):
        return findings.select(self.findings, selector)["value"]


def searched():
    rows = [("modules", 13, 0.9), ("modules", 14, 0.7), ("nonlinearities", 13, 0.4), ("nonlinearities", 14, 0.6)]
    table = pd.DataFrame(rows, columns=["searched", "seed", "auroc"])
    return table.assign(
        low=table.auroc - 0.1, high=table.auroc + 0.1, worst=0.95, tpr=[0.2, 0.4, 0, 0], fpr=0.01, settings=50
    )


def test_a_search_is_judged_by_its_worst_network_and_loses_against_where_it_was_chosen():
    run = Run()
    record.search(run, searched(), "dit:digits", "not looked at before")
    assert run.value("search_worst[among=modules]") == 0.7
    assert run.value("search_loss[among=modules]") == pytest.approx(0.25)
    assert run.value("search_tpr[among=modules]") == pytest.approx(0.3)
    assert run.value("search_worst[among=nonlinearities, kind=dit:digits]") == 0.4
    worst = findings.select(run.findings, "search_worst[among=modules]")
    assert (worst["interval"], worst["over"], worst["n"]) == (
        [pytest.approx(0.6), pytest.approx(0.8)],
        "training images",
        2,
    )


def test_a_share_of_no_layers_is_one_half_and_a_range_of_all():
    share, ends = record._share(pd.DataFrame({"x": []}), pd.Series([], dtype=bool))
    assert (share, ends, ends.level) == (0.5, (0, 1), None)


def test_the_extremes_are_of_measures_without_scale_and_with_an_open_direction():
    rows = [("std", carries.OPEN, 0.99), ("gini", carries.OPEN, 0.7), ("hoyer", carries.OPEN, 0.8)]
    rows += [("gini", carries.THEORY, 0.95), (carries.FREE, carries.OPEN, 0.1)]
    assert carries.extremes(pd.DataFrame(rows, columns=["alone", "way", "worst"])) == ("hoyer", "gini")


def test_parts_of_the_variance_are_clear_on_one_side_or_on_none():
    clear = 0.5 + measure.CLEAR + 0.01
    layers = pd.DataFrame({column: [clear, 0.5, 1 - clear] for column in record.PARTS.values()})
    tests = record.clear(layers)
    assert tests["total", "up"].tolist() == [True, False, False]
    assert tests["between channels", "down"].tolist() == [False, False, True]


def test_few_and_many_are_the_ends_of_the_sizes_and_a_share_of_several_networks_has_a_range():
    run = Run()
    table = pd.DataFrame(
        {"network": "unet", "n": [20, 20, 100, 5000], "seed": [10, 11, 10, 10], "share": [0.8, 0.6, 0.1, 0]}
    )
    cifar.memorized(run, table.assign(low=table.share - 0.1, high=table.share + 0.1), samples=30)
    assert [finding["labels"]["images"] for finding in run.findings] == ["few", 100, "many"]
    few, middle, _ = run.findings
    assert (few["value"], few["level"], few["interval"]) == (pytest.approx(0.7), None, pytest.approx([0.5, 0.9]))
    assert (middle["level"], middle["over"]) == (0.95, "samples")
