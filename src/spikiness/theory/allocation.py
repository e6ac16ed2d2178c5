"""Which directions of the data a narrow network serves: a heuristic of ours around Cor 3.4, not a theorem."""

import bisect
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from spikiness.theory import checks


def savings(clusters: Sequence[Tensor], sigma: float, lam: float) -> list[Tensor]:
    """What serving each direction of each cluster takes off objective (6), descending [min(n_k, d)].

    `(L - n lambda)^2 / (n (L + n_k sigma^2))`, 0 where the direction is dropped.
    """
    checked = checks.clusters(clusters)
    n = sum(map(len, checked))
    return [_saving(_spectrum(x), len(x), n, *checks.levels(sigma, lam)).to(clusters[0].dtype) for x in checked]


def rank_directions(clusters: Sequence[Tensor], width: int, sigma: float, lam: float) -> list[int]:
    """Widths p_k when `width` units in all go to the directions that save most; fewer if the rest save nothing."""
    saved = savings(clusters, sigma, lam)
    owner = torch.cat([torch.full((len(s),), k) for k, s in enumerate(saved)])
    best = torch.cat(saved).cpu().sort(descending=True, stable=True)
    served = best.indices[: checks.units(width, "width")]
    served = served[best.values[: len(served)] > 0]
    return torch.bincount(owner[served], minlength=len(saved)).tolist()


def copies_to_store(
    images: Tensor, clusters: Sequence[Tensor], width: int, sigma: float, lam: float, most: int = 10**6
) -> list[int | None]:
    """The fewest copies at which each image gets a column of its own, all images [m, d] being copied alike (Cor 3.4).

    Beside the `clusters`, image i with c copies is a cluster with the one direction L = c |x_i|^2, and n counts copies.
    It is stored when what it saves is positive and among the `width` largest savings. None: not with `most` copies.
    """
    sigma, lam = checks.levels(sigma, lam)
    clusters, width = checks.clusters(clusters), checks.units(width, "width")
    energies = checks.samples(images).square().sum(1)  # [m]
    spectra = [(_spectrum(x), len(x)) for x in clusters]
    n = sum(map(len, clusters))

    def stored(i: int, copies: int) -> bool:
        total = n + copies * len(energies)
        own = _saving(copies * energies, copies, total, sigma, lam)
        rivals = [own] + [_saving(values, count, total, sigma, lam) for values, count in spectra]
        return bool(own[i] > 0) and sum(int((r > own[i]).sum()) for r in rivals) < width

    # with more copies an image never falls behind a cluster, and images keep their order: bisection is exact
    copies = range(1, most + 1)
    fewest = [bisect.bisect_left(copies, True, key=partial(stored, i)) for i in range(len(energies))]
    return [copies[at] if at < most else None for at in fewest]


def _saving(values: Tensor, count: int, n: int, sigma: float, lam: float) -> Tensor:
    return (values - n * lam).clamp(min=0).square() / (n * (values + count * sigma**2))


def _spectrum(x: Tensor) -> Tensor:
    return torch.linalg.svdvals(x).square()  # L, descending [min(n_k, d)]
