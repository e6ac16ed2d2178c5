"""Spiky or balanced: the representations of memorizing and of generalizing ReLU-DAEs, compared (Figure 4)."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import detection, images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.engine.cache import cached

SIGN = {"participation_ratio": -1.0}  # of the measures this one is low where h is spiky; scores are high there
MEMORIZED, GENERALIZED = "memorized", "generalized"
DIM, RANK, NORM, SCALE = 100, 5, 6.0, 0.55  # the mixture: dimension, directions per mode, length of means, spread
FRESH = 200  # samples that neither network has seen
NOISE_SEEDS = 3  # the noise levels are compared on the first seeds only: kept small because two cores
BATCH = {MEMORIZED: 16, GENERALIZED: 128}  # small where images are few: noise then merges copies of a column


@dataclass(frozen=True)
class Pair:
    """One seed: memorizing networks of a few samples each, a generalizing one of many others, and unseen samples."""

    data: str  # "images" or "mixture"
    question: str  # "main", "equal penalty" or "noise"
    seed: int
    sigma: float
    lam_small: float  # lambda of the memorizing networks, and of the generalizing one
    lam_large: float
    small: tuple[Tensor, ...]  # [n_small, d] each
    large: Tensor  # [n_large, d]
    fresh: Tensor  # [up to FRESH, d]
    memorizing: tuple[ReLUDAE, ...] = ()
    generalizing: ReLUDAE | None = None

    @property
    def members(self) -> list[tuple[str, Tensor, float, int]]:
        """Regime, data, lambda and seed of each of its networks, the generalizing one last."""
        few = [(MEMORIZED, x, self.lam_small, 1000 * self.seed + i) for i, x in enumerate(self.small)]
        return [*few, (GENERALIZED, self.large, self.lam_large, 1000 * self.seed + 999)]


def split(pool: Tensor, n_small: int, networks: int, n_large: int, seed: int) -> dict[str, object]:
    """Disjoint samples of pool [N, ...] at random: small sets, a large one, and up to FRESH others (at least 2)."""
    flat, few = pool.flatten(1), n_small * networks
    order = images.subset(torch.arange(len(flat)), len(flat), seed)
    images.subset(order, few + n_large + 2, seed, "samples for the small sets, the large one and two unseen")
    small = tuple(flat[order[i : i + n_small]] for i in range(0, few, n_small))
    rest = order[few + n_large :][:FRESH]
    return {"small": small, "large": flat[order[few : few + n_large]], "fresh": flat[rest]}


def gaussians(modes: int, n: int, seed: int) -> Tensor:
    """n samples [n, DIM] of `modes` Gaussians with means of most negative cosines, each with RANK directions."""
    means = images.simplex_means(modes, DIM, NORM, seed)
    factors = images.random_factors(modes, DIM, RANK, SCALE, seed, means=means)
    return images.mixture(means.float(), list(factors.float()), [1 / modes] * modes, n, seed)[0]


def plan(
    pool: Tensor,
    n_small: int,
    n_mixture: int,
    n_large: int,
    networks: int,
    modes: int,
    sigma: float,
    sigmas: Sequence[float],
    decay_small: float,
    decay_large: float,
    seeds: Sequence[int],
) -> list[Pair]:
    """All pairs of the chapter: images and mixture; both again at equal lambda; images at all noise levels.

    decay_small, decay_large: lambda over d of memorizing and of generalizing networks, .005 and .00005 in the paper.
    """
    pairs = []
    for seed in seeds:
        drawn = gaussians(modes, n_mixture * networks + n_large + FRESH, seed)
        for data, x, n in (("images", pool, n_small), ("mixture", drawn, n_mixture)):
            samples = split(x, n, networks, n_large, seed)
            small, large = (decay * samples["large"].shape[1] for decay in (decay_small, decay_large))
            pair = Pair(data, "main", seed, sigma, small, large, **samples)
            one = replace(pair, small=pair.small[:1])  # the side questions are asked of one memorizing network
            pairs += [pair, replace(one, question="equal penalty", lam_small=large)]
            if data == "images" and seed in seeds[:NOISE_SEEDS]:
                pairs += [replace(one, question="noise", sigma=s) for s in sigmas]
    return pairs


def train(pairs: Sequence[Pair], width: int, steps: int) -> list[Pair]:
    """The pairs with their networks: one batched training per regime and dimension, networks that pairs share once."""
    jobs: dict[tuple, tuple[str, Member]] = {}
    for pair in pairs:
        for regime, x, lam, seed in pair.members:
            jobs[_key(regime, x, pair.sigma, lam)] = regime, Member(x, width, pair.sigma, lam, seed)
    networks: dict[tuple, ReLUDAE] = {}
    for group in sorted({(regime, member.x.shape[1]) for regime, member in jobs.values()}):
        mine = {key: m for key, (regime, m) in jobs.items() if (regime, m.x.shape[1]) == group}
        fitted = cached(fit_ensemble, list(mine.values()), batch=BATCH[group[0]], steps=steps)
        networks |= dict(zip(mine, fitted, strict=True))
    return [_with_networks(pair, networks) for pair in pairs]


def _key(regime: str, x: Tensor, sigma: float, lam: float) -> tuple:
    return regime, x.data_ptr(), len(x), sigma, lam


def _with_networks(pair: Pair, networks: dict[tuple, ReLUDAE]) -> Pair:
    *few, large = (networks[_key(regime, x, pair.sigma, lam)] for regime, x, lam, _ in pair.members)
    return replace(pair, memorizing=tuple(few), generalizing=large)


def noisy(x: Tensor, sigma: float, draws: int, seed: int) -> Tensor:
    """`draws` noisy versions [n * draws, d] of each of x [n, d], image by image; noise belongs to image and seed."""
    streams = (torch.Generator().manual_seed((seed << 24) + i) for i in range(len(x)))
    noise = torch.cat([torch.randn(draws, x.shape[1], generator=g, dtype=x.dtype) for g in streams])
    return x.repeat_interleave(draws, dim=0) + sigma * noise


def represent(
    network: ReLUDAE, x: Tensor, sigma: float, draws: int, seed: int, first: int = 0, **labels: object
) -> pd.DataFrame:
    """One row per noisy version of x [n, d]: all measures of h, |h|, mean of h, |x|, and the image's number."""
    h = network.encode(noisy(x, sigma, draws, seed)).detach().double()  # [n * draws, p]
    values = {name: measure(h).numpy() for name, measure in measures.MEASURES.items()}
    sizes = {"norm": h.norm(dim=1), "mean": h.mean(dim=1), "units": torch.full((len(h),), h.shape[1])}
    input_size = x.norm(dim=1).repeat_interleave(draws).double()
    image = first + np.repeat(np.arange(len(x)), draws)
    return pd.DataFrame({**values, **sizes, "input": input_size, "image": image}).assign(**labels)


