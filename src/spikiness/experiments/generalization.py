"""Many samples, few units: principal directions with predicted gains, one function from different data (Cor 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import denoisers, images, measures, theory
from spikiness.cache import cached
from spikiness.experiments import memorization
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble

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
        y = _noisy(x, first.sigma, seed)
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
    h = case.network.encode(_noisy(x, case.sigma, case.seed)).detach()
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
    h = case.network.encode(_noisy(x, case.sigma, case.seed)).detach()[:, order]
    return {f"mode {k + 1}": h[label == k][0].numpy() for k in range(len(means))}


def _labels(case: Case) -> dict[str, object]:
    return {"setting": case.setting, "seed": case.seed, "half": case.half, "n": len(case.x), "width": case.width}


def _other(seed: int) -> int:
    return seed + 10**6  # new samples meet no training sample of any seed


def _noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def _squared(denoiser: denoisers.Denoiser, case: Case, x: Tensor, draw: int) -> float:
    estimate = denoiser(_noisy(x, case.sigma, 1000 * draw + case.seed), case.sigma)
    return float((estimate - x).square().sum(dim=1).mean())


# Images -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageCase:
    """One network on images: all of them, or one of two disjoint halves, or a few that it memorizes."""

    group: str  # "all", "first half", "second half" or "memorizing"
    seed: int
    sigma: float
    lam: float
    x: Tensor  # [n, d]
    network: ReLUDAE | None = None


def plan_images(
    pool: Tensor, halves: Sequence[int], seeds: Sequence[int], sigma: float, sigmas: Sequence[float], lam: float
) -> list[ImageCase]:
    """All of pool [n, ...] at every noise level; disjoint halves of each size at the main one, copies left out."""
    flat = pool.flatten(1)
    distinct = flat[images.distinct(flat)]
    cases = []
    for seed in seeds:
        cases += [ImageCase("all", seed, s, lam, flat) for s in sorted({sigma, *sigmas})]
        for size in halves:
            drawn = images.subset(distinct, 2 * size, seed, "distinct images for two halves")
            cases += [
                ImageCase(name, seed, sigma, lam, part)
                for name, part in (("first half", drawn[:size]), ("second half", drawn[size:]))
            ]
    return cases


def train_images(cases: Sequence[ImageCase], width: int, batch: int, steps: int) -> list[ImageCase]:
    """The cases with their networks, trained side by side, from the cache where it has them."""
    members = [Member(c.x, width, c.sigma, c.lam, 2 * c.seed + (c.group == "second half")) for c in cases]
    networks = cached(fit_ensemble, members, batch=batch, steps=steps)
    return [replace(case, network=network) for case, network in zip(cases, networks, strict=True)]


def memorize(
    pool: Tensor, n: int, seeds: Sequence[int], width: int, sigma: float, lam: float, steps: int
) -> list[ImageCase]:
    """Networks that store n images each, with pairwise negative cosines after centring, as in the chapter before."""
    cases = [
        ImageCase("memorizing", seed, sigma, lam, memorization.choose(pool, n, seed, "separable")) for seed in seeds
    ]
    return train_images(cases, width, memorization.BATCH, steps)


def second_moment(x: Tensor) -> Tensor:
    """X^T X / n [d, d] of x [n, d] in float64, the mean left in: all that the theory of one mode asks of the data."""
    return x.double().T @ x.double() / len(x)


def principal(moment: Tensor) -> Tensor:
    """Eigenvectors of a second moment [d, d] as columns, the leading one first."""
    return torch.linalg.eigh(moment)[1].flip(1)


def image_summary(case: ImageCase, moment: Tensor) -> dict[str, object]:
    """One row per network: how its columns lie to images and principal directions, operator and loss against one mode.

    moment: of the case's images. `kept` counts the directions that Cor 3.3 keeps with the data as one mode, `share` is
    the energy of the columns in these, `chance` that of random columns; `cosine` is the largest of a column with
    energy, `typical` the mean.
    """
    w = case.network.w1.detach().double()
    columns, fit = measures.stored_columns(w, case.x), ([moment], [1.0], [w.shape[1]], case.sigma, case.lam)
    gains, axes = theory.population_gains(*fit)[0], principal(moment)
    kept = int((gains > 0).sum())
    predicted = (axes[:, :kept] * gains[:kept]) @ axes[:, :kept].T  # [d, d]
    on = theory.active_units(w, [case.x])[0]
    loss = theory.true_loss(w, w, case.x, case.sigma, draws=max(2, 10_000 // len(case.x)), seed=case.seed).value
    return {
        "seed": case.seed,
        "sigma": case.sigma,
        "n": len(case.x),
        "alpha": theory.separability([case.x])[0],
        "kept": kept,
        "share": float(energy_below(w, axes)[kept - 1]) if kept else 0.0,
        "chance": kept / len(w),
        "cosine": float(columns.cosine[columns.energy > 1e-3].max()),
        "typical": columns.weighted_cosine,
        "operator_error": float((w[:, on] @ w[:, on].T - predicted).norm() / predicted.norm()),
        "loss_ratio": loss / theory.population_loss(*fit),
        "stationarity": case.network.record["stationarity"],
    }


def memorizing_summary(case: ImageCase, axes: Tensor, kept: int) -> dict[str, object]:
    """The same of a memorizing network: cosine to its images, and energy in the `kept` leading axes [d, d] of all."""
    typical = measures.stored_columns(case.network.w1, case.x).weighted_cosine
    share = float(energy_below(case.network.w1, axes)[kept - 1])
    return {"seed": case.seed, "n": len(case.x), "typical": typical, "share": share}


def noise_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `image_summary` as one row per measure: operator and loss error, energy outside the kept directions."""
    shown = table.assign(loss_error=(table.loss_ratio - 1).abs(), outside=1 - table.share)
    names = {"operator_error": "operator error", "loss_error": "loss error", "outside": "energy outside"}
    shown = shown.rename(columns=names)
    return shown.melt(["sigma", "seed"], list(names.values()), var_name="measure")


