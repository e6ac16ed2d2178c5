"""The minimizer of Theorem 3.1: one formula for its gains, and rotations that keep every unit on its own cluster."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from spikiness.theory import checks

LOOKED_AT = 256  # samples per cluster that choose a rotation: it has few numbers, and time grows with samples


class Mode(NamedTuple):
    """One mode of the data, and the block of units that serves it."""

    share: float  # rho_k
    energy: Tensor  # e [p_k or more], eigenvalues of the second moment, descending
    axes: Tensor  # [d, p_k], its leading eigenvectors; zero columns beyond the rank of the data
    gain: Tensor  # w^2 [p_k]

    @property
    def operator(self) -> Tensor:
        """The predicted linear map at the mode, the gain matrix `sum u w^2 u^T` [d, d]."""
        return self.axes * self.gain @ self.axes.T


def fit(clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float) -> Iterator[Mode]:
    """Share, spectrum, axes and gains of each mode, from the Gram matrix of its samples (Theorem 3.1), in float64."""
    clusters = checks.clusters(clusters)
    widths, levels = checks.widths(widths, len(clusters)), checks.levels(sigma, lam)
    n = sum(map(len, clusters))
    for x, width in zip(clusters, widths, strict=True):
        # singular values of the samples: the Gram matrix would square their errors
        _, singular, axes = torch.linalg.svd(x / math.sqrt(len(x)), full_matrices=False)
        yield _mode(len(x) / n, singular.square(), axes.T, width, *levels)


def fit_moments(
    moments: Sequence[Tensor], weights: Sequence[float], widths: Sequence[int], sigma: float, lam: float
) -> Iterator[Mode]:
    """The same from second moments S_k [d, d] and weights rho_k of the modes, n -> infinity (Cor 3.3)."""
    moments, shares = checks.moments(moments, weights, len(widths))
    widths, levels = checks.widths(widths, len(moments)), checks.levels(sigma, lam)
    for moment, share, width in zip(moments, shares, widths, strict=True):
        energy, axes = torch.linalg.eigh(moment)  # ascending
        yield _mode(share, energy.flip(0).clamp(min=0), axes.flip(1), width, *levels)


def _mode(share: float, energy: Tensor, axes: Tensor, width: int, sigma: float, lam: float) -> Mode:
    beyond = max(0, width - len(energy))  # units without data: no energy, no axis, no gain
    energy, axes = pad(energy, (0, beyond)), pad(axes, (0, beyond))[:, :width]
    return Mode(share, energy, axes, optimal_gain(energy[:width], share, sigma, lam))


def optimal_gain(energy: Tensor, share: float, sigma: float, lam: float) -> Tensor:
    """m = w^2 >= 0 that minimizes `rho (e (1 - m)^2 + sigma^2 m^2) + 2 lambda m`: Theorem 3.1's, over n_k."""
    return ((energy - lam / share) / (energy + sigma**2)).clamp(min=0)


def gains(clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float) -> list[Tensor]:
    """w^2 [p_k] of each block, descending: `(L - n lambda)/(L + n_k sigma^2)`, 0 where n lambda >= L (Theorem 3.1).

    clusters: K tensors [n_k, d]; widths: units p_k of each; sigma: noise level in data units; lam: the lambda of
    objective (6).
    """
    return [mode.gain.to(clusters[0].dtype) for mode in fit(clusters, widths, sigma, lam)]


def population_gains(
    moments: Sequence[Tensor], weights: Sequence[float], widths: Sequence[int], sigma: float, lam: float
) -> list[Tensor]:
    """The limit of `gains` as n -> infinity, `(e - lambda/rho_k)/(e + sigma^2)`, e eigenvalues of S_k (Cor 3.3).

    The paper prints `(S_k + sigma I)^-1`; derivation and numerical minimization give sigma^2 I.
    """
    return [mode.gain.to(moments[0].dtype) for mode in fit_moments(moments, weights, widths, sigma, lam)]


def stored_gains(x: Tensor, sigma: float, lam: float) -> Tensor:
    """r_i^2 [n] of Cor 3.2: the column r_i x_i stores x_i, `r_i^2 = (|x_i|^2 - n lambda)/(|x_i|^4 + sigma^2 |x_i|^2)`.

    x: [n, d], every sample a cluster of its own. 0 where it is too small to be stored, n lambda >= |x_i|^2.
    """
    energy = checks.samples(x).square().sum(1)
    gain = optimal_gain(energy, 1 / len(x), *checks.levels(sigma, lam))
    return (gain / energy.clamp(min=torch.finfo(energy.dtype).tiny)).to(x.dtype)


