"""The representations chapter on networks and data small enough to know the answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book import two_layers
from spikiness_book.chapters.representations import measure as experiment
from spikiness_book.two_layers import GENERALIZING, MEMORIZING, Pair, Problem


def network(w: torch.Tensor) -> ReLUDAE:
    made = ReLUDAE(*w.shape)
    made.w1.data = w.clone()
    return made


def pair(seed: int = 0) -> Pair:
    """Memorizing: the columns of Corollary 3.2 on basis vectors. Generalizing: all units alike."""
    x = 5 * torch.eye(4, 8)
    stored = torch.cat([theory.stored_gains(x, 0.1, 0.0).sqrt() * x.T, torch.zeros(8, 4)], dim=1)  # [d, p]
    flat = torch.ones(8, 8) / 8
    many = 5 * torch.rand(40, 8, generator=torch.Generator().manual_seed(seed))
    few = Problem(two_layers.each_alone(x), 8, 0.1, 0.0, seed, MEMORIZING, network=network(stored))
    large = Problem((many,), 8, 0.1, 0.0, seed, GENERALIZING, network=network(flat))
    return Pair("images", "main", (few,), large, many[:6] + 0.1)


def test_a_stored_image_has_one_active_unit_and_a_flat_network_none_apart():
    rows = experiment.own_data(pair(), draws=3)
    few, many = rows[rows.regime == "memorized"], rows[rows.regime == "generalized"]
    assert len(few) == 12
    assert len(many) == 40
    assert few.image.tolist() == np.repeat(range(4), 3).tolist()
    assert few.participation_ratio.to_numpy() == pytest.approx(1, abs=0.01)
    assert few.std_over_norm.to_numpy() == pytest.approx(7**0.5 / 8, rel=0.01)
    assert many["std"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert few.input.to_numpy() == pytest.approx(5)


def test_measures_are_oriented_so_that_one_means_spikier_when_memorized():
    rows = experiment.collect([pair(seed=0), pair(seed=1)], experiment.own_data, 3)
    table = two_layers.evaluations(rows, 20).set_index("measure")
    assert (table.auroc.drop("kurtosis") == 1).all()  # the flat network's kurtosis is that of rounding
    assert table.units_memorized.iloc[0] == pytest.approx(1, abs=0.01)
    assert table.units_generalized.iloc[0] == pytest.approx(8, abs=0.01)
    turned = rows.assign(regime=rows.regime.map({"memorized": "generalized", "generalized": "memorized"}))
    assert (two_layers.evaluations(turned, 20, ["std", "participation_ratio"]).auroc == 0).all()


def test_the_same_inputs_go_through_both_networks():
    one = pair()
    stored = experiment.same_inputs(one, 5, "stored")
    split = dict(list(stored.groupby("regime")))
    assert (split["memorized"].input.to_numpy() == split["generalized"].input.to_numpy()).all()
    # a network against itself: the same noise, so equal scores, and no separation
    mirror = experiment.same_inputs(replace(one, generalizing=one.memorizing[0]), 5, "fresh")
    table = two_layers.evaluations(mirror, 20, ["std", "gini"])
    assert table.auroc.to_numpy() == pytest.approx(0.5)


def test_noise_belongs_to_the_image():
    x = torch.zeros(5, 16)
    noise = two_layers.noisy(x, 2.0, seed=3, draws=400)
    assert torch.equal(noise[: 2 * 400], two_layers.noisy(x[:2], 2.0, seed=3, draws=400))
    assert not torch.equal(noise[:400], noise[400:800])
    assert not torch.equal(noise, two_layers.noisy(x, 2.0, seed=4, draws=400))
    assert noise.std().item() == pytest.approx(2.0, rel=0.02)


def test_the_identity_is_checked_against_the_measures():
    rows = experiment.own_data(pair(), draws=3)
    assert experiment.identity_error(rows) < 1e-12
    wrong = rows.assign(std=rows["std"] * 1.01)
    assert experiment.identity_error(wrong) > 0.001


def test_samples_of_a_seed_are_disjoint_and_too_many_are_refused():
    pool = torch.arange(40.0)[:, None].repeat(1, 2)
    settings = {"width": 5, "sigma": 0.2, "decays": (0.3, 0.1), "seed": 1}
    one = two_layers.pair("images", pool, 3, 4, 20, **settings)
    used = torch.cat([*(problem.x for problem in one.memorizing), one.generalizing.x, one.fresh])[:, 0]
    assert sorted(used.tolist()) == list(range(40))
    assert [problem.n for problem in one.memorizing] == [3, 3, 3, 3]
    assert one.memorizing[0].lam == pytest.approx(0.6)  # of d = 2
    assert one.generalizing.lam == pytest.approx(0.2)
    with pytest.raises(SpikinessError, match="40"):
        two_layers.pair("images", pool, 3, 4, 27, **settings)


def test_networks_that_pairs_share_are_trained_once():
    pool = torch.randn(60, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    pairs = experiment.plan(pool, 4, 4, 3, 20, 2, 2, 0.2, [0.2, 1.0], 0.1, 0.001, [10, 11])
    assert [p.question for p in pairs if p.data == "images"] == ["main", "equal penalty", "noise", "noise"] * 2
    trained = two_layers.train_pairs(pairs, 5)
    main, equal, same, noisier = trained[:4]
    assert main.generalizing.network is equal.generalizing.network is same.generalizing.network
    assert main.memorizing[0].network is same.memorizing[0].network
    assert not torch.equal(main.memorizing[0].network.w1, equal.memorizing[0].network.w1)
    assert not torch.equal(main.generalizing.network.w1, noisier.generalizing.network.w1)
    records = [problem.network.record for problem in main.memorizing]
    records = [(record["sigma"], record["lam"], record["n"]) for record in records]
    assert records == [(0.2, pytest.approx(0.9), 4)] * 2  # lambda grows with d = 9
    lengths = experiment.training_lengths(trained, [2, 5], 2, 10, ["std"])
    assert lengths.steps.tolist() == [2, 2, 5, 5]


def test_histograms_count_every_sample():
    rows = experiment.own_data(pair(), draws=3)
    bins = two_layers.histogram(rows, ["std", "std_over_norm"], bins=7)
    assert bins.groupby(["measure", "regime"]).share.sum().to_numpy() == pytest.approx(1)
    assert experiment.thinned(rows, 5).groupby("regime").size().tolist() == [5, 5]


def test_share_of_size_and_the_typical_representation():
    rows = pd.DataFrame({"norm": [1.0, 2.0, 4.0], "std": [0.5, 1.0, 2.0]})
    assert experiment.size_share(rows) == pytest.approx(1)
    h = experiment.typical(pair(), "memorized")
    assert h[0] == pytest.approx(5, rel=0.1)
    assert np.abs(h[4:]).max() == 0  # the columns of zero
    assert experiment.closeness([pair()]) == pytest.approx(0)