def energy_below(w: Tensor, axes: Tensor) -> Tensor:
    """Share of |W|_F^2 within the first 1, 2, ... axes [d, m]: [m]."""
    energy = (axes.T @ w.detach().double()).square().sum(dim=1)
    return energy.cumsum(dim=0) / w.detach().double().square().sum()


def spectra(generalizing: Sequence[ImageCase], memorizing: Sequence[ImageCase], moment: Tensor) -> pd.DataFrame:
    """Energy of columns within the first r principal directions: both kinds of networks, theory, random columns."""
    case, axes = generalizing[0], principal(moment)
    d, width = len(axes), min(case.network.w1.shape)
    gains = theory.population_gains([moment], [1.0], [width], case.sigma, case.lam)[0].cumsum(dim=0)
    curves = {"theory": torch.nn.functional.pad(gains / gains[-1], (0, d - width), value=1.0)}
    curves["random"] = torch.arange(1, d + 1) / d
    for name, group in (("generalizing", generalizing), ("memorizing", memorizing)):
        curves[name] = torch.stack([energy_below(c.network.w1, axes) for c in group]).mean(dim=0)
    frames = [
        pd.DataFrame({"directions": range(1, d + 1), "share": v.tolist(), "columns": k}) for k, v in curves.items()
    ]
    return pd.concat(frames)


def image_halves(cases: Sequence[ImageCase], test: Tensor) -> pd.DataFrame:
    """Relative distance between the networks of two disjoint halves, on new noisy images [N, d]; also with the mean
    of the images taken out of the denominator."""
    rows, seconds = [], {(c.seed, len(c.x)): c for c in cases if c.group == "second half"}
    spread = (test - test.mean(dim=0)).square().mean().sqrt()
    for first in (c for c in cases if c.group == "first half"):
        second = seconds[first.seed, len(first.x)]
        found = measures.distance(first.network, second.network, _noisy(test, first.sigma, first.seed), first.sigma)
        rows.append(
            {
                "seed": first.seed,
                "n": len(first.x),
                "distance": found.relative,
                "of_variation": found.rms / float(spread),
            }
        )
    return pd.DataFrame(rows)


def column_pictures(
    generalizing: ImageCase, memorizing: ImageCase, shape: tuple[int, int], count: int = 8
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: strongest columns of either network above their nearest images, and principal directions."""
    rows, captions = {}, {}
    for name, case in (("generalizing", generalizing), ("memorizing", memorizing)):
        columns = measures.stored_columns(case.network.w1, case.x)
        best = columns.energy.argsort(descending=True)[: count if name == "generalizing" else len(case.x)]
        rows[f"{name}:\ncolumns"] = case.network.w1.detach().T[best]
        rows[f"{name}:\nnearest images"] = case.x[columns.nearest[best]]
        captions[f"{name}:\nnearest images"] = [f"cos {v:.2f}" for v in columns.cosine[best]]
    rows["principal\ndirections"] = principal(second_moment(generalizing.x))[:, :count].T.float()
    frame = pd.concat(
        pd.DataFrame(x.numpy()).assign(row=name.replace("\n", " ")).rename(columns=str) for name, x in rows.items()
    )
    return {name: x.reshape(-1, *shape).numpy() for name, x in rows.items()}, captions, frame


def denoised(case: ImageCase, x: Tensor, mean: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy versions of images x [N, d] and the network's estimates; memorizing networks see centered images."""
    shift = mean if case.group == "memorizing" else torch.zeros_like(mean)
    y = _noisy(x, case.sigma, seed)
    return y, case.network(y - shift).detach() + shift


def psnr_gaps(cases: Sequence[ImageCase], test: Tensor, mean: Tensor, draws: int = 2000) -> pd.DataFrame:
    """PSNR in dB (range 2, images in [-1, 1]) on each network's own training images and on test ones, the gap, and
    that of the noisy test images themselves."""
    rows = []
    for case in cases:
        own = case.x + mean if case.group == "memorizing" else case.x
        found = {}
        for name, x in (("train", own), ("test", test)):
            x = x[torch.arange(draws) % len(x)]  # few images are seen with many noises
            y, estimate = denoised(case, x, mean, case.seed)
            found[name] = float(measures.psnr(estimate, x, 2.0).mean())
        found["noisy"] = float(measures.psnr(y, x, 2.0).mean())
        rows.append({"group": case.group, "seed": case.seed, **found, "gap": found["train"] - found["test"]})
    return pd.DataFrame(rows)


def denoising_pictures(
    memorizing: ImageCase, generalizing: ImageCase, test: Tensor, mean: Tensor, shape: tuple[int, int], count: int = 4
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Training images of the memorizing network (the other one has seen them too), then test images; both denoised."""
    x = torch.cat([memorizing.x[:count] + mean, test[:count]])
    train = min(count, len(memorizing.x))
    rows = {"clean": x, "noisy": denoised(generalizing, x, mean, 1)[0]}
    captions = {"clean": ["train"] * train + ["test"] * (len(x) - train)}
    for name, case in (("memorizing", memorizing), ("generalizing", generalizing)):
        rows[name] = denoised(case, x, mean, 1)[1]
        captions[name] = [f"{v:.1f} dB" for v in measures.psnr(rows[name], x, 2.0)]
    frame = pd.concat(pd.DataFrame(v.numpy()).assign(row=name).rename(columns=str) for name, v in rows.items())
    return {name: v.reshape(-1, *shape).numpy() for name, v in rows.items()}, captions, frame
