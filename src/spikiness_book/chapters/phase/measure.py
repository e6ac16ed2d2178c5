"""The phase diagram of the two-layer network: hundreds of them over n, p, sigma and lambda, each against the theory.

Data are mixtures of Gaussians, so that the population is known. A small network costs a fraction of a second in a batch
of many, so the whole grid is trained inside one run.
"""

import itertools
import time
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import descend
from spikiness_book import two_layers
from spikiness_book.two_layers import GENERALIZING, MEMORIZING, NORM, Mixture, Problem

MODES, RANK, DIM = 6, 2, 16  # modes of the mixture, directions in which each scatters, dimensions of the data
SCATTER = 1.0  # standard deviation in the first of these directions, in data units
BATCH = 64
TOLERANCE = 0.25  # an operator error up to this counts as the predicted operator
STATIONARY = 0.05  # |gradient| at the end over |gradient| at the start, at most
STORED = 0.995  # cosine from which a column is a multiple of one training sample
USED = 0.05  # columns shorter than this share of the longest one, and gains below it, count as zero
NEITHER = "neither"  # beside MEMORIZING and GENERALIZING
CELL = ["n", "width", "sigma", "lam"]


@cache
def truth(seed: int) -> Mixture:
    """The mixture of one seed: means as far apart as K can be, cosines -1/(K - 1), and scatter orthogonal to all."""
    means = images.simplex_means(MODES, DIM, NORM, seed)
    return Mixture(means, images.random_factors(MODES, DIM, RANK, SCATTER, seed, means=means))


