"""Spiky or balanced: the representations of memorizing and of generalizing ReLU-DAEs, compared (Figure 4)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from spikiness import images, theory
from spikiness_book import two_layers
from spikiness_book.two_layers import FRESH, GENERALIZED, MEMORIZED, NORM, RANK, Pair, evaluations, measured

DIM, SCALE = 100, 0.55  # the mixture: dimension, and standard deviation in the first direction of a mode
NOISE_SEEDS = 3  # the noise levels are compared on the first seeds only: kept small because two cores


def gaussians(modes: int, n: int, seed: int) -> Tensor:
    """n samples [n, DIM] of `modes` Gaussians with means of most negative cosines, each with RANK directions."""
    means = images.simplex_means(modes, DIM, NORM, seed)
    factors = images.random_factors(modes, DIM, RANK, SCALE, seed, means=means)
    return two_layers.Mixture(means.float(), factors.float()).draw(n, seed)[0]


def plan(
    pool: Tensor, width: int, n_small: int, n_mixture: int, n_large: int, networks: int, modes: int,
    sigma: float, sigmas: Sequence[float], decay_small: float, decay_large: float, seeds: Sequence[int],
) -> list[Pair]:  # fmt: skip
    """All pairs of the chapter: images and mixture; both again at equal lambda; images at all noise levels.

    decay_small, decay_large: lambda over d of memorizing and of generalizing networks, .005 and .00005 in the paper.
    """
    settings = {"width": width, "sigma": sigma, "decays": (decay_small, decay_large)}
    pairs = []
    for seed in seeds:
        samples = gaussians(modes, n_mixture * networks + n_large + FRESH, seed)
        for data, x, n in (("images", pool, n_small), ("mixture", samples, n_mixture)):
            main = two_layers.pair(data, x, n, networks, n_large, seed=seed, **settings)
            one, many = main.memorizing[0], main.generalizing  # the side questions are asked of one memorizing network
            equal = replace(one, lam=many.lam)
            pairs += [main, replace(main, question="equal penalty", memorizing=(equal,))]
            if data == "images" and seed in seeds[:NOISE_SEEDS]:
                pairs += [
                    Pair(data, "noise", (replace(one, sigma=s),), replace(many, sigma=s), main.fresh) for s in sigmas
                ]
    return pairs


def own_data(pair: Pair, draws: int) -> pd.DataFrame:
    """Each network on its own training samples: `draws` noisy versions of the few, one of each of the many."""
    settings = {"sigma": pair.sigma, "seed": pair.seed, "data": pair.data, "model": pair.seed}
    few = [
        measured(problem.network, problem.x, draws=draws, first=1000 * i, regime=MEMORIZED, **settings)
        for i, problem in enumerate(pair.memorizing)
    ]
    many = pair.generalizing
    return pd.concat([*few, measured(many.network, many.x, draws=1, regime=GENERALIZED, **settings)], ignore_index=True)


def same_inputs(pair: Pair, draws: int, which: str) -> pd.DataFrame:
    """The same noisy inputs through both networks: the memorizing one's training images, or `fresh` ones."""
    rows = []
    for i, stored in enumerate(pair.memorizing):
        x, times, first = (stored.x, draws, 1000 * i) if which == "stored" else (pair.fresh, 1, 0)
        for regime, problem in ((MEMORIZED, stored), (GENERALIZED, pair.generalizing)):
            labels = {"regime": regime, "data": pair.data, "model": pair.seed}
            rows.append(measured(problem.network, x, pair.sigma, pair.seed, times, first, **labels))
    return pd.concat(rows, ignore_index=True)


def collect(pairs: Sequence[Pair], rows: Callable[..., pd.DataFrame], *args: object) -> pd.DataFrame:
    """`rows(pair, *args)` of all pairs, one below the other."""
    return pd.concat([rows(pair, *args) for pair in pairs], ignore_index=True)


