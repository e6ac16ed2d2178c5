"""How far two denoisers are apart, what a network's weights store, and how close an estimate is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikiness.denoisers import Denoiser
from spikiness.errors import SpikinessError
from spikiness.measures.inputs import flat


@dataclass(frozen=True)
class Distance:
    """Between a denoiser and a reference, over all inputs."""

    rms: float  # per pixel, in data units
    relative: float  # |first - second| / |second|
    each: Tensor  # [N], rms of each input


@torch.no_grad()
def distance(first: Denoiser, second: Denoiser, inputs: Tensor, sigma: float | Tensor, batch: int = 1024) -> Distance:
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


def _estimate(name: str, denoiser: Denoiser, y: Tensor, sigma: Tensor) -> Tensor:
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
    x, w = flat("train", train).double(), torch.as_tensor(w).detach().double()
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