def block_minimizer(
    clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float, steps: int = 25
) -> Tensor:
    """W [d, p] = W1 = W2 of Theorem 3.1, block k being `U_k diag(w) O_k^T`; arguments as for `gains`.

    The gain matrix `W W^T` does not depend on the rotations O_k, but the network does: its ReLU must pass a block's
    own cluster and stop the others. So the leading direction, turned to the mean's side, is spread evenly over the
    units (entries 1/sqrt(p_k)): all are equally active at the mean. The other directions are then turned, in at most
    `steps` steps, to minimize the expected square of what falls on the wrong side of zero. With steps = 0 they stay on
    the Hartley basis, which is even but knows nothing of the data.
    """
    data = checks.clusters(clusters)
    strides = [math.ceil(len(x) / LOOKED_AT) for x in data]
    seen = torch.cat([x[::s] for x, s in zip(data, strides, strict=True)])  # [n', d]
    owner = torch.cat([torch.full_like(x[::s, 0], k) for k, (x, s) in enumerate(zip(data, strides, strict=True))])
    mass = torch.cat([torch.full_like(x[::s, 0], s) for x, s in zip(data, strides, strict=True)])  # [n']
    blocks = []
    for k, mode in enumerate(fit(clusters, widths, sigma, lam)):
        columns = mode.axes * mode.gain.sqrt()  # U_k diag(w) [d, p_k]
        columns[:, :1] *= torch.where(data[k].mean(0) @ columns[:, :1] < 0, -1.0, 1.0)
        rotation = _hartley(mode.gain)
        if steps and len(mode.gain) > 2 and mode.gain.any():  # of two units only the order would be left to choose
            side = torch.where(owner == k, 1.0, -1.0).unsqueeze(1)
            rotation = _turned(rotation, side * (seen @ columns) / sigma, mass, mode.gain, steps)
        blocks.append(columns @ rotation.T)
    return torch.cat(blocks, dim=1).to(clusters[0].dtype)


def _hartley(gain: Tensor) -> Tensor:
    """The Hartley basis [p, p]: orthogonal, its first column 1/sqrt(p), the others about as even as columns can be."""
    p = max(1, len(gain))
    index = torch.arange(len(gain), dtype=gain.dtype, device=gain.device)
    angle = 2 * torch.pi * torch.outer(index, index) / p
    return (angle.cos() + angle.sin()) / math.sqrt(p)


def _turned(start: Tensor, inputs: Tensor, mass: Tensor, gain: Tensor, steps: int) -> Tensor:
    """O_k [p_k, p_k], start with all but its first column turned to bring `inputs O_k^T` to the positive side.

    inputs: what a block sees before rotation, in units of sigma and wanted positive [n, p_k]; mass: how many samples
    each stands for [n].
    """
    p = len(gain)
    skew = torch.zeros(p - 1, p - 1, dtype=gain.dtype, device=gain.device, requires_grad=True)

    def rotation() -> Tensor:
        return torch.cat([start[:, :1], start[:, 1:] @ torch.linalg.matrix_exp(skew - skew.T)], dim=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        o = rotation()
        loss = mass @ _wrong_side(inputs @ o.T, (o.square() @ gain).sqrt()) / mass.sum()
        loss.backward()
        return loss

    # tolerances in units of sigma^2, the loss that each direction costs anyway
    search: dict[str, Any] = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-6, "tolerance_change": 1e-7}
    optimizer = torch.optim.LBFGS([skew], max_iter=steps, **search)
    with torch.enable_grad():
        optimizer.step(closure)
    return rotation().detach()


def _wrong_side(pre: Tensor, noise: Tensor) -> Tensor:
    """sum_j E[relu(-(a_j + s_j eps))^2] [n], for pre-activations a = pre [n, p] wanted positive, with noise s [p].

    With t = a/s it is `s^2 ((1 + t^2) Q(t) - t phi(t))`, Q and phi the tail and density of the normal distribution.
    """
    t = pre / noise
    tail = 0.5 * torch.erfc(t / math.sqrt(2))
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    return ((1 + t.square()) * tail - t * density) @ noise.square()


def predicted_representation(
    clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float, y: Tensor
) -> Tensor:
    """h(y) = relu(W^T y) [..., p] at the block minimizer, for y [..., d].

    With one sample per cluster and widths of 1 (Cor 3.2) it is one-hot at y = x_i + sigma eps, of height `r_i x_i^T y`.
    """
    return torch.relu(y @ block_minimizer(clusters, widths, sigma, lam).to(y))
