"""The phase diagram of the two-layer network: hundreds of them over n, p, sigma and lambda, each against the theory.

Data are mixtures of Gaussians, so that the population is known. A small network costs a fraction of a second in a batch
of many, so the whole grid is trained inside one run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, descend, fit_ensemble
from spikiness_book.engine.cache import cached

MODES, RANK, DIM = 6, 2, 16  # modes of the mixture, directions in which each scatters, dimensions of the data
NORM, SCATTER = 6.0, 1.0  # length of the means, and standard deviation in the first of these directions, in data units
BATCH = 64
TOLERANCE = 0.25  # an operator error up to this counts as the predicted operator
STATIONARY = 0.05  # |gradient| at the end over |gradient| at the start, at most
STORED = 0.995  # cosine from which a column is a multiple of one training sample
USED = 0.05  # columns shorter than this share of the longest one, and gains below it, count as zero
MEMORIZING, GENERALIZING, NEITHER = "memorizing", "generalizing", "neither"
CELL = ["n", "width", "sigma", "lam"]


@dataclass(frozen=True)
class Cell:
    """One network of the grid: the samples it learns by mode, its settings, and once trained itself."""

    n: int
    width: int
    sigma: float
    lam: float
    seed: int
    clusters: tuple[Tensor, ...]  # min(n, MODES) of [n_k, d]: modes that have no sample yet are left out
    network: ReLUDAE | None = None

    @property
    def x(self) -> Tensor:
        """All training samples [n, d]."""
        return torch.cat(self.clusters)


def truth(seed: int) -> tuple[Tensor, Tensor]:
    """Means [K, d] and factors [K, d, r] of the mixture of one seed: means as far apart as K can be, cosines
    -1/(K - 1), and scatter orthogonal to all of them."""
    means = images.simplex_means(MODES, DIM, NORM, seed)
    return means, images.random_factors(MODES, DIM, RANK, SCATTER, seed, means=means)


def clusters(n: int, seed: int) -> tuple[Tensor, ...]:
    """n samples of the mixture as one tensor [n_k, d] per mode, as even as can be; smaller n are parts of larger."""
    means, factors = truth(seed)
    sizes = [(n - k + MODES - 1) // MODES for k in range(min(n, MODES))]
    return tuple(
        images.mixture(means[k : k + 1], [factors[k]], [1.0], size, seed * MODES + k)[0].float()
        for k, size in enumerate(sizes)
    )


def plan(
    sizes: Sequence[int], widths: Sequence[int], sigmas: Sequence[float], lams: Sequence[float], seeds: Sequence[int]
) -> list[Cell]:
    """Every combination; all networks of one n and seed learn the same samples."""
    data = {(n, seed): clusters(n, seed) for n in sizes for seed in seeds}
    return [
        Cell(n, width, sigma, lam, seed, data[n, seed])
        for width in widths
        for n in sizes
        for sigma in sigmas
        for lam in lams
        for seed in seeds
    ]


def train(cells: Sequence[Cell], steps: int) -> list[Cell]:
    """The cells with their tied networks, one batched training per width and seed (or from the cache).
    Padding to a common width would waste most of the work."""
    found = dict.fromkeys(range(len(cells)))
    joined = {id(cell.clusters): cell.x for cell in cells}
    for group in dict.fromkeys((cell.width, cell.seed) for cell in cells):
        mine = [i for i, cell in enumerate(cells) if (cell.width, cell.seed) == group]
        chosen = [cells[i] for i in mine]
        members = [Member(joined[id(c.clusters)], c.width, c.sigma, c.lam, c.seed) for c in chosen]
        for i, cell, network in zip(mine, chosen, cached(fit_ensemble, members, batch=BATCH, steps=steps), strict=True):
            found[i] = Cell(cell.n, cell.width, cell.sigma, cell.lam, cell.seed, cell.clusters, network)
    return list(found.values())


def cost(cells: Sequence[Cell], steps: int, part: int = 40) -> tuple[float, float]:
    """Seconds of processor time of one network's `steps` steps: in a batch as in `train`, mean over the grid; and of
    one of middle width alone. From `part` steps of one seed, started again; nothing is kept."""
    first = [cell for cell in cells if cell.seed == cells[0].seed]
    spent = sum(_spent([c for c in first if c.width == width], part) for width in {c.width for c in first})
    middle = sorted(first, key=lambda cell: cell.width)[len(first) // 2]
    return spent / len(first) * steps / part, _spent([middle], part) * steps / part


def _spent(cells: Sequence[Cell], steps: int) -> float:
    members = [Member(cell.x, cell.width, cell.sigma, cell.lam, cell.seed) for cell in cells]
    networks = [ReLUDAE(DIM, cell.width) for cell in cells]
    loop = descend(networks, members, batch=BATCH, steps=steps + 1)
    next(loop)  # the first step pays for what is made once
    started = time.process_time()
    for _ in loop:
        pass
    return time.process_time() - started


# ---- one network against the theory


def summary(cell: Cell) -> dict[str, object]:
    """One row per network: what it stores, its errors against both predictions, its phase and that of the theory.

    stored: share of the samples that a column is a multiple of. columns: share of its columns that are multiples of a
    sample. memory_error, mode_error: worst operator error against Corollary 3.2 and Corollary 3.3. theory_error: how
    far Theorem 3.1 at these n samples is from Corollary 3.3. std, std_norm: mean over noisy training samples of the
    representation's standard deviation, and of the same over its norm. test_loss, predicted: on new samples.
    kept, predicted_kept: directions with a gain, mean over modes. stationarity: |gradient| at the end over the start.
    """
    w, x = cell.network.w1.detach().double(), cell.x.double()
    share, columns = stored(w, x)
    memory, modes = memory_error(w, x, cell.sigma, cell.lam), mode_error(w, cell)
    expected = finite_error(cell)
    return {
        **{name: getattr(cell, name) for name in (*CELL, "seed")},
        "ratio": cell.n / cell.width,
        "stored": share,
        "columns": columns,
        "memory_error": memory,
        "mode_error": modes,
        "theory_error": expected,
        "phase": phase(memory, modes),
        "theory": theory_phase(cell, expected),
        **representation(cell),
        **losses(w, cell),
        **kept(w, cell),
        "stationarity": cell.network.record["stationarity"],
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
    on = (x @ w > 0).to(w)  # [n, p]
    maps = (w * on[:, None, :]) @ w.T  # [n, d, d]
    return _worst(maps, gain[:, None, None] * x[:, :, None] * x[:, None, :])


def mode_error(w: Tensor, cell: Cell) -> float:
    """The same over modes, at their true means, from the block of the population's second moment (Corollary 3.3)."""
    on = (truth(cell.seed)[0] @ w > 0).to(w)  # [K, p]
    return _worst((w * on[:, None, :]) @ w.T, population_maps(cell))


