"""What the chapter *sampling* records: how many samples are copies, how long they are, and what the networks do."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from spikiness.statistics import Interval, hull
from spikiness_book.chapters.sampling import measure
from spikiness_book.chapters.sampling.measure import CLOSED, FEW, LINEAR, MANY, NETWORK, RAW, RESTORED, SubsetNetwork

SUBSETS = {FEW: "few", RAW: "raw", MANY: "many"}  # their labels: these hold no commas
CRITERIA = {"copy": "distance", "copy_direction": "direction"}
OVER = {NETWORK: "networks", CLOSED: "training sets"}  # what differs between seeds
QUALITY = {  # source of samples: its labels, and what differs between seeds
    NETWORK: ("network", "own", "networks"),
    NETWORK + RESTORED: ("network", "restored", "networks"),
    LINEAR: ("wiener", "own", "training sets"),
    LINEAR + RESTORED: ("wiener", "restored", "training sets"),
    "training images": ("training images", "own", "choices of images"),
}


def networks(run: Any, cases: Sequence[SubsetNetwork], seeds: Sequence[int]) -> None:
    """How many networks there are, and how long the few images are."""
    lengths = [case.x.norm(dim=1).mean().item() for case in cases if case.subset == FEW]
    run.metric("networks_trained", len(cases), seeds=seeds)
    run.metric("image_length", np.mean(lengths))


def fractions(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The memorized fraction of each set of samples by each criterion; `table` is that of `measure.fractions`."""
    keys = ["subset", "source", "sampler", "criterion"]
    for (subset, source, sampler, criterion), rows in table.groupby(keys, sort=False):
        value, interval = hull(rows.fraction, rows.low, rows.high, over=OVER[source])
        labels = {"subset": SUBSETS[subset], "source": source, "sampler": sampler, "criterion": CRITERIA[criterion]}
        run.metric("memorized", value, interval, n=rows.n.sum(), seeds=seeds, **labels)


def evenness(run: Any, samples: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many of the few images the copies return, and how evenly."""
    table = measure.evenness(samples)
    run.table("shares", measure.shares(samples))
    run.table("evenness", table)
    ancestral = table[(table.subset == FEW) & (table.sampler == "ancestral")]
    returned = ancestral[ancestral.source == NETWORK].images
    run.metric("images_returned", returned.min(), n=len(returned), seeds=seeds, tolerance=1)
    for source, over in OVER.items():
        effective = ancestral[ancestral.source == source].effective
        interval = Interval.range(effective, over)
        run.metric("effective_images", effective.mean(), interval, seeds=seeds, source=source)


def lengths(run: Any, copies: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How long copies are, and how well the initial noise predicts it."""
    common = {"n": len(copies), "seeds": seeds}
    by_seed = Interval.range(copies.groupby("seed").learned.median(), "networks")
    run.metric("length", copies.learned.median(), by_seed, **common)
    run.metric("length_ratio", (copies.learned / copies.predicted).median(), tolerance=0.05, **common)
    correlation = copies[["predicted", "learned"]].corr().iloc[0, 1]
    run.metric("length_correlation", correlation, tolerance=0.02, **common)
    for gain, predicted in {"formula": copies.predicted, "network": copies.own}.items():
        errors = (copies.learned - predicted).abs() / copies.learned
        run.metric("length_error", errors.median(), tolerance=0.02, gain=gain, **common)


def distances(run: Any, looks: pd.DataFrame, sigmas: Sequence[float], seeds: Sequence[int]) -> None:
    """How far networks are from f_emp and from the Wiener filter at the lowest, middle and highest noise level."""
    levels = {"lowest": min(sigmas), "middle": sorted(sigmas)[len(sigmas) // 2], "highest": max(sigmas)}
    for at, sigma in levels.items():
        run.metric("sigma", sigma, at=at)
        for subset, rows in looks[looks.sigma == sigma].groupby("subset", sort=False):
            for reference in ("empirical", "wiener"):
                interval = Interval.range(rows[reference], "networks")
                labels = {"reference": reference, "subset": SUBSETS[subset], "at": at}
                run.metric("distance", rows[reference].mean(), interval, seeds=seeds, **labels)


def spikiness(run: Any, looks: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many units take part; the least and the greatest ratio, over noise levels, of Std with few images to many."""
    for subset, rows in looks.groupby("subset", sort=False):
        values = rows.participation
        interval = Interval.range(values, "networks and noise levels")
        run.metric("participation", values.median(), interval, unit="units", seeds=seeds, subset=SUBSETS[subset])
    for name, tolerance in {"std": 0.3, "relative_std": 0.1}.items():
        medians = looks.groupby(["subset", "sigma"])[name].median()
        ratios = medians[FEW] / medians[MANY]
        for bound, ratio in {"least": ratios.min(), "greatest": ratios.max()}.items():
            labels = {"measure": name, "bound": bound}
            run.metric("spikiness_ratio", ratio, n=len(ratios), seeds=seeds, tolerance=tolerance, **labels)


def newness(run: Any, table: pd.DataFrame, draws: int, seeds: Sequence[int]) -> None:
    """How far samples of the networks of many images are from training images, and how long, beside unseen images."""
    run.table("newness", table)
    for name in ("distance", "direction", "size"):
        interval = Interval.range(table[name], "networks")
        run.metric("newness", table[name].mean(), interval, n=draws, seeds=seeds, measure=name)


def quality(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Kernel distance and precision of every source of samples, with their own lengths and with restored ones."""
    run.table("quality", table)
    for name, rows in table.groupby("source", sort=False):
        source, lengths, over = QUALITY[name]
        labels = {"source": source, "lengths": lengths}
        for metric, values in {"kernel_distance": rows.kernel, "precision": rows.precision}.items():
            interval = Interval.range(values, over)
            run.metric(metric, values.mean(), interval, n=rows.n.min(), seeds=seeds, **labels)