def clusters(n: int, seed: int) -> tuple[Tensor, ...]:
    """n samples of the mixture, min(n, MODES) clusters [n_k, d] as even as can be; smaller n are parts of larger."""
    sizes = [(n - k + MODES - 1) // MODES for k in range(min(n, MODES))]
    return tuple(truth(seed).mode(k).draw(size, seed * MODES + k)[0].float() for k, size in enumerate(sizes))


def plan(
    sizes: Sequence[int], widths: Sequence[int], sigmas: Sequence[float], lams: Sequence[float], seeds: Sequence[int]
) -> list[Problem]:
    """Every combination; all networks of one n and seed learn the same samples."""
    data = {(n, seed): clusters(n, seed) for n in sizes for seed in seeds}
    grid = itertools.product(widths, sizes, sigmas, lams, seeds)
    return [Problem(data[n, seed], width, sigma, lam, seed) for width, n, sigma, lam, seed in grid]


def train(problems: Sequence[Problem], steps: int) -> list[Problem]:
    """The problems with their networks, one batched training per width and seed.
    Padding to a common width would waste most of the work."""
    return two_layers.train(problems, BATCH, steps, together=lambda problem: (problem.width, problem.seed))


def cost(problems: Sequence[Problem], steps: int, part: int = 40) -> tuple[float, float]:
    """Seconds of processor time of one network's `steps` steps: in a batch as in `train`, mean over the grid; and of
    one of middle width alone. From `part` steps of one seed, started again; nothing is kept."""
    first = [problem for problem in problems if problem.seed == problems[0].seed]
    spent = sum(_spent([c for c in first if c.width == width], part) for width in {c.width for c in first})
    middle = sorted(first, key=lambda problem: problem.width)[len(first) // 2]
    return spent / len(first) * steps / part, _spent([middle], part) * steps / part


def _spent(problems: Sequence[Problem], steps: int) -> float:
    members = [problem.member(problem.x) for problem in problems]
    networks = [ReLUDAE(DIM, problem.width) for problem in problems]
    loop = descend(networks, members, batch=BATCH, steps=steps + 1)
    next(loop)  # the first step pays for what is made once
    started = time.process_time()
    for _ in loop:
        pass
    return time.process_time() - started


# ---- one network against the theory


def summary(problem: Problem) -> dict[str, object]:
    """One row per network: what it stores, its errors against both predictions, its phase and that of the theory.

    stored: share of the samples that a column is a multiple of. columns: share of its columns that are multiples of a
    sample. memory_error, mode_error: worst operator error against Corollary 3.2 and Corollary 3.3. theory_error: how
    far Theorem 3.1 at these n samples is from Corollary 3.3. std, std_norm: mean over noisy training samples of the
    representation's standard deviation, and of the same over its norm. test_loss, predicted: on new samples.
    kept, predicted_kept: directions with a gain, mean over modes. stationarity: |gradient| at the end over the start.
    """
    w, x = problem.network.w1.detach().double(), problem.x.double()
    share, columns = stored(w, x)
    memory, modes = memory_error(w, x, problem.sigma, problem.lam), mode_error(w, problem)
    expected = finite_error(problem)
    return {
        **{name: getattr(problem, name) for name in (*CELL, "seed")},
        "ratio": problem.n / problem.width,
        "stored": share,
        "columns": columns,
        "memory_error": memory,
        "mode_error": modes,
        "theory_error": expected,
        "phase": phase(memory, modes),
        "theory": theory_phase(problem, expected),
        **representation(problem),
        **losses(w, problem),
        **kept(w, problem),
        "stationarity": problem.network.record["stationarity"],
    }


def stored(w: Tensor, x: Tensor) -> tuple[float, float]:
    """Share of the samples x [n, d] that are the nearest direction, to a cosine of STORED, of a column of w [d, p] in
    use, and the share of such columns among those in use. A column stores one sample at most; with none in use both
    are 0."""
    norms = w.norm(dim=0)
    used = w[:, norms > USED * norms.max()]
    if not used.shape[1]:
        return 0.0, 0.0
    cosine, nearest = (normalize(used, dim=0).T @ normalize(x, dim=1).T).max(dim=1)  # [p']
    hit = cosine >= STORED
    return len(nearest[hit].unique()) / len(x), float(hit.double().mean())


def memory_error(w: Tensor, x: Tensor, sigma: float, lam: float) -> float:
    """The worst over samples x [n, d] of the distance of the map W D W^T at x_i from r_i^2 x_i x_i^T (Corollary 3.2),
    over the largest predicted norm; infinite where all samples are dropped."""
    gain = theory.stored_gains(x, sigma, lam)  # r^2 [n]
    return _worst(_maps(w, x), gain[:, None, None] * x[:, :, None] * x[:, None, :])


def mode_error(w: Tensor, problem: Problem) -> float:
    """The same over modes, at their true means, from the block of the population's second moment (Corollary 3.3)."""
    return _worst(_maps(w, truth(problem.seed).means), population_maps(problem))


def _maps(w: Tensor, points: Tensor) -> Tensor:
    """The network's linear maps W D W^T [m, d, d] at points [m, d]."""
    on = (points @ w > 0).to(w)  # [m, p]
    return (w * on[:, None, :]) @ w.T


def finite_error(problem: Problem) -> float:
    """How far the blocks of the n samples (Theorem 3.1) are from those of the population, by the same measure.

    What p << n of Corollary 3.3 means, without training anything; infinite with fewer units than modes.
    """
    maps = torch.zeros(MODES, DIM, DIM, dtype=torch.float64)
    widths = block_widths(problem)[: len(problem.clusters)]
    if problem.width < MODES:
        return float("inf")  # a mode goes without a unit, and which one is a matter of chance
    for k, mode in enumerate(theory.fit(problem.clusters, widths, problem.sigma, problem.lam)):
        maps[k] = mode.operator
    return _worst(maps, population_maps(problem))


def _worst(maps: Tensor, predicted: Tensor) -> float:
    size = float(predicted.flatten(1).norm(dim=1).max())
    return float((maps - predicted).flatten(1).norm(dim=1).max()) / size if size else float("inf")


def block_widths(problem: Problem) -> list[int]:
    """Units p_k [K] of Theorem 3.1: `width` units go to the directions that save most. A mode without samples gets as
    many as it has directions: what the population has and the samples do not must count as an error."""
    return problem.widths + [RANK + 1] * (MODES - len(problem.clusters))


def population_maps(problem: Problem) -> Tensor:
    """Gain matrices [K, d, d] of Corollary 3.3, with the widths of `block_widths`."""
    maps = []
    for moment, width in zip(truth(problem.seed).moments, block_widths(problem), strict=True):
        energy, axes = torch.linalg.eigh(moment)  # ascending
        energy, axes = energy.flip(0)[:width], axes.flip(1)[:, :width]
        gain = ((energy - problem.lam * MODES) / (energy + problem.sigma**2)).clamp(min=0)  # rho_k = 1 / MODES
        maps.append(axes * gain @ axes.T)
    return torch.stack(maps)


def phase(memory: float, modes: float) -> str:
    """The prediction whose error is smaller, if that is at most TOLERANCE."""
    if min(memory, modes) > TOLERANCE:
        return NEITHER
    return MEMORIZING if memory <= modes else GENERALIZING


def theory_phase(problem: Problem, expected: float) -> str:
    """Corollary 3.2 for p >= n and n lambda < |x|^2 of every sample; else Corollary 3.3 if the blocks of n samples are
    within TOLERANCE of the population's."""
    smallest = min(float(x.square().sum(1).min()) for x in problem.clusters)
    if problem.width >= problem.n and problem.n * problem.lam < smallest:
        return MEMORIZING
    return GENERALIZING if expected <= TOLERANCE else NEITHER


def representation(problem: Problem) -> dict[str, float]:
    """Mean over the training samples, each with one noise, of Std of the representation and of Std over its norm."""
    x = problem.x.to(problem.network.w1.dtype)
    h = two_layers.represent(problem.network, x, problem.sigma, problem.seed)
    std, norm = measures.std(h), h.norm(dim=1)
    scaled = torch.where(norm > 0, std / norm.clamp(min=1e-12), 0)
    return {"std": float(std.mean()), "std_norm": float(scaled.mean())}


def losses(w: Tensor, problem: Problem) -> dict[str, float]:
    """Data term of objective (6) on new samples, and what Theorem 3.1 predicts for it from the n samples (NaN where a
    mode has none)."""
    loss = theory.true_loss(w, w, _new(problem.seed), problem.sigma, draws=2, seed=problem.seed).value
    predicted, mixture = float("nan"), truth(problem.seed)
    if len(problem.clusters) == MODES:
        predicted = theory.predicted_test_loss(*problem.theorem, list(mixture.moments), mixture.weights)
    return {"test_loss": loss, "predicted": predicted}


@cache
def _new(seed: int, each: int = 200) -> Tensor:
    """Samples [K each, d] of the mixture that no network sees."""
    modes = (truth(seed).mode(k) for k in range(MODES))
    return torch.cat([mode.draw(each, 1_000_000 + seed * MODES + k)[0] for k, mode in enumerate(modes)])


def kept(w: Tensor, problem: Problem) -> dict[str, float]:
    """Directions with a gain above USED at a mode's mean, in the network and by Corollary 3.3; means over modes."""
    maps = {"kept": _maps(w, truth(problem.seed).means), "predicted_kept": population_maps(problem)}
    return {name: float((torch.linalg.eigvalsh(m) > USED).sum(1).double().mean()) for name, m in maps.items()}
