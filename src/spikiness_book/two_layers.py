"""Two-layer networks with their data: what the chapters on them plan, train and measure in the same way.

Shapes: n training samples, d values each, p units, K clusters of n_k samples.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import denoisers, detection, images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.engine.cache import cached

MEMORIZING, GENERALIZING = "memorizing", "generalizing"  # regimes of a network
MEMORIZED, GENERALIZED = "memorized", "generalized"  # samples, by the regime of the network that represents them
BATCH = {MEMORIZING: 16, GENERALIZING: 128}  # small where samples are few: the noise merges equal columns
STORES = 0.95  # a column stores an image from this cosine on; unrelated digits reach about .6
NORM, RANK = 6.0, 5  # mixtures: length of the means, and strong directions in which each mode scatters
LOW_WHERE_SPIKY = ("participation_ratio",)  # all other measures are high there
FRESH = 200  # samples that neither network of a pair has seen

Item = TypeVar("Item")


# ---- a network and what it learns


@dataclass(frozen=True)
class Problem:
    """What one network learns, objective (6) on its samples, and the network itself once trained."""

    clusters: Sequence[Tensor]  # K of [n_k, d]
    width: int  # units p
    sigma: float  # noise level, in data units
    lam: float
    seed: int  # of the data, and of the network's start where `start` is not given
    group: str = ""  # the chapter's name for problems of this kind
    tied: bool = True
    start: int | None = None
    blocks: Sequence[int] | None = None  # units p_k of the prediction; None: what each cluster's directions deserve
    network: ReLUDAE | None = None

    @property
    def x(self) -> Tensor:
        """All training samples [n, d]."""
        return self.clusters[0] if len(self.clusters) == 1 else torch.cat(list(self.clusters))

    @property
    def n(self) -> int:
        """Number of training samples."""
        return sum(map(len, self.clusters))

    @property
    def widths(self) -> list[int]:
        """Units p_k [K] of Theorem 3.1; where there are too few, by a heuristic."""
        if self.blocks is not None:
            return list(self.blocks)
        return theory.rank_directions(self.clusters, self.width, self.sigma, self.lam)

    @property
    def theorem(self) -> tuple[Sequence[Tensor], list[int], float, float]:
        """Clusters, widths, sigma and lambda: what the formulas of Theorem 3.1 are called with."""
        return self.clusters, self.widths, self.sigma, self.lam

    def member(self, x: Tensor) -> Member:
        """The same as one network of an ensemble; its samples x are given, since members may share them."""
        return Member(x, self.width, self.sigma, self.lam, self.seed if self.start is None else self.start)


Kind = TypeVar("Kind", bound=Problem)


def train(
    problems: Sequence[Kind],
    batch: int | Callable[[Kind], int],
    steps: int,
    together: Callable[[Kind], Hashable] = lambda problem: None,
) -> list[Kind]:
    """The problems with their networks, in their order; what the cache holds is not trained again.

    Trained side by side are those that agree in batch size, dimension, tied weights and `together(problem)`; equal
    problems share one network.
    """

    def ensemble(problem: Kind) -> Hashable:
        size = batch if isinstance(batch, int) else batch(problem)
        return size, problem.clusters[0].shape[1], problem.tied, together(problem)

    def identity(problem: Kind) -> Hashable:
        return id(problem.clusters), problem.width, problem.sigma, problem.lam, problem.seed, problem.start

    learned = {id(problem.clusters): problem for problem in problems}
    samples = {key: problem.x for key, problem in learned.items()}  # one tensor for all that learn the same
    networks: dict[Hashable, ReLUDAE] = {}
    for key, group in grouped(problems, ensemble).items():
        distinct = {identity(problem): problem for problem in group}
        members = [problem.member(samples[id(problem.clusters)]) for problem in distinct.values()]
        trained = cached(fit_ensemble, members, tied=key[2], batch=key[0], steps=steps)
        networks |= {(key, name): network for name, network in zip(distinct, trained, strict=True)}
    return [replace(problem, network=networks[ensemble(problem), identity(problem)]) for problem in problems]


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> dict[Hashable, list[Item]]:
    """The items by their key, in the order in which keys first occur."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


# ---- data


def centered(pool: Tensor) -> Tensor:
    """Images [N, ...] as vectors [N, d], minus their mean."""
    return images.center(pool.flatten(1))[0]


def each_alone(x: Tensor) -> tuple[Tensor, ...]:
    """Samples x [n, d] as n clusters [1, d]."""
    return tuple(x[:, None])


