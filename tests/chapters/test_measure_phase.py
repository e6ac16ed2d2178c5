"""The phase diagram's functions on networks built from the theory, and on cases worked by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book.chapters.phase import maps
from spikiness_book.chapters.phase import measure as experiment

K = experiment.MODES


def network(w, stationarity=0.01):
    made = ReLUDAE(*w.shape, tied=True).double()
    made.record = {"stationarity": stationarity}
    with torch.no_grad():
        made.w1.copy_(w)
    return made


def cell(n, width, sigma=0.2, lam=0.01, seed=0, w=None):
    [one] = experiment.plan([n], [width], [sigma], [lam], [seed])
    return replace(one, network=None if w is None else network(w))


def storing(x, width, sigma=0.2, lam=0.01):
    """W [d, width] of Corollary 3.2, written out: columns r_i x_i, then zeros."""
    energy = x.square().sum(1)
    r = ((energy - len(x) * lam) / (energy.square() + sigma**2 * energy)).sqrt()
    return torch.cat([(r[:, None] * x).T, torch.zeros(x.shape[1], width - len(x), dtype=x.dtype)], dim=1)


def test_samples_are_dealt_to_the_modes_and_smaller_sets_are_parts_of_larger_ones():
    assert [len(c) for c in experiment.clusters(8, 3)] == [2, 2, 1, 1, 1, 1]
    assert [len(c) for c in experiment.clusters(2, 3)] == [1, 1]
    for few, many in zip(experiment.clusters(8, 3), experiment.clusters(30, 3), strict=True):
        assert torch.equal(few, many[: len(few)])
    means = experiment.truth(3).means
    for mean, x in zip(means, experiment.clusters(6000, 3), strict=True):
        assert float((x.mean(0) - mean).norm()) < 0.15


def test_the_network_of_corollary_3_2_is_memorizing_and_that_of_the_modes_is_not():
    few = cell(6, 12)
    w = storing(few.x.double(), 12)
    row = experiment.summary(cell(6, 12, w=w))
    assert (row["stored"], row["columns"]) == (1.0, 1.0)
    assert row["memory_error"] < 1e-6
    assert (row["phase"], row["theory"]) == (experiment.MEMORIZING, experiment.MEMORIZING)
    half = w.clone()
    half[:, 3:] = 0  # three of six samples are lost
    assert experiment.stored(half, few.x.double())[0] == 0.5
    assert experiment.memory_error(half, few.x.double(), 0.2, 0.01) > 0.9


def test_a_shorter_column_is_an_error_of_what_it_lacks():
    x = cell(6, 6).x.double()
    assert experiment.memory_error(0.5**0.5 * storing(x, 6), x, 0.2, 0.01) == pytest.approx(0.5, abs=0.01)
    assert experiment.memory_error(storing(x, 6), x, 0.2, 1000.0) == np.inf  # all dropped: nothing to compare with


def test_the_block_minimizer_of_many_samples_is_generalizing():
    many = cell(1200, 18)
    w = theory.block_minimizer([c.double() for c in many.clusters], [3] * K, 0.2, 0.01)
    row = experiment.summary(cell(1200, 18, w=w))
    assert (row["phase"], row["theory"]) == (experiment.GENERALIZING, experiment.GENERALIZING)
    assert row["mode_error"] == pytest.approx(row["theory_error"], rel=0.05)  # units of a block are on at its mean
    losses = []  # of each block alone on new samples of its own mode, with the noise's part exact
    for x, m in zip(experiment._new(0).chunk(K), (w[:, 3 * k : 3 * k + 3] for k in range(K)), strict=True):
        gains = m @ m.T
        losses.append(float((x - x @ gains).square().sum(1).mean() + 0.2**2 * gains.square().sum()))
    assert row["predicted"] == pytest.approx(np.mean(losses), rel=0.03)
    assert 1 <= row["test_loss"] / row["predicted"] < 1.2  # the ReLU cuts some, and lets some noise of others through
    assert (row["kept"], row["predicted_kept"]) == (3.0, 3.0)
    assert row["stored"] < 0.01


def test_the_population_map_by_its_own_formula():
    found = experiment.population_maps(cell(1200, 18, sigma=0.5, lam=0.02))
    means, factors = experiment.truth(0).means, experiment.truth(0).factors
    second = means[0].outer(means[0]) + factors[0] @ factors[0].T
    axes = torch.cat([means[:1].T / means[0].norm(), factors[0] / factors[0].norm(dim=0)], dim=1)
    energy = ((second @ axes) * axes).sum(0)
    expected = axes * ((energy - K * 0.02) / (energy + 0.25)) @ axes.T
    assert float((found[0] - expected).norm()) < 1e-9


@pytest.mark.parametrize(
    ("n", "width", "lam", "expected"),
    [
        (12, 12, 0.01, experiment.MEMORIZING),
        (13, 12, 0.01, experiment.NEITHER),
        (12, 12, 6.0, experiment.NEITHER),  # 12 * 6 > |x|^2, and only two samples for each mode
        (3000, 18, 0.01, experiment.GENERALIZING),
        (3000, 5, 0.01, experiment.NEITHER),  # a mode without a unit
    ],
)
def test_the_phase_of_the_theory(n, width, lam, expected):
    one = cell(n, width, lam=lam)
    assert experiment.theory_phase(one, experiment.finite_error(one)) == expected


def test_the_measured_phase_is_the_smaller_error_within_the_tolerance():
    limit = experiment.TOLERANCE
    assert experiment.phase(limit, 2.0) == experiment.MEMORIZING
    assert experiment.phase(0.2, 0.1) == experiment.GENERALIZING
    assert experiment.phase(1.01 * limit, 1.01 * limit) == experiment.NEITHER


def test_a_grid_is_trained_in_its_own_order(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    plan = experiment.plan([3, 6], [4, 8], [0.2], [0.1], [0, 1])
    found = experiment.train(plan, 600)
    assert [c.network.w1.shape[1] for c in found] == [c.width for c in plan]
    assert [c.network.record["n"] for c in found] == [c.n for c in plan]
    assert [c.network.record["seed"] for c in found] == [c.seed for c in plan]
    table = pd.DataFrame([experiment.summary(c) for c in found])
    assert (table[(table.n == 3) & (table.width == 8)].phase == experiment.MEMORIZING).all()


def grid(phases, theories):
    rows = [
        {"n": n, "width": 4, "sigma": 0.2, "lam": 0.1, "seed": s, "phase": p, "theory": t}
        for n, (p, t) in enumerate(zip(phases, theories, strict=True), start=1)
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_agreement_counts_networks_and_resamples_cells():
    table = grid("mmgn", "mggn")
    value, (low, high) = maps.agreement(table)
    assert value == 0.75
    assert low < 0.5 < 0.75 < high <= 1.0
    assert maps.agreement(grid("mm", "mm"))[1] == pytest.approx((0.342, 1.0), abs=1e-3)  # Wilson's for 2 of 2
    assert maps.phase_map(table).agree.tolist() == [1, 0, 1, 1]


def test_half_stored_is_the_last_crossing_in_log_n():
    rows = [(n, share) for n, share in zip((2, 8, 32, 128), (1.0, 0.4, 0.75, 0.25), strict=True)]
    table = pd.DataFrame(rows, columns=["n", "stored"]).assign(width=16, sigma=0.2, lam=0.1, seed=0)
    found = maps.half_stored(table)
    assert found.turning.tolist() == pytest.approx([64.0])  # halfway between 32 and 128
    assert found.ratio.tolist() == pytest.approx([4.0])
    assert maps.half_stored(table.assign(stored=0.9)).turning.isna().all()
    two = pd.concat([found, found.assign(ratio=1.0, width=64)])
    assert maps.geometric_mean(two, "ratio")[0] == pytest.approx(2.0)


def test_boundaries_lie_where_the_formulas_say():
    lines = maps.boundaries([3, 6, 24, 768], [3, 48], [0.2], [0.01, 0.3])
    assert lines[lines.kind == "p = n"][["n", "width"]].drop_duplicates().values.tolist() == [[3, 3], [48, 48]]
    dropped = lines[lines.kind == "sample dropped"]
    assert set(dropped.lam) == {0.3}  # at 0.01 it is 3600, outside
    assert dropped.n.tolist() == pytest.approx([120, 120])
