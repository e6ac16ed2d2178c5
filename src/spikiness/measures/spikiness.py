"""How spiky a representation is, which samples copy training images, how far two denoisers are apart; intervals.

Spikiness: h [..., N, p] -> [..., N]; float32 and float64 kept, half precision answered in float32, NaN stays NaN.
A zero vector counts as the flat vector it is a limit of and gets the *least spiky* value. That is a value, not a
verdict: count such rows, `(h == 0).all(-1).sum()`, before calling a dead representation balanced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from statistics import NormalDist

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from spikiness.errors import SpikinessError

CHUNK = 2**23  # entries of one temporary, 32 MB in float32: readers have laptops
SAME_IMAGE = 0.05  # two training images are one up to this share of the rms distance of all from their mean


def _representation(h: Tensor) -> Tensor:
    h = torch.as_tensor(h)
    if not h.is_floating_point() or h.ndim == 0 or h.shape[-1] == 0:
        raise SpikinessError(f"a representation is float and [..., N, p], p >= 1; this is {h.dtype} {tuple(h.shape)}")
    return h.float() if h.dtype in (torch.float16, torch.bfloat16) else h


def _unit_peak(h: Tensor) -> Tensor:
    """h over its largest magnitude, so that no power of it over- or underflows; zero vectors become flat ones."""
    h = _representation(h)
    peak = h.abs().amax(dim=-1, keepdim=True)  # [..., N, 1]
    return torch.where(peak == 0, 1.0, h / torch.where(peak == 0, 1.0, peak))


def _variance(h: Tensor) -> Tensor:  # not torch.var, which warns where N = 0
    return (h - h.mean(dim=-1, keepdim=True)).square().mean(dim=-1)


def std(h: Tensor) -> Tensor:
    """Population standard deviation, `sqrt(|h|^2 / p - mean(h)^2)` (Algorithm 1): 0 to |h| / sqrt(p); 0 at h = 0."""
    return _representation(h).abs().amax(dim=-1) * _variance(_unit_peak(h)).sqrt()  # exactly 0 for constant h


def std_over_norm(h: Tensor) -> Tensor:
    """`std(h) / |h|`: 0 for flat h, sqrt(p - 1) / p for one unit, never above 1 / sqrt(p); 0 at h = 0."""
    h = _unit_peak(h)
    return _variance(h).sqrt() / h.norm(dim=-1)


def l4_l2(h: Tensor) -> Tensor:
    """`|h|_4 / |h|_2`: p^(-1/4) for flat |h|, 1 for one unit; p^(-1/4) at h = 0."""
    return participation_ratio(h) ** -0.25


def participation_ratio(h: Tensor) -> Tensor:
    """How many units take part, `(sum h^2)^2 / sum h^4`: 1 for one unit, p for flat |h| (low is spiky); p at h = 0."""
    square = _unit_peak(h) ** 2
    return square.sum(dim=-1) ** 2 / (square**2).sum(dim=-1)


def kurtosis(h: Tensor) -> Tensor:
    """Excess kurtosis `mean (h - m)^4 / (mean (h - m)^2)^2 - 3`, with m = mean h.

    From -2 (two equal halves) to p - 5 + 1 / (p - 1) (one unit apart from the rest); -2 at constant h, h = 0 included.
    """
    h = _unit_peak(h)
    square = (h - h.mean(dim=-1, keepdim=True)) ** 2
    variance = square.mean(dim=-1)
    constant = variance == 0
    return torch.where(constant, 1.0, (square**2).mean(dim=-1) / torch.where(constant, 1.0, variance) ** 2) - 3


def gini(h: Tensor) -> Tensor:
    """`sum_i (2 i - p - 1) |h|_(i) / (p sum |h|)`, |h| ascending: 0 for flat |h|, 1 - 1/p for one unit; 0 at h = 0."""
    h = _unit_peak(h).abs().sort(dim=-1).values
    p = h.shape[-1]
    weight = torch.arange(1 - p, p, 2, dtype=h.dtype, device=h.device)
    return ((h * weight).sum(dim=-1) / (p * h.sum(dim=-1))).clamp_min(0)  # rounding may leave a flat one at -1e-8


def hoyer(h: Tensor) -> Tensor:
    """`(sqrt(p) - |h|_1 / |h|_2) / (sqrt(p) - 1)`: 0 for flat |h|, 1 for one unit; 0 at h = 0 and where p = 1."""
    h = _unit_peak(h)
    root = h.shape[-1] ** 0.5
    return ((root - h.norm(p=1, dim=-1) / h.norm(dim=-1)) / max(root - 1, 1e-9)).clamp(0, 1)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (std, std_over_norm, l4_l2, participation_ratio, kurtosis, gini, hoyer)
}


# Neighbours: which samples copy training images ---------------------------------------------------------------------


def _flat(name: str, x: Tensor) -> Tensor:
    """x [N, ...] as [N, d]; refused where empty, not float or not finite."""
    x = torch.as_tensor(x)
    if not x.is_floating_point() or x.ndim < 2 or x[:1].numel() == 0:
        raise SpikinessError(f"{name} must be float and [N, ...] with N >= 1; this is {x.dtype} {tuple(x.shape)}")
    x = x.detach().flatten(1)
    bad = int((~x.isfinite()).any(dim=1).sum())
    if bad:
        raise SpikinessError(f"{bad} of {len(x)} {name} hold NaN or inf and have no distance; remove and report them")
    return x


def _flat_pair(samples: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _flat("samples", samples), _flat("train", train)
    if samples.shape[1:] != train.shape[1:]:
        shapes = f"samples {tuple(samples.shape)} and train {tuple(train.shape)}"
        raise SpikinessError(f"{shapes} must agree in all but the first axis")
    return a, b


def _rough_squares(a: Tensor, b: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor, float]:
    """`rough(rows)`: squared distances [rows, n] from one float32 product, in units of scale^2; slack [N]; scale.

    |a|^2 + |b|^2 - 2 ab is off by up to slack, (d + 8) eps (|a| + max |b|)^2 (rounding of sums of d products): it may
    propose candidates but not rank close ones. Centring and scaling keep slack small and squares in float32's range.
    """
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    scale = max(a.abs().max().item(), b.abs().max().item()) or 1.0
    a, b = (a / scale).float(), (b / scale).float()
    a2, b2 = a.square().sum(dim=1), b.square().sum(dim=1)

    def rough(rows: Tensor) -> Tensor:
        return torch.addmm(b2, a[rows], b.T, alpha=-2) + a2[rows, None]

    some = torch.arange(min(len(a), 64), device=a.device)  # a trial, for products in reduced precision (TF32, autocast)
    true = (a[some, None].double() - b[None, :64].double()).square().sum(dim=2)
    reach = (a2.sqrt()[some, None] + b2.sqrt()[:64]).square().clamp_min(1e-30)
    seen = ((rough(some)[:, :64] - true).abs() / reach).max().item()
    share = max((a.shape[1] + 8) * torch.finfo(torch.float32).eps, 4 * seen)
    return rough, share * (a2.sqrt() + b2.max().sqrt()) ** 2, scale


def _exact(a: Tensor, b: Tensor, index: Tensor) -> Tensor:
    """Distances [N, m] of each row of a [N, d] to its b[index], from differences in float64."""
    rows = max(1, CHUNK // (index.shape[1] * b.shape[1]))
    parts = zip(a.split(rows), index.split(rows), strict=True)
    return torch.cat([(b[j].double() - x[:, None].double()).norm(dim=2) for x, j in parts])


@torch.no_grad()
def nearest(samples: Tensor, train: Tensor, k: int = 2) -> tuple[Tensor, Tensor]:
    """The k nearest of train [n, ...] to each of samples [N, ...]: L2 distances (float64) and indices, [N, min(k, n)].

    Exact: a matrix product proposes candidates, differences in float64 rank them, and a row is accepted only when the
    product's error bound excludes all that was not proposed; else it is tried again with more. Equal distances: lowest
    index first. Memory beyond one float32 copy of `train` is bounded.
    """
    a, b = _flat_pair(samples, train)
    if k < 1:
        raise SpikinessError(f"k is {k}; ask for at least 1 neighbour")
    n, k = len(b), min(k, len(b))
    rough, slack, scale = _rough_squares(a, b)
    distance = torch.empty(len(a), k, dtype=torch.float64, device=a.device)
    index = torch.empty(len(a), k, dtype=torch.int64, device=a.device)
    rows, m = torch.arange(len(a), device=a.device), k + 6
    while len(rows):
        m, again = min(m, n), []
        for part in rows.split(max(1, CHUNK // n)):
            square, proposed = rough(part).topk(m, dim=1, largest=False)
            others = (square[:, -1] - slack[part]).double() * scale**2  # the rest is at least so far
            proposed = proposed.sort(dim=1).values
            exact, order = _exact(a[part], b, proposed).sort(dim=1, stable=True)
            distance[part], index[part] = exact[:, :k], proposed.gather(1, order)[:, :k]
            if m < n:
                again.append(part[~(exact[:, k - 1] ** 2 < others)])
        rows, m = torch.cat(again) if again else rows[:0], 4 * m
    return distance, index


def same_image_tolerance(train: Tensor) -> float:
    """L2 distance up to which two of train [n, ...] are one by default: 5 % of their rms distance from their mean."""
    b = _flat("train", train)
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
    b = _flat("train", train)
    tolerance = _tolerance(tolerance, train)
    i, j, d = _close_pairs(b, tolerance)
    n = len(b)
    label = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
    first = np.unique(label, return_index=True)[1][label]
    order = np.argsort(first, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(first[order])) + 1)
    groups = [m.tolist() for m in members if len(m) > 1]
    return NearDuplicates(torch.from_numpy(first), groups, n - len(members), len(np.unique(j[d == 0])), tolerance)


def _close_pairs(b: Tensor, tolerance: float) -> np.ndarray:
    """All pairs of rows i < j of b [n, d] within `tolerance`: i, j and their exact distance, [3, pairs]."""
    rough, slack, scale = _rough_squares(b, b)
    rows, pairs = torch.arange(len(b), device=b.device), []
    for part in rows.split(max(1, CHUNK // len(b))):
        close = rough(part) <= (tolerance / scale) ** 2 + slack[part, None]
        i, j = (close & (rows > part[:, None])).nonzero().T
        d = _exact(b[part[i]], b, j[:, None])[:, 0]
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
    a, b = _flat_pair(samples, train)
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
        other = _exact(b[near[:, 0]], b, near) > tolerance  # [rows, k]: not the nearest image once more
        d1[rows], index[rows], d2[rows] = d[:, 0], near[:, 0], d.masked_fill(~other, torch.inf).amin(dim=1)
        rows = rows[~other.any(dim=1)]
        if len(rows) and k >= len(b):
            raise SpikinessError(
                f"all training images are within {tolerance:.3g} of one: d1 / d2 needs a second distinct one; "
                "give other images or a smaller tolerance"
            )
        k *= 4
    return d1, d2, index


# Denoisers and weights ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """Between a denoiser and a reference, over all inputs."""

    rms: float  # per pixel, in data units
    relative: float  # |first - second| / |second|
    each: Tensor  # [N], rms of each input


@torch.no_grad()
def distance(first: Callable, second: Callable, inputs: Tensor, sigma: float | Tensor, batch: int = 1024) -> Distance:
    """How far `first` is from the reference `second` (f_emp, f_gt) on noisy inputs [N, ...]; sigma a number or [N].

    Both are denoisers, D(y, sigma). `relative` is 0 where both vanish, inf where only the reference does. Raises where
    an estimate has another shape or is not finite.
    """
    sigma = torch.as_tensor(sigma, dtype=inputs.dtype, device=inputs.device).expand(len(inputs))
    error, power = [], []
    for y, s in zip(inputs.split(batch), sigma.split(batch), strict=True):
        x, reference = _estimate("first", first, y, s), _estimate("second", second, y, s)
        error.append((x - reference).square().flatten(1).mean(dim=1))
        power.append(reference.square().flatten(1).mean(dim=1))
    each = torch.cat(error)  # [N]
    total, size = each.mean(), torch.cat(power).mean()
    return Distance(
        total.sqrt().item(), 0.0 if total == 0 else (total / size).sqrt().item(), each.sqrt().to(inputs.dtype)
    )


def _estimate(name: str, denoiser: Callable, y: Tensor, sigma: Tensor) -> Tensor:
    x = denoiser(y, sigma)
    if x.shape != y.shape:
        raise SpikinessError(
            f"the {name} denoiser answers {tuple(x.shape)} to inputs {tuple(y.shape)}; both must agree"
        )
    bad = int((~x.isfinite()).sum())
    if bad:
        raise SpikinessError(f"{bad} of {x.numel()} values of the {name} denoiser's estimate are NaN or inf")
    return x.double()


@dataclass(frozen=True)
class StoredColumns:
    """Which training images the columns of W hold (Corollary 3.2)."""

    cosine: Tensor  # [p], of each column to its best sample
    nearest: Tensor  # [p], index of that sample, the lowest of equals
    energy: Tensor  # [p], |w_j|^2 / |W|_F^2
    gain: Tensor  # [n], r_i^2 stored of each sample
    weighted_cosine: float  # mean cosine, weighted by energy


@torch.no_grad()
def stored_columns(w: Tensor, train: Tensor) -> StoredColumns:
    """Which of train [n, ...] each column of w [d, p] stores, and r_i^2: the sum of |w_j|^2 / |x_i|^2 over i's columns.

    A sum, as collinear copies of a column share its gain (Corollary 3.2). Cosines keep their sign: the ReLU silences a
    column that points away, so one with no positive cosine counts for no sample. A zero column has cosine and energy 0.
    """
    x, w = _flat("train", train).double(), torch.as_tensor(w).detach().double()
    if w.ndim != 2 or w.shape[0] != x.shape[1] or not w.isfinite().all():
        raise SpikinessError(f"w must be finite and [d, p] with train's d = {x.shape[1]}; this is {tuple(w.shape)}")
    norm_x, norm_w, tiny = x.norm(dim=1), w.norm(dim=0), torch.finfo(torch.float64).tiny
    cosines = (x @ w) / (norm_x[:, None] * norm_w).clamp_min(tiny)  # [n, p]
    cosine = cosines.amax(dim=0)
    index = (cosines >= cosine - 1e-9).int().argmax(dim=0)  # copies of a sample differ by rounding only
    square = norm_w**2
    gain = torch.zeros_like(norm_x).index_add(0, index, square * (cosine > 0)) / (norm_x**2).clamp_min(tiny)
    energy = square / square.sum().clamp_min(tiny)
    return StoredColumns(cosine, index, energy, gain, (energy * cosine).sum().item())


def psnr(estimate: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in dB, `10 log10(data_range^2 / mean (estimate - target)^2)`: [N, ...] -> [N].

    `data_range` is the width of the data's range, 2 for images in [-1, 1], 1 for [0, 1]. inf where both are equal.
    """
    if not 0 < data_range < float("inf"):
        raise SpikinessError(f"data_range is {data_range}; give the width of the data's range, 2 for [-1, 1]")
    if estimate.shape != target.shape or estimate.ndim < 2:
        shapes = f"estimate {tuple(estimate.shape)} and target {tuple(target.shape)}"
        raise SpikinessError(f"{shapes} must have the same shape [N, ...]")
    return 10 * torch.log10(data_range**2 / (estimate - target).square().flatten(1).mean(dim=1))


