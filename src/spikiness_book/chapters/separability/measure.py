"""When Theorem 3.1's assumption holds, and what is left without it (Definition 3.1, Appendix B.1)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, theory
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.engine.cache import cached

MODES, RANK = 3, 5  # modes of a mixture, and directions in which each of them scatters around its mean
NORM = 6.0  # length of the means, in data units
BATCH = 64
LABELS = {
    "alpha": "$\\alpha$",
    "cosine": "$\\beta$",
    "sigma": "$\\sigma$",
    "margin": "margin $\\gamma/\\sigma$ of the block minimizer",
    "loss_error": "relative error of the loss",
    "residual": "residual (operator error)",
    "rotation": "rotation",
}
MARGIN_AXIS = {"xscale": "symlog", "xticks": [-100, -10, -1, 0, 1, 10]}


# What data give ------------------------------------------------------------------------------------------------------


def subset_cosines(x: Tensor, n: int, draws: int, seed: int) -> Tensor:
    """beta [draws] of random n-subsets of x [N, d], every sample a cluster of its own: their largest cosine."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(len(x), generator=generator)[:n] for _ in range(draws)])  # [draws, n]
    units = normalize(x.double(), dim=1)[index]  # [draws, n, d]
    first, second = torch.triu_indices(n, n, offset=1)
    return (units @ units.mT)[:, first, second].amax(dim=1)


def largest_subset(x: Tensor, seed: int, restarts: int = 20) -> int:
    """The most samples of x [N, d] that `theory.separable_subset` finds with cosines below 0, `restarts` tries each."""
    n = 1
    while n < len(x):
        try:
            theory.separable_subset(x, n + 1, seed, restarts=restarts)
        except SpikinessError:
            break
        n += 1
    return n


def found_subset(x: Tensor, n: int, seed: int) -> list[Tensor]:
    """n samples of x [N, d] with negative cosines, found by search, every one a cluster [1, d]."""
    return list(x[theory.separable_subset(x, n, seed)][:, None])


def by_class(x: Tensor, y: Tensor) -> list[Tensor]:
    """The samples of x [N, d] of each label in y [N], as clusters."""
    return [x[y == label] for label in y.unique()]


def mixture_clusters(cosine: float, alpha: float, seed: int, n: int, dim: int) -> list[Tensor]:
    """n samples of a mixture in R^dim as MODES clusters: the pairwise cosine of its means, and alpha of Definition 3.1.

    The means are a simplex moved along a direction orthogonal to it; each mode scatters in RANK directions of its own,
    orthogonal to all means, and is then scaled about its sample mean so that the farthest sample lies at alpha exactly.
    """
    least = -1 / (MODES - 1)
    if not least <= cosine < 1:
        raise SpikinessError(f"cosine = {cosine}; {MODES} means have one pairwise cosine from {least:g} to below 1")
    simplex = images.simplex_means(MODES, dim, 1.0, seed)
    common = images.random_factors(1, dim, 1, 1.0, seed, means=simplex)[0].T  # [1, d]
    share = max(0.0, (cosine - least) / (1 - least))  # of the squared length, along the common direction
    means = NORM * (share**0.5 * common + (1 - share) ** 0.5 * simplex)
    factors = images.random_factors(MODES, dim, RANK, 1.0, seed, means=means)
    x, y = images.mixture(means, list(factors), [1 / MODES] * MODES, n, seed)
    return [_scaled(cluster, alpha).float() for cluster in by_class(x, y)]


def _scaled(cluster: Tensor, alpha: float) -> Tensor:
    mean = cluster.mean(dim=0)
    return mean + (cluster - mean) * alpha * mean.norm() / (cluster - mean).norm(dim=1).max()


def separability_table(named: Iterable[tuple[str, list[Tensor]]]) -> pd.DataFrame:
    """alpha and beta of each named list of clusters."""
    rows = [(name, len(clusters), *theory.separability(clusters)) for name, clusters in named]
    return pd.DataFrame(rows, columns=["clusters", "number", "alpha", "beta"])


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: for the many small steps of `theory.block_minimizer` more are slower, beside a busy
    process ten times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The block minimizer as a network ------------------------------------------------------------------------------------


@one_thread()
def block_losses(
    cosines: Sequence[float], alphas: Sequence[float], sigmas: Sequence[float], seeds: Sequence[int],
    lam: float, n: int, dim: int,
) -> pd.DataFrame:  # fmt: skip
    """The block minimizer's true ReLU loss over the predicted one, for mixtures of every cosine up to 0.

    Raises `SpikinessError` where the cosines lack 0 or have none below it.
    """
    if 0 not in cosines or min(cosines) >= 0:
        raise SpikinessError(f"cosines = {list(cosines)} must hold 0 and one below 0: the chapter compares them")
    rows = []
    for cosine, alpha, seed in ((c, a, s) for c in cosines if c <= 0 for a in alphas for s in seeds):
        clusters = mixture_clusters(cosine, alpha, seed, n, dim)
        for sigma in sigmas:
            w = theory.block_minimizer(clusters, [RANK + 1] * MODES, sigma, lam)
            rows.append({"cosine": cosine, "alpha": alpha, **_excess(w, clusters, sigma, lam, seed)})
    return pd.DataFrame(rows)


