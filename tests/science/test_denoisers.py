"""Closed-form denoisers against brute force, other libraries, sampling and automatic differentiation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.func import jacrev, vmap

from spikiness import denoisers
from spikiness.denoisers import Empirical, Mixture, Wiener, score
from spikiness.errors import SpikinessError


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mixture(modes=3, d=4, rank=4):
    means, factors = 2 * draw(modes, d, seed=1), [draw(d, rank, seed=2 + k) for k in range(modes)]
    weights = torch.arange(1.0, modes + 1, dtype=torch.float64) / sum(range(1, modes + 1))
    return means, torch.stack([f @ f.T for f in factors]), weights


def known():
    """One of each closed form, for y [..., 4]."""
    means, covs, weights = mixture()
    return [Empirical(means), Wiener(means[0], covs[0]), Mixture(means, covs, weights)]


# Empirical


def test_two_images_worked_by_hand():
    # train {0, 1}: w_1/w_0 = exp((y^2 - (y - 1)^2) / (2 sigma^2)); at y = 1, sigma = 1/2 it is e^2
    estimate = Empirical(torch.tensor([[0.0], [1.0]], dtype=torch.float64))(torch.ones(1, 1, dtype=torch.float64), 0.5)
    assert estimate.item() == pytest.approx(0.8807970779778823, rel=1e-14)  # e^2 / (1 + e^2)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_empirical_is_the_softmax_mean(sigma):
    train, y = draw(40, 6), draw(9, 6, seed=1)
    distance = (y[:, None] - train).square().sum(2).numpy().astype(np.longdouble)
    w = np.exp(-distance / (2 * np.longdouble(sigma) ** 2))  # no shift needed: long doubles reach e^-11000
    expected = (w / w.sum(1, keepdims=True)).astype(float) @ train.numpy()
    np.testing.assert_allclose(Empirical(train)(y, sigma).numpy(), expected, rtol=1e-9)


def test_images_of_any_leading_shape_and_a_sigma_for_each():
    train, y = draw(30, 1, 2, 3), draw(4, 5, 1, 2, 3, seed=1)
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    denoiser = Empirical(train)
    together = denoiser(y, sigma)
    assert together.shape == y.shape
    for i in range(4):
        for j in range(5):
            torch.testing.assert_close(together[i, j], denoiser(y[i, j], sigma[i].item()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-4), (torch.float64, 1e-7)])
@pytest.mark.parametrize("sigma", [1e-9, 1e-30])
def test_at_small_noise_the_nearest_image_comes_back_bit_for_bit(dtype, apart, sigma):
    # near-duplicates at norm 1000: |a|^2 + |b|^2 - 2ab is off by about .1 in float32 and 1e-9 in float64, where
    # squared distances to choose between are 1e-6 and 1e-12
    base = 100 * draw(5, 100, dtype=dtype)
    train = torch.cat([base, base + apart * draw(5, 100, seed=1, dtype=dtype)])
    y = train[[7, 2]] + apart / 100 * draw(2, 100, seed=2, dtype=dtype)
    got = Empirical(train)(y, sigma)
    assert got.dtype == dtype
    assert torch.equal(got, train[[7, 2]])


def test_equal_training_images_share_their_weight():
    train = draw(3, 4)
    many = Empirical(torch.cat([train, *[train[:1]] * 20]))  # image 0 is there 21 times
    y = draw(1, 4, seed=1)
    weights = torch.tensor([21.0, 1.0, 1.0], dtype=torch.float64) * torch.exp(-(y - train).square().sum(1) / 2)
    torch.testing.assert_close(many(y, 1.0)[0], weights @ train / weights.sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(many(train, 1e-9), train, rtol=1e-15, atol=0)


def test_far_from_all_data_and_at_large_noise():
    train = draw(50, 8)
    far = Empirical(train)(1e6 * draw(3, 8, seed=1), 0.01)
    assert far.isfinite().all()
    assert ((far.unsqueeze(1) - train).norm(dim=2).amin(1) < 1e-12).all()  # one image, not NaN
    torch.testing.assert_close(Empirical(train)(draw(3, 8, seed=1), 1e6), train.mean(0).expand(3, 8))


def test_the_answer_does_not_depend_on_chunks(monkeypatch):
    train, y, sigma = draw(30, 6), draw(23, 6, seed=1), torch.linspace(0.1, 2, 23, dtype=torch.float64)
    whole = Empirical(train)(y, sigma)
    monkeypatch.setattr(denoisers, "ENTRIES", 100)
    torch.testing.assert_close(Empirical(train)(y, sigma), whole, rtol=1e-13, atol=1e-13)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-10, 10))
def test_empirical_moves_with_the_data_and_stays_in_their_hull(seed, sigma, shift):
    train, y = draw(12, 3, seed=seed), 3 * draw(4, 3, seed=seed + 1)
    estimate = Empirical(train)(y, sigma)
    assert (estimate <= train.amax(0) + 1e-12).all()
    assert (estimate >= train.amin(0) - 1e-12).all()
    torch.testing.assert_close(Empirical(train + shift)(y + shift, sigma), estimate + shift, rtol=1e-6, atol=1e-6)


# Wiener and Mixture


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_wiener_is_the_posterior_of_a_gaussian_process(sigma):
    # observing a process at the points where it is asked for: mean cov (cov + sigma^2 I)^-1 y, by another library
    points = np.linspace(0, 3, 7)[:, None]
    y = draw(7).numpy()
    peer = GaussianProcessRegressor(RBF(0.8), alpha=sigma**2, optimizer=None).fit(points, y)
    wiener = Wiener(torch.zeros(7, dtype=torch.float64), torch.from_numpy(RBF(0.8)(points)))
    np.testing.assert_allclose(wiener(torch.from_numpy(y), sigma).numpy(), peer.predict(points), rtol=1e-8)


def test_wiener_worked_by_hand():
    # mean (1, 0), variances 3 and 0, sigma 1: the first coordinate moves 3/4 of the way to y, the second not at all
    wiener = Wiener(torch.tensor([1.0, 0.0]), torch.diag(torch.tensor([3.0, 0.0])))
    assert wiener(torch.tensor([[5.0, 7.0]]), 1).tolist() == [[4.0, 0.0]]


def test_a_mixture_of_one_is_wiener():
    means, covs, _ = mixture(1)
    y, sigma = draw(5, 4, seed=9), torch.linspace(0.1, 2, 5, dtype=torch.float64)
    one = Mixture(means, covs, [1.0])(y, sigma)
    torch.testing.assert_close(one, Wiener(means[0], covs[0])(y, sigma), rtol=1e-12, atol=1e-12)


def test_two_point_modes_worked_by_hand():
    # modes N(-1, 0) and N(1, 0), weights 1/4 and 3/4, sigma 1, y = 0: equally near, so 3/4 - 1/4
    points = Mixture(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1), [1, 3])
    assert points(torch.zeros(1, 1), 1.0).item() == pytest.approx(0.5)
    # the same two points as equal training images are the empirical denoiser
    y = torch.linspace(-2, 2, 9).unsqueeze(1)
    even = Mixture(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1), [1, 1])
    torch.testing.assert_close(even(y, 0.7), Empirical(torch.tensor([[-1.0], [1.0]]))(y, 0.7))


def test_mixture_is_the_mean_of_the_posterior_by_sampling():
    means, covs, weights = mixture(d=2, rank=2)
    n, generator = 400_000, torch.Generator().manual_seed(5)
    labels = torch.multinomial(weights, n, replacement=True, generator=generator)
    roots = torch.linalg.cholesky(covs)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = means[labels] + (roots[labels] @ noise.unsqueeze(2)).squeeze(2)
    y = means + 0.5
    importance = torch.exp(-(y.unsqueeze(1) - x).square().sum(2) / (2 * 0.6**2))  # [3, n]
    share = importance / importance.sum(1, keepdim=True)
    sampled = share @ x
    spread = ((x - sampled.unsqueeze(1)).square() * share.square().unsqueeze(2)).sum(1).sqrt()  # standard errors
    assert spread.max() < 0.02
    assert ((Mixture(means, covs, weights)(y, 0.6) - sampled).abs() < 4 * spread).all()


def test_log_density_is_that_of_torch():
    means, covs, weights = mixture()
    y = draw(6, 4, seed=9)
    noisy = MultivariateNormal(means, covs + 0.49 * torch.eye(4, dtype=torch.float64))
    peer = MixtureSameFamily(Categorical(weights), noisy)
    torch.testing.assert_close(Mixture(means, covs, weights).log_density(y, 0.7), peer.log_prob(y))


def test_factors_make_the_covariances():
    means, factors = draw(2, 5), [draw(5, 2, seed=1), draw(5, 3, seed=2)]
    y = draw(4, 5, seed=3)
    covs = torch.stack([f @ f.T for f in factors])
    assert torch.equal(
        Mixture.from_factors(means, factors, [0.3, 0.7])(y, 0.2), Mixture(means, covs, [0.3, 0.7])(y, 0.2)
    )


def test_singular_modes_at_tiny_noise():
    # y lies exactly on the line of mode 0; mode 1 must get nothing, and the line is kept
    means = torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    line = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    estimate = Mixture(means, torch.stack([line, line]), [0.5, 0.5])(torch.tensor([[0.8, 1e-9]]).double(), 1e-8)
    assert (estimate - torch.tensor([0.8, 0.0])).abs().max() < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_shapes_and_types_are_kept(dtype):
    means, covs, weights = mixture()
    y = draw(2, 3, 1, 2, 2, seed=9, dtype=dtype)
    flat = [denoiser(y.flatten(2), torch.tensor([0.3, 2.0])) for denoiser in known()]
    images = means.reshape(3, 1, 2, 2)
    shaped = [Empirical(images), Wiener(images[0], covs[0]), Mixture(images, covs, weights)]
    for denoiser, expected in zip(shaped, flat, strict=True):
        estimate = denoiser(y, torch.tensor([0.3, 2.0]))
        assert estimate.dtype == dtype
        torch.testing.assert_close(estimate, expected.reshape(y.shape))


@pytest.mark.parametrize("denoiser", known(), ids=lambda d: type(d).__name__)
def test_an_empty_batch_and_a_batch_of_one(denoiser):
    assert denoiser(torch.zeros(0, 4), 0.5).shape == (0, 4)
    y = draw(3, 4)
    torch.testing.assert_close(denoiser(y[:1], torch.tensor([0.5]))[0], denoiser(y, 0.5)[0])


# Score and derivatives


def test_the_score_is_the_gradient_of_the_log_density():
    means, covs, weights = mixture()
    y, sigma = draw(6, 4, seed=9), torch.linspace(0.3, 2, 6, dtype=torch.float64)
    eye, even = torch.eye(4, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for denoiser, shares, noisy in [
        (Mixture(means, covs, weights), weights, lambda s: MultivariateNormal(means, covs + s**2 * eye)),
        (Wiener(means[0], covs[0]), even[:1], lambda s: MultivariateNormal(means[:1], covs[:1] + s**2 * eye)),
        (Empirical(means), even, lambda s: Independent(Normal(means, s), 1)),
    ]:
        for i in range(len(y)):
            point = y[i].clone().requires_grad_()
            MixtureSameFamily(Categorical(shares), noisy(sigma[i])).log_prob(point).backward()
            torch.testing.assert_close(score(denoiser, y, sigma)[i], point.grad, rtol=1e-9, atol=1e-9)


def test_the_score_points_to_the_data():
    # one image at 0: the score of N(0, sigma^2) is -y / sigma^2
    assert score(Empirical(torch.zeros(1, 1)), torch.tensor([[2.0]]), 2.0).item() == -0.5


@pytest.mark.parametrize("denoiser", known(), ids=lambda d: type(d).__name__)
def test_the_jacobian_is_the_posterior_covariance(denoiser):
    # Tweedie's second formula, Cov(x | y) = sigma^2 dD/dy: symmetric, positive; known exactly for a finite set
    y, sigma = draw(5, 4, seed=9), 0.8
    jacobian = vmap(jacrev(lambda one: denoiser(one, sigma)))(y)  # [5, 4, 4]
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-9
    if isinstance(denoiser, Empirical):
        means = mixture()[0]
        w = torch.softmax(-(y.unsqueeze(1) - means).square().sum(2) / (2 * sigma**2), dim=1)
        centered = means - (w @ means).unsqueeze(1)  # [5, 3, 4]
        cov = (w.unsqueeze(2) * centered).mT @ centered
        torch.testing.assert_close(jacobian, cov / sigma**2, rtol=1e-9, atol=1e-9)


# Bad input


@pytest.mark.parametrize("denoiser", known(), ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(
    ("y", "sigma", "says"),
    [
        (torch.zeros(2, 4), 0, "sigma = 0"),
        (torch.zeros(2, 4), -1.0, "sigma = -1"),
        (torch.zeros(2, 4), math.nan, "sigma = nan"),
        (torch.zeros(2, 4), math.inf, "sigma = inf"),
        (torch.zeros(2, 4), torch.tensor([1.0, 0.0]), "sigma = 0"),
        (torch.zeros(2, 4), torch.ones(3), r"\[3\]"),
        (torch.zeros(4), torch.ones(4), r"\[4\]"),  # four levels for one item
        (torch.zeros(2, 5), 1.0, r"\[2, 5\].*\[\.\.\., 4\]"),
        (torch.tensor(1.0), 1.0, r"\[\]"),
        (torch.full((2, 4), math.nan), 1.0, "not finite"),
        (torch.zeros(2, 4, dtype=torch.int64), 1.0, "int64"),
    ],
)
def test_bad_calls_are_refused(denoiser, y, sigma, says):
    with pytest.raises(SpikinessError, match=says):
        denoiser(y, sigma)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Empirical(torch.zeros(0, 3)), r"\[0, 3\]"),
        (lambda: Empirical(torch.zeros(3)), r"\[3\]"),
        (lambda: Empirical(torch.zeros(2, 3, dtype=torch.uint8)), "uint8"),
        (lambda: Empirical(torch.tensor([[math.inf]])), "not finite"),
        (lambda: Wiener(torch.zeros(2), torch.eye(3)), r"\[3, 3\].*\[2, 2\]"),
        (lambda: Wiener(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: Wiener(torch.zeros(2), -torch.eye(2)), "eigenvalue -1"),
        (lambda: Mixture(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), [1.0]), r"\[2, 3\].*\[1\]"),
        (lambda: Mixture(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), [1.0, -0.5]), "negative"),
        (lambda: Mixture(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), [0.0, 0.0]), "zero"),
        (lambda: Mixture(torch.zeros(2, 3), torch.eye(3), [0.5, 0.5]), r"\[2, 3, 3\]"),
    ],
)
def test_bad_parameters_are_refused(make, says):
    with pytest.raises(SpikinessError, match=says):
        make()
