"""Along training: when samples become good, when they become copies, and whether representations tell beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import detection, images, measures
from spikiness.denoisers import EDM, Empirical
from spikiness.detection.calibration import NONLINEARITIES, SPIKIER, values
from spikiness.sampling import Noise
from spikiness.statistics import EARLIER, INSIDE, LATER, Interval, first_rise, onset, precedence, rate
from spikiness_book import copying
from spikiness_book.zoo import Trained

GOOD, COPIES = "samples good", "half of the samples copies"
SPIKY, ANY = "spikiness", "representation, any direction"  # of the chosen layer: memorized held to be spikier, or not
LOSS, ERROR, APPEAR = "loss", "error at the same noise", "copies among samples"
LOSS_SIGMAS = (0.065, 0.14, 0.30, 0.65, 1.4)  # quantiles .1, .3, .5, .7, .9 of the noise levels of training
TRIED = ("std", "std_over_norm", "participation_ratio", "kurtosis")
APART = 10**12  # first seed of this noise: a sample never meets the noise it was made from
FEWEST_CHOSEN_ON = 10  # memorized samples a choice may rest on


def noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    """x [N, C, H, W] with noise of level sigma, image i's from a generator of its own: the same at every stage."""
    start = APART + seed * 1_000_000
    draw = Noise(x.shape[1:], range(start, start + len(x)), x.device, x.dtype)
    return x + sigma * draw()


@torch.no_grad()
def losses(denoiser: EDM, x: Tensor, seed: int, sigmas: Sequence[float] = LOSS_SIGMAS, weigh: bool = True) -> Tensor:
    """Squared error per pixel of each image [N], mean over noise levels, weighted as in training where asked."""
    total = torch.zeros(len(x))
    for k, sigma in enumerate(sigmas):
        error = (denoiser(noisy(x, sigma, seed + 100 * k), sigma) - x).square().flatten(1).mean(dim=1)
        total += error * (denoiser.loss_weight(torch.tensor(sigma)) if weigh else 1)
    return total / len(sigmas)


def follow(
    network: Trained, held: Tensor, features: Callable[[Tensor], Tensor], count: int, sigma: float
) -> pd.DataFrame:
    """One row per stage: memorized share of `count` samples, their kernel distance to held-out images, both losses
    (with 95 % intervals over images), and the distance to f_emp on noisy held-out images, relative."""
    found = []
    mine, real, empirical = network.x[: len(held)], features(held).detach(), Empirical(network.x)
    inputs = noisy(held, sigma, network.seed)
    for stage, (seen, denoiser) in enumerate(zip(network.seen, network.stages, strict=True)):
        drawn = network.draw(count, stage)
        share, (low, high) = rate(copying.table(drawn, network.x).memorized)
        apart = measures.kernel_distance(features(drawn).detach(), real)
        row = {"n": network.n, "seed": network.seed, "images_seen": seen, "share": share, "low": low, "high": high}
        row |= {"quality": apart.value, "quality_low": apart.interval[0], "quality_high": apart.interval[1]}
        for name, x in (("train", mine), ("held", held)):
            row |= _mean(name, losses(denoiser, x, network.seed))
        found.append({**row, "to_empirical": measures.distance(denoiser, empirical, inputs, sigma).relative})
    return pd.DataFrame(found)


def _mean(name: str, each: Tensor) -> dict[str, float]:
    mean, half = each.mean().item(), 1.96 * each.std().item() / len(each) ** 0.5
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def real_distance(held: Tensor, features: Callable[[Tensor], Tensor], seed: int = 0) -> measures.KernelDistance:
    """Kernel distance of one random half of held-out images to the other: what perfect samples would have."""
    first, second = images.halves(held, seed)
    return measures.kernel_distance(features(first).detach(), features(second).detach())


def times(stages: pd.DataFrame, real: float, factor: float) -> pd.DataFrame:
    """Two rows per network: images seen until samples are good, and until half of them are copies, with where that is.

    Good: kernel distance at most `factor` times the network's best or `real`, whichever is larger. Intervals come from
    those of the stages; times that are only bounded have none.
    """
    found = []
    for (n, seed), mine in stages.sort_values("images_seen").groupby(["n", "seed"]):
        level = factor * max(mine.quality.min(), real)
        curves = {
            GOOD: ([-mine[c] for c in ("quality", "quality_low", "quality_high")], -level),
            COPIES: ([mine[c] for c in ("share", "high", "low")], 0.5),
        }
        for kind, (three, at) in curves.items():
            rise, early, late = (first_rise(mine.images_seen, y, at) for y in three)
            low, high = (early.value, late.value) if rise.inside else (rise.value, rise.value)
            row = {"n": n, "seed": seed, "kind": kind, "images_seen": rise.value, "bound": rise.where}
            found.append({**row, "low": min(low, rise.value), "high": max(high, rise.value), "level": abs(at)})
    return pd.DataFrame(found)