@one_thread()
def rotation_losses(
    cosine: float, alphas: Sequence[float], sigma: float, seeds: Sequence[int], lam: float, n: int, dim: int
) -> pd.DataFrame:
    """The same for networks with one gain matrix W W^T, that differ only in the rotations O_k of Theorem 3.1."""
    rows = []
    for alpha, seed in ((a, s) for a in alphas for s in seeds):
        clusters = mixture_clusters(cosine, alpha, seed, n, dim)
        for name, w in rotations(clusters, [RANK + 1] * MODES, sigma, lam, seed).items():
            rows.append({"rotation": name, "alpha": alpha, **_excess(w, clusters, sigma, lam, seed)})
    return pd.DataFrame(rows)


def rotations(
    clusters: Sequence[Tensor], widths: Sequence[int], sigma: float, lam: float, seed: int
) -> dict[str, Tensor]:
    """Networks W [d, p] with the gains of Theorem 3.1: O_k as the book chooses it, even but blind, identity, random."""
    generator = torch.Generator().manual_seed(seed)
    plain = [mode.axes * mode.gain.sqrt() for mode in theory.fit(clusters, widths, sigma, lam)]  # [d, p_k] each
    turns = [torch.linalg.qr(torch.randn(w, w, generator=generator, dtype=torch.float64)).Q for w in widths]
    towards = [b * torch.where(x.double().mean(0) @ b < 0, -1, 1) for b, x in zip(plain, clusters, strict=True)]
    return {
        "spread and turned": theory.block_minimizer(clusters, widths, sigma, lam),
        "spread only": theory.block_minimizer(clusters, widths, sigma, lam, steps=0),
        "identity": torch.cat(towards, dim=1),
        "random": torch.cat([b @ q for b, q in zip(plain, turns, strict=True)], dim=1),
    }


def _excess(w: Tensor, clusters: Sequence[Tensor], sigma: float, lam: float, seed: int) -> dict[str, float]:
    loss = theory.true_loss(w, w, torch.cat(list(clusters)), sigma, draws=16, seed=seed).value
    ratio = loss / theory.predicted_loss(clusters, [RANK + 1] * MODES, sigma, lam)
    beta, margin = theory.separability(clusters)[1], theory.margin(w, clusters) / sigma
    return {"beta": beta, "sigma": sigma, "seed": seed, "margin": margin, "ratio": ratio, "loss_error": abs(ratio - 1)}


# Trained networks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One network of the chapter: the clusters it learns, what they are, its settings, and once trained itself."""

    data: str  # "mixture", "classes" or "classes, centered"
    clusters: list[Tensor]  # K of [n_k, d]
    widths: list[int]  # p_k of Theorem 3.1
    sigma: float
    lam: float
    seed: int
    cosine: float = float("nan")  # of a mixture's means
    network: ReLUDAE | None = None


def plan_mixtures(
    cosines: Sequence[float], alpha: float, sigmas: Sequence[float], seeds: Sequence[int], lam: float, n: int, dim: int
) -> list[Case]:
    """Mixtures of every cosine and seed, each learned at every noise level; the scale of the data stays as it is."""
    cases = []
    for cosine, seed in ((c, s) for c in cosines for s in seeds):
        clusters = mixture_clusters(cosine, alpha, seed, n, dim)
        cases += [Case("mixture", clusters, [RANK + 1] * MODES, s, lam, seed, cosine) for s in sigmas]
    return cases


def plan_images(x: Tensor, y: Tensor, n: int, width: int, sigma: float, seeds: Sequence[int], lam: float) -> list[Case]:
    """n random images of x [N, d] per seed, their classes as clusters, raw and centered; `width` units for the best."""
    cases = []
    for seed in seeds:
        some = images.subset(torch.arange(len(x)), n, seed)
        for name, data in (("classes", x[some]), ("classes, centered", x[some] - x.mean(dim=0))):
            clusters = by_class(data, y[some])
            widths = theory.rank_directions(clusters, width, sigma, lam)
            cases.append(Case(name, clusters, widths, sigma, lam, seed))
    return cases


def train(cases: Sequence[Case], width: int, steps: int) -> list[Case]:
    """The cases with their networks of `width` units, tied, as one batched training or from the cache."""
    data = {id(case.clusters): torch.cat(case.clusters) for case in cases}  # one tensor for all noise levels
    members = [Member(data[id(case.clusters)], width, case.sigma, case.lam, case.seed) for case in cases]
    networks = cached(fit_ensemble, members, batch=BATCH, steps=steps)
    return [replace(case, network=network) for case, network in zip(cases, networks, strict=True)]