def finite_error(cell: Cell) -> float:
    """How far the blocks of the n samples (Theorem 3.1) are from those of the population, by the same measure.

    What p << n of Corollary 3.3 means, without training anything; infinite with fewer units than modes.
    """
    maps = torch.zeros(MODES, DIM, DIM, dtype=torch.float64)
    widths = block_widths(cell)[: len(cell.clusters)]
    if cell.width < MODES:
        return float("inf")  # a mode goes without a unit, and which one is a matter of chance
    for k, mode in enumerate(theory.fit(cell.clusters, widths, cell.sigma, cell.lam)):
        maps[k] = mode.axes * mode.gain @ mode.axes.T
    return _worst(maps, population_maps(cell))


def _worst(maps: Tensor, predicted: Tensor) -> float:
    size = float(predicted.flatten(1).norm(dim=1).max())
    return float((maps - predicted).flatten(1).norm(dim=1).max()) / size if size else float("inf")


def block_widths(cell: Cell) -> list[int]:
    """Units p_k [K] of Theorem 3.1: `width` units go to the directions that save most. A mode without samples gets as
    many as it has directions: what the population has and the samples do not must count as an error."""
    widths = theory.rank_directions(cell.clusters, cell.width, cell.sigma, cell.lam)
    return widths + [RANK + 1] * (MODES - len(widths))


