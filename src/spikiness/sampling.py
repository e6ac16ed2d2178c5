"""Samplers as generators of states: any denoiser `D(y, sigma)`, closed form or network, from noise to a sample.

Every sampler solves or simulates the same path down a ladder of noise levels; the caller decides what to keep. All
randomness belongs to the sample: number i depends on seeds[i] alone, not on its neighbors, the batch or the device.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spikiness.denoisers import Denoiser, Guided
from spikiness.errors import Registry, SpikinessError


@dataclass(frozen=True)
class State:
    """One point of a sampler's path."""

    y: Tensor  # [N, *shape], at noise level sigma
    sigma: float  # 0 at the end
    estimate: Tensor  # [N, *shape], D(y, sigma) of the level before: what the sample will roughly be


def karras_sigmas(steps: int = 18, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """EDM's ladder [steps + 1] in float64: from `high` to `low`, evenly in sigma^(1 / rho), then 0 (eq 5)."""
    ramp = torch.linspace(0, 1, _steps(steps), dtype=torch.float64)
    a, b = _range(low, high)
    ladder = (b ** (1 / rho) + ramp * (a ** (1 / rho) - b ** (1 / rho))) ** rho
    return torch.cat([ladder, ladder.new_zeros(1)])


def geometric_sigmas(steps: int = 60, low: float = 0.02, high: float = 2.0) -> Tensor:
    """The ladder [steps + 1] of the paper's notebook: geometric from `high` to `low`, then 0."""
    a, b = _range(low, high)
    ladder = b * (a / b) ** torch.linspace(0, 1, _steps(steps), dtype=torch.float64)
    return torch.cat([ladder, ladder.new_zeros(1)])


def euler(denoiser: Denoiser, y: Tensor, sigmas: Tensor, noise: Callable[[], Tensor] | None = None) -> Iterator[State]:
    """Euler's steps along dy/dsigma = (y - D(y, sigma)) / sigma, from y at sigmas[0]."""
    for now, after in _pairs(sigmas):
        estimate = denoiser(y, now)
        y = torch.lerp(estimate, y, after / now)
        yield State(y, after, estimate)


def heun(denoiser: Denoiser, y: Tensor, sigmas: Tensor, noise: Callable[[], Tensor] | None = None) -> Iterator[State]:
    """Heun's second-order steps along the same path (EDM, algorithm 1), the last one, to 0, Euler's."""
    for now, after in _pairs(sigmas):
        estimate = denoiser(y, now)
        slope = (y - estimate) / now
        ahead = y + (after - now) * slope
        if after > 0:
            slope = (slope + (ahead - denoiser(ahead, after)) / after) / 2
            ahead = y + (after - now) * slope
        y = ahead
        yield State(y, after, estimate)


def ancestral(denoiser: Denoiser, y: Tensor, sigmas: Tensor, noise: Callable[[], Tensor]) -> Iterator[State]:
    """Ancestral steps, as in the paper's notebook: y' given y and x = D(y, sigma) under the forward process.

    Mean `x + (sigma'^2 / sigma^2) (y - x)`, variance `sigma'^2 (1 - sigma'^2 / sigma^2)`; `noise()` gives N(0, I).
    """
    for now, after in _pairs(sigmas):
        estimate = denoiser(y, now)
        share = (after / now) ** 2
        y = torch.lerp(estimate, y, share)
        if after > 0:
            y = y + after * (1 - share) ** 0.5 * noise()
        yield State(y, after, estimate)


#: Samplers by name, as `sample` takes them.
SAMPLERS: Registry[Callable[..., Iterator[State]]] = Registry(
    "sampler", {"heun": heun, "euler": euler, "ancestral": ancestral}
)


class Noise:
    """Standard normal draws [N, *shape], row i from a generator of its own, seeded with seeds[i].

    Drawn on the CPU in float32, in whole multiples of 16 numbers, where torch's draws do not depend on the request.
    """

    def __init__(self, shape: Sequence[int], seeds: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        self.shape, self.device, self.dtype = torch.Size(shape), device, dtype
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self) -> Tensor:
        count = self.shape.numel()
        rows = torch.empty(len(self.generators), -(-count // 16) * 16)
        for row, generator in zip(rows, self.generators, strict=True):
            row.normal_(generator=generator)
        return rows[:, :count].reshape(-1, *self.shape).to(self.device, self.dtype)


@torch.no_grad()
def sample(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int = 18,
    *,
    sampler: str = "heun",
    sigmas: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 1.0,
    batch: int = 256,
    progress: bool = False,
) -> Tensor:
    """Samples [len(seeds), *shape] of a denoiser, on its device: sample i from seeds[i] alone.

    `sampler` is heun (18 steps are 35 evaluations), euler or ancestral; `sigmas` the ladder, down to 0, in place of
    EDM's with `steps` steps. `labels` [N] of a class-conditional network, with `guidance` 1 for the conditional one
    and above for more of the class. Raises SpikinessError for steps < 1, another sampler, a ladder that does not fall
    to 0, and for estimates that are not finite (with the noise level).
    """
    paths = trajectories(
        denoiser, shape, seeds, steps, sampler=sampler, sigmas=sigmas, labels=labels, guidance=guidance, batch=batch,
        progress=progress, keep=lambda states: deque(states, maxlen=1)[0].y,
    )  # fmt: skip
    return torch.cat(paths)


@torch.no_grad()
def trajectories(
    denoiser: Callable[..., Tensor],
    shape: Sequence[int],
    seeds: Sequence[int],
    steps: int = 18,
    *,
    sampler: str = "heun",
    sigmas: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 1.0,
    batch: int = 256,
    progress: bool = False,
    keep: Callable[[Iterator[State]], Any] = list,
) -> list[Any]:
    """What `keep` makes of the states of each batch of samples; by default all of them. Arguments as for `sample`."""
    SAMPLERS.check(sampler)
    try:
        seeds = list(seeds)
    except TypeError:
        raise SpikinessError(f"seeds is {seeds!r}; give one for each sample, as range({seeds!r}) does") from None
    if not seeds or batch < 1:
        raise SpikinessError(
            f"{len(seeds)} seeds in batches of {batch}: give at least one seed and a batch of at least 1"
        )
    ladder = _ladder(karras_sigmas(steps) if sigmas is None else sigmas)
    labels = _labels(labels, guidance, len(seeds))
    device, dtype = _place(denoiser)
    kept = []
    for start in tqdm(range(0, len(seeds), batch), desc="sampling", unit="batch", disable=not progress):
        part = slice(start, start + batch)
        noise = Noise(shape, seeds[part], device, dtype)
        plain = denoiser if labels is None else Guided(denoiser, labels[part].to(device), guidance)
        y = ladder[0].item() * noise()
        kept.append(keep(_finite(SAMPLERS[sampler](plain, y, ladder, noise))))
    return kept


def _finite(states: Iterator[State]) -> Iterator[State]:
    for state in states:
        if not state.y.isfinite().all():
            bad = int((~state.y.isfinite()).flatten(1).any(dim=1).sum())
            raise SpikinessError(
                f"{bad} of {len(state.y)} samples are not finite on the way to sigma {state.sigma:.4g}: the denoiser "
                "returned NaN or inf at the level before; look at its weights there, or begin at a smaller noise level"
            )
        yield state


def _place(denoiser: object) -> tuple[torch.device, torch.dtype]:
    """Device and type of a network's weights; a closed form is sampled on the CPU in float32."""
    for weight in getattr(denoiser, "parameters", lambda: iter(()))():
        return weight.device, weight.dtype
    return torch.device("cpu"), torch.float32


def _pairs(sigmas: Tensor) -> Iterator[tuple[float, float]]:
    return pairwise(sigmas.tolist())


def _steps(steps: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SpikinessError(f"steps must be a whole number of at least 1, got {steps!r}; 18 is EDM's choice")
    return steps


def _range(low: float, high: float) -> tuple[float, float]:
    if not 0 < low < high < float("inf"):
        raise SpikinessError(f"noise levels from {low} to {high}: need 0 < low < high")
    return low, high


def _ladder(sigmas: Tensor) -> Tensor:
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas[-1] != 0 or not (sigmas.diff() < 0).all():
        raise SpikinessError(
            f"sigmas must fall from the first to 0, as karras_sigmas(18) does; got {sigmas.tolist()[:5]} ..."
        )
    return sigmas


def _labels(labels: Tensor | None, guidance: float, count: int) -> Tensor | None:
    if labels is None:
        if guidance != 1:
            raise SpikinessError(f"guidance {guidance} needs labels, one for each sample")
        return None
    labels = torch.as_tensor(labels)
    if labels.shape != (count,):
        raise SpikinessError(f"labels have shape {list(labels.shape)}; give one for each of {count} samples")
    return labels
