"""The robustness chapter on networks whose answers are known: the prediction itself, split, scaled or broken."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.chapters.robustness import measure as experiment

IMAGES = (4 * torch.eye(8)[:3] - 0.5)[:, None]  # three clusters of one image, pairwise negative cosines
WAYS = experiment.settings(0.2, [0.2, 1.0], [0.1], [10.0])


def case(w=None, record=None, **changes):
    """A memorizing case with the weights w, or with the prediction, one column per image."""
    plain = experiment.SettingProblem(
        tuple(IMAGES), 16, 0.2, 0.3, 0, experiment.MEMORIZING, blocks=[1] * 3, setting=WAYS[0]
    )
    plain = replace(plain, **changes)
    network = ReLUDAE(8, 16)
    if w is None:
        w = torch.zeros(8, 16)
        w[:, :3] = theory.stored_gains(plain.x, plain.sigma, plain.lam).sqrt() * plain.x.T
    network.w1.data = w
    network.record = {"steps": 10, "done": 10, "lr": 0.1} | (record or {})
    return replace(plain, network=network)


def member():
    return case().member(torch.cat(tuple(IMAGES)))


def test_the_prediction_itself_has_no_error_and_the_predicted_objective():
    row = experiment.summary(case())
    assert row["reached"]
    assert row["stationary"]
    assert row["operator_error"] < 1e-5
    assert row["gain_error"] < 1e-5
    assert row["columns"] == row["effective_columns"] == 1
    assert row["active"] == 3
    assert row["cosine"] == pytest.approx(1)
    assert row["implied_lam"] == pytest.approx(0.3, abs=1e-4)
    assert row["objective_ratio"] == pytest.approx(1, abs=0.01)


def test_gains_scaled_by_hand_give_the_error_and_the_lambda_that_they_stand_for():
    """Gains of lambda = .1 seen by a case of lambda = .3; and all weights times 1.1, so all gains times 1.21."""
    other = case(case(lam=0.1).network.w1.data)
    assert experiment.summary(other)["implied_lam"] == pytest.approx(0.1, abs=1e-4)
    larger = experiment.summary(case(1.1 * case().network.w1.data))
    assert larger["gain_error"] == pytest.approx(0.21, abs=1e-4)
    assert larger["operator_error"] == pytest.approx(0.21, abs=1e-4)
    assert not larger["reached"]
    assert not larger["stationary"]


def test_a_split_start_is_the_prediction_in_four_columns_at_the_same_objective():
    split = case(experiment.started(member(), "split").w1.data)
    row = experiment.summary(split)
    assert row["columns"] == 4
    assert row["effective_columns"] == pytest.approx(1 / (0.16 + 0.09 + 0.04 + 0.01), rel=0.01)
    assert row["operator_error"] < 0.03
    assert row["objective_ratio"] == pytest.approx(experiment.summary(case())["objective_ratio"], abs=0.01)
    moved = experiment.before_and_after([split])
    assert len(moved) == 12
    assert moved[moved.image == 0].start.tolist() == pytest.approx(experiment.SHARES, abs=0.01)
    assert moved.start.tolist() == moved.end.tolist()


def test_starts_are_what_they_say():
    one = member()
    default, twice = (experiment.started(one, "default", scale).w1 for scale in (1.0, 2.0))
    assert torch.equal(twice, 2 * default)
    assert default.abs().max() <= 1 / math.sqrt(8)
    rows = experiment.started(one, "orthogonal", tied=False)
    for w in (rows.w1, rows.w2):
        torch.testing.assert_close(w @ w.T, torch.eye(8), atol=1e-5, rtol=0)
    with pytest.raises(SpikinessError, match="did you mean 'split'"):
        experiment.started(one, "splt")
    with pytest.raises(SpikinessError, match="3 images in 4 columns need 12"):
        experiment.started(replace(one, width=8), "split")


def test_from_the_default_start_it_trains_what_fit_ensemble_trains():
    members = [Member(torch.cat(tuple(IMAGES)), 6, 0.2, 0.1, seed) for seed in (3, 4)]
    mine = experiment.fit_from(
        members, start="default", scale=1.0, tied=True, optimizer="adam", lr=0.02, decay=0.0, batch=16, steps=20
    )
    theirs = fit_ensemble(members, lr=0.02, batch=16, steps=20)
    assert all(torch.equal(a.w1, b.w1) for a, b in zip(mine, theirs, strict=True))


def test_one_network_that_diverges_does_not_stop_the_others():
    x = torch.cat(tuple(IMAGES))
    members = [Member(x, 6, 0.2, 0.1, 0), Member(1e4 * x, 6, 0.2, 0.1, 0)]
    ways = {"start": "default", "scale": 1.0, "tied": True, "lr": 0.01, "decay": 0.0, "batch": 16, "steps": 30}
    calm, wild = experiment.fit_from(members, optimizer="sgd", **ways)
    assert calm.record["done"] == 30
    assert wild.record["done"] < 30
    lost = experiment.summary(replace(case(), network=wild))
    assert lost["diverged"]
    assert "operator_error" not in lost
    table = pd.DataFrame([experiment.summary(case()), experiment.summary(case(seed=1)), lost])
    row = experiment.overview(table).iloc[0]
    assert (row.reached, row.diverged, row.seeds) == (2, 1, 3)
    assert row.operator_error == pytest.approx(table.operator_error[:2].mean())
    assert experiment.readable(experiment.overview(table), "memorizing").diverged.tolist() == ["1 of 3"]


def test_plain_descent_keeps_the_shares_of_collinear_columns():
    """Gradients of collinear columns are in proportion to their lengths; momentum is a sum of them."""
    one = member()
    [end] = experiment.fit_from(
        [one], start="split", scale=1.0, tied=True, optimizer="sgd", lr=0.002, decay=0.0, batch=16, steps=300
    )
    shares = experiment.column_shares(replace(case(), network=end))
    top = shares.sort(dim=1, descending=True).values[:, :4]
    torch.testing.assert_close(top, torch.tensor([experiment.SHARES] * 3).double(), atol=0.01, rtol=0)


def test_the_plan_changes_one_thing_at_a_time_and_the_decay_stands_for_lambda():
    pool = torch.cat([torch.eye(9)] * 2)[:, None, None]
    with pytest.raises(SpikinessError):  # nine unit vectors and their copies: no twelve of them are separable
        experiment.plan(pool, WAYS, [10], 0.2, 12, 16, 0.3, 60, 20, 0.01)
    cases = experiment.plan(pool, WAYS, [10, 11], 0.2, 3, 16, 0.3, 60, 20, 0.01)
    assert len({(c.setting.name, c.group, c.seed) for c in cases}) == len(cases)
    assert {c.sigma for c in cases if c.setting.group == "noise"} == {1.0}
    assert {c.sigma for c in cases if c.setting.group != "noise"} == {0.2}
    alone = next(c for c in cases if c.setting.decay_only)
    assert experiment._decay(alone) == pytest.approx(1.2)  # tied: L2 of wd/2 |W|^2 is 2 lambda |W|^2
    assert {c.width for c in cases if c.group == experiment.GENERALIZING} == {20}


def test_rates_of_plain_descent_follow_the_energy_of_the_data():
    members = [Member(torch.diag(torch.tensor([3.0, 1.0])), 2, 0.1, 0.0)]  # second moment diag(9, 1) / 2
    assert experiment.own_rate("sgd", members) == pytest.approx(0.1 / 4.5)
    assert experiment.own_rate("adam", members) == pytest.approx(0.1 / math.sqrt(2))
