"""Many samples, few units: principal directions with predicted gains, one function from different data (Cor 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import denoisers, images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.chapters.memorization import measure as memorization
from spikiness_book.engine.cache import cached

# A mode: a mean of length NORM, RANK strong directions around it, and a little variance TAIL^2 everywhere, which the
# penalty drops in the limit and which small training sets mistake for structure.
DIM, NORM, RANK, TAIL = 40, 6.0, 5, 0.03
FRESH = 4000  # new samples, for the loss on new data
MIDDLE = 64  # a batch size between that of the memorizing networks and the chapter's own
FEW_SEEDS = 3  # seeds with a network on a second half, and in the harder settings: kept small because two cores


@dataclass(frozen=True)
class Setting:
    """One kind of mixture: how many modes, how wide they are, and whether the network has units to spare."""

    modes: int = 3
    spread: float = 0.5  # standard deviation along the strongest direction
    spare: bool = True  # False: as many units as there are directions


MAIN = "separable"
SETTINGS = {
    MAIN: Setting(),
    "wide modes": Setting(spread=1.1),
    "four modes": Setting(modes=4),
    "no spare units": Setting(spare=False),
}


@dataclass(frozen=True)
class World:
    """A mixture of Gaussians of which everything is known."""

    means: Tensor  # [K, d]
    factors: Tensor  # [K, d, r], Sigma_k = F_k F_k^T

    @property
    def weights(self) -> list[float]:
        return [1 / len(self.means)] * len(self.means)

    @property
    def truth(self) -> denoisers.Mixture:
        return denoisers.Mixture.from_factors(self.means, list(self.factors), self.weights)

    @property
    def moments(self) -> Tensor:
        return theory.second_moments(self.means.double(), (self.factors @ self.factors.mT).double())  # [K, d, d]

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n samples [n, d] and their modes [n]."""
        return images.mixture(self.means, list(self.factors), self.weights, n, seed)


@dataclass(frozen=True)
class Case:
    """One network on a mixture: the world, its own training samples, its settings, and once trained itself."""

    setting: str
    seed: int
    half: int  # networks of one seed and size on disjoint samples
    sigma: float
    lam: float
    width: int
    world: World
    clusters: tuple[Tensor, ...]  # K of [n_k, d]
    network: ReLUDAE | None = None

    @property
    def x(self) -> Tensor:
        return torch.cat(self.clusters)

    @property
    def widths(self) -> list[int]:
        """The units that each mode's directions deserve (a heuristic where there are too few)."""
        return theory.rank_directions(self.clusters, self.width, self.sigma, self.lam)


def world(setting: Setting, seed: int) -> World:
    """Means with the most negative cosines possible; strong directions orthogonal to them, and a tail."""
    means = images.simplex_means(setting.modes, DIM, NORM, seed)
    strong = images.random_factors(setting.modes, DIM, RANK, setting.spread, seed, decay=0, means=means)
    strong = strong * torch.linspace(1, 0.4, RANK, dtype=strong.dtype)
    tail = TAIL * torch.eye(DIM, dtype=strong.dtype).expand(setting.modes, -1, -1)
    return World(means.float(), torch.cat([strong, tail], dim=2).float())


def plan(sizes: Sequence[int], seeds: Sequence[int], width: int, sigma: float, lam: float) -> list[Case]:
    """Every size and seed of the main setting, some with a second network on disjoint samples, and harder settings."""
    cases = []
    for name, setting in SETTINGS.items():
        units = width if setting.spare else setting.modes * (RANK + 1)
        for i, seed in enumerate(seeds if name == MAIN else seeds[:FEW_SEEDS]):
            here = world(setting, seed)
            for n in sizes if name == MAIN else [max(sizes)]:
                halves = split(here, n, seed)[: 2 if name == MAIN and i < FEW_SEEDS else 1]
                cases += [Case(name, seed, j, sigma, lam, units, here, half) for j, half in enumerate(halves)]
    return cases


def split(here: World, n: int, seed: int) -> list[tuple[Tensor, ...]]:
    """The clusters of n samples, and those of n others."""
    x, label = here.draw(2 * n, seed)
    return [tuple(x[i : i + n][label[i : i + n] == k] for k in range(len(here.means))) for i in (0, n)]


