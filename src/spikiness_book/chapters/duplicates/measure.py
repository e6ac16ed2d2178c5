"""One diffusion model, some training images repeated: how often each is sampled, from how many copies copied."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from spikiness import measures
from spikiness.statistics import INSIDE, Crossing, Interval, first_rise, hull, rate
from spikiness_book import copying
from spikiness_book.zoo import Trained

SHARES = {"share": "frequency", "share_low": "low", "share_high": "high"}  # of a group, from those of one image


def rows(network: Trained, drawn: Tensor, stage: int = -1) -> pd.DataFrame:
    """One row per sample drawn: nearest distinct training image, its copies and how often training showed it."""
    frame = copying.table(drawn, network.x)
    copies = network.copies.numpy()[frame.nearest]
    seen = network.seen[stage]
    presented = seen * copies / network.n
    return frame.assign(copies=copies, presentations=presented, images_seen=seen, seed=network.seed)


def along_training(networks: Sequence[Trained], count: int) -> pd.DataFrame:
    """`rows` of `count` samples of each network at each stage."""
    return pd.concat(
        [
            rows(network, network.draw(count, stage), stage)
            for network in networks
            for stage in range(len(network.stages))
        ],
        ignore_index=True,
    )


def image_counts(found: pd.DataFrame, networks: Sequence[Trained]) -> pd.DataFrame:
    """One row per distinct training image of each network: the samples that copy it, and its share of the set."""
    parts = []
    for network in networks:
        mine = found[found.seed == network.seed]
        copies = network.copies.numpy()
        copied = np.bincount(mine.nearest[mine.memorized], minlength=len(copies))
        part = pd.DataFrame({"image": range(len(copies)), "copies": copies, "copied": copied})
        part["frequency"], part["expected"] = copied / len(mine), copies / network.n
        parts.append(part.assign(samples=len(mine), seed=network.seed))
    return pd.concat(parts, ignore_index=True)


def by_copies(counts: pd.DataFrame) -> pd.DataFrame:
    """One row per number of copies, over all networks: sampled frequency per image, share of the samples, intervals.

    Intervals resample training images. Where no sample copies one, they reach up to Wilson's for the samples drawn.
    """
    networks, found = counts.seed.nunique(), []
    for copies, mine in counts.groupby("copies"):
        per_network, drawn = len(mine) / networks, int(mine.groupby("seed").samples.first().sum())
        frequency, total = mine.frequency.mean(), int(mine.copied.sum())
        if total and len(mine) > 1:
            low, high = measures.bootstrap(mine.frequency.to_numpy())
        else:
            low, high = (end / per_network for end in measures.wilson(total, drawn))
        row = {"copies": copies, "images": len(mine), "copied": total, "frequency": frequency, "low": low, "high": high}
        row |= {name: row[key] * per_network for name, key in SHARES.items()}
        expected = mine.expected.mean()
        row |= {"expected": expected, "expected_share": expected * per_network, "ratio": frequency / expected}
        row |= {"ratio_low": low / expected, "ratio_high": high / expected}
        found.append({**row, "images_copied": int((mine.copied > 0).sum())})
    return pd.DataFrame(found)


def memorized_by(found: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Of the samples in each group `by`, which share is memorized; intervals resample nearest training images."""
    parts = []
    for key, mine in found.groupby(list(by)):
        share, (low, high) = rate(mine.memorized, _image(mine))
        parts.append({**dict(zip(by, key, strict=True)), "share": share, "low": low, "high": high, "n": len(mine)})
    return pd.DataFrame(parts)


def _image(found: pd.DataFrame) -> np.ndarray:
    """A label [N] of the nearest training image of the network that each sample is from."""
    return (found.seed.astype(str) + "/" + found.nearest.astype(str)).to_numpy()


@dataclass(frozen=True)
class Flip:
    """A number of copies, or of presentations, from which on half of the images, or samples, are copies."""

    value: float
    interval: Interval
    where: str  # INSIDE, or the value is a bound
    n: int  # images, samples or networks that it was taken over

    def times(self, factor: float) -> "Flip":
        """The flip in another unit, of which `factor` make one of this: presentations from copies."""
        low, high = (factor * end for end in self.interval)
        interval = Interval(low, high, level=self.interval.level, over=self.interval.over)
        return Flip(factor * self.value, interval, self.where, self.n)


