"""The chapter on the transition: planted networks, closed forms and hand-worked tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import images, measures
from spikiness.denoisers import Empirical
from spikiness.errors import SpikinessError
from spikiness_book import zoo
from spikiness_book.chapters.transition import measure as experiment
from spikiness_book.chapters.transition import quality as transition_quality
from spikiness_book.chapters.transition import record
from spikiness_book.chapters.transition.measure import SampledDenoiser, Study


class FakeRun:
    """Keeps what is recorded: the finding's name and labels, in the order of their names, to value and interval."""

    def __init__(self):
        self.findings = {}

    def metric(self, name, value, interval=None, *, n=None, seeds=None, unit="", tolerance=None, **labels):
        key = (name, *(labels[label] for label in sorted(labels)))
        assert key not in self.findings
        self.findings[key] = value, interval


def pool(n=12, size=4, seed=0):
    x = torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return images.Images(x, torch.arange(n) % 3, "noise")


def network(chosen, samples, width=8, index=0, denoiser=None, x=None):
    chosen = torch.as_tensor(chosen)
    return SampledDenoiser(len(chosen), width, index, 10 + index, chosen, denoiser or Empirical(x[chosen]), samples)


def study(networks, data=None, perfect=()):
    data = data or pool()
    return Study("noise", data, pool(8, seed=1), 1000, tuple(networks), tuple(perfect))


def test_study_asks_for_the_models_that_the_whole_book_shares(monkeypatch):
    asked = []

    def trained(fit, x, network, seed, labels, images_seen, **options):
        asked.append((x, (network.keywords["width"], seed, images_seen), options["sigma_data"]))
        return [None, Empirical(x)]

    monkeypatch.setattr(zoo, "cached", trained)
    made = experiment.study("digits", zoo.plan_each_once([5, 9], [16], [10], [5]), 320_000, samples=6)
    x, scale = made.pool.x, float(made.pool.x.std())
    expected = [(5, 0, 10), (5, 1, 11), (9, 0, 10)]
    assert [args for _, args, _ in asked] == [(16, seed, 320_000) for *_, seed in expected]
    assert all(given == scale for *_, given in asked)
    for (given, *_), (n, index, _) in zip(asked, expected, strict=True):
        assert torch.equal(given, x[zoo.chunk(x, n, index)])
    assert [(net.n, net.width, net.index) for net in made.perfect] == [(5, 0, 0), (5, 0, 1), (9, 0, 0), (9, 0, 1)]
    assert torch.equal(made.networks[0].samples, made.perfect[0].samples)  # the same denoiser, the same noise
    rows = experiment.copied(made)
    assert rows.value.tolist() == [1.0] * 7  # f_emp copies, whatever it is called
    assert rows.kind.tolist() == ["width 16"] * 3 + [experiment.PERFECT] * 4
    run = FakeRun()
    record.copied(run, made, rows)
    lowest = run.findings["memorized", "digits", "most"][1][0]
    assert lowest == pytest.approx(6 / (6 + 1.96**2), abs=1e-3)  # Wilson, 6 of 6


@pytest.mark.parametrize(
    ("networks", "words"), [([(1401, 8, 1, 10)], "1401"), ([(20, 8, 0, 10)], "700"), ([(701, 8, 1, 10)], "700")]
)
def test_study_refuses_sizes_that_are_not_there_before_it_trains(networks, words, monkeypatch):
    monkeypatch.setattr(zoo, "cached", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SpikinessError, match=words):
        experiment.study("digits", networks, 1000, 4)


def test_copied_counts_planted_copies():
    data = pool()
    samples = torch.cat([data.x[:3], (data.x[:1] + data.x[1:2]) / 2])  # three copies, and one amid two images
    row = experiment.copied(study([network(range(6), samples, x=data.x)], data)).iloc[0]
    assert (row["value"], row["count"]) == (0.75, 3)
    assert row.low < 0.75 < row.high
    other = study([network([5, 6, 7], samples, x=data.x)], data)  # the same samples, other images
    assert experiment.copied(other).value.item() == 0


def test_pairs_count_as_disjoint_by_their_images_not_their_index():
    x = pool().x
    nets = [network(zoo.chunk(x, n, i), x[:2], index=i, x=x) for n in (6, 12) for i in (0, 1, 2)]
    found = [(a.n, a.index, b.index) for a, b in experiment.disjoint(nets)]
    assert found == [(6, 0, 1), (6, 1, 2)]  # chunks 0 and 2 of 6 are the same, and so are all of 12
    wide = [network([0, 1], x[:2], width=4, x=x), network([2, 3], x[:2], width=8, x=x)]
    assert experiment.disjoint(wide) == []


