"""How spiky a representation is, by seven measures.

h [..., N, p] -> [..., N]; float32 and float64 kept, half precision answered in float32, NaN stays NaN.
A zero vector counts as the flat vector it is a limit of and gets the *least spiky* value. That is a value, not a
verdict: count such rows, `(h == 0).all(-1).sum()`, before calling a dead representation balanced.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikiness.errors import Registry, SpikinessError


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


@dataclass(frozen=True)
class Measure:
    """A measure of spikiness, called as its function is, and what a search or a table must know of it."""

    function: Callable[[Tensor], Tensor]  # h [..., N, p] -> [..., N]
    spikier: int = 1  # 1: the spikier h has the higher value; -1: the lower
    ranks_as: str = ""  # the measure that ranks all h as this one does: a search tries one of the two

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, h: Tensor) -> Tensor:
        return self.function(h)


#: Measures of spikiness. This is the one list in which they are entered; detectors, searches and tables read it.
MEASURES: Registry[Measure] = Registry(
    "measure",
    {
        measure.name: measure
        for measure in (
            Measure(std),
            Measure(std_over_norm),
            Measure(l4_l2, ranks_as="participation_ratio"),
            Measure(participation_ratio, spikier=-1),
            Measure(kurtosis),
            Measure(gini),
            Measure(hoyer),
        )
    },
)