def train(cases: Sequence[Case], batch: int, steps: int) -> list[Case]:
    """The cases with their networks, all trained side by side, from the cache where it has them."""
    members = [Member(c.x, c.width, c.sigma, c.lam, 2 * c.seed + c.half) for c in cases]
    networks = cached(fit_ensemble, members, batch=batch, steps=steps)
    return [replace(case, network=network) for case, network in zip(cases, networks, strict=True)]


def summary(case: Case) -> dict[str, object]:
    """One row per network: alpha and beta, operator error, losses on its samples and on new ones, and predicted."""
    net, noise, fit = case.network, case.sigma, (case.clusters, case.widths, case.sigma, case.lam)
    n, (fresh, _) = len(case.x), case.world.draw(FRESH, _other(case.seed))
    alpha, beta = theory.separability(case.clusters)
    train = theory.true_loss(net.w1, net.w2, case.x, noise, draws=max(8, 20_000 // n), seed=case.seed).value
    test = theory.true_loss(net.w1, net.w2, fresh, noise, draws=8, seed=case.seed).value
    train_predicted = theory.predicted_loss(*fit)
    test_predicted = theory.predicted_test_loss(*fit, case.world.moments, case.world.weights)
    return {
        **_labels(case),
        "alpha": alpha,
        "beta": beta,
        "operator_error": max(theory.operator_error(net.w1, net.w2, *fit)),
        "shared_units": int((theory.active_units(net.w1, case.clusters).sum(dim=0) > 1).sum()),
        "train": train,
        "train_predicted": train_predicted,
        "test": test,
        "test_predicted": test_predicted,
        "train_error": train / train_predicted - 1,
        "test_error": test / test_predicted - 1,
        "stationarity": net.record["stationarity"],
    }


def predicted_curve(cases: Sequence[Case], points: int = 13) -> pd.DataFrame:
    """Predicted losses, on training and on new samples, at training set sizes between those of the cases."""
    main = {case.seed: case for case in cases if case.setting == MAIN}
    sizes = [len(case.x) for case in cases if case.setting == MAIN]
    rows = []
    for n in np.unique(np.geomspace(min(sizes), max(sizes), points).round().astype(int)):
        for seed, case in main.items():
            c = replace(case, clusters=split(case.world, int(n), seed)[0])
            fit = (c.clusters, c.widths, c.sigma, c.lam)
            test = theory.predicted_test_loss(*fit, c.world.moments, c.world.weights)
            rows.append({"n": int(n), "seed": seed, "train": theory.predicted_loss(*fit), "test": test})
    return pd.DataFrame(rows)


def limits(case: Case) -> dict[str, float]:
    """The loss that networks approach as n grows (Cor 3.3), and that of f_gt, the best denoiser of all (sampled)."""
    widths = [RANK + 1] * len(case.world.means)
    limit = theory.population_loss(case.world.moments, case.world.weights, widths, case.sigma, case.lam)
    x, _ = case.world.draw(FRESH, _other(case.seed))
    truth = [_squared(case.world.truth, case, x, draw) for draw in range(4)]
    return {"seed": case.seed, "limit": limit, "truth": float(np.mean(truth))}


def block_gains(case: Case) -> pd.DataFrame:
    """One row per direction that the theory keeps: the predicted gain w^2, and u^T W2 D W1^T u of the network.

    `elsewhere` is the norm of what the network does outside of its mode's directions, over that of the prediction.
    """
    active, net = theory.active_units(case.network.w1, case.clusters), case.network
    rows = []
    for k, (x, width, on) in enumerate(zip(case.clusters, case.widths, active, strict=True)):
        gain = theory.gains(case.clusters, case.widths, case.sigma, case.lam)[k].double()
        axes = torch.linalg.svd(x.double(), full_matrices=False)[2][:width].T  # [d, p_k]
        operator = net.w2.detach().double()[:, on] @ net.w1.detach().double()[:, on].T  # [d, d]
        inside = axes @ (axes.T @ operator @ axes) @ axes.T
        learned = (axes * (operator @ axes)).sum(dim=0)
        elsewhere = float((operator - inside).norm() / gain.norm())
        rows += [
            {**_labels(case), "mode": k, "direction": j, "predicted": p, "learned": found, "elsewhere": elsewhere}
            for j, (p, found) in enumerate(zip(gain.tolist(), learned.tolist(), strict=True))
        ]
    return pd.DataFrame(rows)


def distances(cases: Sequence[Case]) -> pd.DataFrame:
    """Relative distances on new noisy samples: to f_gt, to f_emp, between the networks of two halves, and the limit's
    to f_gt: f_gt is a posterior mean, so E|f - f_gt|^2 is the loss of f less that of f_gt."""
    pairs: dict[tuple[int, int], list[Case]] = {}
    for case in cases:
        if case.setting == MAIN:
            pairs.setdefault((case.seed, len(case.x)), []).append(case)
    gaps = {seed: limits(first) for (seed, _), (first, *_) in pairs.items()}
    rows = []
    for (seed, n), (first, *second) in pairs.items():
        x, _ = first.world.draw(FRESH // 4, _other(seed))
        y = noisy(x, first.sigma, seed)
        truth = first.world.truth
        references = {"network and ground truth": truth, "network and empirical": denoisers.Empirical(first.x)}
        if second:
            references["networks of two halves"] = second[0].network
        found = {k: measures.distance(first.network, f, y, first.sigma).relative for k, f in references.items()}
        size = float(truth(y, first.sigma).square().sum(dim=1).mean())
        found["limit and ground truth"] = ((gaps[seed]["limit"] - gaps[seed]["truth"]) / size) ** 0.5
        rows += [{"seed": seed, "n": n, "between": name, "distance": value} for name, value in found.items()]
    return pd.DataFrame(rows)


def participation(case: Case, n: int = 500) -> Tensor:
    """Share of its mode's units that a new noisy sample excites, participation ratio over units of the block [n]."""
    x, label = case.world.draw(n, _other(case.seed))
    h = case.network.encode(noisy(x, case.sigma, case.seed)).detach()
    alive = case.network.w1.detach().norm(dim=0) > 1e-2
    block = (theory.active_units(case.network.w1, case.clusters) & alive).sum(dim=1)  # [K]
    return measures.participation_ratio(h) / block[label]


def balance(cases: Sequence[Case], batch: int, steps: int) -> pd.DataFrame:
    """Mean `participation` of the main setting's networks, largest size, and of the same trained with smaller batches
    and for longer: gains fix no rotation of a block (O_k of Theorem 3.1). Beside them, that of `block_minimizer`."""
    size = max(len(c.x) for c in cases if c.setting == MAIN)
    chosen = [c for c in cases if c.setting == MAIN and c.half == 0 and len(c.x) == size][:FEW_SEEDS]
    trained = {(batch, 1): chosen}
    for other, times in ((memorization.BATCH, 1), (MIDDLE, 1), (MIDDLE, 2)):
        trained.setdefault((other, times), train(chosen, other, times * steps))
    rows = [
        {"batch": b, "steps": f"{times * steps} steps", "seed": c.seed, "participation": float(participation(c).mean())}
        for (b, times), group in trained.items()
        for c in group
    ]
    for case in chosen:
        w = theory.block_minimizer(case.clusters, case.widths, case.sigma, case.lam, steps=10)
        network = ReLUDAE(*w.shape)
        network.w1.data = w
        share = float(participation(replace(case, network=network)).mean())
        rows += [{"batch": b, "steps": "theory", "seed": case.seed, "participation": share} for b, _ in trained]
    return pd.DataFrame(rows).drop_duplicates()


def representations(case: Case) -> dict[str, np.ndarray]:
    """h of one new noisy sample of each mode, units grouped by the mode that excites them most."""
    x, label = case.world.draw(100, _other(case.seed))
    means = torch.stack([c.mean(dim=0) for c in case.clusters])
    excited = means @ case.network.w1.detach()  # [K, p]
    order = torch.argsort(excited.argmax(dim=0) * 1e3 - excited.amax(dim=0))
    h = case.network.encode(noisy(x, case.sigma, case.seed)).detach()[:, order]
    return {f"mode {k + 1}": h[label == k][0].numpy() for k in range(len(means))}


def _labels(case: Case) -> dict[str, object]:
    return {"setting": case.setting, "seed": case.seed, "half": case.half, "n": len(case.x), "width": case.width}


def _other(seed: int) -> int:
    return seed + 10**6  # new samples meet no training sample of any seed


def noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    """x [n, d] plus Gaussian noise of standard deviation sigma, drawn with the seed."""
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def _squared(denoiser: denoisers.Denoiser, case: Case, x: Tensor, draw: int) -> float:
    estimate = denoiser(noisy(x, case.sigma, 1000 * draw + case.seed), case.sigma)
    return float((estimate - x).square().sum(dim=1).mean())