def test_agreement_by_hand():
    a = torch.tensor([[0.0], [10.0], [20.0]])
    b = torch.tensor([[1.0], [12.0], [11.0]])
    each = experiment.agreement(a, b)
    expected = [[1, (12 + 11) / 2, 1], [2, (9 + 1) / 2, 0], [9, (19 + 8) / 2, 0]]
    np.testing.assert_allclose(each, expected)
    assert experiment.ratio(each) == pytest.approx((1 + 2 + 9) / (11.5 + 5 + 13.5))


def test_pairs_of_equal_samples_have_ratio_zero_and_unrelated_ones_about_one():
    data = pool()
    same, other = (torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    equal = [network([0, 1], same, index=0, x=data.x), network([2, 3], same, index=1, x=data.x)]
    apart = [network([4, 5, 6], same, width=0, index=0, x=data.x), network([7, 8, 9], other, 0, 1, x=data.x)]
    made = study(equal, data, apart)
    rows = experiment.pairs(made).set_index("width")
    assert (rows.value[8], rows.matched[8]) == (0, 1)
    assert rows.low[0] < 1.01
    assert rows.high[0] > 0.99
    assert rows.matched[0] < 0.1
    run = FakeRun()
    assert not record.pairs(run, made, experiment.pairs(made))  # networks of one size only
    assert ("pair_ratio", "noise", "networks", "fewest") not in run.findings
    ratios = [run.findings["pair_ratio", "noise", "f_emp", end] for end in ("fewest", "most")]
    assert ratios[0] == ratios[1]
    assert (ratios[0][1].level, ratios[0][1].over) == (0.95, "initial noises")  # one pair: its own interval
    interval = run.findings["pair_matched", "noise", "networks"][1]
    assert interval.level is None
    assert interval[0] > 0.97
    assert interval[1] == 1


def test_distance_to_f_emp_is_zero_for_f_emp_and_a_known_shift_in_units_of_the_pixels():
    data = pool(30)
    few, many = torch.arange(3), torch.arange(20)
    shifted = Empirical(data.x[many])
    nets = [
        network(few, data.x[:2], x=data.x),
        network(many, data.x[:2], denoiser=lambda y, sigma: shifted(y, sigma) + 0.3),
    ]
    made = study(nets, data)
    rows = transition_quality.from_perfect(made, [0.1, 1.0])
    assert len(rows) == 8
    assert rows[rows.n == 3].value.max() == 0
    np.testing.assert_allclose(rows[rows.n == 20].value, 0.3 / made.scale, rtol=1e-5)
    assert (rows.low <= rows.value + 1e-9).all()
    assert (rows.high >= rows.value - 1e-9).all()


def test_weighted_loss_of_the_best_denoiser_of_white_noise_is_one():
    x, scale = 0.7 * torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(5)), 0.7

    def wiener(y, sigma):  # error s^2 sigma^2 / (s^2 + sigma^2) per pixel, weight its inverse
        power = sigma.reshape(-1, 1, 1, 1) ** 2
        return y * scale**2 / (scale**2 + power)

    each = transition_quality.weighted_loss(wiener, scale, x)
    assert each.shape == (4000,)
    assert each.mean().item() == pytest.approx(1, abs=0.01)
    again = transition_quality.weighted_loss(wiener, scale, x, batch=33)
    torch.testing.assert_close(each, again)


def test_losses_of_f_emp_are_its_own_and_ratios_follow_by_hand():
    data = pool()
    made = study([network(range(6), data.x[:2], x=data.x)], data)
    rows = transition_quality.losses(made).set_index("kind").value
    for name in (transition_quality.TRAIN, transition_quality.TEST):
        assert rows[name] == rows[f"{experiment.PERFECT}, {name}"]
    names = [transition_quality.TRAIN, transition_quality.TEST]
    kinds = [*names, *(f"{experiment.PERFECT}, {name}" for name in names)]
    table = pd.DataFrame({"n": 5, "kind": kinds, "value": [2.0, 8.0, 0.5, 16.0], "low": 1.0, "high": [4, 10, 1, 20]})
    assert transition_quality.loss_ratio(table, 5) == (4, (0.25, 10))
    assert transition_quality.excess(table, 5) == (4, 0.5)


def test_usual_level_is_the_nearest_to_the_median_of_training():
    assert transition_quality.usual_level([0.05, 0.2, 0.3, 0.5, 5.0]) == 0.3
    assert transition_quality.usual_level([5.0]) == 5.0


