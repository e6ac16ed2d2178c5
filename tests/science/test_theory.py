"""The theory's formulas against numbers worked by hand, numerical minimization, enumeration and sampling."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from spikiness import theory
from spikiness.errors import SpikinessError
from spikiness.theory.minimizer import fit_moments

EXACT = pytest.approx  # relative 1e-6


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex_mixture(modes, rank, norm, d=48, n=150, alpha=0.4, seed=0):
    """Modes around the vertices of a randomly turned simplex of this norm, spread along random directions."""
    corners = torch.eye(modes, dtype=torch.float64) - 1 / modes
    turn = torch.linalg.qr(draw(d, modes, seed=seed)).Q
    means = norm * corners / corners.norm(dim=1, keepdim=True) @ turn.T  # [K, d]
    clusters = []
    for k, mean in enumerate(means):
        spread = draw(n, rank, seed=100 + seed + k) @ draw(rank, d, seed=200 + seed + k)
        clusters.append(mean + 0.9 * alpha * norm * spread / spread.norm(dim=1).max())
    return clusters


# Two clusters worked by hand. X_1 = {(4, 1), (4, -1)}: mean (4, 0), X X^T = diag(32, 2). X_2 = {(-3, 0)}: X X^T = (9).
# n = 3, n_1 = 2, n_2 = 1; take sigma = 1 and lambda = 1/2, so n lambda = 3/2.
HAND = [torch.tensor([[4.0, 1.0], [4.0, -1.0]], dtype=torch.float64), torch.tensor([[-3.0, 0.0]], dtype=torch.float64)]
# w^2 = (L - 3/2)/(L + n_k): (30.5/34, 0.5/4) and (7.5/10)
HAND_GAINS = [[30.5 / 34, 0.125], [0.75]]
# (1/3) [32 (3.5/34)^2 + 2 (30.5/34)^2 + 2 (7/8)^2 + 2 (1/8)^2 + 9 (1/4)^2 + (3/4)^2]
HAND_LOSS = (32 * (3.5 / 34) ** 2 + 2 * (30.5 / 34) ** 2 + 2 * 0.875**2 + 2 * 0.125**2 + 9 * 0.25**2 + 0.75**2) / 3


def minimized(gram, count, n, width, sigma, lam, tied=True):
    """Brute force: gain matrix and value of one cluster's share of objective (6) for a linear network, by L-BFGS.

    (1/n) [tr((I - W2 W1^T) G (I - W2 W1^T)^T) + n_k sigma^2 |W2 W1^T|^2] + lambda (|W1|^2 + |W2|^2)
    """
    d = len(gram)
    weights = [0.5 * draw(d, width, seed=k) for k in range(1 if tied else 2)]
    for w in weights:
        w.requires_grad_()

    def value():
        w1, w2 = weights[0], weights[-1]
        m = w2 @ w1.T
        rest = torch.eye(d, dtype=torch.float64) - m
        data = (rest @ gram @ rest.T).trace() + count * sigma**2 * m.square().sum()
        return data / n + lam * (w1.square().sum() + w2.square().sum())

    options = {"max_iter": 400, "tolerance_grad": 1e-9, "tolerance_change": 1e-15, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(weights, **options)

    def closure():
        optimizer.zero_grad()
        loss = value()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weights[-1] @ weights[0].T).detach(), value().item()


# Separability


def test_separability_by_hand():
    # cluster 1: spread 1 around (4, 0); cluster 2: one sample; the means point to opposite sides
    assert theory.separability(HAND) == (0.25, -1.0)
    third = torch.tensor([[3.0, 4.0], [5.0, 12.0]], dtype=torch.float64)  # mean (4, 8), sqrt(17) away from both
    alpha, beta = theory.separability([*HAND, third])
    assert alpha == EXACT(math.sqrt(17 / 80))
    assert beta == EXACT(1 / math.sqrt(5))  # with (4, 0)


def test_separability_of_one_cluster_and_of_a_zero_mean():
    assert theory.separability(HAND[:1]) == (0.25, -1.0)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert theory.separability([opposite, HAND[0]]) == (math.inf, 0.0)


def test_a_hidden_simplex_is_found():
    corners = simplex_mixture(6, 1, 1.0, d=20, n=1, alpha=0)
    crowd = draw(200, 20, seed=1).abs() + 0.2  # all in one orthant: every cosine among them is positive
    x = torch.cat([crowd, *corners])
    index = theory.separable_subset(x, 6, seed=0)
    chosen = torch.nn.functional.normalize(x[index], dim=1)
    assert len(set(index.tolist())) == 6
    assert (chosen @ chosen.T - 2 * torch.eye(6)).max() < 0
    assert theory.separability(list(x[index][:, None]))[1] < 0


def test_a_subset_depends_on_its_seed_only():
    x = draw(200, 1, 5, 6)
    first = theory.separable_subset(x, 4, seed=3)
    assert torch.equal(first, theory.separable_subset(x, 4, seed=3))
    assert any(not torch.equal(first, theory.separable_subset(x, 4, seed=seed)) for seed in range(3))
    assert len(set(theory.separable_subset(x, 200, below=1.5).tolist())) == 200  # no bound: all, each once
    far = theory.separable_subset(x, 4, seed=3, below=-0.1)
    assert theory.separability(list(x[far].flatten(1)[:, None]))[1] < -0.1


def test_real_digits_are_separable_only_when_centered():
    x = torch.from_numpy(load_digits().data / 8 - 1)
    with pytest.raises(SpikinessError, match=r"largest found has 1.*center"):
        theory.separable_subset(x, 5)
    centered = x - x.mean(0)
    index = theory.separable_subset(centered, 5)
    assert theory.separability(list(centered[index][:, None]))[1] < 0


@pytest.mark.parametrize(
    ("x", "n", "says"),
    [
        (draw(50, 3), 5, r"n = 5.*d \+ 1 = 4"),
        (draw(4, 30), 5, "n = 5.*of 4"),
        (draw(4, 30), 0, "n = 0"),
        (torch.full((9, 30), math.nan), 2, "not finite"),
        (torch.cat([torch.eye(3), torch.zeros(5, 3)]), 2, "largest found has 1"),  # orthogonal is not negative
        (torch.zeros(5, 3), 1, "largest found has 0"),
    ],
)
def test_subsets_that_do_not_exist_are_refused(x, n, says):
    with pytest.raises(SpikinessError, match=says):
        theory.separable_subset(x, n)


def test_margin_by_hand():
    # unit (2, 0) belongs to cluster 1: pre-activations 4, 4 there and 3 on the wrong side of (-3, 0); unit (-1, 1)
    # belongs to cluster 2: 3/sqrt 2 there, -3/sqrt 2 and -5/sqrt 2 on cluster 1. Smallest on its side: 3/sqrt 2.
    w = torch.tensor([[2.0, -1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert theory.margin(w, HAND) == EXACT(3 / math.sqrt(2))
    # a unit (0, 1) is worth 0 at both means and goes to the first, where it is cut on (4, -1) by 1
    assert theory.margin(torch.tensor([[0.0], [1.0]], dtype=torch.float64), HAND) == EXACT(-1.0)
    assert theory.margin(torch.zeros(2, 3), HAND) == math.inf


# Gains, minimizer, predicted loss


def test_gains_and_loss_by_hand():
    found = theory.gains(HAND, [2, 1], 1.0, 0.5)
    for gain, expected in zip(found, HAND_GAINS, strict=True):
        assert gain.tolist() == EXACT(expected)
    assert theory.predicted_loss(HAND, [2, 1], 1.0, 0.5) == EXACT(HAND_LOSS)
    # with one unit for cluster 1, its second direction is lost whole: 2 instead of 2 (7/8)^2 + 2 (1/8)^2
    less = theory.predicted_loss(HAND, [1, 1], 1.0, 0.5)
    assert less == EXACT(HAND_LOSS + (2 - 2 * 0.875**2 - 2 * 0.125**2) / 3)


def test_the_block_minimizer_by_hand():
    w = theory.block_minimizer(HAND, [2, 1], 1.0, 0.5)
    # block 1: (w_1, +-w_2)/sqrt 2; block 2: (-w_1, 0)
    first, second = math.sqrt(30.5 / 68), math.sqrt(0.125 / 2)
    expected = torch.tensor([[first, first, -math.sqrt(0.75)], [second, -second, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(w[:, :2].abs(), expected[:, :2].abs())
    torch.testing.assert_close(w[:, 2], expected[:, 2])
    assert w[0, :2].min() > 0
    assert w[1, :2].prod() < 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("lam", "width"), [(0.002, 3), (0.05, 3), (0.0, 6), (0.02, 6)])
def test_gains_and_loss_by_numerical_minimization(tied, lam, width):
    clusters = [draw(20, 6) + 1, 0.5 * draw(12, 6, seed=1) - 1]
    n, sigma = 32, 0.5
    data = 0.0
    for k, (x, gain) in enumerate(zip(clusters, theory.gains(clusters, [width] * 2, sigma, lam), strict=True)):
        found, value = minimized(x.T @ x, len(x), n, width, sigma, lam, tied)
        spectrum = torch.linalg.eigvalsh(found @ found.T).flip(0).clamp(min=0).sqrt()[:width]
        torch.testing.assert_close(spectrum, gain, rtol=1e-6, atol=1e-6)
        data += value - 2 * lam * float(gain.sum())  # |W1|^2 = |W2|^2 = sum of gains
        block = theory.block_minimizer(clusters, [width] * 2, sigma, lam)[:, k * width : (k + 1) * width]
        torch.testing.assert_close(block @ block.T, found, rtol=1e-6, atol=1e-5)
    assert theory.predicted_loss(clusters, [width] * 2, sigma, lam) == EXACT(data)


def test_the_regularizer_drops_directions():
    # n lambda = 3: the second direction of cluster 1 (L = 2) is dropped, the others (32 and 9) stay
    first, second = theory.gains(HAND, [2, 1], 1.0, 1.0)
    assert first.tolist() == EXACT([29 / 34, 0.0])
    assert second.tolist() == EXACT([0.6])
    # n lambda = 9: the single sample goes; n lambda = 33: everything does, and the loss is the data's energy, 43/3
    assert theory.gains(HAND, [2, 1], 1.0, 3.0)[1].tolist() == [0.0]
    assert not theory.block_minimizer(HAND, [2, 1], 1.0, 11.0).any()
    assert theory.predicted_loss(HAND, [2, 1], 1.0, 11.0) == EXACT(43 / 3)


def test_widths_beyond_the_data_and_of_zero():
    gains = theory.gains(HAND, [5, 0], 1.0, 0.5)
    assert gains[0].tolist() == EXACT([*HAND_GAINS[0], 0, 0, 0])
    assert gains[1].tolist() == []
    w = theory.block_minimizer(HAND, [5, 0], 1.0, 0.5)
    assert w.shape == (2, 5)
    torch.testing.assert_close(w @ w.T, torch.diag(torch.tensor(HAND_GAINS[0], dtype=torch.float64)))
    assert theory.predicted_loss(HAND, [5, 0], 1.0, 0.5) == EXACT(HAND_LOSS + (9 - 9 * 0.25**2 - 0.75**2) / 3)


def test_copies_of_one_sample_are_a_cluster_of_rank_one():
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # |x|^2 = 25, 8 copies: L = 200
    gain = theory.gains([x.repeat(8, 1)], [2], 0.5, 0.25)[0]
    assert gain.tolist() == EXACT([(200 - 8 * 0.25) / (200 + 8 * 0.25), 0.0])


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0.05, 5), st.floats(0, 0.5))
@settings(max_examples=30, deadline=None)
def test_gains_do_not_depend_on_units_rotation_or_order(seed, scale, sigma, lam):
    clusters = [draw(9, 5, seed=seed) + 1, draw(4, 5, seed=seed + 1)]
    turn = torch.linalg.qr(draw(5, 5, seed=seed + 2)).Q
    moved = [scale * x.flip(0) @ turn for x in clusters]
    before = theory.gains(clusters, [3, 5], sigma, lam)
    after = theory.gains(moved, [3, 5], scale * sigma, scale**2 * lam)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert (a.diff() <= 1e-12).all()
        assert ((a >= 0) & (a < 1)).all()
    loss = theory.predicted_loss(clusters, [3, 5], sigma, lam)
    assert theory.predicted_loss(moved, [3, 5], scale * sigma, scale**2 * lam) == EXACT(scale**2 * loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype):
    clusters = [x.to(dtype) for x in HAND]
    tensors = [
        *theory.gains(clusters, [2, 1], 1.0, 0.5),
        theory.block_minimizer(clusters, [2, 1], 1.0, 0.5),
        theory.predicted_representation(clusters, [2, 1], 1.0, 0.5, clusters[0]),
        theory.stored_gains(clusters[0], 1.0, 0.5),
        *theory.savings(clusters, 1.0, 0.5),
    ]
    assert {t.dtype for t in tensors} == {dtype}


# The rotation: the ReLU network's own loss


def separated(modes, width, seed, d=100):
    """A mixture with alpha <= .4, beta < 0, where a unit of a block gets 3 sigma or more from any mean (sigma .2)."""
    norm = 3 * 0.2 * math.sqrt(width) * (modes - 1)
    return simplex_mixture(modes, max(1, width - 1), norm, d, seed=seed), [width] * modes


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("modes", "width", "d"), [(3, 2, 50), (3, 9, 50), (4, 5, 100), (5, 16, 400)])
def test_the_relu_network_has_the_predicted_loss(modes, width, d, seed):
    clusters, widths = separated(modes, width, seed, d)
    alpha, beta = theory.separability(clusters)
    assert 0.3 < alpha <= 0.4
    assert beta < -0.2
    sigma, lam = 0.2, 1e-4
    predicted = theory.predicted_loss(clusters, widths, sigma, lam)
    w = theory.block_minimizer(clusters, widths, sigma, lam)
    loss, error = theory.true_loss(w, w, torch.cat(clusters), sigma, draws=60 // width, seed=seed)
    assert error < 0.02 * predicted
    assert abs(loss / predicted - 1) < 0.1
    # every unit is on for every sample of its own cluster
    for x, block in zip(clusters, w.split(widths, dim=1), strict=True):
        assert (x @ block > 0).all()
    assert max(theory.operator_error(w, w, clusters, widths, sigma, lam)) < 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_the_same_gains_with_another_rotation_lose(seed):
    clusters, widths = separated(3, 9, seed, d=50)
    x, sigma, lam = torch.cat(clusters), 0.2, 1e-4
    predicted = theory.predicted_loss(clusters, widths, sigma, lam)
    ours = theory.block_minimizer(clusters, widths, sigma, lam)
    even = theory.block_minimizer(clusters, widths, sigma, lam, steps=0)

    def excess(w):
        torch.testing.assert_close(w @ w.T, ours @ ours.T)  # the gain matrix is the same
        return theory.true_loss(w, w, x, sigma, draws=4)[0] / predicted - 1

    turns = [torch.linalg.qr(draw(9, 9, seed=seed + k)).Q for k in range(3)]
    random = torch.cat([block @ q for block, q in zip(ours.split(9, dim=1), turns, strict=True)], dim=1)
    plain = torch.cat([mode.axes * mode.gain.sqrt() for mode in theory.fit(clusters, widths, sigma, lam)], dim=1)
    assert excess(ours) < 0.1
    assert excess(ours) < 0.5 * excess(even) < 0.5  # even, but blind to the data
    assert excess(random) > 1
    assert excess(plain) > 1


def test_rotations_do_not_follow_the_caller():
    clusters, widths = separated(3, 4, 0)
    w = theory.block_minimizer(clusters, widths, 0.2, 1e-4)
    with torch.no_grad():
        assert torch.equal(w, theory.block_minimizer([x.requires_grad_() for x in clusters], widths, 0.2, 1e-4))
    assert not w.requires_grad
    # all units of a block are equally active at the leading direction of its cluster
    leading = [next(iter(theory.fit([x], [1], 0.2, 0.0))).axes[:, 0] for x in clusters]
    for block, u in zip(w.split(widths, dim=1), leading, strict=True):
        active = (u @ block).abs()
        torch.testing.assert_close(active, active[:1].expand(4), rtol=1e-9, atol=0)


def test_many_samples_are_thinned_for_the_rotation_only():
    clusters = [torch.cat([x] * 4) for x in separated(3, 5, 0)[0]]  # 600 each, of which 200 are looked at
    w = theory.block_minimizer(clusters, [5] * 3, 0.2, 1e-4)
    predicted = theory.predicted_loss(clusters, [5] * 3, 0.2, 1e-4)
    assert theory.true_loss(w, w, torch.cat(clusters), 0.2)[0] == pytest.approx(predicted, rel=0.1)


def test_data_that_are_not_separable_are_answered():
    digits = load_digits()
    clusters = [torch.from_numpy(digits.data[digits.target == k] / 8 - 1) for k in range(4)]
    alpha, beta = theory.separability(clusters)
    assert alpha > 0.4
    assert beta > 0
    w = theory.block_minimizer(clusters, [4, 4, 0, 3], 0.5, 0.01, steps=5)
    assert w.isfinite().all()
    loss = theory.predicted_loss(clusters, [4, 4, 0, 3], 0.5, 0.01)
    assert 0 < loss < torch.cat(clusters).square().sum(1).mean()
    assert theory.margin(w, clusters) < 0
    # and the network is worse than the theory, which here does not hold
    assert theory.true_loss(w, w, torch.cat(clusters), 0.5, draws=2)[0] > 1.5 * loss


# Memorization (Cor 3.2)


def test_stored_gains_by_hand():
    # |x|^2 = 25 and 4, n lambda = 5, sigma^2 = 1: r^2 = 20/(625 + 25); the second is dropped
    x = torch.tensor([[3.0, 4.0], [-2.0, 0.0]], dtype=torch.float64)
    assert theory.stored_gains(x, 1.0, 2.5).tolist() == EXACT([20 / 650, 0.0])
    # its loss: ( 25 (6/26)^2 + (20/26)^2 + 4 ) / 2
    assert theory.memorization_loss(x, 1.0, 2.5) == EXACT((25 * (6 / 26) ** 2 + (20 / 26) ** 2 + 4) / 2)
    # lambda = 0: (1/2) [25/26 + 4/5], below sigma^2 = 1
    assert theory.memorization_loss(x, 1.0, 0.0) == EXACT((25 / 26 + 4 / 5) / 2)
    assert theory.stored_gains(torch.zeros(1, 2), 1.0, 0.0).tolist() == [0.0]


def test_memorization_is_the_theorem_with_one_sample_per_cluster():
    x = torch.cat(simplex_mixture(5, 1, 4.0, d=12, n=1, alpha=0)) * torch.linspace(0.5, 2, 5).unsqueeze(1)
    sigma, lam, singles, ones = 0.2, 0.01, list(x[:, None]), [1] * 5
    r = theory.stored_gains(x, sigma, lam).sqrt()
    w = theory.block_minimizer(singles, ones, sigma, lam)
    torch.testing.assert_close(w, (r.unsqueeze(1) * x).T)  # columns r_i x_i
    assert theory.memorization_loss(x, sigma, lam) == EXACT(theory.predicted_loss(singles, ones, sigma, lam))
    y = x + sigma * draw(5, 12, seed=3)
    h = theory.predicted_representation(singles, ones, sigma, lam, y)
    torch.testing.assert_close(h, torch.diag(r * (x * y).sum(1)))  # one-hot, of height r_i x_i^T y
    loss, error = theory.true_loss(w, w, x, sigma, draws=400)
    assert abs(loss - theory.memorization_loss(x, sigma, lam)) < 4 * error


# Generalization (Cor 3.3)


def modes_and_samples(n):
    means, factors = 3 * torch.eye(2, 5, dtype=torch.float64), [draw(5, 3, seed=1), 0.5 * draw(5, 5, seed=2)]
    clusters = [m + draw(c, f.shape[1], seed=7) @ f.T for m, f, c in zip(means, factors, n, strict=True)]
    return theory.second_moments(means, torch.stack([f @ f.T for f in factors])), clusters


def test_second_moments_are_those_of_samples():
    moments, clusters = modes_and_samples([200_000, 200_000])
    for s, x in zip(moments, clusters, strict=True):
        torch.testing.assert_close(x.T @ x / len(x), s, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_the_limit_of_many_samples(lam):
    n = [60_000, 20_000]
    moments, clusters = modes_and_samples(n)
    arguments = ([3, 4], 0.5, lam)
    limit = theory.population_gains(moments, n, *arguments)
    for a, b in zip(theory.gains(clusters, *arguments), limit, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)
    loss = theory.population_loss(moments, n, *arguments)
    assert theory.predicted_loss(clusters, *arguments) == pytest.approx(loss, rel=0.02)
    assert theory.predicted_test_loss(clusters, *arguments, moments, n) == pytest.approx(loss, rel=0.02)


def test_population_gains_by_numerical_minimization_have_sigma_squared():
    # Cor 3.3 is printed with sigma I; the minimum has sigma^2 I. n = 1 with count rho turns minimized() into the limit.
    moments, _ = modes_and_samples([1, 1])
    sigma, lam, shares = 0.5, 0.05, [0.75, 0.25]
    gains = theory.population_gains(moments, shares, [3, 3], sigma, lam)
    total = 0.0
    for s, share, gain in zip(moments, shares, gains, strict=True):
        found, value = minimized(share * s, share, 1, 3, sigma, lam)
        torch.testing.assert_close(torch.linalg.eigvalsh(found).flip(0)[:3], gain, rtol=1e-6, atol=1e-7)
        energy = torch.linalg.eigvalsh(s).flip(0)[:3]
        assert not torch.allclose((energy - lam / share) / (energy + sigma), gain, rtol=0.01)
        total += value - 2 * lam * float(gain.sum())
    assert theory.population_loss(moments, shares, [3, 3], sigma, lam) == EXACT(total)


def test_modes_of_the_limit_span_the_second_moments():
    moments, _ = modes_and_samples([1, 1])
    for s, mode in zip(moments, fit_moments(moments, [1, 3], [5, 5], 0.5, 0.01), strict=True):
        torch.testing.assert_close(mode.axes * mode.energy @ mode.axes.T, s)
        assert (mode.energy.diff() <= 0).all()


def test_test_loss_on_the_training_moments_is_the_training_loss():
    moments = [x.T @ x / len(x) for x in HAND]
    found = theory.predicted_test_loss(HAND, [2, 1], 1.0, 0.5, moments, [2 / 3, 1 / 3])
    assert found == EXACT(HAND_LOSS)


def test_test_loss_by_sampling():
    moments, clusters = modes_and_samples([6, 5])  # few samples: far from the limit
    _, fresh = modes_and_samples([100_000, 100_000])
    sigma, lam, shares = 0.5, 0.01, [0.6, 0.4]
    predicted = theory.predicted_test_loss(clusters, [2, 3], sigma, lam, moments, shares)
    sampled, variance = 0.0, 0.0
    blocks = theory.block_minimizer(clusters, [2, 3], sigma, lam).split([2, 3], dim=1)
    for x, w, share in zip(fresh, blocks, shares, strict=True):
        y = x + sigma * draw(*x.shape, seed=11)
        losses = (y @ w @ w.T - x).square().sum(1)
        sampled += share * losses.mean()
        variance += share**2 * losses.var() / len(x)
    assert abs(sampled - predicted) < 4 * variance.sqrt()
    assert predicted > 1.02 * theory.population_loss(moments, shares, [2, 3], sigma, lam)


def test_the_printed_bound_is_only_the_bias():
    # one direction, e = 2, sigma = 1, lambda = 0: bias e s^4/(e + s^2)^2 = 2/9; with the noise e s^2/(e + s^2) = 2/3
    moment = torch.tensor([[2.0]], dtype=torch.float64)
    assert theory.population_loss([moment], [1.0], [1], 1.0, 0.0) == EXACT(2 / 3)
    assert theory.population_loss([moment], [1.0], [0], 1.0, 0.0) == EXACT(2.0)  # a dropped direction costs e


# Trained networks


def test_true_loss_of_one_unit():
    # d = p = 1, W1 = W2 = 1, x = 0, sigma = 2: E relu(2 eps)^2 = 2; with x = 1, sigma = 1 and z = 1 + eps:
    # E (relu(z) - 1)^2 = E[eps^2; eps > -1] + P(eps < -1) = Phi(1) - phi(1) + 1 - Phi(1) = 1 - phi(1)
    one = torch.ones(1, 1, dtype=torch.float64)
    for x, sigma, expected in [(0 * one, 2.0, 2.0), (one, 1.0, 1 - math.exp(-0.5) / math.sqrt(2 * math.pi))]:
        value, error = theory.true_loss(one, one, x.repeat(5000, 1), sigma, draws=10)
        assert error < 0.03
        assert abs(value - expected) < 4 * error


def test_noise_of_both_signs_cancels_what_is_odd_in_it():
    # f(y) = y/2 at x = 10: loss (5 - eps/2)^2; the term 5 eps is gone, which alone has a standard error of .25
    half = torch.full((1, 1), math.sqrt(0.5), dtype=torch.float64)
    value, error = theory.true_loss(half, half, torch.full((1, 1), 10.0), 1.0, draws=400)
    assert error < 0.03
    assert abs(value - 25.25) < 4 * error


def test_true_loss_says_how_sure_it_is():
    w, x = draw(4, 3), draw(10, 4, seed=1)
    found = [theory.true_loss(w, w, x, 0.7, draws=8, seed=seed) for seed in range(60)]
    values = torch.tensor([f.value for f in found])
    typical = torch.tensor([f.error for f in found]).square().mean().sqrt()
    assert 0.7 < values.std() / typical < 1.4
    assert found[3] == theory.true_loss(w, w, x, 0.7, draws=8, seed=3)


def test_the_objective_counts_tied_weights_twice():
    w, x = draw(4, 3), draw(10, 4, seed=1)
    value, error = theory.objective(w, 2 * w, x, 0.5, 0.1)
    data = theory.true_loss(w, 2 * w, x, 0.5)
    assert value == EXACT(data.value + 0.1 * 5 * float(w.square().sum()))
    assert error == data.error


def test_the_block_minimizer_is_a_minimum_of_the_objective():
    clusters, widths = separated(3, 2, 0)
    x, sigma, lam = torch.cat(clusters), 0.2, 1e-3
    w = theory.block_minimizer(clusters, widths, sigma, lam)
    best = theory.objective(w, w, x, sigma, lam).value
    for seed in range(10):  # the same noise, so that small steps can be told apart
        other = w + 0.03 * draw(*w.shape, seed=seed)
        assert theory.objective(other, other, x, sigma, lam).value > best
    for factor in (0.99, 1.01):
        assert theory.objective(factor * w, factor * w, x, sigma, lam).value > best


def test_operator_error_needs_no_order_of_units():
    clusters, widths = separated(3, 4, 1)
    w = theory.block_minimizer(clusters, widths, 0.2, 1e-3)
    split = torch.cat([w[:, :1] * math.sqrt(0.3), w[:, :1] * math.sqrt(0.7), w[:, 1:]], dim=1)  # collinear copies
    shuffled = split[:, torch.randperm(13, generator=torch.Generator().manual_seed(0))]
    assert max(theory.operator_error(shuffled, shuffled, clusters, widths, 0.2, 1e-3)) < 1e-9
    on = theory.active_units(shuffled, clusters)
    assert on.shape == (3, 13)
    assert on.sum(1).tolist() == [5, 4, 4]
    # untied with one gain a tenth too large: W2 D W1^T is 1.1 M in mode 1 only
    w2 = w.clone()
    w2[:, 4:8] *= 1.1
    assert theory.operator_error(w, w2, clusters, widths, 0.2, 1e-3) == pytest.approx([0, 0.1, 0], abs=1e-9)


def test_linear_maps_are_those_of_the_network_at_the_means():
    w1, w2 = draw(2, 5, seed=1), draw(2, 5, seed=2)
    for x, linear in zip(HAND, theory.linear_maps(w1, w2, HAND), strict=True):
        mean = x.mean(dim=0)
        jacobian = torch.autograd.functional.jacobian(lambda y: torch.relu(y @ w1) @ w2.T, mean)
        torch.testing.assert_close(linear, jacobian)


def test_operator_error_by_hand():
    # cluster 1 predicts diag(30.5/34, 1/8); a network whose active unit at (4, 0) is (1, 0) is off by (3.5/34, -1/8)
    w = torch.tensor([[1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    first, second = theory.operator_error(w, w, HAND, [2, 1], 1.0, 0.5)
    assert first == EXACT(math.hypot(3.5 / 34, 0.125) / math.hypot(30.5 / 34, 0.125))
    assert second == EXACT(1 / 3)  # 1 against 3/4
    assert theory.operator_error(w, w, HAND, [2, 0], 1.0, 0.5)[1] == math.inf
    assert theory.operator_error(0 * w, w, HAND, [2, 0], 1.0, 0.5)[1] == 0


# Who gets a unit (Cor 3.4, heuristic)


def total(clusters, widths, sigma, lam):
    """Objective (6) at the block minimizer."""
    penalty = 2 * lam * sum(float(g.sum()) for g in theory.gains(clusters, widths, sigma, lam))
    return theory.predicted_loss(clusters, widths, sigma, lam) + penalty


def test_savings_are_what_a_unit_takes_off_the_objective():
    first, second = theory.savings(HAND, 1.0, 0.5)
    assert first.tolist() == EXACT([30.5**2 / (3 * 34), 0.5**2 / (3 * 4)])
    assert second.tolist() == EXACT([7.5**2 / (3 * 10)])
    for widths, saved in [([1, 0], first[0]), ([2, 0], first.sum()), ([0, 1], second[0])]:
        assert total(HAND, [0, 0], 1.0, 0.5) - total(HAND, widths, 1.0, 0.5) == EXACT(float(saved))
    assert theory.savings(HAND, 1.0, 11.0)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("width", [0, 1, 3, 5, 50])
def test_ranking_finds_the_best_widths(width):
    clusters, sigma, lam = [draw(6, 4) + 1, 2 * draw(3, 4, seed=1), draw(1, 4, seed=2)], 0.5, 0.15
    widths = theory.rank_directions(clusters, width, sigma, lam)
    assert sum(widths) <= width
    options = [o for o in itertools.product(range(5), range(4), range(2)) if sum(o) <= width]
    best = min(total(clusters, list(o), sigma, lam) for o in options)
    assert total(clusters, widths, sigma, lam) == EXACT(best)
    if width == 50:  # what saves nothing gets no unit
        assert widths == [int((g > 0).sum()) for g in theory.gains(clusters, [4, 3, 1], sigma, lam)]


@pytest.mark.parametrize("lam", [0.0, 0.02])
def test_copies_to_store_by_counting_up(lam):
    images, crowd, width, sigma = torch.stack([draw(6), 0.7 * draw(6)]), [draw(80, 6, seed=3) + 0.5], 4, 0.3
    found = theory.copies_to_store(images, crowd, width, sigma, lam)
    for i in range(2):
        stored = []
        for copies in range(1, found[i] + 3):
            clusters = [*(x.repeat(copies, 1) for x in images[:, None]), *crowd]
            stored.append(theory.rank_directions(clusters, width, sigma, lam)[i] > 0)
        assert stored == [False] * (found[i] - 1) + [True] * 3
    assert found[1] > found[0] > 1


def test_images_that_no_copies_store():
    image = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    crowd = [torch.tensor([[0.0, 3.0]], dtype=torch.float64)]
    # n counts copies: c |x|^2 <= (1 + c) lambda for every c when |x|^2 <= lambda
    assert theory.copies_to_store(image, crowd, 2, 0.1, 1.0) == [None]
    # c > (1 + c)/2, so c > 1
    assert theory.copies_to_store(image, crowd, 2, 0.1, 0.5) == [2]
    assert theory.copies_to_store(image, crowd, 0, 0.1, 0.0) == [None]
    # one unit: c^2/(c (1 + s^2)) > 81/(9 + s^2) with s^2 = .01: c > 9.08
    assert theory.copies_to_store(image, crowd, 1, 0.1, 0.0) == [10]
    assert theory.copies_to_store(image, crowd, 1, 0.1, 0.0, most=9) == [None]


# Bad input


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clusters": []}, "no clusters"),
        ({"clusters": HAND[0]}, r"cluster 0 has shape \[2\].*x\[:, None\]"),
        ({"clusters": [HAND[0], torch.zeros(2, 3)]}, r"cluster 1 has shape \[2, 3\]"),
        ({"clusters": [HAND[0], torch.zeros(0, 2)]}, r"cluster 1 has shape \[0, 2\]"),
        ({"clusters": [HAND[0], torch.full((1, 2), math.nan)]}, "cluster 1.*finite"),
        ({"clusters": [HAND[0], torch.zeros(1, 2, dtype=torch.uint8)]}, "cluster 1 is torch.uint8"),
        ({"widths": [2]}, "1 widths for 2 clusters"),
        ({"widths": [2, -1]}, "width = -1"),
        ({"widths": [2, 1.5]}, "width = 1.5"),
        ({"widths": [2, math.nan]}, "width = nan"),
        ({"sigma": 0.0}, "sigma = 0.0"),
        ({"sigma": math.nan}, "sigma = nan"),
        ({"lam": -0.1}, "lam = -0.1"),
        ({"lam": math.inf}, "lam = inf"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    arguments = {"clusters": HAND, "widths": [2, 1], "sigma": 1.0, "lam": 0.5} | change
    for function in (theory.gains, theory.block_minimizer, theory.predicted_loss):
        with pytest.raises(SpikinessError, match=says):
            function(**arguments)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: theory.margin(torch.zeros(3, 2), HAND), r"\[3, 2\].*\[2, p\]"),
        (lambda: theory.true_loss(torch.zeros(2, 2), torch.zeros(3, 2), HAND[0], 1.0), r"\[3, 2\]"),
        (lambda: theory.true_loss(torch.zeros(2, 2), torch.zeros(2, 2), HAND[0], 1.0, draws=1), "draws = 1"),
        (lambda: theory.true_loss(torch.zeros(2, 2), torch.zeros(2, 2), HAND[0], -1.0), "sigma = -1"),
        (lambda: theory.operator_error(torch.full((2, 2), math.nan), torch.zeros(2, 2), HAND, [1, 1], 1, 0), "finite"),
        (lambda: theory.stored_gains(torch.zeros(2, 1, 2), 1.0, 0.0), r"\[2, 1, 2\].*flatten"),
        (lambda: theory.population_loss([torch.eye(2)], [0.5, 0.5], [1], 1.0, 0.0), "2 weights for 1 modes"),
        (lambda: theory.population_loss([torch.eye(2)], [0.0], [1], 1.0, 0.0), "positive"),
        (lambda: theory.population_loss([torch.zeros(2, 3)], [1.0], [1], 1.0, 0.0), r"\[2, 3\]"),
        (lambda: theory.rank_directions(HAND, -1, 1.0, 0.0), "width = -1"),
    ],
)
def test_other_bad_arguments_are_refused(call, says):
    with pytest.raises(SpikinessError, match=says):
        call()
