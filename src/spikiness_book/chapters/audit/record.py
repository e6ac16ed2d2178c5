"""What the chapter *audit* records: rates of the rules to flag, what they cost, signs along training, units.

A value over several models stands beside the outermost ends of their intervals, which is a range and no interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from spikiness import measures
from spikiness.statistics import Interval, hull
from spikiness_book.chapters.audit import measure, stages

CARRIED = "carried"
RULES = {  # a rule's name in tables: what it measures, and where its threshold comes from
    measure.WORST: {"probe": measure.WORST, "threshold": CARRIED},
    measure.SCALE_FREE: {"probe": "scale-free", "threshold": CARRIED},
    measure.DEFAULT: {"probe": measure.DEFAULT, "threshold": CARRIED},
} | {
    f"{probe}, own {known}": {"probe": probe, "threshold": known}
    for probe in (measure.WORST, measure.DEFAULT)
    for known in (measure.HELD, measure.GENERATED)
}
SIGNS = {"fixed": stages.FLAGGED, "anew": stages.ANEW, "scores": stages.REPEATED}  # and their names in tables
OF_COUNT = 1 / 5  # tolerance: of a count, what may differ on another machine
OF_MODELS = 1 / 6  # tolerance: of the models, those that may fall on the other side there


def _seeds(rows: pd.DataFrame) -> list[int]:
    return sorted(rows.seed.unique().tolist())


def sorts(run: Any, audited: Mapping[str, Sequence[measure.AuditedModel]], stand_in: int) -> None:
    """How many samples of the audited models of each kind are of each sort, and in how many models of the page samples
    that are no copies stand in for these."""
    for kind, models in audited.items():
        seeds = [case.model.seed for case in models]
        for sort in (measure.COPY, measure.NEW, measure.BETWEEN):
            count = sum(int((case.sort == sort).sum()) for case in models)
            run.metric("sorted_samples", count, seeds=seeds, tolerance=OF_COUNT * count, kind=kind, sort=sort)
    run.metric("stand_in", stand_in)


def rates(run: Any, table: pd.DataFrame, known: int) -> None:
    """FPR and TPR of each rule, mean over the models of each kind and of the worst model of all."""
    for way, labels in RULES.items():
        rows = table[table.way == way]
        for rate, extreme in {"fpr": "worst_fpr", "tpr": "worst_tpr"}.items():
            for kind, part in rows.groupby("kind", sort=False):
                n = part[f"{rate}_n"].sum()
                run.metric(rate, *mean_rate(part, rate), n=n, seeds=_seeds(part), kind=kind, **labels)
            value, interval, row = worst(rows, rate, highest=rate == "fpr")
            run.metric(extreme, value, interval, n=row[f"{rate}_n"], seeds=_seeds(rows), **labels)
    run.metric("models", len(table[["kind", "seed"]].drop_duplicates()))
    run.metric("known_most", known)


def known(run: Any, counted: pd.DataFrame, resamples: int) -> None:
    """FPR where the fewest and the most known images set the threshold: held-out ones, and generated ones."""
    for images, rows in counted.groupby("images", sort=False):
        for which, k in {"fewest": rows.known.min(), "most": rows.known.max()}.items():
            labels, part = {"images": images, "known": which}, rows[rows.known == k]
            run.metric("known_images", k, **labels)
            value, interval = hull(part.fpr, part.low, part.high, over="choices of known images, and models")
            run.metric("fpr_by_known", value, interval, n=resamples, seeds=_seeds(counted), **labels)


def alarms(run: Any, own: pd.DataFrame) -> None:
    """False alarms, how many samples lie near a repeated image among these and among the others, and what is flagged of
    those between the sorts; `own`: the rates of one rule."""
    count, seeds = own.alarms.sum(), _seeds(own)
    run.metric("false_alarms", count, seeds=seeds, tolerance=OF_COUNT * count)
    for flagged, name in {True: "alarms", False: "quiet"}.items():
        if own[name].sum():
            value, interval = repeated_share(own, name)
            run.metric("repeated_share", value, interval, n=own[name].sum(), seeds=seeds, flagged=flagged)
    if own.between_n.sum():
        value, interval = mean_rate(own.dropna(subset="between"), "between")
        run.metric("flagged_between", value, interval, n=own.between_n.sum(), seeds=seeds)


def draws(run: Any, drawn: pd.DataFrame) -> None:
    """What the most draws of the noise gain over one: mean and range over models."""
    table = drawn.pivot(index=["kind", "seed", "what"], columns="draws", values="share")
    gains = (table[drawn.draws.max()] - table[1]).unstack("what")
    for rate, what in {"AUROC": measure.AUROC, "TPR": measure.TPR}.items():
        ends = Interval.range(gains[what], over="models")
        run.metric("draws_gain", gains[what].mean(), ends, n=len(gains), seeds=_seeds(drawn), rate=rate)
    run.metric("draws_used", drawn.draws.max())


def speed(run: Any, table: pd.DataFrame) -> None:
    """Milliseconds per image of a score and of a full pass, by kind and batch."""
    for row in table.to_dict("records"):
        for call in ("score", "full pass"):
            run.timing("ms_per_image", row[call], kind=row["kind"], call=call, batch=row["batch"])


def shares(run: Any, table: pd.DataFrame, samples: int) -> None:
    """In how many models the first samples tell of copies, and all; the shares flagged and memorized in the end."""
    first, last, seeds = table.samples.min(), table.samples.max(), _seeds(table)
    run.metric("first_looked_at", first)
    for after, count in {"first": first, "all": last}.items():
        rows = table[(table.what == "flagged") & (table.samples == count)]
        n, told = len(rows), (rows.low > measure.FPR).sum()
        run.metric("models_told", told, n=n, seeds=seeds, tolerance=OF_MODELS * n, after=after)
    for what, rows in table[table.samples == last].groupby("what", sort=False):
        value, interval = hull(rows.share, rows.low, rows.high, over="models")
        run.metric("final_share", value, interval, n=samples * len(rows), seeds=seeds, what=what)


def signs(run: Any, table: pd.DataFrame, start: pd.DataFrame) -> None:
    """In how many trainings each sign comes before the copies, with them or after; what is flagged at the start."""
    run.table("signs", table)
    n, seeds = len(start), _seeds(table)
    for name, sign in SIGNS.items():
        tally = stages.lead(table, sign)
        for order, count in tally.items():
            run.metric("trainings", count, n=n, seeds=seeds, tolerance=OF_MODELS * n, sign=name, order=order)
        told = sum(tally.values()) - tally["alone"]
        early = tally["before"] / max(told, 1)
        run.metric("early_share", early, n=told, seeds=seeds, tolerance=OF_MODELS, sign=name)
    value, interval = hull(start.share, start.low, start.high, over="models")
    run.metric("flagged_at_start", value, interval, n=n, seeds=seeds)


def energy(run: Any, table: pd.DataFrame) -> None:
    """Share of the units that is used, energy of the first ten, and how many of these two samples share."""
    run.table("energy", table)
    for (kind, sort), rows in table.groupby(["kind", "sort"], sort=False):
        of, seeds = {"kind": kind, "sort": sort}, _seeds(rows)
        used = hull(rows.participation, rows.low, rows.high, over="models")
        top = hull(rows.energy, rows.energy_low, rows.energy_high, over="models")
        run.metric("participation", *used, seeds=seeds, **of)
        run.metric("top_energy", *top, seeds=seeds, **of)
        for pair in ("same", "other"):  # two samples nearest to one training image, and to different ones
            value = rows[pair].mean()
            if pd.notna(value):
                run.metric("shared_units", value, seeds=seeds, tolerance=OF_COUNT * value, pair=pair, **of)


def recipe(run: Any, flags: Tensor, same_scores: bool, refused: bool) -> None:
    """What the cells for the reader's own model flag, and whether a detector's file keeps what it should."""
    run.metric("file_same_scores", same_scores)
    run.metric("file_of_other_model_refused", refused)
    count = int(flags.sum())
    run.metric("recipe_flagged", count, n=len(flags), tolerance=OF_COUNT * count)


# ---- rates of several models


def repeated_share(rows: pd.DataFrame, what: str) -> tuple[float, Interval]:
    """Of new samples that are flagged (alarms) or not (quiet), the share nearest to a repeated image, with Wilson's."""
    hits, total = int(rows[f"{what}_repeated"].sum()), int(rows[what].sum())
    return hits / total, Interval(*measures.wilson(hits, total), over="samples")


def worst(rows: pd.DataFrame, name: str, highest: bool) -> tuple[float, Interval, pd.Series]:
    """The highest or lowest of a rate in any row, its interval, and the row."""
    row = rows.loc[rows[name].idxmax() if highest else rows[name].idxmin()]
    return float(row[name]), Interval(row[f"{name}_low"], row[f"{name}_high"], over="nearest training images"), row


def mean_rate(rows: pd.DataFrame, name: str) -> tuple[float, Interval]:
    """Mean of a rate over models, with the range from the lowest to the highest end of any of their intervals."""
    return hull(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], over="models")
