"""Exact nearest neighbors; which samples copy training images, which training images are copies of one another."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import SpikinessError
from spikiness.measures.inputs import flat, flat_pair
from spikiness.measures.intervals import wilson

CHUNK = 2**23  # entries of one product, 32 MB in float32: readers have laptops
BLOCK = 2**20  # entries of a temporary of many passes: small enough for a cache, few enough turns of all cores
SAME_IMAGE = 0.05  # two training images are one up to this share of the rms distance of all from their mean


class Product:
    """Squared distances of a [N, d] to b [n, d] from float32 products, in units of `scale`^2, off by up to `slack` [N].

    |a|^2 + |b|^2 - 2 ab rounds by up to (d + 8) eps (|a| + max |b|)^2 (sums of d products): it may propose candidates
    but not rank close ones. Centering and scaling keep slack small and squares in float32's range.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        center = b.mean(dim=0)
        self.scale = max(_reach(a, center), _reach(b, center)) or 1.0
        self.b, self.b2 = _scaled(b, center, self.scale)
        self.a, self.a2 = (self.b, self.b2) if a is b else _scaled(a, center, self.scale)
        self.rows = max(1, CHUNK // len(b))  # of a at a time
        self.out = torch.empty(min(self.rows, len(a)), len(b), device=a.device)  # one for all: new memory is slow
        largest = (self.a2.sqrt() + self.b2.max().sqrt()) ** 2  # [N]
        self.slack = max((a.shape[1] + 8) * torch.finfo(torch.float32).eps, 4 * self._seen()) * largest

    def __call__(self, rows: Tensor) -> Tensor:
        """|b|^2 - 2 ab [len(rows), n], the squares without |a|^2, which ranks nothing; good until the next call."""
        return torch.addmm(self.b2, self.a[rows], self.b.T, alpha=-2, out=self.out[: len(rows)])

    def _seen(self, some: int = 32) -> float:
        """The largest relative error of a few: products may come in reduced precision (TF32)."""
        a, b, a2, b2 = self.a[:some], self.b[:some], self.a2[:some, None], self.b2[:some]
        true = (a[:, None].double() - b.double()).square().sum(dim=2)
        rough = torch.addmm(b2, a, b.T, alpha=-2) + a2
        return ((rough - true).abs() / (a2.sqrt() + b2.sqrt()).square().clamp_min(1e-30)).max().item()


def _reach(x: Tensor, center: Tensor) -> float:
    return max((x.amax(dim=0) - center).max().item(), (center - x.amin(dim=0)).max().item())


def _scaled(x: Tensor, center: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(x - center) / scale in float32 [N, d], and the squared length of each row [N]."""
    out = torch.empty(x.shape, device=x.device)
    rows = max(1, BLOCK // x.shape[1])
    for part, o in zip(x.split(rows), out.split(rows), strict=True):
        o.copy_((part - center) / scale)
    return out, torch.linalg.vector_norm(out, dim=1).square()


def pair_distances(a: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Distances [P] of the pairs a[i], b[j], from differences in float64; a [N, d], b [n, d], i and j [P]."""
    rows = max(1, BLOCK // b.shape[1])
    pairs = zip(i.split(rows), j.split(rows), strict=True)
    return torch.cat([(b[q].double() - a[p].double()).norm(dim=1) for p, q in pairs])


@torch.no_grad()
def nearest(samples: Tensor, train: Tensor, k: int = 2) -> tuple[Tensor, Tensor]:
    """The k nearest of train [n, ...] to each of samples [N, ...]: L2 distances (float64) and indices, [N, min(k, n)].

    Exact: a matrix product proposes candidates, differences in float64 rank them, and a row is accepted only when the
    product's error bound excludes all that was not proposed; else it is tried again with more. Equal distances: lowest
    index first. Memory beyond one float32 copy of `train` and of `samples` is bounded.
    """
    a, b = flat_pair(samples, train)
    if k < 1:
        raise SpikinessError(f"k is {k}; ask for at least 1 neighbor")
    n, k = len(b), min(k, len(b))
    product = Product(a, b)
    distance = torch.empty(len(a), k, dtype=torch.float64, device=a.device)
    index = torch.empty(len(a), k, dtype=torch.int64, device=a.device)
    rows, m = torch.arange(len(a), device=a.device), k + 6
    while len(rows):
        m, again = min(m, n), []
        for part in rows.split(product.rows):
            square, proposed = product(part).topk(m, dim=1, largest=False)  # ascending
            slack = product.slack[part]
            i, j = (square <= square[:, k - 1 : k] + 2 * slack[:, None]).nonzero().T  # the others are behind k for sure
            exact = torch.full(square.shape, torch.inf, dtype=torch.float64, device=a.device)
            exact[i, j] = pair_distances(a, b, part[i], proposed[i, j])
            proposed, order = proposed.sort(dim=1)
            exact, best = exact.gather(1, order).sort(dim=1, stable=True)
            distance[part], index[part] = exact[:, :k], proposed.gather(1, best)[:, :k]
            if m < n:  # what was not proposed is at least so far
                others = (square[:, -1] + product.a2[part] - slack).double() * product.scale**2
                again.append(part[~(exact[:, k - 1] ** 2 < others)])
        rows, m = torch.cat(again) if again else rows[:0], 4 * m
    return distance, index


def same_image_tolerance(train: Tensor) -> float:
    """L2 distance up to which two of train [n, ...] are one by default: 5 % of their rms distance from their mean."""
    b = flat("train", train)
    return SAME_IMAGE * (b - b.mean(dim=0)).norm().item() / len(b) ** 0.5


def _tolerance(tolerance: float | None, train: Tensor) -> float:
    tolerance = same_image_tolerance(train) if tolerance is None else float(tolerance)
    if not 0 <= tolerance < float("inf"):
        raise SpikinessError(f"tolerance is {tolerance}; it is an L2 distance in data units, 0 or more")
    return tolerance


@dataclass(frozen=True)
class NearDuplicates:
    """Training images that are one and the same within `tolerance` (L2)."""

    first: Tensor  # [n], lowest index of the image's group
    groups: list[list[int]]  # indices of each group of two or more
    copies: int  # images that are not the first of their group
    exact: int  # of these, equal to an earlier one to the bit
    tolerance: float


@torch.no_grad()
def near_duplicates(train: Tensor, tolerance: float | None = None) -> NearDuplicates:
    """Groups of train [n, ...] linked by L2 distances of at most `tolerance` (default `same_image_tolerance`)."""
    from scipy import sparse  # here, since few callers ask
    from scipy.sparse import csgraph

    b = flat("train", train)
    tolerance = _tolerance(tolerance, train)
    i, j, d = _close_pairs(b, tolerance)
    n = len(b)
    label = csgraph.connected_components(sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
    first = np.unique(label, return_index=True)[1][label]
    order = np.argsort(first, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(first[order])) + 1)
    groups = [m.tolist() for m in members if len(m) > 1]
    return NearDuplicates(torch.from_numpy(first), groups, n - len(members), len(np.unique(j[d == 0])), tolerance)


def _close_pairs(b: Tensor, tolerance: float) -> np.ndarray:
    """All pairs of rows i < j of b [n, d] within `tolerance`: i, j and their exact distance, [3, pairs]."""
    product, rows, pairs = Product(b, b), torch.arange(len(b), device=b.device), []
    for part in rows.split(product.rows):
        limit = (tolerance / product.scale) ** 2 + product.slack[part] - product.a2[part]
        i, j = ((product(part) <= limit[:, None]) & (rows > part[:, None])).nonzero().T
        d = pair_distances(b, b, part[i], j)
        pairs.append(torch.stack([part[i].double(), j.double(), d])[:, d <= tolerance])
    return torch.cat(pairs, dim=1).cpu().numpy()


@dataclass(frozen=True)
class Memorization:
    """Which samples copy a training image; d1, d2: L2 distance to the nearest and to the next distinct one."""

    mask: Tensor  # [N], d1 / d2 below the ratio asked for
    ratio: Tensor  # [N], d1 / d2
    nearest: Tensor  # [N], index of the nearest training image, the lowest on ties
    distance: Tensor  # [N], d1
    fraction: float  # of samples memorized
    interval: tuple[float, float]  # Wilson, 95 %
    tolerance: float  # training images up to this far (L2) from the nearest one are the same image


@torch.no_grad()
def memorization(samples: Tensor, train: Tensor, ratio: float = 1 / 3, tolerance: float | None = None) -> Memorization:
    """Which of samples [N, ...] are memorized: distance to one of train [n, ...] below `ratio` of that to the next one.

    "Next" means distinct: training images within `tolerance` (L2, default `same_image_tolerance`) of the nearest are
    the same image as it. Raises for NaN or inf (neither memorized nor not) and where there is no distinct second image.
    """
    a, b = flat_pair(samples, train)
    if not 0 < ratio <= 1:
        raise SpikinessError(f"ratio is {ratio}; it must be in (0, 1], usually 1/3")
    tolerance = _tolerance(tolerance, train)
    keep = _first_of_equals(b)
    d1, d2, index = _two_distinct(a, b if len(keep) == len(b) else b[keep], tolerance)
    mask = d1 / d2 < ratio
    count = int(mask.sum())
    return Memorization(mask, d1 / d2, keep[index], d1, count / len(a), wilson(count, len(a)), tolerance)


def _first_of_equals(b: Tensor) -> Tensor:
    """Ascending indices of the rows of b [n, d] that no earlier row equals to the bit: copies slow the search down."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(b.cpu().contiguous().numpy()):
        first.setdefault(sha256(row).digest(), i)
    return torch.tensor(list(first.values()), device=b.device)


def _two_distinct(a: Tensor, b: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    d1, d2 = torch.empty(2, len(a), dtype=torch.float64, device=a.device)
    index = torch.empty(len(a), dtype=torch.int64, device=a.device)
    rows, k = torch.arange(len(a), device=a.device), 2
    while len(rows):
        d, near = nearest(a[rows], b, k)
        first = near[:, :1].expand_as(near)
        other = (
            pair_distances(b, b, first.flatten(), near.flatten()).view_as(near) > tolerance
        )  # not the nearest once more
        d1[rows], index[rows], d2[rows] = d[:, 0], near[:, 0], d.masked_fill(~other, torch.inf).amin(dim=1)
        rows = rows[~other.any(dim=1)]
        if len(rows) and k >= len(b):
            raise SpikinessError(
                f"all training images are within {tolerance:.3g} of one: d1 / d2 needs a second distinct one; "
                "give other images or a smaller tolerance"
            )
        k *= 4
    return d1, d2, index
