"""Many samples, few units: principal directions with predicted gains, one function from different data (Cor 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import denoisers, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book import two_layers
from spikiness_book.two_layers import BATCH, MEMORIZING, RANK, Mixture, Problem, noisy, represent

FRESH = 4000  # new samples, for the loss on new data
MIDDLE = 64  # a batch size between that of the memorizing networks and the chapter's own
FEW_SEEDS = 3  # seeds with a network on a second half, and in the harder settings: kept small because two cores


@dataclass(frozen=True)
class MixtureSetting:
    """One kind of mixture: how many modes, how wide they are, and whether the network has units to spare."""

    modes: int = 3
    spread: float = 0.5  # standard deviation along the strongest direction
    spare: bool = True  # False: as many units as there are directions


MAIN = "separable"
SETTINGS = {
    MAIN: MixtureSetting(),
    "wide modes": MixtureSetting(spread=1.1),
    "four modes": MixtureSetting(modes=4),
    "no spare units": MixtureSetting(spare=False),
}


@dataclass(frozen=True, kw_only=True)
class MixtureProblem(Problem):
    """A network on samples of a mixture, one of SETTINGS by `group`."""

    mixture: Mixture
    half: int = 0  # networks of one seed and size on disjoint samples

    def fresh(self, n: int) -> tuple[Tensor, Tensor]:
        """n samples [n, d] and their modes [n]: new ones, which meet no training sample of any seed."""
        return self.mixture.draw(n, self.seed + 10**6)


def plan(sizes: Sequence[int], seeds: Sequence[int], width: int, sigma: float, lam: float) -> list[MixtureProblem]:
    """Every size and seed of the main setting, some with a second network on disjoint samples, and harder settings."""
    problems = []
    for name, setting in SETTINGS.items():
        units = width if setting.spare else setting.modes * (RANK + 1)
        for i, seed in enumerate(seeds if name == MAIN else seeds[:FEW_SEEDS]):
            mixture = two_layers.mixture_with_tail(seed, setting.modes, setting.spread)
            for n in sizes if name == MAIN else [max(sizes)]:
                halves = mixture.halves(n, seed)[: 2 if name == MAIN and i < FEW_SEEDS else 1]
                problems += [
                    MixtureProblem(x, units, sigma, lam, seed, name, start=2 * seed + half, mixture=mixture, half=half)
                    for half, x in enumerate(halves)
                ]
    return problems


def summary(problem: MixtureProblem) -> dict[str, object]:
    """One row per network: alpha and beta, operator error, losses on its samples and on new ones, and predicted."""
    weights, theorem = (problem.network.w1, problem.network.w2), problem.theorem
    draws = max(8, 20_000 // problem.n)
    train = theory.true_loss(*weights, problem.x, problem.sigma, draws=draws, seed=problem.seed).value
    fresh, _ = problem.fresh(FRESH)
    test = theory.true_loss(*weights, fresh, problem.sigma, draws=8, seed=problem.seed).value
    train_predicted, test_predicted = _predicted(problem)
    alpha, beta = theory.separability(problem.clusters)
    return {
        **_labels(problem),
        "alpha": alpha,
        "beta": beta,
        "operator_error": max(theory.operator_error(*weights, *theorem)),
        "shared_units": int((theory.active_units(weights[0], problem.clusters).sum(dim=0) > 1).sum()),
        "train": train,
        "train_predicted": train_predicted,
        "test": test,
        "test_predicted": test_predicted,
        "train_error": train / train_predicted - 1,
        "test_error": test / test_predicted - 1,
        "stationarity": problem.network.record["stationarity"],
    }


def _labels(problem: MixtureProblem) -> dict[str, object]:
    names = {"seed": problem.seed, "half": problem.half, "n": problem.n, "width": problem.width}
    return {"setting": problem.group, **names}


def _predicted(problem: MixtureProblem) -> tuple[float, float]:
    """Predicted losses on the training set and on new samples."""
    theorem, mixture = problem.theorem, problem.mixture
    return theory.predicted_loss(*theorem), theory.predicted_test_loss(*theorem, mixture.moments, mixture.weights)


def predicted_curve(problems: Sequence[MixtureProblem], points: int = 13) -> pd.DataFrame:
    """Predicted losses, on training and on new samples, at training set sizes between those of the problems."""
    main = {problem.seed: problem for problem in problems if problem.group == MAIN}
    sizes = [problem.n for problem in problems if problem.group == MAIN]
    rows = []
    for n in np.unique(np.geomspace(min(sizes), max(sizes), points).round().astype(int)):
        for seed, problem in main.items():
            train, test = _predicted(replace(problem, clusters=problem.mixture.halves(int(n), seed)[0]))
            rows.append({"n": int(n), "seed": seed, "train": train, "test": test})
    return pd.DataFrame(rows)


def limits(problem: MixtureProblem) -> dict[str, float]:
    """The loss that networks approach as n grows (Cor 3.3), and that of f_gt, the best denoiser of all (sampled)."""
    mixture, sigma = problem.mixture, problem.sigma
    widths = [RANK + 1] * len(mixture.means)
    limit = theory.population_loss(mixture.moments, mixture.weights, widths, sigma, problem.lam)
    x, _ = problem.fresh(FRESH)
    estimates = (mixture.truth(noisy(x, sigma, 1000 * draw + problem.seed), sigma) for draw in range(4))
    truth = [float((estimate - x).square().sum(dim=1).mean()) for estimate in estimates]
    return {"seed": problem.seed, "limit": limit, "truth": float(np.mean(truth))}


def block_gains(problem: MixtureProblem) -> pd.DataFrame:
    """One row per direction that the theory keeps: the predicted gain w^2, and u^T W2 D W1^T u of the network.

    `elsewhere` is the norm of what the network does outside of its mode's directions, over that of the prediction.
    """
    operators = theory.linear_maps(problem.network.w1, problem.network.w2, problem.clusters)
    predicted, rows = theory.gains(*problem.theorem), []
    for k, (x, gain, operator) in enumerate(zip(problem.clusters, predicted, operators, strict=True)):
        gain = gain.double()
        axes = torch.linalg.svd(x.double(), full_matrices=False)[2][: len(gain)].T  # [d, p_k]
        inside = axes @ (axes.T @ operator @ axes) @ axes.T
        learned = (axes * (operator @ axes)).sum(dim=0)
        elsewhere = float((operator - inside).norm() / gain.norm())
        for j, (w2, learned_w2) in enumerate(zip(gain.tolist(), learned.tolist(), strict=True)):
            row = {"mode": k, "direction": j, "predicted": w2, "learned": learned_w2, "elsewhere": elsewhere}
            rows.append({**_labels(problem), **row})
    return pd.DataFrame(rows)


def distances(problems: Sequence[MixtureProblem]) -> pd.DataFrame:
    """Relative distances on new noisy samples: to f_gt, to f_emp, between the networks of two halves, and the limit's
    to f_gt: f_gt is a posterior mean, so E|f - f_gt|^2 is the loss of f less that of f_gt."""
    main = (problem for problem in problems if problem.group == MAIN)
    pairs = two_layers.grouped(main, lambda problem: (problem.seed, problem.n))
    gaps = {seed: limits(first) for (seed, _), (first, *_) in pairs.items()}
    rows = []
    for (seed, n), (first, *second) in pairs.items():
        y = noisy(first.fresh(FRESH // 4)[0], first.sigma, seed)
        truth = first.mixture.truth
        references = {"network and ground truth": truth, "network and empirical": denoisers.Empirical(first.x)}
        if second:
            references["networks of two halves"] = second[0].network
        values = {k: measures.distance(first.network, f, y, first.sigma).relative for k, f in references.items()}
        size = float(truth(y, first.sigma).square().sum(dim=1).mean())
        values["limit and ground truth"] = ((gaps[seed]["limit"] - gaps[seed]["truth"]) / size) ** 0.5
        rows += [{"seed": seed, "n": n, "between": name, "distance": value} for name, value in values.items()]
    return pd.DataFrame(rows)


def participation(problem: MixtureProblem, n: int = 500) -> Tensor:
    """Share of its mode's units that a new noisy sample excites, participation ratio over units of the block [n]."""
    x, label = problem.fresh(n)
    h = represent(problem.network, x, problem.sigma, problem.seed)
    alive = problem.network.w1.detach().norm(dim=0) > 1e-2
    block = (theory.active_units(problem.network.w1, problem.clusters) & alive).sum(dim=1)  # [K]
    return measures.participation_ratio(h) / block[label]


