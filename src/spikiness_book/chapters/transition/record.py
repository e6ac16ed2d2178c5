"""What the chapter *transition* records of each data set; numbers are of the larger width unless a label says another.

The label `end` is of the sizes tried: "fewest" or "most" training images.
"""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from spikiness import measures
from spikiness.statistics import Interval, hull
from spikiness_book import copying
from spikiness_book.chapters.transition import measure
from spikiness_book.chapters.transition import quality as judging
from spikiness_book.chapters.transition.measure import Study

KINDS = {"training": judging.TRAIN, "held-out": judging.TEST}  # label of noisy images: their kind in tables


def tables(run: Any, name: str, frames: Mapping[str, pd.DataFrame]) -> None:
    """Keep a table of each data set: of the first as `name`, of another as `DATA-name`."""
    for index, (data, frame) in enumerate(frames.items()):
        run.table(f"{re.sub('[^a-z0-9]+', '-', data.lower())}-{name}" if index else name, frame)


def ends(study: Study) -> dict[str, int]:
    """The smallest and the largest number of training images."""
    return {"fewest": study.sizes[0], "most": study.sizes[-1]}


def networks(run: Any, study: Study) -> None:
    """How many networks there are, of how many images, and how often each image was seen."""
    run.metric("networks_trained", len(study.networks), seeds=study.seeds, data=study.name)
    run.metric("largest_width", study.width, unit="channels", data=study.name)
    for end, n in ends(study).items():
        run.metric("training_images", n, unit="images", data=study.name, end=end)
        run.metric("times_seen", study.images_seen / n, data=study.name, end=end)


def copied(run: Any, study: Study, rows: pd.DataFrame) -> None:
    """The memorized fraction of samples of networks and of f_emp, and of held-out images; `rows`: `measure.copied`."""
    samples = len(study.networks[0].samples)
    for end, n in ends(study).items():
        fraction = copying.over_networks(rows[(rows.width == study.width) & (rows.n == n)])
        run.metric("memorized", *fraction, n=samples, seeds=study.seeds, data=study.name, end=end)
    perfect = rows[rows.width == 0]
    fraction = hull(perfect.value, perfect.low, perfect.high, over="training sets")
    run.metric("memorized_f_emp", *fraction, n=samples, data=study.name)
    share, interval, count = measure.real_copies(study)
    run.metric("memorized_held_out", share, interval, n=count, data=study.name)


def turning(run: Any, study: Study, turns: pd.DataFrame) -> dict[int, bool]:
    """The n at which each width turns; returns for each width whether all its networks do. `turns`: `copying.turning`.

    `turned` is how many of its networks turn within the sizes tried; only where all do has the width a `turning_n`.
    """
    turned = {}
    for width, rows in turns.groupby("width"):
        point = copying.turning_point(rows)
        labels = {"data": study.name, "width": width}
        run.metric("turned", rows.turning.notna().sum(), n=len(rows), seeds=study.seeds, **labels)
        if point is not None:
            run.metric("turning_n", *point, unit="images", n=len(rows), seeds=study.seeds, **labels)
        turned[width] = point is not None
    return turned


def pairs(run: Any, study: Study, rows: pd.DataFrame) -> bool:
    """How far two networks agree that share no image, and two f_emp; `rows`: `measure.pairs`.

    Returns whether networks have pairs at two sizes: `pair_ratio` of the smaller one is recorded only then.
    """
    own, perfect = rows[rows.width == study.width], rows[rows.width == 0]
    run.metric("pair_size", own.n.max(), unit="images", data=study.name)
    for denoisers, part in {"networks": own, "f_emp": perfect}.items():
        common = {"n": len(study.networks[0].samples), "data": study.name, "denoisers": denoisers}
        common |= {"seeds": study.seeds} if denoisers == "networks" else {}
        most = part[part.n == part.n.max()]
        run.metric("pair_ratio", *_over_pairs(most.value, most.low, most.high, denoisers), end="most", **common)
        run.metric("pair_matched", *_matched(most, denoisers), **common)
        if denoisers == "f_emp" or part.n.min() < part.n.max():
            fewest = part[part.n == part.n.min()]
            ratio = _over_pairs(fewest.value, fewest.low, fewest.high, denoisers)
            run.metric("pair_ratio", *ratio, end="fewest", **common)
    return bool(own.n.min() < own.n.max())


