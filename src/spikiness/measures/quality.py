"""How good samples are beside real images, on features [N, f]: improved precision and recall, kernel distance.

The features are those of a classifier of ours (`training.fit_classifier`), so the figures compare with one another and
with the same figures of real images against real ones, not with an FID or a KID of elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import SpikinessError
from spikiness.measures.inputs import flat_pair
from spikiness.measures.intervals import wilson
from spikiness.measures.neighbors import CHUNK, Product, nearest, pair_distances


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of samples that look real, and of real images that the samples reach; intervals are Wilson's, 95 %."""

    precision: float
    recall: float
    precision_interval: tuple[float, float]  # over the samples drawn, the real images held fixed
    recall_interval: tuple[float, float]  # over the real images drawn, the samples held fixed


@torch.no_grad()
def precision_recall(samples: Tensor, real: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features samples [N, f] against real [n, f] (Kynkaanniemi et al. 2019, eq 1-2).

    Precision is the share of samples within a ball around a real point that reaches to its k-th nearest other real
    point (ties are inside); recall the same with the parts exchanged. Exact distances, as of `nearest`. Each interval
    covers the draw of the points that are judged; the points whose balls judge them are taken as given. Both figures
    depend on N and n: compare equal sizes only. Raises for k < 1, fewer than k + 2 rows, NaN or inf, differing f.
    """
    a, b = _features(samples, real, k)
    good, reached = int(_inside(a, b, _radius(b, k)).sum()), int(_inside(b, a, _radius(a, k)).sum())
    return PrecisionRecall(good / len(a), reached / len(b), wilson(good, len(a)), wilson(reached, len(b)))


def _features(samples: Tensor, real: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise SpikinessError(f"k is {k!r}; it is a whole number of at least 1, usually 3")
    for name, x in (("samples", samples), ("real", real)):
        if x.ndim != 2 or len(x) < k + 2:
            raise SpikinessError(
                f"{name} {tuple(x.shape)} must be features [N, f] of at least k + 2 = {k + 2} images; give more images"
            )
    return flat_pair(samples, real, ("samples", "real"))


def _radius(x: Tensor, k: int) -> Tensor:
    """Distance [n] of each of x [n, f] to its k-th nearest other: itself is the first of k + 1, or an equal one is."""
    return nearest(x, x, k + 1)[0][:, k]


def _inside(points: Tensor, centers: Tensor, radius: Tensor) -> Tensor:
    """Which of points [N, f] lie in a ball of `radius` [n] around one of centers [n, f]: the product where it is sure,
    differences in float64 where it is not."""
    product, inside = Product(points, centers), torch.zeros(len(points), dtype=torch.bool, device=points.device)
    square = ((radius / product.scale) ** 2).float()
    for part in torch.arange(len(points), device=points.device).split(product.rows):
        gap, slack = product(part) + product.a2[part, None] - square, product.slack[part, None]  # [rows, n]
        sure = (gap < -slack).any(dim=1)
        i, j = ((gap <= slack) & ~sure[:, None]).nonzero().T
        close = pair_distances(points, centers, part[i], j) <= radius[j]
        inside[part[sure]] = True
        inside[part[i[close]]] = True
    return inside


@dataclass(frozen=True)
class KernelDistance:
    """Squared distance of two distributions; around 0, and as often below as above, where they are equal."""

    value: float
    interval: tuple[float, float]  # 95 %, bootstrap over both sets


@torch.no_grad()
def kernel_distance(samples: Tensor, real: Tensor, draws: int = 500, seed: int = 0) -> KernelDistance:
    """Unbiased squared MMD of features samples [N, f], real [n, f], kernel `(x.y / f + 1)^3` (Binkowski et al. 2018).

    All pairs, none of a point with itself, in float64. The interval is a percentile bootstrap: both sets are resampled
    `draws` times and pairs of a point with its own copy are left out, as they are in the value; so it covers the draw
    of samples and of real images. Where the distributions are equal it is about 1.7 times too wide. Resamples
    of a single point, which has no pairs, are left out. Raises for fewer than 3 rows, NaN or inf, differing f and
    draws < 1.
    """
    a, b = (x.double() for x in _features(samples, real, 1))
    if draws < 1:
        raise SpikinessError(f"draws is {draws}; ask for 1 or more, usually 500")
    rng = np.random.default_rng(seed)
    u, v = (_copies(rng, len(x), draws).to(x) for x in (a, b))  # [1 + draws, N], [1 + draws, n]
    value = _within(a, u) + _within(b, v) - 2 * _pairs(a, b, u, v) / (u.sum(dim=1) * v.sum(dim=1))
    resampled = value[1:][value[1:].isfinite()].cpu().numpy()
    low, high = np.quantile(resampled, [0.025, 0.975])
    return KernelDistance(value[0].item(), (float(low), float(high)))


def _copies(rng: np.random.Generator, n: int, draws: int) -> Tensor:
    """How often each of n points is in a resample, [1 + draws, n]: once in the first, which is the data."""
    return torch.from_numpy(np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), draws)]))


def _pairs(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """`sum_ij u_i v_j k(x_i, y_j)` for each row of u [D, N] and v [D, n]."""
    total = torch.zeros(len(u), dtype=x.dtype, device=x.device)
    for part in torch.arange(len(x), device=x.device).split(max(1, CHUNK // (2 * len(y)))):
        total += ((u[:, part] @ (x[part] @ y.T / x.shape[1] + 1) ** 3) * v).sum(dim=1)
    return total


def _within(x: Tensor, u: Tensor) -> Tensor:
    """The mean of k over pairs of different points of x [N, f], each weighted by its copies u [D, N]."""
    square = u.square()
    itself = (square * (x.square().sum(dim=1) / x.shape[1] + 1) ** 3).sum(dim=1)
    return (_pairs(x, x, u, u) - itself) / (u.sum(dim=1) ** 2 - square.sum(dim=1))


@dataclass(frozen=True)
class Quality:
    """Figures of samples against real images and, as real_*, of other real images against the same: what is perfect.

    Intervals are 95 %: see `precision_recall` and `kernel_distance` for what each covers.
    """

    n: int  # images in each of the three sets: precision and recall depend on it
    precision: float
    recall: float
    kernel_distance: float
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    kernel_distance_interval: tuple[float, float]
    real_precision: float
    real_recall: float
    real_kernel_distance: float
    real_precision_interval: tuple[float, float]
    real_recall_interval: tuple[float, float]
    real_kernel_distance_interval: tuple[float, float]


def quality(
    samples: Tensor,
    real: Tensor,
    split: Tensor,
    features: Callable[[Tensor], Tensor],
    k: int = 3,
    draws: int = 500,
    seed: int = 0,
    batch: int = 500,
) -> Quality:
    """Precision, recall and kernel distance of samples [N, ...] against real [N, ...], beside those of split [N, ...].

    `split` are real images that are not in `real`. `features` maps images [B, ...] to [B, f], as a classifier's
    `.features`, and gets `batch` of them at a time. Raises where the three are not of one size, since the figures
    depend on it (draw subsets at random: data may be sorted), and as `precision_recall` does.
    """
    if not len(samples) == len(real) == len(split):
        sizes = f"samples {len(samples)}, real {len(real)}, split {len(split)}"
        raise SpikinessError(f"{sizes}: figures of different sizes do not compare; draw the same number of each")
    a, b, c = (_mapped(features, x, batch) for x in (samples, real, split))
    figures: dict[str, Any] = {}
    for start, x in (("", a), ("real_", c)):
        shares, apart = precision_recall(x, b, k), kernel_distance(x, b, draws, seed)
        figures |= {f"{start}{name}": value for name, value in vars(shares).items()}
        figures |= {f"{start}kernel_distance": apart.value, f"{start}kernel_distance_interval": apart.interval}
    return Quality(n=len(a), **figures)


@torch.no_grad()
def _mapped(features: Callable[[Tensor], Tensor], x: Tensor, batch: int) -> Tensor:
    parts = [features(part) for part in x.split(batch)]
    for part, f in zip(x.split(batch), parts, strict=True):
        if f.ndim != 2 or len(f) != len(part):
            raise SpikinessError(
                f"features answers {tuple(f.shape)} to images {tuple(part.shape)}; it must give [N, f]"
            )
    return torch.cat(parts)
