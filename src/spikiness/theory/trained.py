"""Any trained ReLU network against the theory: its loss by sampling, and its linear map at each mode."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spikiness.errors import SpikinessError
from spikiness.theory import checks
from spikiness.theory.minimizer import fit


class Estimate(NamedTuple):
    """A sampled value and its standard error."""

    value: float
    error: float


def true_loss(w1: Tensor, w2: Tensor, x: Tensor, sigma: float, draws: int = 16, seed: int = 0) -> Estimate:
    """Data term of objective (6) of any ReLU network, sampled, with its standard error over the noise.

    w1, w2: [d, p]; x: [n, d]; draws: noise vectors per sample, each used with both signs: what is odd in the noise
    cancels, and the network is nearly linear around a sample.
    """
    if draws < 2:
        raise SpikinessError(f"draws = {draws}; a standard error needs at least 2")
    x, (sigma, _) = checks.samples(x), checks.levels(sigma)
    w1, w2 = checks.weights(w1, x.shape[1]), checks.weights(w2, x.shape[1])
    generator = torch.Generator(x.device).manual_seed(seed)
    losses = []
    for _ in range(draws):
        noise = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        one, other = ((torch.relu((x + e) @ w1) @ w2.T - x).square().sum(1).mean() for e in (noise, -noise))
        losses.append((one + other) / 2)
    values = torch.stack(losses)
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(draws)))


def objective(w1: Tensor, w2: Tensor, x: Tensor, sigma: float, lam: float, draws: int = 16, seed: int = 0) -> Estimate:
    """Objective (6) of any ReLU network: `true_loss` plus `lambda (|W1|_F^2 + |W2|_F^2)`; tied weights count twice."""
    value, error = true_loss(w1, w2, x, sigma, draws, seed)
    return Estimate(
        value + lam * float(w1.detach().double().square().sum() + w2.detach().double().square().sum()), error
    )


def active_units(w1: Tensor, clusters: Sequence[Tensor]) -> Tensor:
    """Which units [K, p] of w1 [d, p] are active at the mean of each cluster."""
    clusters = checks.clusters(clusters)
    return torch.stack([x.mean(0) for x in clusters]) @ checks.weights(w1, clusters[0].shape[1]) > 0


def linear_maps(w1: Tensor, w2: Tensor, clusters: Sequence[Tensor]) -> list[Tensor]:
    """A network's linear map at each mode, `W2 D W1^T` [d, d] in float64, D the units active at the cluster's mean."""
    active = active_units(w1, clusters)
    w1, w2 = w1.detach().double(), w2.detach().double()
    return [w2[:, on] @ w1[:, on].T for on in active]


def operator_error(
    w1: Tensor, w2: Tensor, clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float
) -> list[float]:
    """Per mode, how far the network's linear map is from the predicted gain matrix, in relative Frobenius norm.

    The map is that of `linear_maps`; the prediction `sum u w^2 u^T` is that of the empirical Gram. Units need no
    order. Against a prediction of zero the error is 0 or infinite.
    """
    errors = []
    for learned, mode in zip(linear_maps(w1, w2, clusters), fit(clusters, widths, sigma, lam), strict=True):
        difference, size = float((learned - mode.operator).norm()), float(mode.operator.norm())
        errors.append(difference / size if size else math.inf if difference else 0.0)
    return errors
