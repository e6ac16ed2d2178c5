"""What the chapter *detection* records of its comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spikiness.statistics import Interval
from spikiness_book.chapters.detection import tables
from spikiness_book.chapters.detection.measure import CONTROLS, EXACT, FLIPD_MORE, PAPER, SPIKINESS, DetectionTask

OURS = {"calibrated": SPIKINESS, "paper": PAPER}  # a label: the method's name in tables
TRAINING = OURS | {"denoising error": "denoising error", "FLIPD": "FLIPD"}
CALLS = {"detector": SPIKINESS, "FLIPD": "FLIPD", "full pass": "one full pass"}
OVER_COPIED = "nearest training images, and networks where several"  # what intervals on samples resample
OVER_IMAGES = "images, and networks where several"  # and those on training images
OF_RATIO = 1 / 10  # of a ratio of costs may differ where another layer is chosen


def counts(
    run: Any,
    calibration: Mapping[str, Sequence[DetectionTask]],
    reported: Mapping[str, Sequence[DetectionTask]],
) -> None:
    """How many samples of the networks reported are looked at, and of how many training images they are copies."""
    chosen_on, of_reported = (
        tables.counts([case for cases in tasks.values() for case in cases]) for tasks in (calibration, reported)
    )
    table = pd.concat([chosen_on, of_reported], ignore_index=True)
    run.table("counts", table)
    seeds = sorted(of_reported.seed.unique())
    for sort in ("memorized", "generalized"):
        run.metric("looked_at", of_reported[sort].sum(), seeds=seeds, tolerance=20, sort=sort)
    run.metric("copied_images", of_reported.copied_images.sum(), seeds=seeds, tolerance=10)
    run.metric("stand_ins", table.stand_in.sum())


def choices(run: Any, chosen: pd.DataFrame, most: int, seeds: Sequence[int]) -> None:
    """What each method chose, and the AUROC of spikiness in the worst network that it was chosen on."""
    run.table("choices", chosen)
    own = chosen[chosen.method == SPIKINESS]
    run.metrics(own, "calibration_auroc", "worst", by=["kind"], n=most, seeds=seeds, tolerance=0.05)


def rates(run: Any, table: pd.DataFrame, seeds: Mapping[str, Sequence[int]]) -> None:
    """AUROC and TPR at 1 % FPR of the calibrated detector and of the paper's choice; `seeds` reported for each kind."""
    for label, method in OURS.items():
        for row in table[table.method == method].to_dict("records"):
            of = {"kind": row["kind"], "method": label}
            for rate in ("auroc", "tpr"):
                run.metric(rate, row[rate], _ends(row, rate), n=row["images"], seeds=seeds[row["kind"]], **of)


def worst(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The same in the kind of network where each is lowest."""
    for label, method in OURS.items():
        for rate in ("auroc", "tpr"):
            row = tables.lowest(table, method, rate)
            run.metric(f"worst_{rate}", row[rate], _ends(row, rate), seeds=seeds, method=label)


def rivals(run: Any, table: pd.DataFrame, deep: Sequence[str], seeds: Sequence[int]) -> None:
    """In how many comparisons spikiness is better or worse than a rival beyond doubt.

    Rivals are those that see the model and not the training set, FLIPD counted once, on the kinds `deep`.
    """
    verdicts = tables.against(table.drop(columns="kind")).assign(kind=table.kind)
    run.table("against-rivals", verdicts)
    uncounted = verdicts.method.isin([*CONTROLS, FLIPD_MORE, EXACT])
    counted = verdicts[~uncounted & verdicts.kind.isin(deep)]
    for verdict in ("behind", "level", "ahead"):
        number = (counted.verdict == verdict).sum()
        run.metric("rivals", number, n=len(counted), seeds=seeds, tolerance=2, verdict=verdict)
    everywhere = counted[counted.verdict == "ahead"].groupby("method").size() == len(deep)
    run.metric("rivals_ahead_everywhere", everywhere.sum(), n=counted.method.nunique(), seeds=seeds, tolerance=1)
    behind = verdicts.verdict[verdicts.method.isin(CONTROLS)] == "behind"
    run.metric("controls_behind", behind.mean(), n=len(behind), seeds=seeds, tolerance=0.2)


def calibration_loss(run: Any, chosen: pd.DataFrame, each: pd.DataFrame, seeds: Sequence[int]) -> None:
    """What the calibrated choice loses from the networks it was made on to those reported."""
    run.table("each-network", each)
    run.metric("calibration_loss", tables.loss(chosen, each), seeds=seeds, tolerance=0.03)


def costs(run: Any, table: pd.DataFrame, pixels: Mapping[str, int]) -> None:
    """Arithmetic in passes, and how often that of the detector goes into FLIPD's; `pixels` of an image of each kind,
    which are the products that the exact trace takes. The most and the least over these kinds."""
    run.table("arithmetic", table)
    passes = table[table.kind.isin(pixels)].pivot(index="kind", columns="method", values="passes")
    for label, method in OURS.items():
        run.metric("cost_share", passes[method].max(), tolerance=0.1, method=label)
    exact = 1 + pd.Series(pixels)
    for trace, cost in {"one probe": passes["FLIPD"], "exact": exact}.items():
        ratio = (cost / passes[SPIKINESS]).min()
        run.metric("flipd_cost_ratio", ratio, tolerance=OF_RATIO * ratio, trace=trace)


def timings(run: Any, measured: pd.DataFrame, exact: float, kind: str) -> None:
    """Milliseconds per image of one kind, alone and in the larger of the two batches; `exact`: of FLIPD's exact
    trace."""
    rows = measured[measured.kind == kind].set_index(["method", "batch"]).ms
    sizes = {"alone": measured.batch.min(), "in a batch": measured.batch.max()}
    run.timing("ms_per_image", exact, kind=kind, call=EXACT, asked="in a batch")
    for call, method in CALLS.items():
        for asked, batch in sizes.items():
            run.timing("ms_per_image", rows[method, batch], kind=kind, call=call, asked=asked)


def training(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """AUROC on training images, of each method in the kind of network where it is lowest."""
    for label, method in TRAINING.items():
        row = tables.lowest(table, method, "auroc")
        run.metric("training_auroc", row["auroc"], _ends(row, "auroc", OVER_IMAGES), seeds=seeds, method=label)


def labels(run: Any, cuts: pd.DataFrame, seeds: Sequence[int]) -> str | None:
    """The share of samples in the gap, and what a single cut costs; the kind where it costs most, None where no network
    copies enough for such a cut."""
    run.table("cuts", cuts)
    run.metric("between_share", cuts[cuts.gap != "none"].between.max(), seeds=seeds, tolerance=0.02)
    if not (cuts.gap == "none").any():
        return None
    fall, kind = tables.label_loss(cuts)
    run.metric("label_loss", fall, seeds=seeds, tolerance=0.01)
    return kind


def _ends(row: Mapping[str, Any], rate: str, over: str = OVER_COPIED) -> Interval:
    return Interval(row[f"{rate}_low"], row[f"{rate}_high"], over=over)