def loss_curves(stages: pd.DataFrame) -> pd.DataFrame:
    """The two losses one below the other: n, seed, images_seen, which images, and loss with its interval."""
    parts = []
    for name, key in {"training images": "train", "held-out images": "held"}.items():
        ends = {"low": stages[f"{key}_low"].clip(lower=0.001), "high": stages[f"{key}_high"]}
        parts.append(stages[["n", "seed", "images_seen"]].assign(images=name, loss=stages[key], **ends))
    return pd.concat(parts)


@dataclass(frozen=True)
class Growth:
    """Exponent of a time over n, and what it rests on."""

    slope: float
    interval: Interval
    used: int  # networks
    bound: bool  # some of the times are lower bounds, and so is the slope


def growth(found: pd.DataFrame, kind: str = COPIES, draws: int = 1000) -> Growth | None:
    """Slope of the log time of `kind` over log n; None where fewer than two sizes have a time, or a bound of it.

    From the times that are seen; where these are of one size only, lower bounds of larger n join them, and the slope is
    a lower bound too. Interval: networks resampled within each size, each time drawn evenly in log from its own.
    """
    mine = found[(found.kind == kind) & (found.bound != EARLIER)]
    sure = mine[mine.bound == INSIDE]
    bound = sure.n.nunique() < 2
    if bound and len(sure):
        mine = pd.concat([sure, mine[(mine.bound == LATER) & (mine.n > sure.n.min())]])
    elif not bound:
        mine = sure
    if mine.n.nunique() < 2 or sure.empty:
        return None
    n, low, high = (np.log(mine[c].to_numpy(float)) for c in ("n", "low", "high"))
    slope, rng = _slope(n, np.log(mine.images_seen.to_numpy(float))), np.random.default_rng(0)
    groups = [np.flatnonzero(n == value) for value in np.unique(n)]
    resampled = []
    for _ in range(draws):
        picked = np.concatenate([rng.choice(group, len(group)) for group in groups])
        resampled.append(_slope(n[picked], rng.uniform(low[picked], high[picked])))
    ends = np.quantile(resampled, [0.025, 0.975])
    interval = Interval(min(ends[0], slope), max(ends[1], slope), over="networks of each size, and their times")
    return Growth(slope, interval, len(mine), bound)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0])


# --- early warning: chosen on calibration networks, looked at on others ---------------------------------------------


def stand_in(found: pd.DataFrame) -> tuple[np.ndarray, bool]:
    """Which samples count as memorized for a choice, [N]; where too few are, the tenth closest to one training image.

    The second value says that the samples are such a stand-in, which no choice should rest on.
    """
    mask = found.memorized.to_numpy(bool)
    if mask.sum() >= FEWEST_CHOSEN_ON:
        return mask, False
    return found.ratio.to_numpy() <= np.quantile(found.ratio, 0.1), True


def calibrate(
    calibration: Sequence[Trained], samples: Sequence[Tensor], masks: Sequence[np.ndarray], sigmas: list
) -> pd.DataFrame:
    """AUROC of memorized against generalized samples, one row per network (`model`), layer, pool, measure and noise
    level: `detection.grid_search`."""
    parts = []
    for network, drawn, mask in zip(calibration, samples, masks, strict=True):
        two = drawn[np.flatnonzero(mask)], drawn[np.flatnonzero(~mask)]
        among = {"layers": NONLINEARITIES, "sigmas": sigmas, "measures": TRIED}
        found = detection.grid_search(network.stages[-1], *two, **among, seed=network.seed)
        parts.append(found.assign(model=network.seed))
    return pd.concat(parts, ignore_index=True)


def choose(calibrated: pd.DataFrame, spiky: bool = False) -> tuple[detection.Probe, float]:
    """The setting whose AUROC, in one direction for all calibration networks, is largest in the worst of them, and that
    AUROC; with `spiky` the direction is given: memorized samples are held to be the spikier ones."""
    table = detection.worst_of(calibrated, SPIKIER if spiky else None)
    choice, row = detection.pick(table, margin=0.0)
    return choice, float(row.worst)


