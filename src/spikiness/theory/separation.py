"""How separable data are (Def 3.1), and how well a network keeps their clusters apart."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from spikiness.errors import SpikinessError
from spikiness.theory import checks

POOL = 32  # candidates looked at before one is chosen


def separability(clusters: Sequence[Tensor]) -> tuple[float, float]:
    """(alpha, beta) of Def 3.1: the largest `|x_kj - m_k| / |m_k|`, and the largest cosine of two means m_k, m_l.

    Theorem 3.1 asks for beta < 0. A mean that is zero has no direction: alpha is then infinite, its cosines are 0.
    With one cluster there is no pair, and beta is -1.
    """
    clusters = checks.clusters(clusters)
    means = torch.stack([x.mean(0) for x in clusters])  # [K, d]
    norms = means.norm(dim=1)
    spreads = torch.stack([(x - m).norm(dim=1).max() for x, m in zip(clusters, means, strict=True)])
    alpha = torch.where(norms > 0, spreads / norms, torch.inf).max()
    units = normalize(means, dim=1)
    first, second = torch.triu_indices(len(means), len(means), offset=1)
    beta = (units @ units.T)[first, second].max() if len(first) else -1.0
    return float(alpha), float(beta)


def separable_subset(x: Tensor, n: int, seed: int = 0, below: float = 0.0, restarts: int = 200) -> Tensor:
    """Indices [n] of samples of x [N, *shape] with pairwise cosines all `below` a bound (0: beta < 0 in Def 3.1).

    Greedy: from a random first sample on, take the candidate that leaves most candidates, of 32 drawn at random from
    those that still fit; begin again up to `restarts` times.
    Raises SpikinessError, with the size of the largest subset found, if none has n samples.
    """
    flat = checks.finite(x, "x").flatten(1)
    if not 1 <= n <= len(flat):
        raise SpikinessError(f"n = {n} samples asked of {len(flat)}; n must be from 1 to {len(flat)}")
    if below <= 0 and n > flat.shape[1] + 1:
        raise SpikinessError(f"n = {n}; pairwise negative cosines allow at most d + 1 = {flat.shape[1] + 1} samples")
    flat = normalize(flat, dim=1)  # [N, d]; a zero image stays zero, and has no direction to be separable in
    usable = flat.any(1).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    largest: list[int] = []
    for _ in range(restarts):
        indices = _greedy(flat, usable, n, below, generator)
        if len(indices) == n:
            return torch.tensor(indices, device=x.device)
        largest = max(largest, indices, key=len)
    raise SpikinessError(
        f"n = {n}: no such subset of {len(flat)} samples with pairwise cosines below {below:g} found in {restarts} "
        f"restarts; the largest found has {len(largest)}. Ask for fewer, center the images first, or raise `below`"
    )


def _greedy(flat: Tensor, candidates: Tensor, n: int, below: float, generator: torch.Generator) -> list[int]:
    indices: list[int] = []
    while len(indices) < n and len(candidates):
        # the first is drawn blindly, or most restarts would begin with the same favorite
        size = POOL if indices else 1
        pool = candidates[torch.randperm(len(candidates), generator=generator)[:size].to(candidates.device)]
        fits = flat[pool] @ flat[candidates].T < below  # [pool, candidates]
        fits &= pool.unsqueeze(1) != candidates
        favorite = fits.sum(1).argmax()
        indices.append(int(pool[favorite]))
        candidates = candidates[fits[favorite]]
    return indices


def margin(w: Tensor, clusters: Sequence[Tensor]) -> float:
    """The smallest clean pre-activation on its right side, per unit length of w_j: gamma of Theorem 3.1, measured.

    A unit belongs to the cluster whose mean excites it most. Over the samples x of that cluster its margin is
    `w_j^T x / |w_j|`, over all others `-w_j^T x / |w_j|`; the smallest over units and samples is returned. Where it is
    positive it is the smallest `|w_j^T x| / |w_j|`, and each unit is active exactly on its own cluster. Where it is
    negative, a unit is cut on a sample of its own, or fires on a foreign one, by that much. What counts is gamma/sigma.
    alpha and beta do not settle it: clusters that spread along each other's axes can have beta < 0 and no margin.

    w: W1 [d, p]; units that are zero are left out, and with none left the margin is infinite.
    """
    clusters = checks.clusters(clusters)
    w = checks.weights(w, clusters[0].shape[1])
    w = normalize(w[:, w.any(0)], dim=0)
    owner = torch.stack([x.mean(0) @ w for x in clusters]).argmax(0)  # [p]
    signed = [torch.where(owner == k, x @ w, -(x @ w)) for k, x in enumerate(clusters)]  # [n_k, p] each
    return float(torch.cat(signed).min()) if w.numel() else math.inf
