"""The detector in use: thresholds carried to models they were not chosen on; what is flagged, the cost, how early."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spikiness import detection, measures, representations
from spikiness.detection.calibration import auroc, quantile, values
from spikiness.detection.detector import Detector, Explanation, Probe
from spikiness.statistics import Interval, hull, onset, precedence, rate
from spikiness_book import copying, zoo

FPR = 0.01  # false alarms allowed where a threshold is set
NEW, COPY, BETWEEN = "new", "memorized", "between"  # sorts of samples
HELD, GENERATED = "held-out images", "generated images"  # known not to be memorized
LIKE = "images like those judged"
REPEATED, ONCE = "repeated training images", "training images seen once"
FLAGGED, ANEW, TRUE = "flagged, fixed threshold", "flagged, threshold set at each stage", "memorized"
WORST, SCALE_FREE, DEFAULT = "calibrated", "calibrated, std_over_norm", "default"


@dataclass(frozen=True, eq=False)
class AuditedModel:
    """A model, its samples, and images of its data that it never saw."""

    model: zoo.Trained
    samples: zoo.Samples
    held: Tensor  # [M, C, H, W]

    @property
    def kind(self) -> str:
        return self.model.kind

    @property
    def sort(self) -> np.ndarray:
        """NEW, COPY or BETWEEN [N] for each sample; few samples close to one image may stand in for copies."""
        found = np.where(self.samples.generalized, NEW, BETWEEN)
        return np.where(self.samples.memorized, COPY, found)

    def parts(self, most: int | None = None) -> tuple[nn.Module, Tensor, Tensor]:
        """The model, and the first `most` memorized and new samples, as `detection.grid_search` takes them."""
        return (
            self.model.denoiser,
            self.samples.part(self.samples.memorized, most)[0],
            self.samples.part(self.samples.generalized, most)[0],
        )


@dataclass(frozen=True)
class FlagRule:
    """How samples are flagged: what is measured, and above what; threshold None: set on `known` images of the model."""

    choice: Probe
    threshold: float | None = None
    known: str | None = None  # HELD or GENERATED


def cases(kind: str, seeds: Sequence[int], count: int, most: int) -> list[AuditedModel]:
    """Models of a kind with `count` samples of each, and at most `most` held-out images."""
    held = zoo.held_out(kind, most)
    return [AuditedModel(model, zoo.two_sorts(model, count), held) for model in zoo.train(kind, seeds)]


def survey(calibration: Sequence[AuditedModel], most: int) -> pd.DataFrame:
    """`detection.grid_search` of the first `most` samples of each sort from each model; `model` is its seed."""
    return pd.concat([detection.grid_search(*case.parts(most)).assign(model=case.model.seed) for case in calibration])


def pick(surveys: pd.DataFrame, measure: str | None = None) -> Probe:
    """The choice `detection.calibrate` makes, of one measure where given."""
    return detection.pick(detection.worst_of(surveys if measure is None else surveys[surveys.measure == measure]))[0]


def flag_rules(calibration: Sequence[AuditedModel], surveys: pd.DataFrame, most: int) -> dict[str, FlagRule]:
    """Every rule to flag samples of a model: chosen on calibration models, one by one and together, or the default;
    the threshold carried from these models (the highest of theirs), or set on known images of the audited one."""

    def carried(choice: Probe, those: Sequence[AuditedModel]) -> FlagRule:
        own = []
        for case in those:
            model, _, new = case.parts(most)
            own.append(quantile(values(model, choice, new).numpy(), FPR))
        return FlagRule(choice, max(own))

    best = pick(surveys)
    default = Detector(calibration[0].model.denoiser).probe
    rules = {}
    if len(calibration) > 1:
        for case in calibration:
            alone = pick(surveys[surveys.model == case.model.seed])
            rules[f"calibrated on model {case.model.seed} alone"] = carried(alone, [case])
    rules[WORST] = carried(best, calibration)
    rules[SCALE_FREE] = carried(pick(surveys, "std_over_norm"), calibration)
    rules[DEFAULT] = carried(default, calibration)
    for name, choice in ((WORST, best), (DEFAULT, default)):
        for known in (HELD, GENERATED):
            rules[f"{name}, own {known}"] = FlagRule(choice, None, known)
    return rules


def known(case: AuditedModel, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks [N] of new samples that are set apart as known, the last `count` (at most half), and of all others."""
    index = np.flatnonzero(case.samples.generalized)
    apart = np.zeros(len(case.samples.x), dtype=bool)
    taken = min(count, len(index) // 2)
    apart[index[len(index) - taken :]] = True
    return apart, ~apart


def scores(case: AuditedModel, rules: dict[str, FlagRule]) -> dict[Probe, tuple[np.ndarray, np.ndarray]]:
    """Scores of all samples [N] and of the held-out images [M], for every choice among the rules."""
    choices = dict.fromkeys(rule.choice for rule in rules.values())
    both = torch.cat([case.samples.x, case.held])
    n = len(case.samples.x)
    scored = {choice: values(case.model.denoiser, choice, both).numpy() for choice in choices}
    return {choice: (score[:n], score[n:]) for choice, score in scored.items()}


def threshold(case: AuditedModel, rule: FlagRule, scored: dict, count: int) -> float:
    """The threshold of a rule on a model: carried, or set on at most `count` known images of it."""
    if rule.threshold is not None:
        return rule.threshold
    samples, held = scored[rule.choice]
    return quantile(held[:count] if rule.known == HELD else samples[known(case, count)[0]], FPR)


def rates(case: AuditedModel, rules: dict[str, FlagRule], scored: dict, count: int) -> pd.DataFrame:
    """One row per rule: threshold, realized FPR and TPR on samples that set no threshold, share flagged of those
    between the sorts, AUROC; of new samples, how many are flagged (alarms) or not (quiet), and how many of each lie
    nearest to a repeated training image. Intervals resample nearest training images."""
    rows, (_, rest), sort, nearest = [], known(case, count), case.sort, case.samples.nearest
    for name, rule in rules.items():
        score, limit = scored[rule.choice][0], threshold(case, rule, scored, count)
        row = {"kind": case.kind, "seed": case.model.seed, "way": name, "threshold": limit}
        for what, which in {"fpr": rest & (sort == NEW), "tpr": sort == COPY, "between": sort == BETWEEN}.items():
            share, (low, high) = (
                rate(score[which] > limit, nearest[which]) if which.any() else (np.nan, (np.nan, np.nan))
            )
            row |= {what: share, f"{what}_low": low, f"{what}_high": high, f"{what}_n": int(which.sum())}
        row["auroc"] = auroc(score[sort == COPY], score[rest & (sort == NEW)])
        new, repeated = rest & (sort == NEW), case.model.copies.numpy()[nearest] > 1
        for what, which in {"alarms": new & (score > limit), "quiet": new & (score <= limit)}.items():
            row |= {f"{what}_repeated": int((which & repeated).sum()), what: int(which.sum())}
        rows.append({**row, **asdict(rule.choice)})
    return pd.DataFrame(rows)


def by_known(
    case: AuditedModel, rules: dict[str, FlagRule], scored: dict, counts: Sequence[int], resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Realized FPR of the default on new samples when k known images set its threshold, by k and by what they are: mean
    over random choices of the k, and the range that holds 90 % of them."""
    rng, rows, sort = np.random.default_rng(seed), [], case.sort
    apart, rest = known(case, 2 * max(counts))
    samples, held = scored[rules[DEFAULT].choice]
    new = np.sort(samples[rest & (sort == NEW)])
    for name, pool in {HELD: held, GENERATED: samples[apart]}.items():
        for k in [k for k in counts if k <= len(pool)]:
            limits = [quantile(rng.choice(pool, k, replace=False), FPR) for _ in range(resamples)]
            realized = 1 - np.searchsorted(new, limits, side="right") / len(new)
            low, high = np.quantile(realized, [0.05, 0.95])
            row = {"kind": case.kind, "seed": case.model.seed, "images": name, "known": k}
            rows.append({**row, "fpr": realized.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def expected_fpr(known: int, fpr: float = FPR) -> float:
    """Share of new images expected above a threshold that `known` images like them set: (floor(q k) + 1) / (k + 1)."""
    return (int(np.floor(fpr * known + 1e-9)) + 1) / (known + 1)


def repeated_share(rows: pd.DataFrame, what: str) -> tuple[float, Interval]:
    """Of new samples that are flagged (alarms) or not (quiet), the share nearest to a repeated image, with Wilson's."""
    hits, total = int(rows[f"{what}_repeated"].sum()), int(rows[what].sum())
    return hits / total, Interval(*measures.wilson(hits, total), over="samples")


def grid(case: AuditedModel, score: np.ndarray, limit: float, most: int = 6) -> tuple[dict, dict, pd.DataFrame]:
    """Pairs of pictures, a sample and its nearest training image, by row: hits, false alarms, misses, and samples
    between the sorts, flagged and not; captions give score and d1 / d2.

    Hits and false alarms start from the highest score, misses from the lowest, one for each nearest image first.
    """
    flagged, sort = score > limit, case.sort
    order = {"hits": (COPY, True), "false alarms": (NEW, True), "misses": (COPY, False)}
    order |= {"between, flagged": (BETWEEN, True), "between, not flagged": (BETWEEN, False)}
    frame = pd.DataFrame({"score": score, "ratio": case.samples.ratio, "nearest": case.samples.nearest})
    pictures, captions, tables = {}, {}, []
    for name, (which, above) in order.items():
        mine = frame[(sort == which) & (flagged == above)].sort_values("score", ascending=not above)
        mine = mine.assign(turn=mine.groupby("nearest").cumcount()).sort_values("turn", kind="stable")[:most]
        if len(mine):
            left = copying.pictures(case.samples.x[mine.index.to_list()])
            right = copying.pictures(case.model.x[mine.nearest.to_list()])
            pictures[name] = beside(left, right)
            captions[name] = [f"{row.score:.2f}, {row.ratio:.2f}" for row in mine.itertuples()]
            tables.append(mine.drop(columns="turn").reset_index(names="sample").assign(row=name, kind=case.kind))
    return pictures, captions, pd.concat(tables, ignore_index=True)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pictures [N, H, W] or [N, H, W, 3] side by side with a gap: NaN in gray ones, white in colored ones."""
    gap = np.full((*left.shape[:2], max(1, left.shape[2] // 8), *left.shape[3:]), 1.0 if left.ndim == 4 else np.nan)
    return np.concatenate([left, gap, right], axis=2)


def draws(case: AuditedModel, choice: Probe, counts: Sequence[int], most: int) -> pd.DataFrame:
    """AUROC and TPR at 1 % FPR of the mean over 1, 2, ... draws of the noise, with intervals by nearest image; each
    draw has a seed of its own."""
    (m, _, near_m), (g, _, near_g) = (
        case.samples.part(which, most) for which in (case.samples.memorized, case.samples.generalized)
    )
    total, rows = np.zeros(len(m) + len(g)), []
    for draw in range(max(counts)):
        total = total + values(case.model.denoiser, choice, torch.cat([m, g]), seed=draw).numpy()
        if draw + 1 in counts:
            mean = total / (draw + 1)
            found = detection.evaluate(mean[: len(m)], mean[len(m) :], (near_m, near_g), draws=500)
            for what in ("auroc", "tpr"):
                low, high = getattr(found, f"{what}_interval")
                row = {"kind": case.kind, "seed": case.model.seed, "draws": draw + 1, "what": what}
                rows.append({**row, "share": getattr(found, what), "low": low, "high": high})
    return pd.DataFrame(rows)


def timings(
    case: AuditedModel,
    choice: Probe,
    batches: Sequence[int],
    repeats: int = 5,
    clock: Callable[[], float] = perf_counter,
) -> pd.DataFrame:
    """Milliseconds per image of a score and of a full forward pass, by batch: the best of several calls."""
    rows, network = [], case.model.denoiser
    for batch in batches:
        x = case.samples.x[torch.arange(batch) % len(case.samples.x)]
        y = representations.noisy(x, choice.sigma)
        calls = {
            "score": lambda x=x, batch=batch: values(network, choice, x, batch=batch),
            "full pass": lambda y=y: network(y, choice.sigma),
        }
        row = {"kind": case.kind, "batch": batch}
        for name, call in calls.items():
            row[name] = _best(call, repeats, clock) * 1000 / batch
        rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def _best(call: Callable, repeats: int, clock: Callable[[], float]) -> float:
    call()  # the first call allocates
    taken = []
    for _ in range(repeats):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def first_shares(case: AuditedModel, flagged: np.ndarray, counts: Sequence[int]) -> pd.DataFrame:
    """Flagged and truly memorized share of the first 50, 100, ... samples with Wilson's intervals; flagged: [N]."""
    rows, true = [], case.samples.ratio < zoo.MEMORIZED_BELOW
    for count in sorted({min(count, len(flagged)) for count in counts}):
        for name, hits in {"flagged": flagged, TRUE: true}.items():
            share, (low, high) = rate(hits[:count])
            row = {"kind": case.kind, "seed": case.model.seed, "samples": count, "what": name}
            rows.append({**row, "share": share, "low": low, "high": high})
    return pd.DataFrame(rows)


def needed(share: float, fpr: float, tpr: float, allowed: float = FPR, most: int = 100_000) -> int | None:
    """The fewest samples of a model that copies in a `share` of them after which the flagged share, as expected from
    FPR and TPR, is above `allowed` false alarms with its whole Wilson interval; None beyond `most`."""
    flagged = fpr * (1 - share) + tpr * share
    count = 1
    while count <= most:
        if measures.wilson(int(flagged * count), count)[0] > allowed:
            return count
        count += max(1, count // 50)
    return None


def along(case: AuditedModel, rule: FlagRule, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """At each stage of a training, shares of `count` samples (flagged at the fixed threshold of a rule, flagged at one
    set on held-out images of that stage, memorized) and mean scores of training and held-out images, both long.

    Scores are counted from the threshold in Std of the held-out images' at the end; intervals resample images.
    """
    model, shares, means = case.model, [], []
    kinds = {REPEATED: model.x[model.copies > 1], ONCE: model.x[model.copies == 1][: len(case.held)]}
    kinds[HELD] = case.held
    sizes = [len(x) for x in kinds.values()]
    scored = [values(stage, rule.choice, torch.cat(list(kinds.values()))).numpy() for stage in model.stages]
    scale = max(float(scored[-1][-sizes[-1] :].std()), 1e-12)
    seen = model.seen
    last = len(model.stages) - 1
    for k, every in enumerate(scored):
        at = {"kind": case.kind, "seed": model.seed, "images_seen": seen[k]}
        parts = dict(zip(kinds, np.split(every, np.cumsum(sizes)[:-1]), strict=True))
        for name, score in parts.items():
            low, high = measures.bootstrap((score - rule.threshold) / scale, draws=500)
            mean = float((score.mean() - rule.threshold) / scale)
            means.append({**at, "images": name, "score": mean, "low": low, "high": high})
        there = zoo.tell_apart(case.samples.x[:count], model.x) if k == last else None  # the same samples
        samples = there or zoo.told_apart(model, count, k)
        score = values(model.stages[k], rule.choice, samples.x).numpy()
        hits = {FLAGGED: score > rule.threshold, ANEW: score > quantile(parts[HELD], FPR)}
        hits[TRUE] = samples.ratio < zoo.MEMORIZED_BELOW
        for name, hit in hits.items():
            share, (low, high) = rate(hit)
            shares.append({**at, "what": name, "share": share, "low": low, "high": high})
    return pd.DataFrame(shares), pd.DataFrame(means)


def above_from(curve: pd.DataFrame, level: float) -> float:
    """Images seen from which on a curve's interval stays above `level` until the end; NaN where it never does."""
    curve = curve.sort_values("images_seen")
    return float(onset(curve.images_seen, curve.low > level))


def first_signs(shares: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """One row per kind, seed and sign: images seen from which it stays: a flagged share above the false alarms allowed,
    a share of copies above none, repeated images' mean score above that of held-out ones (intervals apart)."""
    rows = []
    for (kind, seed), mine in shares.groupby(["kind", "seed"], sort=False):
        for name in (FLAGGED, ANEW):
            rows.append((kind, seed, name, above_from(mine[mine.what == name], FPR)))
        rows.append((kind, seed, TRUE, above_from(mine[mine.what == TRUE], 0.0)))
        scored = means[(means.kind == kind) & (means.seed == seed)]
        held = scored[scored.images == HELD].set_index("images_seen").high
        high = scored[scored.images == REPEATED]
        high = high.assign(low=high.low.to_numpy() - held[high.images_seen].to_numpy())
        rows.append((kind, seed, REPEATED, above_from(high, 0.0)))
    return pd.DataFrame(rows, columns=["kind", "seed", "sign", "images_seen"])


def lead(signs: pd.DataFrame, sign: str) -> dict[str, int]:
    """In how many trainings a sign comes before the copies, at the same stage, after them; alone or missed where one of
    the two never comes."""
    table = signs.pivot(index=["kind", "seed"], columns="sign", values="images_seen")
    return precedence(table[sign], table[TRUE])


def unit_names(model: nn.Module, choice: Probe, x: Tensor, units: Sequence[int]) -> list[str]:
    """Channel (and place, where all units are kept) of units by their index in the pooled representation."""
    y = representations.noisy(x[:1], choice.sigma)
    shape = representations.capture_each(model, [choice.layer], y, choice.sigma, lambda _, h: h)[choice.layer].shape[1:]
    if choice.pool != "all" or len(shape) == 1:
        return [f"{unit}" for unit in units]
    if len(shape) == 3:  # [C, H, W]
        return [f"{c} ({i}, {j})" for c, i, j in zip(*np.unravel_index(units, shape), strict=True)]
    return [f"{c} ({token})" for token, c in zip(*np.unravel_index(units, shape), strict=True)]  # [tokens, C]


def explained(case: AuditedModel, rule: FlagRule, score: np.ndarray, k: int = 10) -> pd.DataFrame:
    """The `k` units with most energy of one memorized sample, the one with the highest score, and one new sample, that
    with the median score: channel and place, share of the energy; participation ratio and active units of each."""
    detector, rows = Detector(case.model.denoiser, **asdict(rule.choice), allow_unit=True), []
    for sort in (COPY, NEW):
        mine = np.flatnonzero(case.sort == sort)
        mine = mine[np.argsort(score[mine])]
        at = mine[-1] if sort == COPY else mine[len(mine) // 2]
        x = case.samples.x[at : at + 1]
        found = detector.explain(x, k)
        names = unit_names(case.model.denoiser, rule.choice, x, found.units[0].tolist())
        row = {"kind": case.kind, "seed": case.model.seed, "sort": sort, "sample": int(at)}
        row |= {"participation": float(found.participation), "active": int(found.active), "size": found.size}
        rows += [
            {**row, "unit": name, "share": share} for name, share in zip(names, found.shares[0].tolist(), strict=True)
        ]
    return pd.DataFrame(rows)


def participations(case: AuditedModel, rule: FlagRule, most: int, k: int = 10) -> pd.DataFrame:
    """Per sort of sample: participation ratio over units, energy of the first `k`, and how many of these two samples
    near one training image share, beside two near different ones; mean over the first `most`."""
    detector, rows = Detector(case.model.denoiser, **asdict(rule.choice), allow_unit=True), []
    for sort, which in ((COPY, case.samples.memorized), (NEW, case.samples.generalized)):
        x, _, nearest = case.samples.part(which, most)
        found = detector.explain(x, k)
        share, (low, high) = _mean((found.participation / found.size).numpy(), nearest)
        top, (top_low, top_high) = _mean(found.shares.sum(dim=1).numpy(), nearest)
        same, other = overlap(found, nearest)
        row = {"kind": case.kind, "seed": case.model.seed, "sort": sort, "participation": share, "low": low}
        row |= {"high": high, "energy": top, "energy_low": top_low, "energy_high": top_high}
        rows.append({**row, "same": same, "other": other, "size": found.size})
    return pd.DataFrame(rows)


def _mean(numbers: np.ndarray, groups: np.ndarray) -> tuple[float, tuple[float, float]]:
    mean = float(numbers.mean())
    return mean, measures.bootstrap(numbers, groups=groups) if len(np.unique(groups)) > 1 else (mean, mean)


def overlap(found: Explanation, groups: np.ndarray) -> tuple[float, float]:
    """Mean share of the first k units that two samples have in common: pairs within a group, and between groups.

    NaN where there is no such pair. groups: [N], the nearest training image.
    """
    hot = torch.zeros(len(found.units), found.size).scatter_(1, found.units, 1.0)
    common = (hot @ hot.T / found.units.shape[1]).numpy()
    same = groups[:, None] == groups[None, :]
    apart = ~np.eye(len(groups), dtype=bool)
    return tuple(float(common[mask].mean()) if mask.any() else float("nan") for mask in (same & apart, ~same))


def worst(rows: pd.DataFrame, name: str, highest: bool) -> tuple[float, Interval, pd.Series]:
    """The highest or lowest of a rate in any row, its interval, and the row."""
    row = rows.loc[rows[name].idxmax() if highest else rows[name].idxmin()]
    return float(row[name]), Interval(row[f"{name}_low"], row[f"{name}_high"], over="nearest training images"), row


def mean_rate(rows: pd.DataFrame, name: str) -> tuple[float, Interval]:
    """Mean of a rate over models, with the range from the lowest to the highest end of any of their intervals."""
    return hull(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], over="models")
