"""When Theorem 3.1's assumption holds, and what is left without it (Definition 3.1, Appendix B.1)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, theory
from spikiness.errors import SpikinessError
from spikiness.statistics import Interval
from spikiness_book import two_layers
from spikiness_book.two_layers import NORM, RANK, Mixture, Problem, by_class

MODES = 3  # of a mixture
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


def found_subset(x: Tensor, n: int, seed: int) -> tuple[Tensor, ...]:
    """n samples of x [N, d] with negative cosines, found by search, every one a cluster [1, d]."""
    return two_layers.each_alone(x[theory.separable_subset(x, n, seed)])


def mixture_clusters(cosine: float, alpha: float, seed: int, n: int, dim: int) -> tuple[Tensor, ...]:
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
    clusters = by_class(*Mixture(means, factors).draw(n, seed))
    return tuple(_scaled(cluster, alpha).float() for cluster in clusters)


def _scaled(cluster: Tensor, alpha: float) -> Tensor:
    mean = cluster.mean(dim=0)
    return mean + (cluster - mean) * alpha * mean.norm() / (cluster - mean).norm(dim=1).max()


def separability_table(named: Iterable[tuple[str, Sequence[Tensor]]]) -> pd.DataFrame:
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


@dataclass(frozen=True, kw_only=True)
class ClusterProblem(Problem):
    """A network on clusters that may not be separable: `group` is "mixture", "classes" or "classes, centered"."""

    cosine: float = float("nan")  # of a mixture's means


def plan_mixtures(
    cosines: Sequence[float], alpha: float, sigmas: Sequence[float], seeds: Sequence[int], width: int,
    lam: float, n: int, dim: int,
) -> list[ClusterProblem]:  # fmt: skip
    """Mixtures of every cosine and seed, each learned at every noise level; the scale of the data stays as it is."""
    problems = []
    for cosine, seed in ((c, s) for c in cosines for s in seeds):
        clusters = mixture_clusters(cosine, alpha, seed, n, dim)
        problems += [
            ClusterProblem(clusters, width, s, lam, seed, "mixture", blocks=[RANK + 1] * MODES, cosine=cosine)
            for s in sigmas
        ]
    return problems


def plan_images(
    x: Tensor, y: Tensor, n: int, width: int, sigma: float, seeds: Sequence[int], lam: float
) -> list[ClusterProblem]:
    """n random images of x [N, d] per seed, their classes as clusters, raw and centered; `width` units for the best."""
    problems = []
    for seed in seeds:
        chosen = images.subset(torch.arange(len(x)), n, seed)
        for name, data in (("classes", x[chosen]), ("classes, centered", x[chosen] - x.mean(dim=0))):
            problems.append(ClusterProblem(by_class(data, y[chosen]), width, sigma, lam, seed, name))
    return problems


def train(problems: Sequence[ClusterProblem], steps: int) -> list[ClusterProblem]:
    """The problems with their networks, as one batched training."""
    return two_layers.train(problems, BATCH, steps)


@one_thread()
def summary(problem: ClusterProblem) -> dict[str, object]:
    """One row per network: separability, margin of the block minimizer, residual, and what it does instead of blocks.

    residual: what `theory.operator_error` gives, the worst mode. gain_error: the same of the diagonal along the
    predicted axes only. outside: of the part beside these axes. one_block: the residual against a single block for
    all data. shared: see `shared_energy`. Losses are data terms over the predicted one: of the network, and of the
    block minimizer run through the ReLU.
    """
    w, x, clusters, theorem = problem.network.w1.detach().double(), problem.x, problem.clusters, problem.theorem
    modes, maps = list(theory.fit(*theorem)), theory.linear_maps(w, w, clusters)
    [single] = theory.fit([x], [w.shape[1]], problem.sigma, problem.lam)
    block = theory.block_minimizer(*theorem)
    alpha, beta = theory.separability(clusters)
    draws = 2 + 4000 // len(x)  # fewer per sample where there are many
    loss, block_loss = (theory.true_loss(v, v, x, problem.sigma, draws, problem.seed).value for v in (w, block))
    predicted = theory.predicted_loss(*theorem)
    return {
        "data": problem.group,
        "sigma": problem.sigma,
        "lam": problem.lam,
        "seed": problem.seed,
        "cosine": problem.cosine,
        "alpha": alpha,
        "beta": beta,
        "margin": theory.margin(block, clusters) / problem.sigma,
        "residual": max(theory.operator_error(w, w, *theorem)),
        "gain_error": max(map(_gain_error, maps, modes)),
        "outside": max(map(_outside, maps, modes)),
        "one_block": max(float((m - single.operator).norm() / single.operator.norm()) for m in maps),
        "shared": shared_energy(w, clusters),
        "loss_ratio": loss / predicted,
        "block_loss_ratio": block_loss / predicted,
    }


def shared_energy(w: Tensor, clusters: Sequence[Tensor]) -> float:
    """Share of |W|_F^2 in units that are active at the means of two clusters or more; 0 in Theorem 3.1."""
    energy = w.double().square().sum(dim=0)
    several = theory.active_units(w, clusters).sum(dim=0) >= 2  # [p]
    return float(energy[several].sum() / energy.sum())


def _gain_error(learned: Tensor, mode: theory.Mode) -> float:
    """Error of the diagonal of a learned map [d, d] along the mode's axes, over the norm of the predicted gains."""
    gains = ((learned @ mode.axes) * mode.axes).sum(dim=0)
    return float((gains - mode.gain).norm() / mode.gain.norm())


def _outside(learned: Tensor, mode: theory.Mode) -> float:
    """Norm of a learned map on the directions orthogonal to the mode's axes, over that of the predicted gains."""
    beside = torch.eye(len(learned), dtype=learned.dtype) - mode.axes @ mode.axes.T  # [d, d]
    return float((beside @ learned @ beside).norm() / mode.gain.norm())


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


def rank_correlation(table: pd.DataFrame, x: str, y: str) -> tuple[float, Interval]:
    """Spearman's correlation of two columns, its interval resampling whole data sets (`cosine` and `seed`)."""
    values, groups = table[[x, y]].to_numpy(), table.groupby(["cosine", "seed"]).ngroup().to_numpy()

    def spearman(pairs: np.ndarray) -> float:
        return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)

    return spearman(values), Interval(*measures.bootstrap(values, spearman, groups, draws=1000), over="mixtures")
