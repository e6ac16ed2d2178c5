"""Whether a choice of layer, noise level, pooling and measure carries to other networks, and which measure does."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from spikiness import detection
from spikiness.detection import calibration
from spikiness.errors import SpikinessError, suggest
from spikiness.statistics import rate
from spikiness_book import zoo
from spikiness_book.chapters.where.measure import CLEAR, NETWORK, ProbedNetwork, module_kinds, survey

SEED, WIDTH, DATA = "another seed", "another width", "another data set"
FREE = "any of them"  # the measure left open
OPEN, THEORY = "direction open", "memorized is spikier"
FPR = 0.01


def pairs(found: Sequence[ProbedNetwork], calibration_seeds: Sequence[int]) -> pd.DataFrame:
    """Which network a choice is made on (a) and which it is used on (b), by what differs between them.

    Another seed and another data set: from each calibration network to each of the others that share the kind, or the
    architecture; another width: from the recipe's own width to the others, on the same training images.
    """
    own = {kind: zoo.recipe(kind)[0].width for kind in {n.kind for n in found}}
    rows = []
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            usual = a.width == own[a.kind], b.width == own[b.kind]
            relation = None
            if all(usual) and a.seed in calibration_seeds and b.seed not in calibration_seeds:
                same = a.kind.partition(":")[0] == b.kind.partition(":")[0]
                relation = SEED if a.kind == b.kind else DATA if same else None
            elif usual == (True, False) and (a.kind, a.seed) == (b.kind, b.seed):
                relation = WIDTH
            if relation:
                rows.append({"relation": relation, "a": i, "b": j})
    return pd.DataFrame(rows, columns=["relation", "a", "b"])


def beside(table: pd.DataFrame, a: ProbedNetwork, b: ProbedNetwork) -> pd.DataFrame:
    """AUROC of every setting that both networks have, `auroc_a` and `auroc_b`: a row each. It `flip`s where both are
    clear, on opposite sides, and they `agree` where both are, on one."""
    one, two = (table[(table[NETWORK] == pd.Series(n.name)).all(axis=1)] for n in (a, b))
    both = one.merge(two, on=calibration.SETTING, suffixes=("_a", "_b"))
    both = both[[*calibration.SETTING, "auroc_a", "auroc_b"]].dropna()
    a, b = both.auroc_a - 0.5, both.auroc_b - 0.5
    clear = (a.abs() > CLEAR) & (b.abs() > CLEAR)
    return both.assign(flip=clear & (a * b < 0), agree=clear & (a * b > 0))


def carries(both: pd.DataFrame) -> dict[str, float]:
    """How much of what network a says about settings holds in network b.

    Shares of settings that flip and that agree, rank correlation of the AUROC, and the regret: the best AUROC in b, in
    the better direction, less that in b of the setting that is best in a, in the direction that it has in a.
    """
    a, b = (both[name].to_numpy() - 0.5 for name in ("auroc_a", "auroc_b"))
    best = int(np.argmax(np.abs(a)))
    reached, possible = float(np.sign(a[best]) * b[best]), float(np.abs(b).max())
    ranks = np.corrcoef(rankdata(a), rankdata(b))[0, 1] if np.ptp(a) and np.ptp(b) else 0.0
    return {
        "settings": len(both),
        "flip": float(both.flip.mean()),
        "agree": float(both.agree.mean()),
        "ranks": float(ranks),
        "carried": reached + 0.5,
        "best": possible + 0.5,
        "regret": possible - reached,
    }


def transfers(
    table: pd.DataFrame, found: Sequence[ProbedNetwork], chosen: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`carries` of each of the `pairs` chosen, and the settings behind it, `beside` each other."""
    rows, points = [], []
    for relation, i, j in chosen.itertuples(index=False):
        both = beside(table, found[i], found[j])
        if both.empty:
            continue
        ends = {"a": found[i].name, "b": found[j].name}
        names = {f"{key}_{end}": value for end, name in ends.items() for key, value in name.items()}
        rows.append({"relation": relation, **names, **carries(both)})
        points.append(both.assign(relation=relation, **names))
    return pd.DataFrame(rows), pd.concat(points, ignore_index=True)