def by_class(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The samples of x [N, d] of each label in y [N], as clusters."""
    return tuple(x[y == label] for label in y.unique())


def separable_images(pool: Tensor, n: int, seed: int) -> tuple[Tensor, ...]:
    """n images of pool [N, ...], centered by its mean, with pairwise negative cosines: n clusters [1, d]."""
    x = centered(pool)
    return each_alone(x[theory.separable_subset(x, n, seed)])


@dataclass(frozen=True)
class Mixture:
    """A mixture of equally likely Gaussians of which everything is known."""

    means: Tensor  # [K, d]
    factors: Tensor  # [K, d, r], Sigma_k = F_k F_k^T

    @property
    def weights(self) -> list[float]:
        """Shares of the modes [K]."""
        return [1 / len(self.means)] * len(self.means)

    @property
    def truth(self) -> denoisers.Mixture:
        """The best denoiser, f_gt."""
        return denoisers.Mixture.from_factors(self.means, list(self.factors), self.weights)

    @property
    def moments(self) -> Tensor:
        """Second moments of the modes [K, d, d]."""
        return theory.second_moments(self.means.double(), (self.factors @ self.factors.mT).double())

    def mode(self, k: int) -> "Mixture":
        """Mode k alone."""
        return Mixture(self.means[k : k + 1], self.factors[k : k + 1])

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n samples [n, d] and their modes [n]."""
        return images.mixture(self.means, list(self.factors), self.weights, n, seed)

    def halves(self, n: int, seed: int) -> list[tuple[Tensor, ...]]:
        """n samples as clusters, one per mode, and n others."""
        x, label = self.draw(2 * n, seed)
        return [tuple(x[i : i + n][label[i : i + n] == k] for k in range(len(self.means))) for i in (0, n)]


def mixture_with_tail(seed: int, modes: int = 3, spread: float = 0.5, dim: int = 40, tail: float = 0.03) -> Mixture:
    """Means with the most negative cosines possible, and RANK strong directions orthogonal to them.

    `spread` is the standard deviation along the strongest of these; `tail` that of a little variance everywhere, which
    the penalty drops in the limit and which small training sets mistake for structure.
    """
    means = images.simplex_means(modes, dim, NORM, seed)
    strong = images.random_factors(modes, dim, RANK, spread, seed, decay=0, means=means)
    strong = strong * torch.linspace(1, 0.4, RANK, dtype=strong.dtype)
    everywhere = tail * torch.eye(dim, dtype=strong.dtype).expand(modes, -1, -1)
    return Mixture(means.float(), torch.cat([strong, everywhere], dim=2).float())


# ---- memorizing networks beside a generalizing one


@dataclass(frozen=True)
class Pair:
    """Memorizing networks of a few samples each, a generalizing one of many others, and samples that none has seen."""

    data: str
    question: str
    memorizing: tuple[Problem, ...]
    generalizing: Problem
    fresh: Tensor  # [up to FRESH, d]

    @property
    def seed(self) -> int:
        """The seed of the samples."""
        return self.generalizing.seed

    @property
    def sigma(self) -> float:
        """The noise level of all its networks."""
        return self.generalizing.sigma


def pair(
    data: str, pool: Tensor, n_small: int, networks: int, n_large: int, *,
    width: int, sigma: float, decays: tuple[float, float], seed: int, question: str = "main",
) -> Pair:  # fmt: skip
    """A pair on disjoint random samples of pool [N, ...]: `networks` small sets, a large one, at least two fresh ones.

    `decays` are lambda over d of the memorizing and of the generalizing networks. Raises `SpikinessError` where the
    pool has too few samples.
    """
    flat, stored = pool.flatten(1), n_small * networks
    order = images.subset(torch.arange(len(flat)), len(flat), seed)
    images.subset(order, stored + n_large + 2, seed, "samples for the small sets, the large one and two unseen")
    small, large = (decay * flat.shape[1] for decay in decays)
    memorizing = tuple(
        Problem(each_alone(flat[order[i * n_small : (i + 1) * n_small]]), width, sigma, small, seed, MEMORIZING,
                start=1000 * seed + i)
        for i in range(networks)
    )  # fmt: skip
    many = flat[order[stored : stored + n_large]]
    generalizing = Problem((many,), width, sigma, large, seed, GENERALIZING, start=1000 * seed + 999)
    return Pair(data, question, memorizing, generalizing, flat[order[stored + n_large :][:FRESH]])


def train_pairs(pairs: Sequence[Pair], steps: int) -> list[Pair]:
    """The pairs with their networks: one batched training per regime and dimension, networks that pairs share once."""
    problems = [problem for one in pairs for problem in (*one.memorizing, one.generalizing)]
    trained = iter(train(problems, lambda problem: BATCH[problem.group], steps))
    return [
        replace(one, memorizing=tuple(next(trained) for _ in one.memorizing), generalizing=next(trained))
        for one in pairs
    ]


# ---- representations


def noisy(x: Tensor, sigma: float, seed: int, draws: int | None = None) -> Tensor:
    """x [n, d] plus noise N(0, sigma^2), or `draws` noisy versions of each sample, [n * draws, d], sample by sample.

    Without `draws` all noise is of one stream, and depends on n; with them it belongs to the sample and the seed.
    """
    if draws is None:
        return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    streams = (torch.Generator().manual_seed((seed << 24) + i) for i in range(len(x)))
    noise = torch.cat([torch.randn(draws, x.shape[1], generator=g, dtype=x.dtype) for g in streams])
    return x.repeat_interleave(draws, dim=0) + sigma * noise


def represent(network: ReLUDAE, x: Tensor, sigma: float, seed: int, draws: int | None = None) -> Tensor:
    """The representations h of `noisy` samples [n or n * draws, p]."""
    return network.encode(noisy(x, sigma, seed, draws)).detach()


def measured(
    network: ReLUDAE, x: Tensor, sigma: float, seed: int, draws: int, first: int = 0, **labels: object
) -> pd.DataFrame:
    """One row per noisy version of x [n, d]: all measures of h, |h|, mean of h, |x|, and the image's number."""
    h = represent(network, x, sigma, seed, draws).double()  # [n * draws, p]
    values = {name: measure(h).numpy() for name, measure in measures.MEASURES.items()}
    sizes = {"norm": h.norm(dim=1), "mean": h.mean(dim=1), "units": torch.full((len(h),), h.shape[1])}
    input_size = x.norm(dim=1).repeat_interleave(draws).double()
    image = first + np.repeat(np.arange(len(x)), draws)
    return pd.DataFrame({**values, **sizes, "input": input_size, "image": image}).assign(**labels)


def typical(network: ReLUDAE, x: Tensor, sigma: float, seed: int) -> np.ndarray:
    """h [p], largest first, of the noisy sample of x [n, d] whose Std/|h| is the median."""
    h = represent(network, x, sigma, seed, draws=1)
    order = measures.std_over_norm(h).argsort()
    return h[order[len(order) // 2]].sort(descending=True).values.numpy()


def evaluations(
    rows: pd.DataFrame, resamples: int, names: Sequence[str] = tuple(measures.MEASURES), **labels: object
) -> pd.DataFrame:
    """AUROC and TPR at 1 % FPR of measures, 1 where memorized means spikier, with intervals over seeds and images.

    rows: of `measured`, with the columns `regime` and `model`. `units_REGIME` and `norm_REGIME` are medians.
    """
    both = memorized, generalized = [rows[rows.regime == regime] for regime in (MEMORIZED, GENERALIZED)]
    several, table = rows.model.nunique() > 1, []
    for name in names:
        sign = -1.0 if name in LOW_WHERE_SPIKY else 1.0
        result = detection.evaluate(
            *(sign * part[name].to_numpy() for part in both),
            groups=tuple(part.image.to_numpy() for part in both),
            seeds=tuple(part.model.to_numpy() for part in both) if several else None,
            draws=resamples,
        )
        (low, high), (tpr_low, tpr_high) = result.auroc_interval, result.tpr_interval
        row = {"measure": name, "auroc": result.auroc, "low": low, "high": high}
        row |= {"tpr": result.tpr, "tpr_low": tpr_low, "tpr_high": tpr_high, "fpr": result.fpr}
        table.append({**row, "memorized": result.memorized, "generalized": result.generalized})
    medians = {
        f"{name}_{regime}": part[column].median()
        for regime, part in ((MEMORIZED, memorized), (GENERALIZED, generalized))
        for name, column in (("units", "participation_ratio"), ("norm", "norm"))
    }
    return pd.DataFrame(table).assign(**medians, **labels)


# ---- tables for figures


def histogram(rows: pd.DataFrame, names: Sequence[str], bins: int = 60) -> pd.DataFrame:
    """Share of the samples of each `regime` in each bin, per `data` and measure: long form."""
    frames = []
    for data, name in ((data, name) for data in rows.data.unique() for name in names):
        part = rows[rows.data == data]
        edges = np.histogram_bin_edges(part[name], bins)
        for regime, samples in part.groupby("regime"):
            share = np.histogram(samples[name], edges)[0] / len(samples)
            frame = pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": share})
            frames.append(frame.assign(data=data, measure=name, regime=regime))
    return pd.concat(frames, ignore_index=True)


def pictures(
    rows: dict[str, Tensor], shape: tuple[int, int], **columns: dict[str, Tensor]
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Named rows of vectors [N, d] as pictures [N, H, W], and as a table of their values.

    `columns` of the table are given by row, one value [N] per picture. A row without vectors has no pictures.
    """
    frames = []
    for name, x in rows.items():
        labels = {column: values[name].numpy() for column, values in columns.items()}
        frames.append(pd.DataFrame(x.numpy()).assign(row=name.replace("\n", " "), **labels))
    return {name: x.reshape(-1, *shape).numpy() for name, x in rows.items() if len(x)}, pd.concat(frames)