def spikier(calibrated: pd.DataFrame) -> float:
    """Share of settings, over calibration networks, in which memorized samples are the spikier ones."""
    way = calibrated.measure.map(lambda name: measures.MEASURES[name].spikier)
    return float(((calibrated.auroc - 0.5) * way > 0).mean())


def by_layer(calibrated: pd.DataFrame, sigma: float) -> pd.DataFrame:
    """AUROC at one noise level, a row per layer and per pooling and measure (`what`): of the network nearest to .5."""
    rows = calibrated[calibrated.sigma == sigma]
    rows = rows.assign(what=rows.pool + ", " + rows.measure, layer=rows.layer.str.removeprefix("network."))
    worst = rows.groupby(["layer", "what"], sort=False).auroc.agg(lambda each: min(each, key=lambda v: abs(v - 0.5)))
    return worst.reset_index()


def scores(
    denoiser: EDM, x: Tensor, choices: dict[str, detection.Probe], draws: int, seed: int
) -> dict[str, np.ndarray]:
    """What might tell training images from others, one number [N] each, higher for training: the measures chosen, the
    loss of training, and the error at the noise level of the first choice; measures and error are means over `draws`.
    """
    found = {name: values(denoiser, choice, x, draws, seed).numpy() for name, choice in choices.items()}
    sigma = next(iter(choices.values())).sigma
    error = sum(losses(denoiser, x, seed + 100 * k, [sigma]) for k in range(draws)) / draws
    return {**found, ERROR: -error.numpy(), LOSS: -losses(denoiser, x, seed).numpy()}


def copied(network: Trained, found: pd.DataFrame, mask: np.ndarray) -> Tensor:
    """The training images of a network that its samples of `mask` [N] copy; `found` is `copying.table` of them all."""
    return network.x[sorted(set(found.nearest[mask]))]


def unused(x: Tensor, seen: Sequence[Tensor]) -> Tensor:
    """The images of x [N, ...] that are in none of the sets `seen`: what no choice rests on."""
    known = {row.numpy().tobytes() for row in torch.cat(list(seen)).contiguous()}
    return x[torch.tensor([row.numpy().tobytes() not in known for row in x.contiguous()], dtype=torch.bool)]


def warnings(
    network: Trained, mine: Tensor, held: Tensor, choices: dict[str, detection.Probe], draws: int, resamples: int
) -> pd.DataFrame:
    """One row per stage and score: AUROC of training images `mine` against held-out ones, with its interval."""
    found = []
    for seen, denoiser in zip(network.seen, network.stages, strict=True):
        of_train = scores(denoiser, mine[: len(held)], choices, draws, network.seed)
        of_held = scores(denoiser, held, choices, draws, network.seed)
        for name, mine_scores in of_train.items():
            result = detection.evaluate(mine_scores, of_held[name], draws=resamples)
            row = {"n": network.n, "seed": network.seed, "images_seen": seen, "signal": name, "share": result.auroc}
            found.append({**row, "low": result.auroc_interval[0], "high": result.auroc_interval[1]})
    return pd.DataFrame(found)


def first_signs(warned: pd.DataFrame, stages: pd.DataFrame, chance: pd.Series) -> pd.DataFrame:
    """One row per network and signal: the first stage from which on, to the end, its interval lies above chance.

    Chance is AUROC .5 for scores; for copies among samples, the rate at which held-out images count as copies, its
    upper end: `chance` by (n, seed). `images_seen` is NaN where a signal never comes.
    """
    parts = [
        warned.assign(chance=0.5),
        stages.assign(signal=APPEAR, chance=[chance[n, s] for n, s in zip(stages.n, stages.seed, strict=True)]),
    ]
    found = []
    for (n, seed, signal), mine in pd.concat(parts).groupby(["n", "seed", "signal"]):
        mine = mine.sort_values("images_seen")
        seen = onset(mine.images_seen, mine.low > mine.chance)
        found.append({"n": n, "seed": seed, "signal": signal, "images_seen": seen})
    return pd.DataFrame(found)


def chance_copies(found: Sequence[Trained], held: Tensor) -> pd.Series:
    """For each network (n, seed), the upper end of the rate at which held-out images count as copies of its own."""
    rates = {(w.n, w.seed): rate(copying.table(held, w.x).memorized)[1][1] for w in found}
    return pd.Series(rates)


def leads(signs: pd.DataFrame, first: str, second: str) -> dict[str, int]:
    """In how many networks `first` comes before `second`, at the same stage, after it, alone, or not at all.

    Alone: `second` never comes. Missed: `second` comes and `first` does not.
    """
    table = signs.pivot(index=["n", "seed"], columns="signal", values="images_seen")
    return precedence(table[first], table[second])
