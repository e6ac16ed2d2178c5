"""Samplers against closed forms: training images, a linear map, Gaussian moments, and another library's scheduler."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from spikiness import images, measures, sampling
from spikiness.denoisers import EDM, Empirical, Wiener
from spikiness.errors import SpikinessError
from spikiness.networks import UNet
from spikiness.sampling import geometric_sigmas, karras_sigmas, sample, trajectories


def gaussian(d=6, seed=0):
    rng = np.random.default_rng(seed)
    factor = torch.tensor(rng.normal(size=(d, d)) / d**0.5)
    return torch.tensor(rng.normal(size=d)), factor @ factor.T


class Doubled:
    """A closed form in float64, with a parameter to say so."""

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def parameters(self):
        return iter([torch.zeros((), dtype=torch.float64)])

    def __call__(self, y, sigma):
        return self.denoiser(y, sigma)


def linear_map(energies, sigmas, sampler):
    """What a sampler makes of the coordinates of y - mean on the axes of the covariance: one factor per axis.

    With D = mean + E / (E + s^2) (y - mean), dy/ds = s / (E + s^2) (y - mean): worked out per axis, in numpy.
    """
    factor = np.ones_like(energies)
    for now, after in pairwise(sigmas):
        slope = now / (energies + now**2)
        ahead = 1 + (after - now) * slope
        if sampler == "heun" and after > 0:
            ahead = 1 + (after - now) * (slope + ahead * after / (energies + after**2)) / 2
        factor = factor * ahead
    return factor


@pytest.mark.parametrize("sampler", ["heun", "euler"])
def test_with_the_wiener_denoiser_a_sampler_is_the_linear_map_of_the_closed_form(sampler):
    mean, cov = gaussian()
    denoiser, sigmas = Doubled(Wiener(mean, cov)), karras_sigmas(18)
    end = lambda y: [s.y for s in sampling.SAMPLERS[sampler](denoiser, y, sigmas)][-1]  # noqa: E731
    origin = end(mean[None])[0]
    basis = torch.eye(len(mean), dtype=torch.float64)
    matrix = torch.stack([end((mean + b)[None])[0] - origin for b in basis], dim=1)  # from basis vectors
    energies, axes = np.linalg.eigh(cov.numpy())
    wanted = axes @ np.diag(linear_map(energies, sigmas.numpy(), sampler)) @ axes.T
    assert torch.allclose(origin, mean, atol=1e-12)
    np.testing.assert_allclose(matrix.numpy(), wanted, atol=1e-5)


def test_many_steps_reach_the_exact_flow_of_the_gaussian():
    # dy/ds = s / (E + s^2) (y - mean) has the solution (y - mean) sqrt(E / (E + s_max^2)) at s = 0.
    mean, cov = gaussian()
    *_, last = sampling.heun(Doubled(Wiener(mean, cov)), mean[None] + 3 * torch.eye(6).double(), karras_sigmas(400))
    energies, axes = torch.linalg.eigh(cov)
    exact = axes @ torch.diag((energies / (energies + 80**2)).sqrt()) @ axes.T
    np.testing.assert_allclose((last.y - mean).T.numpy(), 3 * exact.numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("sampler", "sigmas"), [("heun", karras_sigmas(40)), ("ancestral", geometric_sigmas(400, 0.002, 40.0))]
)
def test_samples_of_a_gaussian_have_its_mean_and_covariance(sampler, sigmas):
    mean, cov = gaussian(3)
    x = sample(Doubled(Wiener(mean, cov)), (3,), range(8000), sampler=sampler, sigmas=sigmas, batch=8000)
    error = cov.diagonal().sqrt() / math.sqrt(8000)
    assert ((x.mean(dim=0) - mean).abs() < 4.5 * error).all()
    spread = (cov.diagonal()[:, None] * cov.diagonal()).sqrt()
    assert ((torch.cov(x.T) - cov).abs() < 0.06 * spread).all()


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_sampling_the_empirical_denoiser_returns_training_images(sampler):
    train = images.subset(images.load("digits").x, 40, seed=0)
    x = sample(Empirical(train), train.shape[1:], range(64), 40, sampler=sampler)
    found = measures.memorization(x, train)
    assert found.fraction == 1
    assert found.distance.max() < 1e-4
    assert len(found.nearest.unique()) > 15  # not one image for all


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_a_sample_depends_on_its_seed_alone(sampler):
    mean, cov = gaussian(5)  # 5 numbers: not a multiple of 16
    denoiser, options = Wiener(mean, cov), {"steps": 5, "sampler": sampler}
    alone = sample(denoiser, (5,), [17], **options)
    among = sample(denoiser, (5,), [3, 17, 4], **options)
    cut = sample(denoiser, (5,), [3, 4, 17], batch=2, **options)
    torch.testing.assert_close(alone[0], among[1])
    torch.testing.assert_close(alone[0], cut[2])
    assert not torch.equal(among[0], among[1])


def test_states_walk_down_the_ladder_and_the_last_is_the_sample():
    mean, cov = gaussian(4)
    (states,) = trajectories(Wiener(mean, cov), (4,), [1, 2], 6)
    torch.testing.assert_close([s.sigma for s in states], karras_sigmas(6)[1:].tolist())
    assert states[0].y.shape == states[0].estimate.shape == (2, 4)
    torch.testing.assert_close(states[-1].y, sample(Wiener(mean, cov), (4,), [1, 2], 6))


def test_ladders():
    ladder = karras_sigmas(18)
    # eq 5 of Karras et al. by hand for i = 9 of 18
    a, b = 80 ** (1 / 7), 0.002 ** (1 / 7)
    assert ladder[9].item() == pytest.approx((a + 9 / 17 * (b - a)) ** 7)
    assert (len(ladder), ladder[0].item(), ladder[-1].item()) == (19, pytest.approx(80), 0)
    geometric = geometric_sigmas(60)
    ratio = torch.full((59,), 0.01 ** (1 / 59), dtype=torch.float64)
    torch.testing.assert_close(geometric[1:-1] / geometric[:-2], ratio)
    assert geometric[-1] == 0


def test_euler_agrees_with_the_scheduler_of_diffusers_step_by_step():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (test extra)")
    steps, sigma_data = 9, 0.5
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=sigma_data, rho=7.0)
    theirs.set_timesteps(steps)
    mean, cov = gaussian(8)
    denoiser = Wiener(mean.float(), cov.float())
    sigmas = theirs.sigmas.double()
    torch.testing.assert_close(sigmas, karras_sigmas(steps), atol=1e-3, rtol=1e-4)
    y = 80 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    ours = sampling.euler(denoiser, y, karras_sigmas(steps))
    state = y
    for i, (t, mine) in enumerate(zip(theirs.timesteps, ours, strict=True)):
        sigma = sigmas[i].item()
        theirs.scale_model_input(state, t)  # sets its step
        total = (sigma**2 + sigma_data**2) ** 0.5
        # Their scheduler applies the preconditioning itself: give it the raw output whose denoiser is ours.
        raw = (denoiser(state, sigma) - (sigma_data / total) ** 2 * state) * total / (sigma * sigma_data)
        state = theirs.step(raw, t, state).prev_sample
        torch.testing.assert_close(state, mine.y, atol=2e-3, rtol=1e-3)


def test_guidance_extrapolates_from_null_to_class():
    network = UNet(1, 8, 8, classes=3, generator=torch.Generator().manual_seed(0))
    for weight in network.parameters():  # it starts as zero
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    denoiser, y, labels = EDM(network), torch.ones(2, 1, 8, 8), torch.tensor([0, 2])
    null, conditional = denoiser(y, 0.5), denoiser(y, 0.5, labels)
    assert not torch.allclose(null, conditional)
    guided = sampling.Guided(denoiser, labels, 3.0)(y, 0.5)
    torch.testing.assert_close(guided, null + 3 * (conditional - null))
    torch.testing.assert_close(sampling.Guided(denoiser, labels)(y, 0.5), conditional)
    assert not torch.equal(
        sample(denoiser, (1, 8, 8), [0, 1], 2, labels=labels), sample(denoiser, (1, 8, 8), [0, 1], 2)
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "got 2.5"),
        ({"sampler": "huen"}, "did you mean 'heun'"),
        ({"sigmas": torch.tensor([1.0, 2.0, 0.0])}, "must fall from the first to 0"),
        ({"sigmas": torch.tensor([2.0, 1.0])}, "must fall from the first to 0"),
        ({"labels": torch.tensor([1])}, "one for each of 2 samples"),
        ({"guidance": 2.0}, "needs labels"),
        ({"batch": 0}, "batch of at least 1"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(SpikinessError, match=match):
        sample(lambda y, sigma: y, (3,), [0, 1], **options)


def test_a_number_of_samples_in_place_of_their_seeds():
    with pytest.raises(SpikinessError, match=r"seeds is 4; give one for each sample, as range\(4\) does"):
        sample(lambda y, sigma: y, (1, 8, 8), 4)


def test_no_seeds_and_an_estimate_that_is_not_finite():
    with pytest.raises(SpikinessError, match="0 seeds"):
        sample(lambda y, sigma: y, (3,), [])
    with pytest.raises(SpikinessError, match="2 of 2 samples are not finite"):
        sample(lambda y, sigma: y * torch.nan, (3,), [0, 1])
