"""Mixtures of Gaussians with a known population denoiser, and means and factors with prescribed geometry."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import SpikinessError
from spikiness.images.transforms import whole


def _mixture_input(means: Tensor, given: Sequence[Tensor], shares: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """Factors as a list of K [d, r_k] and weights as float64 [K], or one error naming what does not fit."""
    if not isinstance(means, Tensor) or means.ndim != 2 or not means.is_floating_point() or len(means) == 0:
        raise SpikinessError("means must be a float tensor [K, d]; stack the K means with torch.stack")
    k, d = means.shape
    factors = [torch.as_tensor(f, dtype=means.dtype, device=means.device) for f in given]
    for i, factor in enumerate(factors):
        if factor.ndim != 2 or len(factor) != d:
            raise SpikinessError(f"factors[{i}] has shape {list(factor.shape)}; it must be [d, r] with d = {d}")
    weights = torch.as_tensor(shares, dtype=torch.float64).cpu()
    if len(factors) != k or weights.shape != (k,):
        raise SpikinessError(
            f"{k} means, {len(factors)} factors, weights of shape {list(weights.shape)}: give K of each"
        )
    if not all(bool(t.isfinite().all()) for t in (means, weights, *factors)):
        raise SpikinessError("means, factors and weights must be finite; one holds NaN or infinity")
    if bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > 1e-6:
        values = [round(w, 6) for w in weights.tolist()]
        raise SpikinessError(f"weights = {values} must be at least 0 and sum to 1; divide them by their sum")
    return factors, weights


def mixture(
    means: Tensor, factors: Sequence[Tensor], weights: Sequence[float], n: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """n samples of sum_k weights[k] N(means[k], F_k F_k^T), as x [n, d] in the dtype of `means`, and labels [n].

    means: [K, d], float32 or float64. factors: K matrices F_k [d, r_k]. weights: [K], summing to 1.
    Samples of one seed are the first of a larger draw. Raises `SpikinessError` for shapes or weights that do not fit.
    """
    matrices, shares = _mixture_input(means, factors, weights)
    n = whole(n, "n", 1)
    # two streams, each read sample by sample, so that a larger n only adds samples
    label_stream, noise_stream = np.random.default_rng(whole(seed, "seed", 0)).spawn(2)
    edges = np.cumsum(shares.numpy())
    drawn = np.searchsorted(edges / edges[-1], label_stream.random(n), side="right")
    rank = max(f.shape[1] for f in matrices)
    noise = torch.from_numpy(noise_stream.standard_normal((n, rank))).to(means)  # [n, max r_k]
    labels = torch.from_numpy(drawn).to(means.device)
    x = means[labels]  # [n, d]
    for k, factor in enumerate(matrices):
        x[labels == k] += noise[labels == k, : factor.shape[1]] @ factor.T
    return x, labels


def _orthonormal(rng: np.random.Generator, d: int, r: int, away_from: np.ndarray | None = None) -> np.ndarray:
    """r uniformly random orthonormal columns [d, r], orthogonal to the orthonormal columns of `away_from` [d, m]."""
    g = rng.standard_normal((d, r))
    if away_from is not None:
        for _ in range(2):  # once more: the first projection leaves rounding behind
            g -= away_from @ (away_from.T @ g)
    q, triangle = np.linalg.qr(g)
    return q * np.sign(np.diagonal(triangle))  # fixed signs make q uniform (Haar) and the same everywhere


def simplex_means(k: int, d: int, norm: float = 1.0, seed: int = 0) -> Tensor:
    """k means [k, d] (float64) of length `norm` with every pairwise cosine -1/(k - 1), the most negative possible.

    They are the vertices of a regular simplex, randomly rotated in R^d; k = 1 gives one random direction.
    Raises `SpikinessError` unless d is at least k - 1.
    """
    k, d = whole(k, "k", 1), whole(d, "d", 1)
    if d < k - 1:
        raise SpikinessError(f"{k} means with one pairwise negative cosine need d >= {k - 1}; d = {d}")
    if not (np.isfinite(norm) and norm > 0):
        raise SpikinessError(f"norm = {norm!r} must be a positive, finite length")
    vertices = np.ones((1, 1))
    if k > 1:
        cosines = (k * np.eye(k) - 1) / (k - 1)  # singular: the vertices sum to zero
        all_but_last = np.linalg.cholesky(cosines[:-1, :-1])
        vertices = np.vstack([all_but_last, -all_but_last.sum(0)])  # [k, k - 1]
    rotation = _orthonormal(np.random.default_rng(whole(seed, "seed", 0)), d, vertices.shape[1])
    return torch.from_numpy(norm * vertices @ rotation.T)


def random_factors(
    k: int, d: int, rank: int, scale: float, seed: int = 0, *, decay: float = 0.5, means: Tensor | None = None
) -> Tensor:
    """k factors [k, d, rank] (float64): random orthonormal columns times scale j^-decay, j = 1..rank.

    So Sigma_k = F_k F_k^T has the eigenvalues scale^2 j^(-2 decay), scale^2 / j by default, and equal ones at decay 0.
    means: [K, d]; where given, every column is orthogonal to all of them. Raises `SpikinessError` where rank columns
    do not fit.
    """
    k, d, rank = whole(k, "k", 1), whole(d, "d", 1), whole(rank, "rank", 1)
    if not (np.isfinite(scale) and scale >= 0 and np.isfinite(decay)):
        raise SpikinessError(f"scale = {scale!r} must be finite and at least 0, and decay = {decay!r} finite")
    away, room = None, d
    if means is not None:
        if means.ndim != 2 or means.shape[1] != d:
            raise SpikinessError(f"means have shape {list(means.shape)}; they must be [K, d] with d = {d}")
        left, values, _ = np.linalg.svd(means.detach().double().cpu().numpy().T, full_matrices=False)
        away = left[:, values > 1e-10 * values.max()]  # basis of their span; a simplex has one direction less than K
        room = d - away.shape[1]
    if rank > room:
        beside = "" if means is None else f" orthogonal to {d - room} directions of the means"
        raise SpikinessError(f"rank = {rank} columns do not fit in d = {d}{beside}; take rank of at most {room}")
    rng = np.random.default_rng(whole(seed, "seed", 0))
    scales = scale * np.arange(1, rank + 1) ** -float(decay)
    return torch.from_numpy(np.stack([_orthonormal(rng, d, rank, away) * scales for _ in range(k)]))
