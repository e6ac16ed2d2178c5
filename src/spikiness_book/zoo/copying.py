"""What the chapters on copied images share: samples, which of them copy a training image, where a curve crosses."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import measures, sampling
from spikiness.errors import SpikinessError
from spikiness_book.zoo import models

INSIDE, EARLIER, LATER = "inside", "at or before", "after"  # where a crossing lies: x is it, or a bound of it


def draw(denoiser: Callable, shape: Sequence[int], count: int, seed: int) -> Tensor:
    """`count` samples [count, *shape] of a denoiser: the same ones for the same `seed`, and a first part of more."""
    return sampling.sample(denoiser, shape, models.initial_seeds(count, seed))


def table(samples: Tensor, distinct: Tensor) -> pd.DataFrame:
    """One row per sample: its nearest image of `distinct`, the ratio d1 / d2, and whether it is memorized."""
    found = measures.memorization(samples, distinct)
    return pd.DataFrame(
        {
            "sample": range(len(samples)),
            "nearest": found.nearest.numpy(),
            "ratio": found.ratio.numpy(),
            "memorized": found.mask.numpy(),
        }
    )


def rate(hits: Sequence[bool], groups: Sequence | None = None) -> tuple[float, tuple[float, float]]:
    """Share of hits [N] and its 95 % interval: Wilson's, or of a bootstrap by whole `groups` [N].

    A bootstrap that sees no error (a share of 0 or 1, or one group) gives way to Wilson's for as many trials as groups.
    """
    hits = np.asarray(hits, dtype=float)
    if not len(hits):
        raise SpikinessError("a share of no samples at all: draw more samples")
    share = float(hits.mean())
    if groups is None:
        return share, measures.wilson(int(hits.sum()), len(hits))
    trials = len(np.unique(groups))
    if trials == 1 or share in (0.0, 1.0):
        return share, measures.wilson(round(share * trials), trials)
    return share, measures.bootstrap(hits, groups=groups)


def crossing(x: Sequence[float], y: Sequence[float], level: float = 0.5) -> tuple[float, str]:
    """Where a curve first reaches `level` from below, between its points by a straight line over log x.

    x: ascending, above 0. Also where that is: INSIDE, or the first or last x as a bound (EARLIER, LATER).
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not len(x) or (x <= 0).any() or (np.diff(x) <= 0).any():
        raise SpikinessError(f"x is {x.tolist()[:5]}: a crossing needs positive values in rising order")
    above = np.flatnonzero(y >= level)
    if not len(above):
        return float(x[-1]), LATER
    first = int(above[0])
    if first == 0:
        return float(x[0]), EARLIER
    share = (level - y[first - 1]) / (y[first] - y[first - 1])
    return float(np.exp(np.log(x[first - 1]) + share * np.log(x[first] / x[first - 1]))), INSIDE


def grouped_means(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different keys in rising order and the mean value of each."""
    kinds, label = np.unique(keys, return_inverse=True)
    return kinds, np.bincount(label, values) / np.bincount(label)


def crossing_interval(
    keys: np.ndarray, hits: np.ndarray, groups: np.ndarray | None = None, draws: int = 1000
) -> tuple[float, tuple[float, float], str]:
    """Key at which the mean of hits [N] by `keys` [N] reaches 1/2, its bootstrap interval, and where it is."""
    pairs = np.column_stack([keys, hits]).astype(float)
    value, where = crossing(*grouped_means(pairs[:, 0], pairs[:, 1]))
    low, high = measures.bootstrap(
        pairs, lambda p: crossing(*grouped_means(p[:, 0], p[:, 1]))[0], groups=groups, draws=draws
    )
    return value, (min(low, value), max(high, value)), where


def transition(
    pool: Tensor, sizes: Sequence[int], width: int, seeds: Sequence[int], images_seen: int, patch: int = 1
) -> dict[tuple[int, int], tuple[Tensor, list]]:
    """Networks on n images seen once each, by (n, seed): their images and the denoisers at all stages of training.

    Those of the chapter on the transition: the first seed sees the first n of `models.chunk`, the next the next n.
    """
    found = {}
    for n in sizes:
        for seed in seeds:
            x = pool[models.chunk(pool, n, seed - min(seeds))]
            found[n, seed] = x, models.model(x, width, seed, images_seen, **options(pool, patch))
    return found


def options(pool: Tensor, patch: int) -> dict:
    """What every chapter passes to `models.model` beside its images, so that all find the same networks."""
    found: dict = {"sigma_data": float(pool.std())}
    return found if patch == 1 else {**found, "options": {"patch": patch}}


def in_set(images: Tensor, others: Tensor) -> Tensor:
    """Which of images [N, ...] are, to the bit, among others [m, ...]."""
    known = {row.numpy().tobytes() for row in others.contiguous()}
    return torch.tensor([row.numpy().tobytes() in known for row in images.contiguous()], dtype=torch.bool)


def over_networks(shares: pd.DataFrame) -> tuple[float, tuple[float, float]]:
    """Mean of `share` over networks, with the lowest `low` and the highest `high` of any of them: the spread."""
    return float(shares.share.mean()), (float(shares.low.min()), float(shares.high.max()))


def pictures(x: Tensor) -> np.ndarray:
    """Images x [N, C, H, W] as a figure shows them: [N, H, W], colors as [N, H, W, 3] from 0 to 1."""
    return x[:, 0].numpy() if x.shape[1] == 1 else ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