def by_relation(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """One row per relation over its pairs: share of settings that flip (interval over layers), mean and lowest rank
    correlation, mean and largest regret."""
    found = []
    for relation, mine in rows.groupby("relation", sort=False):
        settings = points[points.relation == relation]
        flip, (low, high) = rate(settings.flip, (settings.kind_b + "/" + settings.layer).to_numpy())
        row = {"relation": relation, "pairs": len(mine), "flip": flip, "flip_low": low, "flip_high": high}
        row |= {"agree": mine.agree.mean(), "ranks": mine.ranks.mean(), "ranks_lowest": mine.ranks.min()}
        found.append({**row, "regret": mine.regret.mean(), "regret_largest": mine.regret.max()})
    return pd.DataFrame(found)


# ---- one measure alone


def choose(
    table: pd.DataFrame, measure: str | None = None, direction: str = OPEN, margin: float = calibration.MARGIN
) -> calibration.Probe:
    """Layer, noise level, pooling and direction (and measure, where None) as `detection.calibrate` chooses them, from
    a survey of calibration networks of one kind: of what is within `margin` of the best worst AUROC the cheapest.

    With the `direction` of the THEORY only settings count in which memorized samples are the spikier ones.
    """
    mine = table if measure is None else table[table.measure == measure]
    labels = mine.seed.astype(str) + "/" + mine.width.astype(str)
    tried = detection.worst_of(mine.assign(model=labels), calibration.SPIKIER if direction == THEORY else None)
    if tried.empty:
        raise SpikinessError(f"{measure or 'all measures'}: values are equal in every setting tried, nothing to choose")
    return detection.pick(tried, margin)[0]


def threshold(calibrated: Sequence[ProbedNetwork], choice: calibration.Probe) -> float:
    """The highest of the thresholds that let 1 % of the generalized samples of a calibration network pass."""
    scores = (calibration.values(n.denoiser, choice, n.generalized).numpy() for n in calibrated)
    return max(calibration.quantile(mine, FPR) for mine in scores)


def elsewhere(choice: calibration.Probe, found: Iterable[ProbedNetwork]) -> pd.DataFrame:
    """AUROC of one choice in each of other networks, a row each, with intervals over nearest training images."""
    rows = []
    for n in found:
        scores = [calibration.values(n.denoiser, choice, x).numpy() for x in (n.memorized, n.generalized)]
        rows.append({**n.name, **_auroc_interval(scores, n.nearest)})
    return pd.DataFrame(rows)


def alone(
    table: pd.DataFrame, calibrated: Sequence[ProbedNetwork], fresh: Sequence[ProbedNetwork]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each measure by itself, and any of them, on networks of one kind, with an open direction and the theory's.

    Chosen on the calibrated networks alone. First a row per measure, direction and fresh network: AUROC there with an
    interval over nearest training images, and the rates above the threshold that was set on the calibrated ones. Then
    a row per sample: whether it is memorized, and flagged.
    """
    mine = table[(table.kind == fresh[0].kind) & table.seed.isin([n.seed for n in calibrated])]
    rows, samples = [], []
    for measure in [*calibration.TRIED, FREE]:
        for direction in (OPEN, THEORY):
            choice = choose(mine, None if measure == FREE else measure, direction)
            limit = threshold(calibrated, choice)
            for network in fresh:
                name = {"kind": network.kind, "seed": network.seed, "alone": measure, "way": direction}
                row, flagged = _used(choice, limit, network)
                rows.append({**name, **row})
                samples.append(flagged.assign(**name))
    return pd.DataFrame(rows), pd.concat(samples, ignore_index=True)


def _used(choice: calibration.Probe, limit: float, network: ProbedNetwork) -> tuple[dict[str, object], pd.DataFrame]:
    """A choice and its threshold on one network: AUROC and rates with their intervals, and a row per sample."""
    images = {"tpr": network.memorized, "fpr": network.generalized}
    scores = [calibration.values(network.denoiser, choice, x).numpy() for x in images.values()]
    row, samples = {**asdict(choice), **_auroc_interval(scores, network.nearest)}, []
    for name, values, near in zip(images, scores, network.nearest, strict=True):
        row[name], (row[f"{name}_low"], row[f"{name}_high"]) = rate(values > limit, near)
        samples.append(pd.DataFrame({"memorized": name == "tpr", "flagged": values > limit, "nearest": near}))
    return row, pd.concat(samples, ignore_index=True)


def _auroc_interval(scores: Sequence[np.ndarray], nearest: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    if np.ptp(np.concatenate(scores)) == 0:
        return {"auroc": 0.5, "low": 0.0, "high": 1.0}
    if any(len(set(near)) < 2 for near in nearest):  # one training image behind all: nothing to resample
        return {"auroc": calibration.auroc(*scores), "low": 0.0, "high": 1.0}
    found = detection.evaluate(*scores, groups=nearest, fpr=FPR)
    return dict(zip(("auroc", "low", "high"), (found.auroc, *found.auroc_interval), strict=True))


def by_measure(rows: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """One row per measure and direction, over the fresh networks of all kinds: the worst AUROC with its interval, the
    mean, and the rates above the carried threshold, with intervals that resample nearest training images."""
    found = []
    for (measure, way), mine in rows.groupby(["alone", "way"], sort=False):
        worst = mine.loc[mine.auroc.idxmin()]
        row = {"alone": measure, "way": way, "worst": worst.auroc, "worst_low": worst.low, "worst_high": worst.high}
        row["mean"] = mine.auroc.mean()
        drawn = samples[(samples.alone == measure) & (samples.way == way)]
        for name, part in (("tpr", drawn[drawn.memorized]), ("fpr", drawn[~drawn.memorized])):
            groups = (part.kind + "/" + part.seed.astype(str) + "/" + part.nearest.astype(str)).to_numpy()
            row[name], (row[f"{name}_low"], row[f"{name}_high"]) = rate(part.flagged, groups)
        found.append(row)
    return pd.DataFrame(found)


def better_than(found: pd.DataFrame, measure: str = "std") -> list[str]:
    """Measures of `by_measure`, with an open direction, that carry better than `measure`: a higher worst AUROC, an FPR
    nearer to what the threshold was set for, and at least as high a TPR."""
    mine = found[found.way == OPEN]
    own = mine[mine.alone == measure].iloc[0]
    nearer = (mine.fpr - FPR).abs() < abs(own.fpr - FPR)
    return list(mine[(mine.worst > own.worst) & nearer & (mine.tpr >= own.tpr)].alone)


# ---- beyond nonlinearities


def extremes(summary: pd.DataFrame) -> tuple[str, str]:
    """Of the measures that do not depend on scale, direction open, the best and the worst in its worst network."""
    rivals = summary[(summary.way == OPEN) & ~summary.alone.isin(["std", FREE])].set_index("alone").worst
    return rivals.idxmax(), rivals.idxmin()


def in_words(choice: pd.Series) -> dict[str, object]:
    """A row of `searches` as the words of a sentence about its choice."""
    return {
        "measure": choice.measure.replace("_", " "),
        "layer": choice.layer.removeprefix("network."),
        "module": choice.module,
        "pool": choice["pool"],
        "level": choice.sigma,
        "way": "higher" if choice.direction > 0 else "lower",
        "chosen_on": choice.worst,
    }


def unseen(kinds: Sequence[str], chosen: Sequence[str], seeds: Sequence[int], used: Sequence[int]) -> dict[str, list]:
    """Seeds of networks, for each of `kinds`, that no choice and no other figure of the chapter uses: `seeds` for the
    `chosen` kinds, none for the others; those `used` are left out."""
    for kind in chosen:
        if kind not in kinds:
            raise SpikinessError(
                f"untouched: {kind!r} is not among the kinds, {', '.join(kinds)}{suggest(kind, kinds)}"
            )
    return {kind: [seed for seed in seeds if seed not in used] if kind in chosen else [] for kind in kinds}


def searches(table: pd.DataFrame, calibrated: Sequence[ProbedNetwork], fresh: Sequence[ProbedNetwork]) -> pd.DataFrame:
    """The detector's choice among nonlinearities, and among every module that sees the image, on networks of one kind.

    Chosen on the calibrated networks alone, among the noise levels of `table`, their survey at nonlinearities; a row
    per search and fresh network: the choice and its `module`, its `worst` AUROC where it was chosen, the AUROC, and the
    rates above the carried threshold, with intervals.
    """
    named = table[(table.kind == calibrated[0].kind) & table.seed.isin([n.seed for n in calibrated])]
    kinds, rows = module_kinds(calibrated[0].denoiser, calibrated[0].generalized), []
    for searched in (calibration.NONLINEARITIES, calibration.MODULES):
        mine = named
        if searched == calibration.MODULES:
            mine = survey(calibrated, sorted(named.sigma.unique()), searched)
        choice = choose(mine)
        limit = threshold(calibrated, choice)
        chosen = mine[(mine[calibration.SETTING] == [getattr(choice, key) for key in calibration.SETTING]).all(axis=1)]
        worst = (chosen.auroc if choice.direction > 0 else 1 - chosen.auroc).min()
        tried = len(detection.worst_of(mine.assign(model=mine.seed)))
        row = {"searched": searched, "settings": tried, "worst": worst}
        row |= {"module": kinds.get(choice.layer, "other module"), "cost": chosen.cost.max()}
        rows += [{"kind": n.kind, "seed": n.seed, **row, **_used(choice, limit, n)[0]} for n in fresh]
    return pd.DataFrame(rows)
