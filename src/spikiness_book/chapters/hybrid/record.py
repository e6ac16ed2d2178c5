"""What the chapter *hybrid* records: what is stored, at how many copies, and how representations differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spikiness import measures
from spikiness.statistics import Interval
from spikiness_book import two_layers
from spikiness_book.chapters.hybrid import measure
from spikiness_book.chapters.hybrid.measure import AMPLE, IMAGES, TIGHT

SETTINGS = {AMPLE: "enough units", TIGHT: "too few units", IMAGES: "images"}  # as labels, which hold no comma
SCORES = ("std", "std_over_norm", "norm")


def _of(rows: pd.DataFrame) -> dict[str, Any]:
    """How many rows a number is taken over, and their seeds."""
    return {"n": len(rows), "seeds": rows.seed.unique().tolist()}


def columns(run: Any, held: pd.DataFrame, every: pd.DataFrame) -> None:
    """What columns store: `held` has a row per repeated image at the most copies, `every` one per network on images."""
    run.table("singletons", every)
    repeated, once = {"images": "repeated"}, {"images": "seen once"}
    interval = Interval(*measures.bootstrap(held.cosine.to_numpy(), groups=held.seed.to_numpy()), over="networks")
    smallest, largest = held.cosine.min(), every.singleton_cosine.max()
    run.metric("column_cosine", smallest, **_of(held), tolerance=0.02, **repeated, statistic="smallest")
    run.metric("column_cosine", held.cosine.mean(), interval, **_of(held), **repeated, statistic="mean")
    run.metric("column_cosine", largest, **_of(every), tolerance=0.03, **once, statistic="largest")
    gain_error = (held.learned / held.predicted - 1).abs().median()
    run.metric("stored_gain_error", gain_error, **_of(held), tolerance=0.01)
    seen = {**_of(every), "n": every.singletons.sum()}
    run.metric("singletons_stored", every.singletons_stored.sum(), **seen, tolerance=1)
    final = every[every.copies == every.copies.max()]
    run.metric("other_columns", final.other_columns.mean(), **_of(final), tolerance=1)


def copies(run: Any, flips: pd.DataFrame) -> None:
    """The number of copies at which samples are stored, against the heuristic's; `flips` as `measure.flips` gives."""
    run.table("flips", flips)
    for setting, label in SETTINGS.items():
        known = flips[flips.setting == setting].dropna()
        run.metric("flip_ratio", *measure.ratio(known), **_of(known), setting=label)
    for setting in (IMAGES, TIGHT):
        rows = flips[flips.setting == setting]
        one = 1 / len(rows)  # a rerun agrees where one sample more or less is open
        run.metric("open_share", rows.open.mean(), **_of(rows), tolerance=one, setting=SETTINGS[setting])
    images = flips[flips.setting == IMAGES]
    for by, numbers, tolerance in (("heuristic", images.predicted, 1), ("training", images.found, 100)):
        run.metric("copies_to_store", numbers.median(), **_of(images), tolerance=tolerance, setting="images", by=by)


def gains(run: Any, gains: pd.DataFrame) -> None:
    """How far stored gains are from the predicted ones: the median difference."""
    difference = (gains.learned - gains.predicted).abs()
    ends = measures.bootstrap(difference.to_numpy(), np.median, groups=gains.seed.to_numpy())
    run.metric("gain_difference", difference.median(), Interval(*ends, over="seeds"), **_of(gains))


def modes(run: Any, modes: pd.DataFrame, penalized: pd.DataFrame) -> None:
    """The largest operator error of any mode, with and without repeated samples, at the small penalty and the large."""
    both, alone = modes[modes.repeated == "with"], modes[modes.repeated == "without"]
    for rows, penalty, tolerance in ((both, "small", 0.01), (alone, "small", 0.01), (penalized, "large", 0.05)):
        labels = {"repeated": rows.repeated.iloc[0], "penalty": penalty}
        run.metric("mode_operator_error", rows.error.max(), **_of(rows), tolerance=tolerance, **labels)
    run.metric("alpha", both.alpha.max(), **_of(both), tolerance=0.02)
    run.metric("beta", both.beta.max(), **_of(both), tolerance=0.02)


def representations(run: Any, inputs: Mapping[str, pd.DataFrame], resamples: int, seeds: Sequence[int]) -> None:
    """How well measures of h tell repeated samples from others, and over how many units h is spread, for each data."""
    for data, rows in inputs.items():
        for others in ("seen once", "never seen"):
            compared = measure.against(rows, others, data)
            scores = two_layers.evaluations(compared, resamples, SCORES, data=data, against=others)
            scores = scores.rename(columns={"low": "auroc_low", "high": "auroc_high"})
            given = {"over": "networks and samples", "n": "memorized", "seeds": seeds}
            run.metrics(scores, "auroc", "auroc", by=["data", "measure", "against"], **given)
        spread = rows.groupby("group", as_index=False).participation_ratio.mean().assign(data=data)
        given = {"unit": "units", "seeds": seeds, "tolerance": 0.2}
        run.metrics(spread, "participation", "participation_ratio", by=["data", "group"], **given)