@one_thread()
def summary(case: Case) -> dict[str, object]:
    """One row per network: separability, margin of the block minimizer, residual, and what it does instead of blocks.

    residual: what `theory.operator_error` gives, the worst mode. gain_error: the same of the diagonal along the
    predicted axes only. outside: of the part beside these axes. one_block: the residual against a single block for
    all data. shared: see `shared_energy`. Losses are data terms over the predicted one: of the network, and of the
    block minimizer run through the ReLU.
    """
    w, x = case.network.w1.detach().double(), torch.cat(case.clusters)
    modes = list(theory.fit(case.clusters, case.widths, case.sigma, case.lam))
    single = list(theory.fit([x], [w.shape[1]], case.sigma, case.lam)) * len(modes)
    block = theory.block_minimizer(case.clusters, case.widths, case.sigma, case.lam)
    alpha, beta = theory.separability(case.clusters)
    draws = 2 + 4000 // len(x)  # fewer per sample where there are many
    loss, block_loss = (theory.true_loss(v, v, x, case.sigma, draws, case.seed).value for v in (w, block))
    predicted = theory.predicted_loss(case.clusters, case.widths, case.sigma, case.lam)
    return {
        **{name: value for name, value in vars(case).items() if name not in ("clusters", "widths", "network")},
        "alpha": alpha,
        "beta": beta,
        "margin": theory.margin(block, case.clusters) / case.sigma,
        "residual": max(_map_errors(w, case.clusters, modes)),
        "gain_error": max(_gain_errors(w, case.clusters, modes)),
        "outside": max(_outside(w, case.clusters, modes)),
        "one_block": max(_map_errors(w, case.clusters, single)),
        "shared": shared_energy(w, case.clusters),
        "loss_ratio": loss / predicted,
        "block_loss_ratio": block_loss / predicted,
    }  # fmt: skip


def shared_energy(w: Tensor, clusters: Sequence[Tensor]) -> float:
    """Share of |W|_F^2 in units that are active at the means of two clusters or more; 0 in Theorem 3.1."""
    energy = w.double().square().sum(dim=0)
    several = theory.active_units(w, clusters).sum(dim=0) >= 2  # [p]
    return float(energy[several].sum() / energy.sum())


def _maps(w: Tensor, clusters: Sequence[Tensor]) -> list[Tensor]:
    """The network's linear map W D W^T [d, d] at the mean of each cluster."""
    return [w[:, on] @ w[:, on].T for on in theory.active_units(w, clusters)]


def _map_errors(w: Tensor, clusters: Sequence[Tensor], modes: Sequence[theory.Mode]) -> list[float]:
    predicted = [mode.axes * mode.gain @ mode.axes.T for mode in modes]
    return [float((m - q).norm() / q.norm()) for m, q in zip(_maps(w, clusters), predicted, strict=True)]


def _gain_errors(w: Tensor, clusters: Sequence[Tensor], modes: Sequence[theory.Mode]) -> list[float]:
    learned = [((m @ mode.axes) * mode.axes).sum(dim=0) for m, mode in zip(_maps(w, clusters), modes, strict=True)]
    return [float((g - mode.gain).norm() / mode.gain.norm()) for g, mode in zip(learned, modes, strict=True)]


def _outside(w: Tensor, clusters: Sequence[Tensor], modes: Sequence[theory.Mode]) -> list[float]:
    """Norm of what each map does with directions orthogonal to its mode's axes, over that of the predicted gains."""
    parts = []
    for m, mode in zip(_maps(w, clusters), modes, strict=True):
        beside = torch.eye(len(w), dtype=w.dtype) - mode.axes @ mode.axes.T  # [d, d]
        parts.append(float((beside @ m @ beside).norm() / mode.gain.norm()))
    return parts


def compared(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of `summary` as one frame per measure, with a text `label` for the data and the `value`."""
    names = {
        "residual": "error against blocks",
        "one_block": "error against one block",
        "shared": "energy of shared units",
    }
    labels = [d if d != "mixture" else f"β = {c:g}" for d, c in zip(table.data, table.cosine, strict=True)]
    columns = ["data", "cosine", "seed"]
    return {
        words: table[columns].assign(label=labels, measure=name, value=table[name]) for name, words in names.items()
    }


def rank_correlation(table: pd.DataFrame, x: str, y: str) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of two columns, its interval resampling whole data sets (`cosine` and `seed`)."""
    values, groups = table[[x, y]].to_numpy(), table.groupby(["cosine", "seed"]).ngroup().to_numpy()

    def spearman(pairs: np.ndarray) -> float:
        return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)

    return spearman(values), measures.bootstrap(values, spearman, groups, draws=1000)