def balance(problems: Sequence[MixtureProblem], batch: int, steps: int) -> pd.DataFrame:
    """Mean `participation` of the main setting's networks, largest size, and of the same trained with smaller batches
    and for longer: gains fix no rotation of a block (O_k of Theorem 3.1). Beside them, that of `block_minimizer`."""
    main = [problem for problem in problems if problem.group == MAIN]
    size = max(problem.n for problem in main)
    largest = [problem for problem in main if problem.half == 0 and problem.n == size][:FEW_SEEDS]
    trained = {(batch, 1): largest}
    for other, times in ((BATCH[MEMORIZING], 1), (MIDDLE, 1), (MIDDLE, 2)):
        trained.setdefault((other, times), two_layers.train(largest, other, times * steps))

    def row(problem: MixtureProblem, batch: int, training: str) -> dict[str, object]:
        share = float(participation(problem).mean())
        return {"batch": batch, "steps": training, "seed": problem.seed, "participation": share}

    rows = [row(problem, b, f"{times * steps} steps") for (b, times), group in trained.items() for problem in group]
    for problem in largest:
        w = theory.block_minimizer(*problem.theorem, steps=10)
        network = ReLUDAE(*w.shape)
        network.w1.data = w
        rows += [row(replace(problem, network=network), b, "theory") for b, _ in trained]
    return pd.DataFrame(rows).drop_duplicates()


def representations(problem: MixtureProblem) -> dict[str, np.ndarray]:
    """h of one new noisy sample of each mode, units grouped by the mode that excites them most."""
    x, label = problem.fresh(100)
    means = torch.stack([cluster.mean(dim=0) for cluster in problem.clusters])
    excited = means @ problem.network.w1.detach()  # [K, p]
    order = torch.argsort(excited.argmax(dim=0) * 1e3 - excited.amax(dim=0))
    h = represent(problem.network, x, problem.sigma, problem.seed)[:, order]
    return {f"mode {k + 1}": h[label == k][0].numpy() for k in range(len(means))}