# Intervals ----------------------------------------------------------------------------------------------------------


def to_numpy(values: object) -> np.ndarray:
    """A tensor, array or list as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def clusters(groups: object, n: int) -> np.ndarray:
    """Labels 0, 1, ... of the group of each of n values; each value is its own group where `groups` is None."""
    if groups is None:
        return np.arange(n)
    groups = to_numpy(groups)
    if groups.shape != (n,):
        raise SpikinessError(f"groups have shape {groups.shape}; give one label for each of the {n} values")
    return np.unique(groups, return_inverse=True)[1]


def wilson(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate from independent trials; it has a width even for 0 or `total` successes."""
    if not 0 <= successes <= total or total < 1:
        raise SpikinessError(f"{successes} successes of {total}: need 0 <= successes <= total and total >= 1")
    z2 = NormalDist().inv_cdf((1 + _level(level)) / 2) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = (z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) ** 0.5 / (1 + z2 / total)
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == total else centre + half)


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise SpikinessError(f"level is {level}; it must lie between 0 and 1, usually .95")
    return level


def bootstrap(
    values: object,
    statistic: Callable[[np.ndarray], float] = np.mean,
    groups: object = None,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over values [n, ...], resampled by whole `groups` [n] where given.

    Values that share a cause (a training image, a seed) belong to one group. Events that did not occur are invisible to
    it: for a rate of 0 or 1 use `wilson`. Raises for NaN (with their number) and for fewer than two groups.
    """
    values = to_numpy(values)
    label = clusters(groups, len(values))
    if len(label) == 0 or label.max() == 0:
        raise SpikinessError(f"{len(values)} values in fewer than two groups have no interval; give two groups or more")
    _refuse_nan(values, "values")
    if draws < 1:
        raise SpikinessError(f"draws is {draws}; ask for 1 or more, usually 2000")
    order, size = np.argsort(label, kind="stable"), np.bincount(label)
    start, rng, results = np.cumsum(size) - size, np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        picked = rng.integers(len(size), size=len(size))
        length = size[picked]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)  # 0 .. length - 1 in each
        results[draw] = statistic(values[order[np.repeat(start[picked], length) + within]])
    _refuse_nan(results, "resampled statistics")
    low, high = np.quantile(results, [(1 - _level(level)) / 2, (1 + level) / 2])
    return float(low), float(high)


def _refuse_nan(values: np.ndarray, name: str) -> None:
    bad = np.isnan(values).sum()
    if bad:
        raise SpikinessError(f"{bad} of {values.size} {name} are NaN; remove them and report how many")
