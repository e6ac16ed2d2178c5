"""What the chapter *dynamics* records of its networks along their training."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spikiness.detection import Probe
from spikiness.measures import KernelDistance
from spikiness.statistics import Interval, hull
from spikiness_book.chapters.dynamics import measure

SIGNALS = {  # as labels name them
    "spikiness": measure.SPIKY,
    "any direction": measure.ANY,
    "loss": measure.LOSS,
    "error": measure.ERROR,
    "copies": measure.APPEAR,
}
PAIRS = (  # a signal, and the one that it is held against
    ("spikiness", "copies"),
    ("spikiness", "loss"),
    ("any direction", "copies"),
    ("any direction", "loss"),
    ("loss", "copies"),
)


def extremes(sizes: Sequence[int]) -> dict[str, int]:
    """The fewest and the most training images, by the label `images` of findings."""
    return {"fewest": min(sizes), "most": max(sizes)}


def networks(run: Any, stages: pd.DataFrame, held: int, sizes: Sequence[int], seeds: Sequence[int]) -> None:
    """How many networks are followed, at how many stages, beside how many held-out images."""
    run.table("all-stages", stages)
    run.metric("networks_followed", stages[["n", "seed"]].drop_duplicates().shape[0], seeds=seeds)
    run.metric("held_out_images", held)
    run.metric("stages_kept", stages.images_seen.nunique(), seeds=seeds)
    for images, n in extremes(sizes).items():
        run.metric("training_images", n, images=images)


def times(run: Any, stages: pd.DataFrame, found: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The memorized share and the best kernel distance, and when samples become good and copies."""
    last = stages[stages.images_seen == stages.images_seen.max()]
    for images, n in extremes(stages.n).items():
        ends = last[last.n == n]
        run.metric("memorized", *hull(ends.share, ends.low, ends.high), n=len(ends), seeds=seeds, images=images)
        for until, kind in {"good": measure.GOOD, "copies": measure.COPIES}.items():
            part = found[(found.n == n) & (found.kind == kind)]
            time = hull(part.images_seen, part.low, part.high)
            run.metric("time", *time, unit="images seen", n=len(part), seeds=seeds, until=until, images=images)
        best = stages[stages.n == n].quality.min()
        tolerance = 0.2 * abs(best) + 0.02
        run.metric("best_kernel_distance", best, n=len(ends), seeds=seeds, tolerance=tolerance, images=images)
    copied = found[found.kind == measure.COPIES]
    run.metric("networks_copying", (copied.bound == "inside").sum(), n=len(copied), seeds=seeds, tolerance=1)


def real_images(run: Any, real: KernelDistance, held: int) -> None:
    """The kernel distance of real images to real ones."""
    run.metric("real_kernel_distance", real.value, real.interval, over="images", n=held)


def presentations(run: Any, found: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How often each of the fewest images was shown when half of the samples copy, and how much later than good.

    Both intervals are the means, over networks, of the ends of each one's: samples are resampled, networks and the
    time of good samples are not.
    """
    few = found[found.n == found.n.min()]
    copies, good = few[few.kind == measure.COPIES], few[few.kind == measure.GOOD].images_seen.mean()
    time, low, high = (copies[column].mean() for column in ("images_seen", "low", "high"))
    n = found.n.min()
    run.metric("presentations", time / n, Interval(low / n, high / n, over="samples"), seeds=seeds)
    run.metric("copies_after_good", time / good, Interval(low / good, high / good, over="samples"), seeds=seeds)


def growth(run: Any, grown: measure.Growth | None, seeds: Sequence[int]) -> None:
    """How the time of copies grows with n; from lower bounds of the times, the least exponent it can have."""
    if grown:
        times = "lower bounds" if grown.bound else "seen"
        run.metric("growth_exponent", grown.slope, grown.interval, n=grown.used, seeds=seeds, times=times)


def losses(run: Any, stages: pd.DataFrame, seeds: Sequence[int]) -> None:
    """At the end of training: held-out loss over training loss, and the distance to the empirical denoiser."""
    last = stages[stages.images_seen == stages.images_seen.max()]
    for images, n in extremes(stages.n).items():
        ends = last[last.n == n]
        ratio, given = (ends.held / ends.train).mean(), {"n": len(ends), "seeds": seeds, "images": images}
        run.metric("loss_ratio", ratio, tolerance=0.2 * ratio, **given)
        run.metric("to_empirical", ends.to_empirical.mean(), tolerance=0.05, **given)


def choice(
    run: Any, tried: pd.DataFrame, picked: Mapping[str, tuple[Probe, float]], n: int, seeds: Sequence[int]
) -> None:
    """The two settings chosen on calibration networks, of `n` samples each, and how well they do there."""
    run.table("calibration", tried)
    run.table("choice", pd.DataFrame([{"signal": name, **vars(probe)} for name, (probe, _) in picked.items()]))
    for signal in ("spikiness", "any direction"):
        probe, worst = picked[SIGNALS[signal]]
        run.metric("calibration_auroc", worst, n=n, seeds=seeds, tolerance=0.03, signal=signal)
        run.metric("chosen_sigma", probe.sigma, signal=signal)
        run.metric("chosen_direction", probe.direction, signal=signal)
    run.metric("settings_tried", len(tried) / len(seeds))
    run.metric("spikier_share", measure.spikier(tried), n=len(tried), seeds=seeds, tolerance=0.1)


def calibration_samples(run: Any, memorized: Sequence, replaced: Sequence[bool], seeds: Sequence[int]) -> None:
    """How many memorized samples the choice rests on, and for how many networks others stand in for them."""
    count = sum(int(mask.sum()) for mask in memorized)
    run.metric("calibration_memorized", count, seeds=seeds, tolerance=0.2 * count)
    run.metric("stand_in", sum(replaced))


def first_signs(run: Any, signs: pd.DataFrame, seeds: Sequence[int]) -> None:
    """In how many networks one signal comes before another, and its share of those where that can be told."""
    run.table("first-signs", signs)
    followed = signs[["n", "seed"]].drop_duplicates().shape[0]
    for signal, against in PAIRS:
        tally = measure.leads(signs, SIGNALS[signal], SIGNALS[against])
        pair = {"signal": signal, "against": against}
        for order, count in tally.items():
            run.metric("networks", count, n=followed, seeds=seeds, tolerance=1, **pair, order=order)
        told = sum(tally.values()) - tally["alone"]
        run.metric("early_share", tally["before"] / max(told, 1), n=told, seeds=seeds, tolerance=0.15, **pair)


def aurocs(run: Any, warned: pd.DataFrame, seeds: Sequence[int]) -> None:
    """AUROC of training images against held-out ones at the end of training, by signal."""
    run.table("warnings", warned)
    final = warned[warned.images_seen == warned.images_seen.max()]
    for images, n in extremes(warned.n).items():
        for signal in ("spikiness", "any direction", "loss", "error"):
            part = final[(final.n == n) & (final.signal == SIGNALS[signal])]
            auroc = hull(part.share, part.low, part.high)
            run.metric("auroc", *auroc, n=len(part), seeds=seeds, signal=signal, images=images)