def image_flip(counts: pd.DataFrame) -> Flip:
    """Copies from which on half of the images are copied by at least one sample; interval over images and networks."""
    return _flip(counts.copies.to_numpy(), (counts.copied > 0).to_numpy(), over="training images")


def sample_flip(found: pd.DataFrame) -> Flip:
    """Copies of the nearest image from which on half of the samples are memorized; interval over nearest images."""
    return _flip(found.copies.to_numpy(), found.memorized.to_numpy(), _image(found), over="nearest training images")


def _flip(copies: np.ndarray, hits: np.ndarray, groups: np.ndarray | None = None, over: str = "") -> Flip:
    """Copies at which the mean of hits [N] by `copies` [N] first reaches 1/2, with its bootstrap interval."""
    pairs = np.column_stack([copies, hits]).astype(float)
    rise = _rise_of_means(pairs)
    low, high = measures.bootstrap(pairs, lambda p: _rise_of_means(p).value, groups=groups, draws=1000)
    return Flip(rise.value, Interval(min(low, rise.value), max(high, rise.value), over=over), rise.where, len(copies))


def _rise_of_means(pairs: np.ndarray) -> Crossing:
    """Where the mean of the second column of pairs [N, 2] by the first reaches 1/2."""
    keys, label = np.unique(pairs[:, 0], return_inverse=True)
    return first_rise(keys, np.bincount(label, pairs[:, 1]) / np.bincount(label))


def each_once(networks: Sequence[Trained], count: int, along: bool = False) -> pd.DataFrame:
    """One row per network on n images seen once each, at its end or `along` all its stages: presentations of an image,
    memorized share of `count` samples."""
    found = []
    for network in networks:
        places = range(len(network.stages))
        for stage in places if along else places[-1:]:
            share, (low, high) = rate(copying.table(network.draw(count, stage), network.x).memorized)
            row = {"n": network.n, "seed": network.seed, "presentations": network.seen[stage] / network.n}
            found.append({**row, "share": share, "low": low, "high": high})
    return pd.DataFrame(found).sort_values(["presentations", "seed"], ignore_index=True)


def once_flip(once: pd.DataFrame) -> Flip:
    """Presentations of an image at which networks on n images copy in half of their samples, from means over seeds.

    The interval is the range of the sizes tried on either side.
    """
    mean = once.groupby("presentations").share.mean()
    rise = first_rise(mean.index.to_numpy(), mean.to_numpy())
    return Flip(rise.value, Interval(rise.low, rise.high, level=None, over="sizes tried"), rise.where, len(once))


def flip_along(once: pd.DataFrame) -> Flip:
    """Presentations at which half of the samples are copies, along the training of networks of one n: mean over them,
    and the outermost ends of their intervals. It is a bound where one of them is."""
    rises, lows, highs = [], [], []
    for _, curve in once.sort_values("presentations").groupby("seed"):
        ends = [first_rise(curve.presentations, curve[column]) for column in ("share", "high", "low")]
        rises.append(ends[0])
        lows.append(min(rise.value for rise in ends))
        highs.append(max(rise.value for rise in ends))
    bounds = [rise.where for rise in rises if not rise.inside]
    value, interval = hull([rise.value for rise in rises], lows, highs)
    return Flip(value, interval, bounds[0] if bounds else INSIDE, len(rises))


def crossings(stages: pd.DataFrame) -> pd.DataFrame:
    """One row per number of copies: images seen, and presentations of an image, at which half of the samples copy."""
    found = []
    for copies, part in stages.groupby("copies"):
        mean = part.groupby("images_seen")[["memorized", "presentations"]].mean()
        rise = first_rise(mean.index.to_numpy(), mean.memorized.to_numpy())
        per_image = float((mean.presentations / mean.index).iloc[0])
        row = {"copies": copies, "images_seen": rise.value, "presentations": rise.value * per_image}
        found.append({**row, "where": rise.where})
    return pd.DataFrame(found)


