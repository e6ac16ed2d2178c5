"""The detector in use: thresholds carried to models they were not chosen on; what is flagged, and what it costs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spikiness import detection, measures, representations
from spikiness.detection.calibration import auroc, quantile, values
from spikiness.detection.detector import Detector, Probe
from spikiness.statistics import rate
from spikiness_book import copying, zoo

FPR = 0.01  # false alarms allowed where a threshold is set
NEW, COPY, BETWEEN = "new", "memorized", "between"  # sorts of samples
HELD, GENERATED = "held-out images", "generated images"  # known not to be memorized
LIKE = "images like those judged"
TRUE = "memorized"  # what a share of samples is of: those that are, beside those flagged
AUROC, TPR = "AUROC", "TPR at 1 % FPR"  # of the mean over draws
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


def with_expected(counted: pd.DataFrame) -> pd.DataFrame:
    """The rows of `by_known`, then those expected of images like those judged: seed -1, no interval (low is NaN)."""
    like = counted.drop_duplicates(["kind", "known"]).assign(images=LIKE, seed=-1, low=float("nan"))
    return pd.concat([counted, like.assign(fpr=[expected_fpr(k) for k in like.known])])


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
            ends = {AUROC: (found.auroc, found.auroc_interval), TPR: (found.tpr, found.tpr_interval)}
            for what, (share, (low, high)) in ends.items():
                row = {"kind": case.kind, "seed": case.model.seed, "draws": draw + 1, "what": what}
                rows.append({**row, "share": share, "low": low, "high": high})
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


def plan(fpr: float, tpr: float) -> pd.DataFrame:
    """How many samples tell a model that copies, by its true share of copies: with the false alarms that were promised,
    and with the realized ones (known to the auditor); `tpr` is the realized one in both."""
    rows = []
    for share in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        promised, realized = needed(share, FPR, tpr), needed(share, fpr, tpr, max(fpr, FPR))
        row = {"true share": f"{share:.1%}", "samples, rates as promised": promised}
        rows.append({**row, "samples, rates as realized": realized})
    return pd.DataFrame(rows)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**k for k in range(most.bit_length())]
