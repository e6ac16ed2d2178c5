"""The data term of objective (6) at the minimizer: on the training set, on new data, and in the limit."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spikiness.theory import checks
from spikiness.theory.minimizer import Mode, fit, fit_moments, optimal_gain


def predicted_loss(clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float) -> float:
    """Data term of objective (6) at the block minimizer, without the exponentially small residual of the ReLU.

    With M_k = sum u w^2 u^T: `(1/n) sum_k [ |(I - M_k) X_k|_F^2 + n_k sigma^2 |M_k|_F^2 ]`, which per direction is
    `rho_k (e (1 - w^2)^2 + sigma^2 w^4)`, and `rho_k e` where no unit serves it.
    """
    return sum(_loss(mode, mode.energy, sigma) for mode in fit(clusters, widths, sigma, lam))


def predicted_test_loss(
    clusters: Sequence[Tensor],
    widths: Sequence[int],
    sigma: float,
    lam: float,
    moments: Sequence[Tensor],
    weights: Sequence[float],
) -> float:
    """Expected loss on new data of the network fitted to `clusters`, exact at finite n.

    `sum_k rho_k [ tr((I - M_k) S_k (I - M_k)^T) + sigma^2 |M_k|_F^2 ]`, M_k the gain matrix of the *training* Gram.
    moments: S_k = mu_k mu_k^T + Sigma_k [d, d] of the new data (`second_moments`); weights: rho_k, made to sum to 1.

    The bound printed in the paper, `e sigma^4/(e + sigma^2)^2` per direction, is only the bias: it leaves out the
    noise that passes, `sigma^2 w^4`. At lambda -> 0 the two together are `e sigma^2/(e + sigma^2)`.
    """
    loss = 0.0
    moments, shares = checks.moments(moments, weights, len(clusters))
    for mode, moment, share in zip(fit(clusters, widths, sigma, lam), moments, shares, strict=True):
        kept = ((moment @ mode.axes) * mode.axes).sum(0)  # u^T S_k u [p_k]
        rest = moment.trace() - kept.sum()  # of all directions without a unit
        loss += _loss(mode._replace(share=share), torch.cat([kept, rest.reshape(1)]), sigma)
    return loss


def population_loss(
    moments: Sequence[Tensor], weights: Sequence[float], widths: Sequence[int], sigma: float, lam: float
) -> float:
    """The limit of the training and of the test loss as n -> infinity (Cor 3.3, exact: see `predicted_test_loss`)."""
    return sum(_loss(mode, mode.energy, sigma) for mode in fit_moments(moments, weights, widths, sigma, lam))


def memorization_loss(x: Tensor, sigma: float, lam: float) -> float:
    """Data term of objective (6) when every sample of x [n, d] has its own column (Cor 3.2).

    At lambda = 0 it is `(1/n) sum_i sigma^2 |x_i|^2/(sigma^2 + |x_i|^2)`, below sigma^2.
    """
    energy = checks.samples(x).square().sum(1)
    gain = optimal_gain(energy, 1 / len(x), *checks.levels(sigma, lam))
    return float((energy * (1 - gain).square() + sigma**2 * gain.square()).mean())


def second_moments(means: Tensor, covs: Tensor) -> Tensor:
    """S_k = mu_k mu_k^T + Sigma_k [K, d, d] of modes with means [K, d] and covariances [K, d, d]."""
    return means.unsqueeze(2) * means.unsqueeze(1) + covs


def _loss(mode: Mode, energy: Tensor, sigma: float) -> float:
    """Share of the loss of one mode, for data whose second moment along its axes, then elsewhere, is `energy`."""
    p = len(mode.gain)
    kept = energy[:p] * (1 - mode.gain).square() + sigma**2 * mode.gain.square()
    return float(mode.share * (kept.sum() + energy[p:].sum()))