def own_data(pair: Pair, draws: int) -> pd.DataFrame:
    """Each network on its own training samples: `draws` noisy versions of the few, one of each of the many."""
    settings = {"sigma": pair.sigma, "seed": pair.seed}
    labels = {"data": pair.data, "model": pair.seed}
    few = [
        represent(net, x, draws=draws, first=1000 * i, regime=MEMORIZED, **settings, **labels)
        for i, (net, x) in enumerate(zip(pair.memorizing, pair.small, strict=True))
    ]
    many = represent(pair.generalizing, pair.large, draws=1, regime=GENERALIZED, **settings, **labels)
    return pd.concat([*few, many], ignore_index=True)


def same_inputs(pair: Pair, draws: int, which: str) -> pd.DataFrame:
    """The same noisy inputs through both networks: the memorizing one's training images, or `fresh` ones."""
    rows = []
    for i, (net, own) in enumerate(zip(pair.memorizing, pair.small, strict=True)):
        x, times, first = (own, draws, 1000 * i) if which == "stored" else (pair.fresh, 1, 0)
        for regime, network in ((MEMORIZED, net), (GENERALIZED, pair.generalizing)):
            labels = {"regime": regime, "data": pair.data, "model": pair.seed}
            rows.append(represent(network, x, pair.sigma, times, pair.seed, first, **labels))
    return pd.concat(rows, ignore_index=True)


def evaluations(
    rows: pd.DataFrame, resamples: int, names: Sequence[str] = tuple(measures.MEASURES), **labels: object
) -> pd.DataFrame:
    """AUROC and TPR at 1 % FPR of measures, 1 where memorized means spikier, with intervals over seeds and images."""
    few, many = (rows[rows.regime == regime] for regime in (MEMORIZED, GENERALIZED))
    several = rows.model.nunique() > 1
    found = []
    for name in names:
        sign = SIGN.get(name, 1.0)
        e = detection.evaluate(
            sign * few[name].to_numpy(),
            sign * many[name].to_numpy(),
            groups=(few.image.to_numpy(), many.image.to_numpy()),
            seeds=(few.model.to_numpy(), many.model.to_numpy()) if several else None,
            draws=resamples,
        )
        row = {"measure": name, "auroc": e.auroc, "low": e.auroc_interval[0], "high": e.auroc_interval[1]}
        row |= {"tpr": e.tpr, "tpr_low": e.tpr_interval[0], "tpr_high": e.tpr_interval[1]}
        found.append({**row, "fpr": e.fpr, "memorized": e.memorized, "generalized": e.generalized})
    typical = {"units": "participation_ratio", "norm": "norm"}
    medians = {
        f"{k}_{r}": v[name].median() for r, v in ((MEMORIZED, few), (GENERALIZED, many)) for k, name in typical.items()
    }
    return pd.DataFrame(found).assign(**medians, **labels)


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
    pairs: Sequence[Pair], width: int, lengths: Sequence[int], draws: int, resamples: int, names: Sequence[str]
) -> pd.DataFrame:
    """`evaluations` on own data after each number of steps: first seeds, one memorizing network each.

    `pairs` were trained for the last of `lengths`; shorter trainings start anew, each with a schedule of its own.
    """
    seeds = sorted({p.seed for p in pairs})[:NOISE_SEEDS]
    last = [p for p in pairs if p.question == "main" and p.seed in seeds]
    last = [replace(p, small=p.small[:1], memorizing=p.memorizing[:1]) for p in last]
    tables = []
    for steps in lengths:
        now = last if steps == lengths[-1] else train(last, width, steps)
        for data in ("images", "mixture"):
            rows = collect([p for p in now if p.data == data], own_data, draws)
            tables.append(evaluations(rows, resamples, names, data=data, steps=steps))
    return pd.concat(tables, ignore_index=True)


