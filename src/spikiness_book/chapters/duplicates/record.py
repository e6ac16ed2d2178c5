"""What the chapter *duplicates* records of its networks, their samples and how often each image is copied."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from spikiness.statistics import INSIDE, Interval, hull
from spikiness_book.chapters.duplicates import measure


def samples(run: Any, drawn: Mapping[int, Tensor], tables: Mapping[int, pd.DataFrame]) -> None:
    """The samples of each network, by seed, with the nearest training image of each: for later chapters."""
    for seed, table in tables.items():
        run.array(f"samples-{seed}", drawn[seed])
        run.array(f"nearest-{seed}", table.nearest)
        run.array(f"ratio-{seed}", table.ratio)


def networks(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The training sets, and how many samples copy how many of their images."""
    run.table("networks", table)
    run.metric("training_images", table.n.mean(), seeds=seeds)
    run.metric("repeated_share", table.repeated_share.mean(), seeds=seeds)
    drawn, count = int(table.samples.sum()), int(table.memorized.sum())
    run.metric("memorized_fraction", *hull(table.share, table.low, table.high), n=drawn, seeds=seeds)
    run.metric("memorized_samples", count, n=drawn, seeds=seeds, tolerance=0.2 * count)
    run.metric("distinct_memorized", table.distinct.mean(), n=drawn, seeds=seeds, tolerance=4)


def frequencies(
    run: Any, frequency: pd.DataFrame, counts: pd.DataFrame, copies: Sequence[int], n: int, seeds: Sequence[int]
) -> None:
    """Share of the `n` samples that copy an image seen once, or one of the fewest or the most copies, and its ratio to
    the share of the training set.

    The intervals resample training images; where `measure.by_copies` has to fall back on Wilson's, samples.
    """
    run.table("image-counts", counts[(counts.copies > 1) | (counts.copied > 0)])
    for label, number in {"one": 1, "fewest": min(copies), "most": max(copies)}.items():
        row = frequency[frequency.copies == number].iloc[0]
        over = "training images" if row.copied and row.images > 1 else "samples"
        share = Interval(row.share_low, row.share_high, over=over)
        ratio = Interval(row.ratio_low, row.ratio_high, over=over)
        run.metric("share", row.share, share, n=n, seeds=seeds, copies=label)
        run.metric("expected_share", row.expected_share, seeds=seeds, copies=label)
        run.metric("ratio", row.ratio, ratio, n=int(row.images), seeds=seeds, copies=label)
        if number > 1:
            run.metric("number_of_copies", number, copies=label)


def flips(
    run: Any, copies: Mapping[str, measure.Flip], shown: Mapping[str, measure.Flip], seeds: Sequence[int]
) -> None:
    """From how many copies, and from how many presentations on, half are copies; `open`: that number is a bound."""
    for of, flip in copies.items():
        run.metric("flip_copies", flip.value, flip.interval, n=flip.n, seeds=seeds, of=of)
    for of, flip in shown.items():
        run.metric("flip_presentations", flip.value, flip.interval, n=flip.n, seeds=seeds, of=of)
        run.metric("flip_open", int(flip.where != INSIDE), seeds=seeds, of=of)


def presentations_ratio(
    run: Any, large: measure.Flip, small: measure.Flip, sizes: Sequence[int], seeds: Sequence[int]
) -> None:
    """How many times as often an image of a `large` set is presented at its flip as one of a `small` set.

    The ends are those of the two intervals, the farthest apart: no level is known.
    """
    low, high = large.interval[0] / small.interval[1], large.interval[1] / small.interval[0]
    ends = Interval(low, high, level=None, over="networks, and nearest training images")
    run.metric("presentations_ratio", large.value / small.value, ends, seeds=seeds)
    run.metric("fewest_images", min(sizes))


def crossings(run: Any, order: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many curves along training there are, and how many of them cross one half."""
    run.table("crossings", order)
    run.metric("curves_that_cross", (order["where"] == INSIDE).sum(), n=len(order), seeds=seeds)
    run.metric("curves", len(order), seeds=seeds)


def collapse(run: Any, exponent: tuple[float, Interval] | None, n: int, seeds: Sequence[int]) -> None:
    """How much copies count beside images seen, from `n` samples."""
    if exponent:
        run.metric("collapse_exponent", *exponent, n=n, seeds=seeds)
    else:
        run.metric("collapse_exponent", 0.0, n=0, seeds=seeds)  # no copies at all: nothing was measured
