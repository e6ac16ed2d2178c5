"""One diffusion model, some training images repeated: how often each is sampled, from how many copies copied."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from spikiness import measures
from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness_book.zoo import copying, models

SHARES = {"share": "frequency", "share_low": "low", "share_high": "high"}  # of a group, from those of one image


@dataclass(frozen=True)
class Repeated:
    """A training set with repeated images."""

    x: Tensor  # [n, C, H, W], copies counted
    distinct: Tensor  # [m, C, H, W], each image once: the repeated ones first
    copies: Tensor  # [m], how often each of these is in x


@dataclass(frozen=True)
class Network:
    """A denoiser along its training, with the images it saw."""

    seed: int
    data: Repeated
    seen: list[int]  # images seen at each stage
    stages: list[EDM]


def training_set(pool: Tensor, n_large: int, copies: Sequence[int], repeated: int, seed: int) -> Repeated:
    """n_large distinct images of pool [N, C, H, W]; of these, `repeated` for each number of `copies` are repeated."""
    if repeated * len(copies) > min(n_large, len(pool)):
        raise SpikinessError(
            f"{repeated} images for each of {len(copies)} numbers of copies are more than the "
            f"{min(n_large, len(pool))} distinct ones: lower repeated, or raise n_large"
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:n_large]
    counts = torch.ones(len(order), dtype=torch.int64)
    counts[: repeated * len(copies)] = torch.tensor(copies).repeat_interleave(repeated)
    distinct = pool[order]
    return Repeated(distinct.repeat_interleave(counts, dim=0), distinct, counts)


def train(
    pool: Tensor,
    n_large: int,
    copies: Sequence[int],
    repeated: int,
    width: int,
    seeds: Sequence[int],
    images_seen: int,
    patch: int = 1,
) -> list[Network]:
    """One network per seed, each with its own choice of repeated images, from the cache where it was trained before."""
    found, more = [], copying.options(pool, patch)
    for seed in seeds:
        data = training_set(pool, n_large, copies, repeated, seed)
        stages = models.model(data.x, width, seed, images_seen, **more)
        found.append(Network(seed, data, models.stages(images_seen), stages))
    return found


def samples(network: Network, count: int, stage: int = -1) -> Tensor:
    """`count` samples [count, C, H, W] of a network at a stage of its training (the end): always the same ones."""
    return copying.draw(network.stages[stage], network.data.x.shape[1:], count, network.seed)


def rows(network: Network, drawn: Tensor, stage: int = -1) -> pd.DataFrame:
    """One row per sample drawn: nearest distinct training image, its copies and how often training showed it."""
    frame = copying.table(drawn, network.data.distinct)
    copies = network.data.copies.numpy()[frame.nearest]
    seen = network.seen[stage]
    presented = seen * copies / len(network.data.x)
    return frame.assign(copies=copies, presentations=presented, images_seen=seen, seed=network.seed)


def along_training(networks: Sequence[Network], count: int) -> pd.DataFrame:
    """`rows` of `count` samples of each network at each stage."""
    return pd.concat(
        [
            rows(network, samples(network, count, stage), stage)
            for network in networks
            for stage in range(len(network.stages))
        ],
        ignore_index=True,
    )


def image_counts(found: pd.DataFrame, networks: Sequence[Network]) -> pd.DataFrame:
    """One row per distinct training image of each network: the samples that copy it, and its share of the set."""
    parts = []
    for network in networks:
        mine = found[found.seed == network.seed]
        copies = network.data.copies.numpy()
        copied = np.bincount(mine.nearest[mine.memorized], minlength=len(copies))
        part = pd.DataFrame({"image": range(len(copies)), "copies": copies, "copied": copied})
        part["frequency"], part["expected"] = copied / len(mine), copies / len(network.data.x)
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
        share, (low, high) = copying.rate(mine.memorized, _image(mine))
        parts.append({**dict(zip(by, key, strict=True)), "share": share, "low": low, "high": high, "n": len(mine)})
    return pd.DataFrame(parts)


def _image(found: pd.DataFrame) -> np.ndarray:
    """A label [N] of the nearest training image of the network that each sample is from."""
    return (found.seed.astype(str) + "/" + found.nearest.astype(str)).to_numpy()


def image_flip(counts: pd.DataFrame) -> tuple[float, tuple[float, float], str]:
    """Copies from which on half of the images are copied by at least one sample; interval over images and networks."""
    return copying.crossing_interval(counts.copies.to_numpy(), (counts.copied > 0).to_numpy())


def sample_flip(found: pd.DataFrame) -> tuple[float, tuple[float, float], str]:
    """Copies of the nearest image from which on half of the samples are memorized; interval over nearest images."""
    return copying.crossing_interval(found.copies.to_numpy(), found.memorized.to_numpy(), _image(found))


def each_once(
    pool: Tensor,
    sizes: Sequence[int],
    width: int,
    seeds: Sequence[int],
    images_seen: int,
    count: int,
    patch: int = 1,
    along: bool = False,
) -> pd.DataFrame:
    """One row per network on n images seen once each, at its end or `along` all its stages: presentations of an image,
    memorized share of `count` samples."""
    found = []
    for (n, seed), (x, stages) in copying.transition(pool, sizes, width, seeds, images_seen, patch).items():
        kept = list(zip(models.stages(images_seen), stages, strict=True))
        for seen, denoiser in kept if along else kept[-1:]:
            mine = copying.table(copying.draw(denoiser, x.shape[1:], count, seed), x)
            share, (low, high) = copying.rate(mine.memorized)
            row = {"n": n, "seed": seed, "presentations": seen / n}
            found.append({**row, "share": share, "low": low, "high": high})
    return pd.DataFrame(found).sort_values(["presentations", "seed"], ignore_index=True)


def once_flip(once: pd.DataFrame) -> tuple[float, str]:
    """Presentations of an image at which networks on n images copy in half of their samples, from means over seeds."""
    mean = once.groupby("presentations").share.mean()
    return copying.crossing(mean.index.to_numpy(), mean.to_numpy())


def flip_along(once: pd.DataFrame) -> tuple[float, tuple[float, float], bool]:
    """Presentations at which half of the samples are copies, along the training of networks of one n: mean over them,
    the outermost ends of their intervals, and whether one of them is a bound."""
    values, ends, bound = [], [], False
    for _, mine in once.sort_values("presentations").groupby("seed"):
        value, *others = (copying.crossing(mine.presentations, mine[column]) for column in ("share", "high", "low"))
        values.append(value[0])
        ends += [value[0], *(other[0] for other in others)]
        bound |= value[1] != copying.INSIDE
    return float(np.mean(values)), (min(ends), max(ends)), bound


def crossings(stages: pd.DataFrame) -> pd.DataFrame:
    """One row per number of copies: images seen, and presentations of an image, at which half of the samples copy."""
    found = []
    for copies, mine in stages.groupby("copies"):
        mean = mine.groupby("images_seen")[["memorized", "presentations"]].mean()
        seen, where = copying.crossing(mean.index.to_numpy(), mean.memorized.to_numpy())
        per_image = float((mean.presentations / mean.index).iloc[0])
        found.append({"copies": copies, "images_seen": seen, "presentations": seen * per_image, "where": where})
    return pd.DataFrame(found)


def collapse(stages: pd.DataFrame, draws: int = 200) -> tuple[float, tuple[float, float]] | None:
    """How much log copies count for copying, over log images seen: the ratio of slopes of a logistic regression.

    1: only presentations count, and curves of all numbers of copies fall onto one. 0: copies make no difference. Its
    interval resamples nearest training images. None where no sample is memorized.
    """
    data = np.log(stages[["images_seen", "copies"]].astype(float).to_numpy())
    data = np.column_stack([data, stages.memorized.astype(float)])
    if not data[:, 2].any():
        return None
    return _exponent(data), measures.bootstrap(data, _exponent, groups=_image(stages), draws=draws)


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


def overview(found: pd.DataFrame, networks: Sequence[Network]) -> pd.DataFrame:
    """One row per network: its training set, memorized share of its samples, how many different images they copy."""
    parts = []
    for network in networks:
        mine, copies = found[found.seed == network.seed], network.data.copies
        share, (low, high) = copying.rate(mine.memorized)
        row = {"seed": network.seed, "n": len(network.data.x), "samples": len(mine), "share": share}
        row |= {"low": low, "high": high, "memorized": int(mine.memorized.sum())}
        row["distinct"] = mine.nearest[mine.memorized].nunique()
        parts.append({**row, "repeated_share": int(copies[copies > 1].sum()) / len(network.data.x)})
    return pd.DataFrame(parts)


def grid(network: Network, drawn: Tensor, found: pd.DataFrame, most: int = 8) -> tuple[dict, dict, pd.DataFrame]:
    """Rows of pictures: repeated images and the closest copy of each, new samples and the nearest image of each.

    The repeated images are those copied most often, of every number of copies in turn; the new samples the first ones.
    """
    mine = found.sort_values("ratio")
    close = mine[mine.memorized & (mine.copies > 1)].drop_duplicates("nearest")
    close = close.assign(turn=close.groupby("copies").cumcount()).sort_values(["turn", "copies"])[:most]
    close, new = close.sort_values("copies"), found[~found.memorized][:most]
    pictures = {
        "repeated images": (network.data.distinct[close.nearest.to_list()], [f"{c} copies" for c in close.copies]),
        "samples that copy them": (drawn[close["sample"].to_list()], [f"{r:.2f}" for r in close.ratio]),
        "new samples": (drawn[new["sample"].to_list()], [f"{r:.2f}" for r in new.ratio]),
        "nearest images of these": (network.data.distinct[new.nearest.to_list()], [f"{c} of it" for c in new.copies]),
    }
    kept = {name: pair for name, pair in pictures.items() if len(pair[0])}
    images = {name: copying.pictures(x) for name, (x, _) in kept.items()}
    frame = pd.concat(
        [pd.DataFrame(x.flatten(1).numpy()).assign(row=name, caption=text) for name, (x, text) in kept.items()]
    )
    return images, {name: text for name, (_, text) in kept.items()}, frame