def population_maps(cell: Cell) -> Tensor:
    """Gain matrices [K, d, d] of Corollary 3.3, with the widths of `block_widths`."""
    maps = []
    for moment, width in zip(_moments(cell.seed), block_widths(cell), strict=True):
        energy, axes = torch.linalg.eigh(moment)  # ascending
        energy, axes = energy.flip(0)[:width], axes.flip(1)[:, :width]
        gain = ((energy - cell.lam * MODES) / (energy + cell.sigma**2)).clamp(min=0)  # rho_k = 1 / MODES
        maps.append(axes * gain @ axes.T)
    return torch.stack(maps)


@cache
def _moments(seed: int) -> Tensor:
    means, factors = truth(seed)
    return theory.second_moments(means, factors @ factors.mT)


def phase(memory: float, modes: float) -> str:
    """The prediction whose error is smaller, if that is at most TOLERANCE."""
    if min(memory, modes) > TOLERANCE:
        return NEITHER
    return MEMORIZING if memory <= modes else GENERALIZING


def theory_phase(cell: Cell, expected: float) -> str:
    """Corollary 3.2 for p >= n and n lambda < |x|^2 of every sample; else Corollary 3.3 if the blocks of n samples are
    within TOLERANCE of the population's."""
    smallest = min(float(x.square().sum(1).min()) for x in cell.clusters)
    if cell.width >= cell.n and cell.n * cell.lam < smallest:
        return MEMORIZING
    return GENERALIZING if expected <= TOLERANCE else NEITHER


def representation(cell: Cell) -> dict[str, float]:
    """Mean over the training samples, each with one noise, of Std of the representation and of Std over its norm."""
    x = cell.x.to(cell.network.w1.dtype)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(cell.seed), dtype=x.dtype)
    with torch.no_grad():
        h = cell.network.encode(x + cell.sigma * noise)
    std, norm = measures.std(h), h.norm(dim=1)
    scaled = torch.where(norm > 0, std / norm.clamp(min=1e-12), 0)
    return {"std": float(std.mean()), "std_norm": float(scaled.mean())}


def losses(w: Tensor, cell: Cell) -> dict[str, float]:
    """Data term of objective (6) on new samples, and what Theorem 3.1 predicts for it from the n samples (NaN where a
    mode has none)."""
    loss = theory.true_loss(w, w, _new(cell.seed), cell.sigma, draws=2, seed=cell.seed).value
    predicted = float("nan")
    if len(cell.clusters) == MODES:
        shares = [1 / MODES] * MODES
        settings = block_widths(cell), cell.sigma, cell.lam, list(_moments(cell.seed)), shares
        predicted = theory.predicted_test_loss(cell.clusters, *settings)
    return {"test_loss": loss, "predicted": predicted}


@cache
def _new(seed: int, each: int = 200) -> Tensor:
    """Samples [K each, d] of the mixture that no network sees."""
    means, factors = truth(seed)
    drawn = [
        images.mixture(means[k : k + 1], [factors[k]], [1.0], each, 1_000_000 + seed * MODES + k)[0]
        for k in range(MODES)
    ]
    return torch.cat(drawn)


def kept(w: Tensor, cell: Cell) -> dict[str, float]:
    """Directions with a gain above USED at a mode's mean, in the network and by Corollary 3.3; means over modes."""
    on = (truth(cell.seed)[0] @ w > 0).to(w)
    found, predicted = (torch.linalg.eigvalsh(m) > USED for m in ((w * on[:, None, :]) @ w.T, population_maps(cell)))
    return {
        "kept": float(found.sum(1).double().mean()),
        "predicted_kept": float(predicted.sum(1).double().mean()),
    }
