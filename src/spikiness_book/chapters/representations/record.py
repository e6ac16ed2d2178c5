"""What the chapter *representations* records: how well each measure tells the regimes, on which data, by which test."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from spikiness.statistics import Interval
from spikiness_book.chapters.representations import measure
from spikiness_book.two_layers import Pair

COMPARISONS = {  # in the table, and as a label
    "own data": "own data",
    "own data, equal penalty": "equal penalty",
    "stored samples, both": "stored samples",
    "unseen samples, both": "unseen samples",
}
OVER = "seeds and training samples"  # what intervals resample


def networks(run: Any, main: Sequence[Pair], rows: pd.DataFrame, stored: int, seeds: Sequence[int]) -> None:
    """How separable the samples are that memorizing networks store, and representations that are all zero."""
    for data in ("images", "mixture"):
        beta = measure.closeness([pair for pair in main if pair.data == data])
        run.metric("beta", beta, n=stored, seeds=seeds, tolerance=0.02, data=data)
    run.metric("dead", (rows.norm == 0).sum(), n=len(rows), seeds=seeds, tolerance=5)


def comparisons(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """AUROC and TPR of Std and of Std over the norm, by data and comparison; for two measures more, AUROC alone."""
    run.table("measures", table)
    for row in table.to_dict("records"):
        more = row["data"] == "mixture" and row["comparison"] == "own data"
        std = row["measure"] in ("std", "std_over_norm")
        if not std and not (more and row["measure"] in ("participation_ratio", "gini")):
            continue
        labels = {key: row[key] for key in ("data", "measure")} | {"comparison": COMPARISONS[row["comparison"]]}
        given: dict[str, Any] = {"n": int(row["memorized"]), "seeds": seeds, **labels}
        run.metric("auroc", row["auroc"], Interval(row["low"], row["high"], over=OVER), **given)
        if std:
            run.metric("tpr", row["tpr"], Interval(row["tpr_low"], row["tpr_high"], over=OVER), **given)
    unseen = table[(table.data == "images") & (table.comparison == "unseen samples, both")].iloc[0]
    run.metric("unseen_norm_ratio", unseen.norm_memorized / unseen.norm_generalized, seeds=seeds, tolerance=0.03)


def sizes(run: Any, rows: pd.DataFrame, seeds: Sequence[int]) -> None:
    """What Std measures: the identity, |h| beside |x|, and how much of Std is the size of the representation."""
    run.metric("identity_error", measure.identity_error(rows), n=len(rows), seeds=seeds, tolerance=1e-9)
    run.metric("norm_over_input", (rows.norm / rows.input).median(), n=len(rows), seeds=seeds, tolerance=0.02)
    for data, part in rows[rows.regime == "generalized"].groupby("data"):
        run.metric("size_share", measure.size_share(part), n=len(part), seeds=seeds, tolerance=0.1, data=data)


def participation(run: Any, rows: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Units that take part, median over samples, by data and regime."""
    for (data, regime), units in rows.groupby(["data", "regime"]).participation_ratio.median().items():
        given = {"unit": "units", "n": len(rows), "seeds": seeds, "tolerance": 1.5}
        run.metric("participation", units, **given, data=data, regime=regime)


def noise(run: Any, levels: pd.DataFrame, sigmas: Sequence[float], seeds: Sequence[int]) -> None:
    """AUROC at the middle and at the largest noise level, and the units that take part at the middle one."""
    middle = sorted(sigmas)[len(sigmas) // 2]
    for noise_level, sigma in {"middle": middle, "largest": max(sigmas)}.items():
        _aurocs(run, "auroc_by_noise", levels[levels.sigma == sigma], seeds, noise=noise_level)
    row = levels[levels.sigma == middle].iloc[0]
    for regime in ("memorized", "generalized"):
        units = row[f"units_{regime}"]
        run.metric("participation_noisy", units, unit="units", seeds=seeds, tolerance=1.5, regime=regime)


def steps(run: Any, lengths: pd.DataFrame, seeds: Sequence[int]) -> None:
    """AUROC early in training, and the units that take part in a stored sample of the mixture, early and late."""
    for data, part in lengths[lengths.steps == lengths.steps.min()].groupby("data"):
        _aurocs(run, "auroc_early", part, seeds, data=data)
    mixture = lengths[lengths.data == "mixture"]
    for training, length in {"early": lengths.steps.min(), "late": lengths.steps.max()}.items():
        units = mixture[mixture.steps == length].iloc[0].units_memorized
        run.metric("participation_mixture", units, unit="units", seeds=seeds, tolerance=2, training=training)


def _aurocs(run: Any, name: str, rows: pd.DataFrame, seeds: Sequence[int], **labels: str) -> None:
    for row in rows.itertuples():
        interval = Interval(row.low, row.high, over=OVER)
        run.metric(name, row.auroc, interval, n=int(row.memorized), seeds=seeds, **labels, measure=row.measure)
