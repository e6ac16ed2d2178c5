"""Along a training: what a detector would have flagged at each stage, and when a sign of copies comes to stay."""

import numpy as np
import pandas as pd
import torch

from spikiness import measures
from spikiness.detection.calibration import quantile, values
from spikiness.statistics import onset, precedence, rate
from spikiness_book import zoo
from spikiness_book.chapters.audit.measure import FPR, HELD, TRUE, AuditedModel, FlagRule

REPEATED, ONCE = "repeated training images", "training images seen once"
FLAGGED, ANEW = "flagged, fixed threshold", "flagged, threshold set at each stage"


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


def at_start(shares: pd.DataFrame) -> pd.DataFrame:
    """The rows of the share flagged by the fixed threshold at the first stage of each kind's trainings."""
    first = shares.groupby("kind").images_seen.transform("min")
    return shares[(shares.images_seen == first) & (shares.what == FLAGGED)]
