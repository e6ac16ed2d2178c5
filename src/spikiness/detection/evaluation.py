"""How well a score tells memorized from generalized samples, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spikiness.errors import SpikinessError
from spikiness.measures import clusters, to_numpy, wilson

if TYPE_CHECKING:  # imported by the function that makes a table, since it takes half a second
    import pandas as pd

BLOCK = 2**21  # resampled weights held at once, 16 MB


@dataclass(frozen=True)
class Evaluation:
    """The rates that `evaluate` gives, with intervals, and what they rest on."""

    auroc: float  # ties count half
    auroc_interval: tuple[float, float]
    tpr: float  # share of memorized samples above the threshold
    tpr_interval: tuple[float, float]
    threshold: float  # a sample is flagged when its score is strictly above it
    fpr: float  # share of generalized samples above it: at most what was asked for, 0 where they are too few
    ties: float  # share of (memorized, generalized) pairs with equal scores
    memorized: int  # samples
    generalized: int


def evaluate(
    scores_memorized: object,
    scores_generalized: object,
    groups: object = None,
    *,
    seeds: tuple[object, object] | None = None,
    fpr: float = 0.01,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """AUROC, and TPR at 1 % FPR, of scores [N] (tensor, array, list; higher = memorized) with bootstrap intervals.

    The threshold is the 99 % quantile of the generalized scores: the smallest of them with at most 1 % strictly above,
    so the FPR holds with ties too. `groups` [N] (nearest training image) of the memorized samples, or a tuple for both
    kinds, are resampled whole. `seeds`, a pair of labels of the model behind each sample: models are resampled first,
    the same for both kinds, then the groups within each. At exactly 0 or 1, where resampling sees no error, an interval
    reaches as far as Wilson's for as many trials as there are groups (for AUROC of the rarer kind: disjoint pairs).

    Raises for NaN or inf (with their number), equal scores throughout, fewer than two samples or groups of a kind, and
    a model with one kind only.
    """
    memorized, generalized = _scores("memorized", scores_memorized), _scores("generalized", scores_generalized)
    if memorized.min() == memorized.max() == generalized.min() == generalized.max():
        raise SpikinessError(f"all scores are {memorized[0]:g} and rank nothing; is the representation dead?")
    _check_rates(fpr, level, draws)
    order = np.argsort(generalized, kind="stable")
    generalized = generalized[order]
    sizes = len(memorized), len(generalized)
    models = _models(seeds, *sizes)
    group_m, group_g = groups if isinstance(groups, tuple) else (groups, None)
    units = _units("memorized", group_m, models[0]), _units("generalized", group_g, models[1])
    once = np.ones((1, sizes[0])), np.ones((1, sizes[1]))
    auroc, tpr, threshold = (rate.item() for rate in _rates(memorized, generalized, *once, fpr))

    rng, resampled, step = np.random.default_rng(seed), [], max(1, BLOCK // sum(sizes))
    for done in range(0, draws, step):
        times = np.ones((min(step, draws - done), 1), dtype=int)  # [draws, models]: how often each is drawn
        if seeds is not None:
            times = _counts(models[0].max() + 1, times[:, 0], rng)
        weight_m, weight_g = (_weights(*unit, times, rng) for unit in units)
        resampled.append(_rates(memorized, generalized, weight_m, weight_g[:, order], fpr)[:2])
    aurocs, tprs = np.concatenate(resampled, axis=1)
    trials_m, trials_g = (len(owner) for _, owner in units)
    low, high = (np.searchsorted(generalized, memorized, side) for side in ("left", "right"))
    return Evaluation(
        auroc=auroc,
        auroc_interval=_interval(aurocs, auroc, min(trials_m, trials_g), level),
        tpr=tpr,
        tpr_interval=_interval(tprs, tpr, trials_m, level),
        threshold=threshold,
        fpr=float((generalized > threshold).mean()),
        ties=float((high - low).mean() / sizes[1]),
        memorized=sizes[0],
        generalized=sizes[1],
    )


Pair = tuple[object, object]  # of memorized, of generalized samples


def compare(
    scores: Mapping[str, Sequence[Pair]],
    groups: Sequence[Pair],
    reference: str,
    *,
    fpr: float = 0.01,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Several scores on the same samples of one or more models: means over models of AUROC and TPR, with differences.

    `scores[name]` has for each model a pair of scores, of memorized [N] and of generalized samples [M] (higher =
    memorized); `groups` for each model a pair of labels, [N] and [M] (nearest training image). Each model has its own
    threshold. Models are resampled, then groups within each, the same for all scores, so that `difference`, AUROC of
    `reference` minus that of a score, is paired. One row per score: auroc, tpr, difference, each with `_low`, `_high`.
    With one model intervals are about that model alone; with three, of models that differ as much as samples do, a
    simulation found the truth in 90 % of intervals of a level of 95 %.
    Raises as `evaluate`, and for scores that do not fit the groups.
    """
    import pandas as pd

    if reference not in scores:
        raise SpikinessError(f"reference {reference!r} is not one of the scores: {', '.join(scores)}")
    _check_rates(fpr, level, draws)
    sampled = _resamples(groups, draws, np.random.default_rng(seed))
    trials = [sum(units) for units in zip(*(w.units for w in sampled), strict=True)]
    means = {name: _means(name, pairs, sampled, fpr) for name, pairs in scores.items()}
    base, rows = means[reference], []
    for name, (estimates, resampled) in means.items():
        row: dict[str, object] = {"score": name}
        for k, (rate, count) in enumerate({"auroc": min(trials), "tpr": trials[0]}.items()):
            low, high = _interval(resampled[k], estimates[k], count, level)
            row |= {rate: estimates[k], f"{rate}_low": low, f"{rate}_high": high}
        apart = [*np.quantile(base[1][0] - resampled[0], [(1 - level) / 2, (1 + level) / 2])]
        if name != reference:
            apart = _widened(apart, base[0][0], estimates[0], min(trials), level)
        row |= {"difference": base[0][0] - estimates[0], "difference_low": apart[0], "difference_high": apart[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def _widened(apart: list[float], base: float, rival: float, trials: int, level: float) -> list[float]:
    """The interval of `base - rival`, two AUROCs. Where one of them is exactly 0 or 1 no resample shows an error, and
    the interval reaches at least as far as Wilson's for that AUROC."""
    low, high = apart
    for value, sign in ((base, 1), (rival, -1)):
        if value in (0.0, 1.0):
            ends = sorted(sign * (end - value) for end in wilson(trials if value else 0, trials, level))
            low, high = min(low, base - rival + ends[0]), max(high, base - rival + ends[1])
    return [low, high]


@dataclass(frozen=True)
class _Resampled:
    """The weights of the samples of one model in each resample."""

    times: np.ndarray  # [draws], how often the model is drawn
    weights: tuple[np.ndarray, np.ndarray]  # [draws, N] and [draws, M]
    units: tuple[int, int]  # groups


def _resamples(groups: Sequence[Pair], draws: int, rng: np.random.Generator) -> list[_Resampled]:
    models = len(groups)
    times = _counts(models, np.ones(draws, dtype=int), rng) if models > 1 else np.ones((draws, 1))
    resampled = []
    for k, pair in enumerate(groups):
        weights, units = [], []
        for kind, labels in zip(("memorized", "generalized"), map(to_numpy, pair), strict=True):
            unit, owner = _units(kind, labels, np.zeros(len(labels), dtype=int))
            weights.append(_weights(unit, owner, np.ones((draws, 1), dtype=int), rng))
            units.append(len(owner))
        resampled.append(_Resampled(times[:, k], (weights[0], weights[1]), (units[0], units[1])))
    return resampled


def _means(
    name: str, pairs: Sequence[Pair], sampled: Sequence[_Resampled], fpr: float
) -> tuple[list[float], list[np.ndarray]]:
    """AUROC and TPR of one score, means over models: as estimated, and in each resample [draws]."""
    if len(pairs) != len(sampled):
        raise SpikinessError(f"{name!r} has scores of {len(pairs)} models, the groups are of {len(sampled)}")
    point, total = np.zeros(2), np.zeros((2, len(sampled[0].times)))
    for pair, resampled in zip(pairs, sampled, strict=True):
        memorized, generalized = (
            _scores(f"{kind} ({name})", s) for kind, s in zip(("memorized", "generalized"), pair, strict=True)
        )
        sizes = tuple(w.shape[1] for w in resampled.weights)
        if (len(memorized), len(generalized)) != sizes:
            raise SpikinessError(f"{name!r} has {len(memorized)} and {len(generalized)} scores, the groups {sizes}")
        order = np.argsort(generalized, kind="stable")
        once_m, once_g = (np.ones((1, size)) for size in sizes)
        point += [rate.item() for rate in _rates(memorized, generalized[order], once_m, once_g, fpr)[:2]]
        weight_m, weight_g = resampled.weights
        step = max(1, BLOCK // sum(sizes))
        for start in range(0, len(weight_m), step):
            rows = slice(start, start + step)
            rates = _rates(memorized, generalized[order], weight_m[rows], weight_g[rows][:, order], fpr)[:2]
            total[:, rows] += resampled.times[rows] * np.stack(rates)
    return (point / len(pairs)).tolist(), list(total / len(pairs))


def _check_rates(fpr: float, level: float, draws: int) -> None:
    if not 0 < fpr < 1 or not 0 < level < 1 or draws < 1:
        raise SpikinessError(f"fpr {fpr}, level {level}, draws {draws}: need 0 < fpr < 1, 0 < level < 1, draws >= 1")


def _scores(kind: str, values: object) -> np.ndarray:
    scores = to_numpy(values).astype(np.float64)
    if scores.ndim != 1 or len(scores) < 2:
        raise SpikinessError(f"{kind} scores have shape {scores.shape}; give one score for each of 2 samples or more")
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise SpikinessError(f"{bad} of {len(scores)} {kind} scores are NaN or inf: no rank; remove and report them")
    return scores


def _models(seeds: tuple[object, object] | None, *sizes: int) -> list[np.ndarray]:
    """Labels 0, 1, ... of the model of each memorized and each generalized sample; one model where `seeds` is None."""
    if seeds is None:
        return [np.zeros(n, dtype=int) for n in sizes]
    labels = [to_numpy(s) for s in seeds]
    if [s.shape for s in labels] != [(n,) for n in sizes]:
        raise SpikinessError(f"seeds must be two lists of labels, of {sizes[0]} memorized and {sizes[1]} generalized")
    lonely = np.setxor1d(labels[0], labels[1])
    if len(lonely):
        raise SpikinessError(f"model {lonely[0]} has memorized or generalized samples only; leave it out and say so")
    joint = clusters(np.concatenate(labels), sum(sizes))
    if joint.max() == 0:
        raise SpikinessError("all samples come from one model, so models cannot be resampled; leave `seeds` out")
    return np.split(joint, [sizes[0]])


def _units(kind: str, groups: object, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is resampled, groups within models: the unit of each sample, and the model that owns each unit."""
    n = len(model)
    _, first, unit = np.unique(model * n + clusters(groups, n), return_index=True, return_inverse=True)
    if len(first) < 2:
        raise SpikinessError(f"all {n} {kind} samples are in one group; an interval needs two groups or more")
    return unit, model[first]


def _counts(size: int, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each of `size` things comes up in `times[i]` resamples of them all: [draws, size]."""
    row = np.repeat(np.arange(len(times)), times * size)
    flat = np.bincount(row * size + rng.integers(size, size=len(row)), minlength=len(times) * size)
    return flat.reshape(len(times), size)


def _weights(unit: np.ndarray, owner: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each sample is in each resample, [draws, N], when model s is drawn times[:, s] times."""
    counts = np.empty((len(times), len(owner)))
    for model in range(times.shape[1]):
        own = np.flatnonzero(owner == model)
        counts[:, own] = _counts(len(own), times[:, model], rng)
    return counts[:, unit]


def _rates(
    memorized: np.ndarray, generalized: np.ndarray, weight_m: np.ndarray, weight_g: np.ndarray, fpr: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC, TPR and threshold [draws] under weights [draws, N]; `generalized` ascending."""
    total_m, total_g = weight_m.sum(axis=1), weight_g.sum(axis=1)
    upto = np.cumsum(weight_g, axis=1)
    below = np.pad(upto, ((0, 0), (1, 0)))  # [draws, G + 1]
    low, high = (np.searchsorted(generalized, memorized, side) for side in ("left", "right"))
    auroc = (weight_m * (below[:, low] + below[:, high])).sum(axis=1) / (2 * total_m * total_g)
    needed = total_g - np.floor(fpr * total_g + 1e-9)  # so many must not be above
    threshold = generalized[(upto < needed[:, None]).sum(axis=1)]
    tpr = (weight_m * (memorized > threshold[:, None])).sum(axis=1) / total_m
    return auroc, tpr, threshold


def _interval(resampled: np.ndarray, estimate: float, trials: int, level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    if estimate in (0.0, 1.0):
        far = wilson(trials if estimate else 0, trials, level)
        low, high = min(low, far[0]), max(high, far[1])
    return float(low), float(high)