def comparisons(pairs: Sequence[Pair], draws: int, resamples: int) -> pd.DataFrame:
    """`evaluations` of images and mixture: on own data, at equal lambda, the same inputs through both networks."""
    tables = []
    for data in ("images", "mixture"):
        main, equal = ([p for p in pairs if (p.data, p.question) == (data, q)] for q in ("main", "equal penalty"))
        kinds = {
            "own data": collect(main, own_data, draws),
            "own data, equal penalty": collect(equal, own_data, draws),
            "stored samples, both": collect(main, same_inputs, draws, "stored"),
            "unseen samples, both": collect(main, same_inputs, draws, "fresh"),
        }
        tables += [evaluations(rows, resamples, data=data, comparison=name) for name, rows in kinds.items()]
    return pd.concat(tables, ignore_index=True)


def noise_levels(pairs: Sequence[Pair], draws: int, resamples: int, names: Sequence[str]) -> pd.DataFrame:
    """`evaluations` of the images at each noise level, every network on its own data."""
    levels = sorted({p.sigma for p in pairs if p.question == "noise"})
    rows = {s: collect([p for p in pairs if p.question == "noise" and p.sigma == s], own_data, draws) for s in levels}
    return pd.concat([evaluations(r, resamples, names, sigma=s) for s, r in rows.items()], ignore_index=True)


def training_lengths(
    pairs: Sequence[Pair], lengths: Sequence[int], draws: int, resamples: int, names: Sequence[str]
) -> pd.DataFrame:
    """`evaluations` on own data after each number of steps: first seeds, one memorizing network each.

    `pairs` were trained for the last of `lengths`; shorter trainings start anew, each with a schedule of its own.
    """
    seeds = sorted({p.seed for p in pairs})[:NOISE_SEEDS]
    main = [p for p in pairs if p.question == "main" and p.seed in seeds]
    main = [replace(p, memorizing=p.memorizing[:1]) for p in main]
    tables = []
    for steps in lengths:
        trained = main if steps == lengths[-1] else two_layers.train_pairs(main, steps)
        for data in ("images", "mixture"):
            rows = collect([p for p in trained if p.data == data], own_data, draws)
            tables.append(evaluations(rows, resamples, names, data=data, steps=steps))
    return pd.concat(tables, ignore_index=True)


def identity_error(rows: pd.DataFrame) -> float:
    """Largest error of `Std^2 = |h|^2 / p - mean(h)^2`, relative to |h|^2 / p, over all rows with h not zero."""
    square = rows.norm**2 / rows.units
    return float((((rows["std"] ** 2 - (square - rows["mean"] ** 2)).abs() / square)[square > 0]).max())


def size_share(rows: pd.DataFrame) -> float:
    """How much of the variance of log Std is that of log |h|: squared correlation over the rows of one regime."""
    return float(np.corrcoef(np.log(rows["std"]), np.log(rows["norm"]))[0, 1] ** 2)


def typical(pair: Pair, regime: str) -> np.ndarray:
    """h [p], largest first, of the noisy training sample whose Std/|h| is the median of its network's."""
    problem = pair.memorizing[0] if regime == MEMORIZED else pair.generalizing
    return two_layers.typical(problem.network, problem.x, pair.sigma, pair.seed)


def closeness(pairs: Sequence[Pair]) -> float:
    """Mean over the memorizing networks of beta, the largest cosine of two of their training samples (Def 3.1)."""
    problems = [problem for pair in pairs for problem in pair.memorizing]
    return float(np.mean([theory.separability(problem.clusters)[1] for problem in problems]))


def thinned(rows: pd.DataFrame, most: int = 300) -> pd.DataFrame:
    """Up to `most` rows of each data and regime, evenly spaced: what a scatter can show."""
    groups = [part.iloc[:: max(1, len(part) // most)].head(most) for _, part in rows.groupby(["data", "regime"])]
    return pd.concat(groups, ignore_index=True)
