"""When a diffusion model turns from memorizing to generalizing: the same U-Net on few images and on many.

Sample number i of every network starts from the same noise, so that what differs between two of them is the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures, sampling
from spikiness.denoisers import Denoiser, Empirical
from spikiness.errors import SpikinessError
from spikiness.statistics import Interval
from spikiness_book import copying, zoo

STEPS = (18, 36)  # of Heun's sampler: EDM's number, with which all samples are drawn, and twice as many to check it
PERFECT = "$f_{emp}$"


@dataclass(frozen=True)
class SampledDenoiser:
    """One denoiser: the images it was made from, and samples of it."""

    n: int  # training images
    width: int  # 0 for f_emp, which has none
    index: int  # networks of different index see different images, as long as there are enough
    seed: int
    chosen: Tensor  # [n], positions of its training images in the pool
    denoiser: Denoiser
    samples: Tensor  # [N, C, H, W]


@dataclass(frozen=True)
class Study:
    """One data set, with the networks trained on parts of it, and f_emp of the same parts."""

    name: str
    pool: images.Images
    test: images.Images
    images_seen: int  # by each network
    networks: tuple[SampledDenoiser, ...]
    perfect: tuple[SampledDenoiser, ...] = ()

    @property
    def sizes(self) -> list[int]:
        return sorted({net.n for net in self.networks})

    @property
    def width(self) -> int:
        """The larger width, of which the metrics are."""
        return max(net.width for net in self.networks)

    @property
    def seeds(self) -> list[int]:
        return sorted({net.seed for net in self.networks})

    @property
    def scale(self) -> float:
        """Standard deviation of the pixels."""
        return float(self.pool.x.std())

    def of(self, n: int, width: int | None = None) -> list[SampledDenoiser]:
        """The networks of one size, by default of the larger width, by index."""
        width = self.width if width is None else width
        return sorted((m for m in self.networks if (m.n, m.width) == (n, width)), key=lambda m: m.index)

    def train(self, network: SampledDenoiser) -> Tensor:
        """The images a network was trained on [n, C, H, W]."""
        return self.pool.x[network.chosen]


def study(
    data: str,
    networks: Sequence[tuple[int, int, int, int]],
    images_seen: int,
    samples: int,
    patch: int = 1,
) -> Study:
    """A data set with the networks of a `zoo.plan_each_once`, trained (or from the cache) and sampled; f_emp of the
    same images."""
    pool, test = images.load(data), images.load(data, "test")
    most = max(n for n, *_ in networks)
    if most > len(pool.x):
        raise SpikinessError(f"{data} has {len(pool.x)} training images, not {most}; ask for sizes of at most that")
    if not any(i and 2 * n <= len(pool.x) for n, _, i, _ in networks):
        raise SpikinessError(
            f"no two networks of one size see different images: give partners one of the sizes up to {len(pool.x) // 2}"
        )
    trained = zoo.train_each_once(pool, zoo.unet(0, images_seen, patch), networks)
    made = [
        SampledDenoiser(m.n, m.width, m.index, m.seed, m.chosen, m.denoiser, draw(m.denoiser, pool.x, samples))
        for m in trained
    ]
    return Study(pool.name, pool, test, images_seen, tuple(made), perfect(pool.x, {n for n, *_ in networks}, samples))


def perfect(pool: Tensor, sizes: Sequence[int] | set[int], samples: int) -> tuple[SampledDenoiser, ...]:
    """f_emp of n images, and of n others where the pool has as many: what memorizing without error gives."""
    made = []
    for n in sorted(sizes):
        for index in range(min(2, len(pool) // n)):
            chosen = zoo.chunk(pool, n, index)
            denoiser = Empirical(pool[chosen])
            made.append(SampledDenoiser(n, 0, index, 0, chosen, denoiser, draw(denoiser, pool, samples)))
    return tuple(made)


def draw(denoiser: Denoiser, pool: Tensor, samples: int, steps: int = STEPS[0]) -> Tensor:
    """Samples [N, C, H, W] from the noise that all models share."""
    return sampling.sample(denoiser, pool.shape[1:], zoo.initial_seeds(samples, zoo.SHARED_NOISE), steps)


# ---- copies


def copied(study: Study) -> pd.DataFrame:
    """One row per network and f_emp: the memorized fraction of its samples, `value`, with Wilson's interval."""
    return pd.DataFrame([_copied(study, net, net.samples) for net in (*study.networks, *study.perfect)])


def _copied(study: Study, net: SampledDenoiser, samples: Tensor) -> dict[str, object]:
    found = measures.memorization(samples, study.train(net))
    row = {"data": study.name, "n": net.n, "width": net.width, "index": net.index, "seed": net.seed, "kind": kind(net)}
    low, high = found.interval
    return {**row, "value": found.fraction, "low": low, "high": high, "count": int(found.mask.sum())}


