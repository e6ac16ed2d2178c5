"""Which units fire: the names of the strongest, how many carry the energy, and how many two samples have in common."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spikiness import measures, representations
from spikiness.detection.detector import Detector, Explanation, Probe
from spikiness_book.chapters.audit.measure import COPY, NEW, AuditedModel, FlagRule


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


def shared(energy: pd.DataFrame) -> pd.DataFrame:
    """Per kind, the mean share of their strongest units that two copies of one image have in common (same), two copies
    of different images (other), and two new samples near one image; rows as `participations` makes them."""
    copies, new = energy[energy["sort"] == COPY].groupby("kind"), energy[energy["sort"] == NEW].groupby("kind")
    return copies[["same", "other"]].mean().assign(**{"new, same image": new.same.mean()})