def _matched(rows: pd.DataFrame, denoisers: str) -> tuple[float, Interval]:
    counts = (rows.matched * rows.samples).round().astype(int)
    intervals = [measures.wilson(count, total) for count, total in zip(counts, rows.samples, strict=True)]
    return _over_pairs(rows.matched, *zip(*intervals, strict=True), denoisers)


def _over_pairs(values: Any, lows: Any, highs: Any, denoisers: str) -> tuple[float, Interval]:
    """Mean over pairs of networks, and the range of their intervals; of the one pair of f_emp its own."""
    mean, interval = hull(values, lows, highs, over="pairs of networks")
    return mean, interval if denoisers == "networks" else Interval(*interval, over="initial noises")


def distances(run: Any, study: Study, rows: pd.DataFrame, sigma: float) -> None:
    """How far networks are from f_emp at the noise level sigma; `rows`: `quality.from_perfect`."""
    for end, n in ends(study).items():
        for images, kind in KINDS.items():
            networks = rows[(rows.sigma == sigma) & (rows.n == n) & (rows.kind == kind)]
            labels = {"data": study.name, "end": end, "images": images}
            run.metric("f_emp_distance", *copying.over_networks(networks), seeds=study.seeds, **labels)


def losses(run: Any, study: Study, rows: pd.DataFrame) -> None:
    """The held-out loss over the training loss, and both over those of f_emp; `rows`: `quality.losses`."""
    for end, n in ends(study).items():
        run.metric("loss_ratio", *judging.loss_ratio(rows, n), seeds=study.seeds, data=study.name, end=end)
        for images, excess in zip(KINDS, judging.excess(rows, n), strict=True):
            labels = {"data": study.name, "end": end, "images": images}
            run.metric("excess", excess, seeds=study.seeds, tolerance=0.25 * excess, **labels)


def quality(run: Any, study: Study, rows: pd.DataFrame, accuracy: float) -> None:
    """How good samples are, beside real images, by each measure; `rows` and `accuracy`: `quality.quality`."""
    size = rows["size"].max()
    run.metric("classifier_accuracy", accuracy, n=len(study.test.x), tolerance=0.01, data=study.name)
    run.metric("quality_size", size, unit="images", data=study.name)
    for name, part in rows[rows.width == study.width].groupby("measure", sort=False):
        labels = {"data": study.name, "measure": name}
        samples, most = part[part.kind == f"width {study.width}"], part[part.n == study.sizes[-1]]
        for end, n in ends(study).items():
            value = copying.over_networks(samples[samples.n == n])
            run.metric("quality", *value, n=size, seeds=study.seeds, end=end, **labels)
        gap = copying.over_networks(most[most.kind == "gap"])
        run.metric("quality_gap", *gap, n=size, seeds=study.seeds, **labels)
        real = most[most.kind == "real images"].iloc[0]  # the halves, and so these rows, are the same for every network
        interval = Interval(real.low, real.high, over="halves of the held-out images")
        run.metric("quality_real", real.value, interval, n=size, **labels)


def steps(run: Any, study: Study, rows: pd.DataFrame) -> None:
    """How far twice as many steps move samples and the memorized fraction; `rows`: `quality.more_steps`."""
    common = {"n": len(study.networks[0].samples), "data": study.name}
    most = rows.loc[rows["shift"].idxmax()]  # shift, its bound and the interval are of one and the same n
    shift = most["shift"], Interval(0, most.high, over="samples")
    run.metric("steps_shift", *shift, seeds=study.seeds[:1], **common)
    run.metric("steps_half_interval", most.half, tolerance=0.01, **common)
    run.metric("steps_moved", rows.moved.max(), seeds=study.seeds[:1], tolerance=0.005, **common)