def test_quality_tells_good_samples_from_far_ones_and_from_a_few():
    draw = torch.Generator().manual_seed(3)
    test, good = torch.randn(100, 5, generator=draw), torch.randn(80, 5, generator=draw)
    data = pool()
    made = study([network(range(6), data.x[:2], x=data.x)], data)
    kinds = {"good": good, "far": good + 100, "few": test[:2].repeat(40, 1) + 1e-3 * good}
    found = {
        name: transition_quality._quality(made, made.networks[0], f, test).set_index(["measure", "kind"])
        for name, f in kinds.items()
    }
    assert set(found["good"]["size"]) == {50}
    value = {name: frame.value for name, frame in found.items()}
    assert abs(value["good"]["precision", "gap"]) < 0.1
    assert abs(value["good"]["recall", "gap"]) < 0.1
    assert value["far"]["precision", "width 8"] == value["far"]["recall", "width 8"] == 0
    assert found["far"].high["recall", "width 8"] == pytest.approx(measures.wilson(0, 50)[1])  # never (0, 0)
    assert value["few"]["precision", "width 8"] > 0.5
    assert value["few"]["recall", "width 8"] < 0.1
    assert value["far"]["kernel_distance", "width 8"] > 1000
    rows = found["good"].reset_index()
    run = FakeRun()
    record.quality(run, made, rows, 0.9)
    value = {key: value for key, (value, _) in run.findings.items()}
    of = "noise", "recall"
    assert value["quality", "noise", "most", "recall"] == value["quality", "noise", "fewest", "recall"]  # one size
    difference = value["quality", "noise", "most", "recall"] - value["quality_real", *of]
    assert value["quality_gap", *of] == pytest.approx(difference)
    assert run.findings["quality_real", *of][1].over == "halves of the held-out images"
    panels = transition_quality.quality_panels(pd.concat([rows, rows.assign(seed=11)]))
    assert panels["recall"].kind.value_counts().to_dict() == {"width 8": 2, "real images": 1}


def test_more_steps_move_no_copy_of_f_emp():
    data = pool()
    nets = [network(range(n), experiment.draw(Empirical(data.x[:n]), data.x, 8), x=data.x) for n in (3, 6)]
    rows = transition_quality.more_steps(study(nets, data))
    assert rows.n.tolist() == [3, 6]
    assert rows.fraction.tolist() == rows.finer.tolist() == [1, 1]
    assert rows["shift"].max() == rows.changed.max() == 0
    assert rows.high.min() > 0
    assert rows.moved.max() < 0.1


def test_grids_show_samples_over_their_nearest_training_images():
    data = pool()
    nets = [
        network([0, 1, 2], data.x[[2, 0]], index=0, x=data.x),
        network([3, 4, 5], data.x[[3, 4]], index=1, x=data.x),
        network(range(6), data.x[[4, 5]], index=0, x=data.x),
    ]
    made = study(nets, data)
    rows, captions, frame = experiment.grid(made, 2)
    assert list(rows) == ["noise, n = 3", "noise, nearest of 3", "noise, n = 6", "noise, nearest of 6"]
    np.testing.assert_array_equal(rows["noise, n = 3"], rows["noise, nearest of 3"])
    assert captions["noise, n = 6"] == ["0.00", "0.00"]
    assert len(frame) == 8
    other, _, _ = experiment.grid(replace(made, name="more noise"), 2)
    assert not set(rows) & set(other)  # rows of two data sets stand in one figure
    rows, captions, _ = experiment.pair_grid(made, 2)
    np.testing.assert_array_equal(rows["noise, nearest of B's"], data.x[[3, 4], 0])
    each = experiment.agreement(nets[0].samples, nets[1].samples)
    assert captions["noise, network B"] == [f"{v:.2f}" for v in each[:, 0] / each[:, 1].mean()]


def test_tables_of_a_further_data_set_have_its_name_before_theirs():
    kept = []

    class Run:
        def table(self, name, data):
            kept.append(name)

    record.tables(Run(), "steps", dict.fromkeys(["fashion-mnist", "npz:some_file.npz"], pd.DataFrame()))
    assert kept == ["steps", "npz-some-file-npz-steps"]


def test_a_shift_is_recorded_with_the_interval_of_the_size_that_has_it():
    data = pool()
    made = study([network(range(n), data.x[:2], x=data.x) for n in (3, 6)], data)
    rows = pd.DataFrame({"n": [3, 6], "shift": [0.1, 0.0], "high": [0.3, 0.9], "half": [0.2, 0.01], "moved": [0, 1.0]})
    run = FakeRun()
    record.steps(run, made, rows)
    assert run.findings["steps_shift", "noise"] == (0.1, (0, 0.3))
    assert run.findings["steps_half_interval", "noise"] == (0.2, None)
    assert run.findings["steps_moved", "noise"] == (1, None)


def test_a_width_has_a_turning_point_only_where_all_its_networks_turn():
    data = pool()
    made = study([network(range(3), data.x[:2], x=data.x)], data)
    nan = float("nan")
    turns = pd.DataFrame(
        {"width": [8, 8, 16, 16], "turning": [20, 80, 50, nan], "low": [10, 50, 30, nan], "high": [30, 90, 60, nan]}
    )
    run = FakeRun()
    assert record.turning(run, made, turns) == {8: True, 16: False}
    assert run.findings["turned", "noise", 16] == (1, None)
    assert run.findings["turning_n", "noise", 8] == (pytest.approx(40), (10, 90))
    assert ("turning_n", "noise", 16) not in run.findings
