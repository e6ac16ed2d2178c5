"""What the chapters on dynamics and duplicates record: what an interval is of, which networks and signals count."""

import pandas as pd
import pytest

from spikiness.statistics import Interval
from spikiness_book.chapters.duplicates import measure as duplicates
from spikiness_book.chapters.duplicates import record as duplicates_record
from spikiness_book.chapters.dynamics import measure as dynamics
from spikiness_book.chapters.dynamics import record as dynamics_record
from spikiness_book.engine.runs import findings


class Findings(list):
    """A run that only collects."""

    def metric(self, name, value, interval=None, *, labels=None, **given):
        known = {key: given.pop(key) for key in [*given] if key in findings.FIELDS}
        self.append(findings.make(name, value, interval, labels=given, **known))

    def table(self, name, data):
        pass

    def select(self, selector):
        return findings.select(self, selector)


def test_shares_of_copies_say_when_their_interval_is_of_samples():
    rows = {"copies": [1, 4, 16], "images": [50, 5, 5], "copied": [0, 0, 30]}
    rows |= {key: [0.0, 0.0, 0.3] for key in ("share", "share_low", "ratio", "ratio_low")}
    rows |= {key: [0.1, 0.2, 0.4] for key in ("share_high", "ratio_high", "expected_share")}
    run = Findings()
    counts = pd.DataFrame({"copies": [1], "copied": [0]})
    duplicates_record.frequencies(run, pd.DataFrame(rows), counts, [16, 4], 100, [10])
    assert run.select("share[copies=one]")["over"] == run.select("ratio[copies=fewest]")["over"] == "samples"
    assert run.select("share[copies=most]")["over"] == run.select("ratio[copies=most]")["over"] == "training images"
    assert run.select("number_of_copies[copies=most]")["value"] == 16


def test_ratio_of_presentations_reaches_from_the_nearest_ends_to_the_farthest():
    large = duplicates.Flip(400, Interval(300, 600, over="nearest training images"), "inside", 9)
    small = duplicates.Flip(100, Interval(50, 200, level=None, over="networks"), "inside", 3)
    run = Findings()
    duplicates_record.presentations_ratio(run, large, small, [700, 20], [10])
    ratio = run.select("presentations_ratio")
    assert (ratio["value"], ratio["interval"], ratio["level"]) == (4, [1.5, 12], None)
    assert run.select("fewest_images")["value"] == 20


def times():
    rows = [
        (20, dynamics.GOOD, 100.0, 100.0, 100.0),
        (20, dynamics.COPIES, 400.0, 300.0, 600.0),
        (20, dynamics.COPIES, 800.0, 700.0, 1000.0),
        (700, dynamics.GOOD, 150.0, 150.0, 150.0),
        (700, dynamics.COPIES, 9000.0, 9000.0, 9000.0),
    ]
    return pd.DataFrame(rows, columns=["n", "kind", "images_seen", "low", "high"])


def test_presentations_are_those_of_the_fewest_images_and_of_samples():
    run = Findings()
    dynamics_record.presentations(run, times(), [10])
    shown, later = run.select("presentations"), run.select("copies_after_good")
    assert (shown["value"], shown["interval"], shown["over"]) == (30, [25, 40], "samples")
    assert (later["value"], later["interval"]) == (6, [5, 8])


@pytest.mark.parametrize(("bound", "label"), [(True, "lower bounds"), (False, "seen")])
def test_an_exponent_from_lower_bounds_says_so(bound, label):
    run = Findings()
    dynamics_record.growth(run, dynamics.Growth(1.4, Interval(1.3, 1.5, over="networks"), 9, bound), [10])
    dynamics_record.growth(run, None, [10])
    assert [finding["labels"] for finding in run] == [{"times": label}]


def test_early_share_leaves_out_networks_in_which_the_second_sign_never_comes():
    onsets = {
        dynamics.SPIKY: [1, 4, 1],
        dynamics.APPEAR: [2, 2, None],
        dynamics.ANY: [1] * 3,
        dynamics.LOSS: [None] * 3,
    }
    parts = [
        pd.DataFrame({"n": 20, "seed": [10, 11, 12], "signal": signal, "images_seen": seen})
        for signal, seen in onsets.items()
    ]
    run = Findings()
    dynamics_record.first_signs(run, pd.concat(parts), [10, 11, 12])
    pair = "signal=spikiness, against=copies"
    orders = {order: run.select(f"networks[{pair}, order={order}]")["value"] for order in ("before", "after", "alone")}
    assert orders == {"before": 1, "after": 1, "alone": 1}
    assert (run.select(f"early_share[{pair}]")["value"], run.select(f"early_share[{pair}]")["n"]) == (0.5, 2)
    assert run.select("early_share[signal=spikiness, against=loss]")["n"] == 0