def kind(net: SampledDenoiser) -> str:
    """What the legend of a figure calls it."""
    return f"width {net.width}" if net.width else PERFECT


def real_copies(study: Study) -> tuple[float, Interval, int]:
    """Memorized fraction of held-out images, by the same measure, against the first largest training set; Wilson; N."""
    found = measures.memorization(study.test.x, study.train(study.of(study.sizes[-1])[0]))
    return found.fraction, Interval(*found.interval, over="held-out images"), len(study.test.x)


# ---- the same noise, two networks


def pairs(study: Study) -> pd.DataFrame:
    """One row per two networks of one size and width, or f_emp, whose images have none in common.

    `value` is the mean distance of their samples from the same noise over that of samples from different noise, with
    a bootstrap interval over the noise; `matched` the share of samples of the first whose own partner is the nearest
    of all samples of the second.
    """
    rows = []
    for a, b in disjoint((*study.networks, *study.perfect)):
        each = agreement(a.samples, b.samples)
        low, high = measures.bootstrap(each, ratio)
        row = {
            "data": study.name,
            "n": a.n,
            "width": a.width,
            "kind": kind(a),
            "first": a.index,
            "second": b.index,
            "samples": len(a.samples),
        }
        means = dict(zip(("paired", "unrelated", "matched"), each.mean(axis=0), strict=True))
        rows.append({**row, "value": ratio(each), "low": low, "high": high, **means})
    return pd.DataFrame(rows)


def disjoint(networks: Sequence[SampledDenoiser]) -> list[tuple[SampledDenoiser, SampledDenoiser]]:
    """All two networks of one size and width that have no training image in common."""
    two = combinations(sorted(networks, key=lambda net: (net.width, net.n, net.index)), 2)
    same = [(a, b) for a, b in two if (a.n, a.width) == (b.n, b.width)]
    return [(a, b) for a, b in same if not torch.isin(a.chosen, b.chosen).any()]


def agreement(a: Tensor, b: Tensor) -> np.ndarray:
    """For each of N samples a [N, ...]: the distance to its partner in b [N, ...], the mean distance to the others of
    b, and whether its partner is the nearest of all [N, 3]."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    paired, every = (a - b).norm(dim=1), torch.cdist(a, b)
    others = (every.sum(dim=1) - every.diagonal()) / (len(b) - 1)
    matched = every.argmin(dim=1) == torch.arange(len(a))
    return torch.stack([paired, others, matched.double()], dim=1).numpy()


def ratio(each: np.ndarray) -> float:
    """Mean paired distance over mean unrelated distance of an `agreement` [N, 3]."""
    return float(each[:, 0].mean() / each[:, 1].mean())


# ---- pictures


def grid(study: Study, count: int = 10) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures for the smallest and the largest n: the first samples, captioned d1/d2, and their nearest
    training images."""
    rows, captions, frames = {}, {}, []
    for n in (study.sizes[0], study.sizes[-1]):
        net = study.of(n)[0]
        found = measures.memorization(net.samples[:count], study.train(net))
        name = f"{study.name}, n = {n}"
        parts = {name: net.samples[:count], f"{study.name}, nearest of {n}": study.train(net)[found.nearest]}
        rows |= {key: copying.pictures(x) for key, x in parts.items()}
        captions[name] = [f"{ratio:.2f}" for ratio in found.ratio.tolist()]
        frames += [_pixels(x).assign(row=key, ratio=found.ratio.numpy()) for key, x in parts.items()]
    return rows, captions, pd.concat(frames, ignore_index=True)


def pair_grid(study: Study, count: int = 10) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: samples of two networks of disjoint images from the same noise, at the largest n that has two,
    captioned by their distance over that of unrelated ones; the nearest training images of each."""
    own = [(a, b) for a, b in disjoint(study.networks) if a.width == study.width]
    a, b = max(own, key=lambda two: two[0].n)
    each = agreement(a.samples, b.samples)
    apart = each[:count, 0] / each[:, 1].mean()
    closest = [study.train(net)[measures.nearest(net.samples[:count], study.train(net), 1)[1][:, 0]] for net in (a, b)]
    names = [f"{study.name}, {row}" for row in ("network A", "network B", "nearest of A's", "nearest of B's")]
    parts = dict(zip(names, (a.samples[:count], b.samples[:count], *closest), strict=True))
    frame = pd.concat([_pixels(x).assign(row=key, apart=apart) for key, x in parts.items()], ignore_index=True)
    return {key: copying.pictures(x) for key, x in parts.items()}, {names[1]: [f"{v:.2f}" for v in apart]}, frame


def _pixels(x: Tensor) -> pd.DataFrame:
    return pd.DataFrame(x.flatten(1).numpy())