def identity_error(rows: pd.DataFrame) -> float:
    """Largest error of `Std^2 = |h|^2 / p - mean(h)^2`, relative to |h|^2 / p, over all rows with h not zero."""
    square = rows.norm**2 / rows.units
    return float((((rows["std"] ** 2 - (square - rows["mean"] ** 2)).abs() / square)[square > 0]).max())


def histogram(rows: pd.DataFrame, names: Sequence[str], bins: int = 60) -> pd.DataFrame:
    """Share of the samples of each regime in each bin, per data and measure: long form."""
    found = []
    for data, name in itertools.product(rows.data.unique(), names):
        part = rows[rows.data == data]
        edges = np.histogram_bin_edges(part[name], bins)
        for regime, mine in part.groupby("regime"):
            share = np.histogram(mine[name], edges)[0] / len(mine)
            frame = pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": share})
            found.append(frame.assign(data=data, measure=name, regime=regime))
    return pd.concat(found, ignore_index=True)


def size_share(rows: pd.DataFrame) -> float:
    """How much of the variance of log Std is that of log |h|: squared correlation over the rows of one regime."""
    return float(np.corrcoef(np.log(rows["std"]), np.log(rows["norm"]))[0, 1] ** 2)


def typical(pair: Pair, regime: str) -> np.ndarray:
    """h [p], largest first, of the noisy training sample whose Std/|h| is the median of its network's."""
    network, x = (pair.memorizing[0], pair.small[0]) if regime == MEMORIZED else (pair.generalizing, pair.large)
    h = network.encode(noisy(x, pair.sigma, 1, pair.seed)).detach()
    order = measures.std_over_norm(h).argsort()
    return h[order[len(order) // 2]].sort(descending=True).values.numpy()


def closeness(pairs: Sequence[Pair]) -> float:
    """Mean over the memorizing networks of beta, the largest cosine of two of their training samples (Def 3.1)."""
    return float(np.mean([theory.separability([x[None] for x in few])[1] for pair in pairs for few in pair.small]))


def thinned(rows: pd.DataFrame, most: int = 300) -> pd.DataFrame:
    """Up to `most` rows of each data and regime, evenly spaced: what a scatter can show."""
    groups = [part.iloc[:: max(1, len(part) // most)].head(most) for _, part in rows.groupby(["data", "regime"])]
    return pd.concat(groups, ignore_index=True)


def record_cases(run: Any, table: pd.DataFrame, case: dict[str, object], ending: str, seeds: Sequence[int]) -> None:
    """AUROC of Std and Std/|h| of the rows of `table` where the columns of `case` have its values, as metrics."""
    chosen = table[np.logical_and.reduce([table[column] == value for column, value in case.items()])]
    for row in chosen.itertuples():
        name = {"std": "std_auroc", "std_over_norm": "relative_std_auroc"}[row.measure] + ending
        run.metric(name, row.auroc, (row.low, row.high), n=int(row.memorized), seeds=seeds, tolerance=0.15)


def record(run: Any, table: pd.DataFrame, kinds: dict[tuple[str, str], str], seeds: Sequence[int]) -> None:
    """AUROC and TPR of Std and Std/|h| as metrics `PREFIXstd_auroc`, `PREFIXrelative_std_tpr`, ... of each kind."""
    for (data, comparison), prefix in kinds.items():
        part = table[(table.data == data) & (table.comparison == comparison)].set_index("measure")
        for measure, name in (("std", "std"), ("std_over_norm", "relative_std")):
            row = part.loc[measure]
            n = int(row.memorized)
            run.metric(f"{prefix}{name}_auroc", row.auroc, (row.low, row.high), n=n, seeds=seeds, tolerance=0.05)
            run.metric(f"{prefix}{name}_tpr", row.tpr, (row.tpr_low, row.tpr_high), n=n, seeds=seeds, tolerance=0.2)
