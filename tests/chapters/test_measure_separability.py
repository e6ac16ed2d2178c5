"""The separability chapter's functions on cases worked by hand and on networks built from the theory."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book.chapters.separability import measure as experiment

SIGMA, LAM = 0.2, 1e-3
WIDTHS = [experiment.RANK + 1] * experiment.MODES


def mixture(cosine=-0.5, seed=0):
    return experiment.mixture_clusters(cosine, 0.3, seed, n=150, dim=30)


def network(w):
    made = ReLUDAE(*w.shape, tied=True).double()
    with torch.no_grad():
        made.w1.copy_(w)
    return made


def case(clusters, w, widths=WIDTHS):
    made = network(w.double())
    return experiment.ClusterProblem(clusters, 0, SIGMA, LAM, 0, "mixture", blocks=widths, cosine=-0.5, network=made)


@pytest.mark.parametrize("cosine", [-0.5, -0.2, 0.0, 0.7])
def test_mixtures_have_the_alpha_and_beta_asked_for(cosine):
    clusters = mixture(cosine, seed=3)
    alpha, beta = theory.separability(clusters)
    assert alpha == pytest.approx(0.3, rel=1e-5)
    assert beta == pytest.approx(cosine, abs=0.01)
    means = torch.stack([x.mean(0) for x in clusters])
    assert means.norm(dim=1).numpy() == pytest.approx(experiment.NORM, rel=0.02)
    ranks = [int(torch.linalg.matrix_rank(x - x.mean(0), rtol=1e-4)) for x in clusters]
    assert ranks == [experiment.RANK] * experiment.MODES


@pytest.mark.parametrize("cosine", [-0.6, 1.0, float("nan")])
def test_cosines_that_three_means_cannot_have_are_refused(cosine):
    with pytest.raises(SpikinessError, match=r"from -0.5 to below 1"):
        mixture(cosine)


def test_the_chapter_needs_separable_and_orthogonal_means():
    for cosines in ([-0.5, 0.4], [0.0, 0.4]):
        with pytest.raises(SpikinessError, match="must hold 0 and one below 0"):
            experiment.block_losses(cosines, [0.3], [SIGMA], [0], LAM, 60, 20)


def test_beta_of_random_subsets_by_enumeration():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = experiment.subset_cosines(x, 3, 400, seed=1)
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    every = sorted(
        max(float(cosine[i, j]) for i, j in itertools.combinations(s, 2)) for s in itertools.combinations(range(6), 3)
    )
    assert np.unique(found.numpy().round(9)) == pytest.approx(np.unique(np.round(every, 9)))  # all 20, and no other
    assert float(found.mean()) == pytest.approx(np.mean(every), abs=0.08)


def test_the_largest_subset_of_a_simplex_is_all_of_it():
    simplex = torch.eye(5, dtype=torch.float64) - 0.2
    assert experiment.largest_subset(simplex, seed=0) == 5
    assert experiment.largest_subset(simplex + 1, seed=0) == 1
    assert len(experiment.found_subset(simplex, 4, seed=0)) == 4


def test_classes_and_their_separability_by_hand():
    x, y = torch.tensor([[1.0, 1.0], [0.0, -2.0], [1.0, -1.0]]), torch.tensor([7, 3, 7])
    clusters = experiment.by_class(x, y)
    assert [c.tolist() for c in clusters] == [[[0, -2]], [[1, 1], [1, -1]]]
    row = experiment.separability_table([("both", clusters)]).iloc[0]
    assert (row.clusters, row.number, row.alpha, row.beta) == ("both", 2, 1.0, 0.0)


def test_a_network_that_is_the_block_minimizer_has_no_residual():
    clusters = mixture()
    row = experiment.summary(case(clusters, theory.block_minimizer(clusters, WIDTHS, SIGMA, LAM)))
    assert row["residual"] < 1e-5
    assert row["gain_error"] < 1e-5
    assert row["outside"] < 1e-5
    assert row["shared"] == 0
    assert row["margin"] > 0
    assert row["one_block"] > 0.5
    assert row["loss_ratio"] == pytest.approx(1, abs=0.05)
    assert row["block_loss_ratio"] == pytest.approx(row["loss_ratio"])


def test_the_residual_is_the_operator_error():
    clusters = mixture(0.4)
    w = torch.randn(30, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = max(theory.operator_error(w, w, clusters, WIDTHS, SIGMA, LAM))
    assert experiment.summary(case(clusters, w))["residual"] == pytest.approx(expected)


def test_a_network_that_is_one_block_is_recognized():
    clusters = mixture(0.8)
    x = torch.cat(clusters)
    one = theory.block_minimizer([x], [18], SIGMA, LAM)
    row = experiment.summary(case(clusters, one))
    assert row["one_block"] < 1e-5
    assert row["residual"] > 0.5
    assert row["shared"] == 1


def test_wrong_gains_along_the_right_directions_are_gain_errors():
    clusters = mixture()
    row = experiment.summary(case(clusters, 1.1 * theory.block_minimizer(clusters, WIDTHS, SIGMA, LAM)))
    assert row["gain_error"] == pytest.approx(0.21, rel=1e-3)  # 1.1^2 - 1
    assert row["outside"] < 1e-5
    assert row["residual"] == pytest.approx(0.21, rel=1e-3)


def test_a_unit_beside_the_axes_of_its_mode_is_outside():
    x = torch.tensor([[3.0, 0.0, 0.0], [2.9, 0.1, 0.0]])
    w = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
    mode = theory.Mode(1.0, torch.ones(1).double(), torch.eye(3).double()[:, :1], torch.tensor([0.8]).double())
    assert experiment._outside(*theory.linear_maps(w, w, [x]), mode) == 0  # the second unit is silent at the mean
    w[0, 1] = 0.1
    assert experiment._outside(*theory.linear_maps(w, w, [x]), mode) == pytest.approx(0.25 / 0.8)


def test_shared_energy_by_hand():
    clusters = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, -1.0]])]
    w = torch.tensor([[1.0, 3.0, 0.0], [1.0, -1.0, 0.0]])  # active at both first means; at the first; nowhere
    assert experiment.shared_energy(w, clusters) == pytest.approx(2 / 12)


def test_rotations_share_their_gains_and_not_their_loss():
    clusters = mixture()
    found = experiment.rotations(clusters, WIDTHS, SIGMA, LAM, seed=0)
    gram = found["identity"] @ found["identity"].T
    for w in found.values():
        torch.testing.assert_close(w.double() @ w.double().T, gram, atol=1e-5, rtol=0)
    rows = experiment.rotation_losses(-0.5, [0.3], SIGMA, [0, 1], LAM, 150, 30).groupby("rotation").loss_error.max()
    assert rows["spread and turned"] < 0.05
    assert rows["identity"] > 1
    assert rows["random"] > 10


def test_block_losses_hold_where_separable_and_fail_where_orthogonal():
    rows = experiment.block_losses([-0.5, 0.0, 0.6], [0.3], [SIGMA], [0, 1], LAM, 150, 30)
    assert sorted(rows.cosine.unique()) == [-0.5, 0.0]
    worst = rows.groupby("cosine").loss_error.max()
    assert worst[-0.5] < 0.1 < 0.5 < worst[0.0]
    assert rows.loss_error.to_numpy() == pytest.approx((rows.ratio - 1).abs().to_numpy())


def test_rank_correlation_of_a_falling_relation():
    table = pd.DataFrame({"cosine": [0.0] * 4 + [0.5] * 4, "seed": [0, 0, 1, 1] * 2})
    table["margin"] = [1.0, 2, 3, 4, 5, 6, 7, 8]
    table["residual"] = np.exp(-table.margin)
    value, interval = experiment.rank_correlation(table, "margin", "residual")
    assert value == pytest.approx(-1)
    assert interval == pytest.approx((-1, -1))
    assert (interval.level, interval.over) == (0.95, "mixtures")
    table.loc[7, "residual"] = 9.0  # the last becomes the largest: 1 - 6 sum d^2 / (n (n^2 - 1))
    expected = 1 - 6 * sum((a - b) ** 2 for a, b in zip(range(1, 9), [7, 6, 5, 4, 3, 2, 1, 8], strict=True)) / (8 * 63)
    assert experiment.rank_correlation(table, "margin", "residual")[0] == pytest.approx(expected)


def test_plans_keep_the_data_over_noise_levels_and_training_keeps_the_order(monkeypatch, tmp_path):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    cases = experiment.plan_mixtures([-0.5, 0.0], 0.3, [SIGMA, 1.0], [0, 1], 18, LAM, 60, 12)
    assert [(c.cosine, c.seed, c.sigma) for c in cases][:3] == [(-0.5, 0, SIGMA), (-0.5, 0, 1.0), (-0.5, 1, SIGMA)]
    assert cases[0].clusters is cases[1].clusters
    trained = experiment.train(cases, 10)
    assert [(c.network.record["sigma"], c.network.record["seed"]) for c in trained] == [
        (c.sigma, c.seed) for c in cases
    ]
    assert {c.network.arguments["dim"] for c in trained} == {12}


def test_image_plans_center_by_all_images_and_spend_the_width():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(20)
    x = 2 * torch.eye(3, 8)[y] + 0.3 * torch.randn(60, 8, generator=generator) + 5
    raw, centered = experiment.plan_images(x, y, 60, 12, SIGMA, [4], LAM)
    assert (raw.group, centered.group) == ("classes", "classes, centered")
    for a, b in zip(raw.clusters, centered.clusters, strict=True):
        torch.testing.assert_close(a - x.mean(0), b)
    assert sum(raw.widths) == sum(centered.widths) == 12


def test_what_is_compared_is_labelled():
    row = {"seed": 0, "residual": 0.1, "one_block": 0.8, "shared": 0.2}
    table = pd.DataFrame([{"data": "mixture", "cosine": -0.25, **row}, {"data": "classes", "cosine": np.nan, **row}])
    frames = experiment.compared(table)
    assert [frame.value.tolist() for frame in frames.values()] == [[0.1, 0.1], [0.8, 0.8], [0.2, 0.2]]
    assert next(iter(frames.values())).label.tolist() == ["β = -0.25", "classes"]


def test_threads_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with experiment.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