def collapse(stages: pd.DataFrame, draws: int = 200) -> tuple[float, Interval] | None:
    """How much log copies count for copying, over log images seen: the ratio of slopes of a logistic regression.

    1: only presentations count, and curves of all numbers of copies fall onto one. 0: copies make no difference. Its
    interval resamples nearest training images. None where no sample is memorized.
    """
    data = np.log(stages[["images_seen", "copies"]].astype(float).to_numpy())
    data = np.column_stack([data, stages.memorized.astype(float)])
    if not data[:, 2].any():
        return None
    ends = measures.bootstrap(data, _exponent, groups=_image(stages), draws=draws)
    return _exponent(data), Interval(*ends, over="nearest training images")


def _exponent(data: np.ndarray) -> float:
    """Slope of log copies over that of log images seen; data: [N, 3], both logarithms and whether memorized."""
    cells, label = np.unique(data[:, :2], axis=0, return_inverse=True)
    trials, hits = np.bincount(label.ravel()), np.bincount(label.ravel(), data[:, 2])
    seen, copies = slopes(cells, hits, trials)
    return float(copies / seen)


def slopes(x: np.ndarray, hits: np.ndarray, trials: np.ndarray, penalty: float = 1e-3) -> np.ndarray:
    """Slopes [k] of a logistic regression of hits [N] of trials [N] on x [N, k].

    `penalty` on the squares of slopes of standardized x keeps them finite where x separates hits from misses.
    """
    spread = np.maximum(x.std(axis=0), 1e-9)
    both = np.concatenate([(x - x.mean(axis=0)) / spread] * 2)  # every cell once as hits, once as misses
    outcome, weight = np.repeat([1, 0], len(x)), np.concatenate([hits, trials - hits])
    model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(both, outcome, sample_weight=weight)
    return model.coef_[0] / spread


def overview(found: pd.DataFrame, networks: Sequence[Trained]) -> pd.DataFrame:
    """One row per network: its training set, memorized share of its samples, how many different images they copy."""
    parts = []
    for network in networks:
        mine, copies = found[found.seed == network.seed], network.copies
        share, (low, high) = rate(mine.memorized)
        row = {"seed": network.seed, "n": network.n, "samples": len(mine), "share": share}
        row |= {"low": low, "high": high, "memorized": int(mine.memorized.sum())}
        row["distinct"] = mine.nearest[mine.memorized].nunique()
        parts.append({**row, "repeated_share": int(copies[copies > 1].sum()) / network.n})
    return pd.DataFrame(parts)


def grid(network: Trained, drawn: Tensor, found: pd.DataFrame, most: int = 8) -> tuple[dict, dict, pd.DataFrame]:
    """Rows of pictures: repeated images and the closest copy of each, new samples and the nearest image of each.

    The repeated images are those copied most often, of every number of copies in turn; the new samples the first ones.
    """
    mine = found.sort_values("ratio")
    close = mine[mine.memorized & (mine.copies > 1)].drop_duplicates("nearest")
    close = close.assign(turn=close.groupby("copies").cumcount()).sort_values(["turn", "copies"])[:most]
    close, new = close.sort_values("copies"), found[~found.memorized][:most]
    pictures = {
        "repeated images": (network.x[close.nearest.to_list()], [f"{c} copies" for c in close.copies]),
        "samples that copy them": (drawn[close["sample"].to_list()], [f"{r:.2f}" for r in close.ratio]),
        "new samples": (drawn[new["sample"].to_list()], [f"{r:.2f}" for r in new.ratio]),
        "nearest images of these": (network.x[new.nearest.to_list()], [f"{c} of it" for c in new.copies]),
    }
    kept = {name: pair for name, pair in pictures.items() if len(pair[0])}
    images = {name: copying.pictures(x) for name, (x, _) in kept.items()}
    frame = pd.concat(
        [pd.DataFrame(x.flatten(1).numpy()).assign(row=name, caption=text) for name, (x, text) in kept.items()]
    )
    return images, {name: text for name, (_, text) in kept.items()}, frame
