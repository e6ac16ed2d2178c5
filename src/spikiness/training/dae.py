"""Training by objective (6), exactly as written: one loop for one ReLU-DAE or for hundreds side by side.

The loop is a generator of steps; the caller decides what to record. Every member of an ensemble draws its images and
its noise from a generator of its own, so a network trained among others is the network trained alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spikiness.errors import Diverged, Registry, SpikinessError
from spikiness.networks.relu_dae import ReLUDAE, loss_and_gradients

OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry(
    "optimizer",
    {
        "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
        "rmsprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr),
        "adamw": lambda parameters, lr, decay=0.0: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True),
        "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    },
)
DECOUPLED = ("adamw",)  # optimizers that take a decay: their step multiplies weights by (1 - lr * decay)


@dataclass(frozen=True)
class Member:
    """One network of an ensemble: its data x [n, d], width p, noise level sigma, lambda and seed."""

    x: Tensor
    width: int
    sigma: float
    lam: float
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """What one optimizer step left behind; `loss` [E] is objective (6) on the step's batch."""

    step: int
    loss: Tensor
    images_seen: int


def fit_dae(
    x: Tensor,
    width: int,
    sigma: float,
    lam: float,
    seed: int = 0,
    *,
    tied: bool = True,
    optimizer: str = "adam",
    lr: float | None = None,
    decay: float = 0.0,
    batch: int = 256,
    steps: int = 5000,
    progress: bool = False,
) -> ReLUDAE:
    """A ReLU-DAE that minimizes objective (6) on x [n, ...]: squared error summed over pixels, plus lambda |W|_F^2.

    x holds n images of d numbers each, float32 or float64 (kept); sigma is the noise's standard deviation in data
    units; `lam` is the lambda of objective (6), not an optimizer's weight decay. `lr` defaults to .1 / sqrt(d), one
    step then moves a unit by about .1 whatever the image size. `decay` is the decoupled one of "adamw", which is not
    `lam`: it multiplies weights by (1 - lr * decay) beside the step, whatever the gradient's scale. `.record` of the
    result says how it was trained, its loss along the way and its stationarity: |gradient| at the end over |gradient|
    at the start.
    Raises `SpikinessError` on impossible values and `Diverged` at the first loss that is not finite.
    """
    member = Member(x, width, sigma, lam, seed)
    settings: dict[str, Any] = {"optimizer": optimizer, "lr": lr, "decay": decay, "batch": batch, "steps": steps}
    return fit_ensemble([member], tied=tied, progress=progress, **settings)[0]


def fit_ensemble(
    members: Sequence[Member],
    *,
    tied: bool = True,
    optimizer: str = "adam",
    lr: float | None = None,
    decay: float = 0.0,
    batch: int = 256,
    steps: int = 5000,
    progress: bool = False,
) -> list[ReLUDAE]:
    """Train every member as `fit_dae` would, all at once in batched products; members may differ in all but d.

    Returns the networks in the members' order. Raises as `fit_dae` does, and for members that differ in d.
    """
    members = _checked_together(members)
    networks = [_initial(member, tied) for member in members]
    loop = descend(networks, members, optimizer=optimizer, lr=lr, decay=decay, batch=batch, steps=steps)
    lr = default_lr(networks[0].w1.shape[0]) if lr is None else lr
    every = max(1, steps // 50)
    losses: list[Tensor] = []
    for state in tqdm(loop, total=steps, desc=f"{len(members)} ReLU-DAE", unit="step", disable=not progress):
        if state.step % every == 0:
            losses.append(state.loss)
    start = [_initial(member, tied) for member in members]
    for i, (network, member) in enumerate(zip(networks, members, strict=True)):
        network.record = {
            "sigma": member.sigma, "lam": member.lam, "seed": member.seed, "n": len(member.x), "steps": steps,
            "batch": batch, "lr": lr, "optimizer": optimizer, "decay": decay, "loss_every": every,
            "loss": [float(loss[i]) for loss in losses],
            "stationarity": gradient_norm(network, member) / gradient_norm(start[i], member, draws=2, batch=256),
        }  # fmt: skip
    return networks


def descend(
    networks: Sequence[ReLUDAE],
    members: Sequence[Member],
    *,
    optimizer: str = "adam",
    lr: float | None = None,
    decay: float = 0.0,
    batch: int = 256,
    steps: int = 5000,
) -> Iterator[Step]:
    """Descend objective (6) from where the networks stand, yielding after each optimizer step; they are updated
    in place when the loop ends, is closed or diverges, and then hold the weights of the last step."""
    make = _optimizer(optimizer, decay)
    lr = default_lr(networks[0].w1.shape[0]) if lr is None else lr
    _at_least_one(batch=batch, steps=steps)
    _positive(lr=lr)
    weights = _stack(networks)
    opt = make(weights, lr)
    draw = Batches(members, batch)
    lam = torch.tensor([m.lam for m in members], dtype=draw.data.dtype)
    lam = lam if len(members) > 1 else lam[0]
    w1, w2 = weights[0], weights[-1]
    try:
        for step in range(steps):
            opt.param_groups[0]["lr"] = lr * schedule(step, steps)
            with torch.no_grad():
                loss, *gradients = loss_and_gradients(w1, w2, *draw(), lam)
            if not torch.isfinite(loss).all():
                raise Diverged(_diverged(loss.reshape(-1), members, step, lr, optimizer))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            opt.step()
            yield Step(step, loss.reshape(-1), (step + 1) * batch)
    finally:
        _unstack(weights, networks)


def default_lr(dim: int) -> float:
    """The learning rate for images of `dim` numbers: Adam moves each number by about lr, a whole unit by about .1."""
    return 0.1 / math.sqrt(dim)


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor: a short warm-up, full until half-way, then a cosine to zero, where noise averages."""
    warm = min(1.0, (step + 1) / max(1, min(100, steps // 10)))
    done = max(0.0, 2 * step / steps - 1)
    return warm * 0.5 * (1 + math.cos(math.pi * done))


class Batches:
    """Batches of clean and noisy images for every member: a call gives x, y of shape [E, B, d] ([B, d] for one).

    Images are drawn one from each of B equal strata of the data, so a small set is seen whole in every batch.
    Neighbors in a batch carry opposite noise: half the draws, and an unbiased gradient of smaller variance.
    `purpose` sets evaluation draws (2) apart from the training's (1).
    """

    def __init__(self, members: Sequence[Member], batch: int, purpose: int = 1) -> None:
        if batch % 2:
            raise SpikinessError(
                f"batch must be even, since noise comes in opposite pairs; got {batch}, use {batch + 1}"
            )
        self.data, self.first = _pool(members)  # [sum of distinct n, d], [E, 1]
        self.size = torch.tensor([[len(m.x)] for m in members])  # [E, 1]
        self.sigma = [m.sigma for m in members]
        self.generators = [torch.Generator().manual_seed(_mix(m.seed, purpose)) for m in members]
        shape = (len(members), batch // 2, self.data.shape[1])
        self.noise = torch.empty(shape, dtype=self.data.dtype)
        self.place = torch.empty(len(members), batch)
        self.stratum = torch.arange(batch)

    def __call__(self) -> tuple[Tensor, Tensor]:
        for place, noise, sigma, generator in zip(self.place, self.noise, self.sigma, self.generators, strict=True):
            place.uniform_(generator=generator)
            noise.normal_(0, sigma, generator=generator)
        n, batch = self.size, self.place.shape[1]
        index = torch.minimum(((self.place + self.stratum) * n / batch).long(), n - 1) + self.first  # [E, B]
        x = self.data[index]  # [E, B, d]
        y = torch.empty_like(x)
        torch.add(x[:, 0::2], self.noise, out=y[:, 0::2])
        torch.sub(x[:, 1::2], self.noise, out=y[:, 1::2])
        return (x, y) if len(x) > 1 else (x[0], y[0])


def gradient_norm(network: ReLUDAE, member: Member, draws: int = 8, batch: int = 2048) -> float:
    """|gradient of objective (6)|_F at the network, from the products of independent halves of the draws, which
    leaves the draws' own noise out on average (0 where it is lost in that noise)."""
    sums = [torch.zeros(()), torch.zeros(())]  # of each half
    batches = Batches([member], batch, purpose=2)  # other draws than the training's
    with torch.no_grad():
        for i in range(draws):
            _, *gradients = loss_and_gradients(network.w1, network.w2, *batches(), member.lam)
            sums[i % 2] = sums[i % 2] + torch.cat([g.flatten() for g in gradients]) * (2 / draws)
    return math.sqrt(max(0.0, float(sums[0] @ sums[1])))


def _initial(member: Member, tied: bool) -> ReLUDAE:
    generator = torch.Generator().manual_seed(_mix(member.seed, 0))
    network = ReLUDAE(member.x.shape[1], member.width, tied, generator=generator)
    return network.to(member.x.dtype)


def _mix(seed: int, purpose: int) -> int:
    """One generator per purpose: seeds that differ in purpose or number never meet."""
    return (seed * 4 + purpose) % 2**63


def _pool(members: Sequence[Member]) -> tuple[Tensor, Tensor]:
    """Every distinct data tensor once, and where each member's begins."""
    start: dict[int, int] = {}
    kept, total = [], 0
    for member in members:
        if id(member.x) not in start:
            start[id(member.x)] = total
            kept.append(member.x)
            total += len(member.x)
    return torch.cat(kept), torch.tensor([[start[id(member.x)]] for member in members])


def _stack(networks: Sequence[ReLUDAE]) -> list[Tensor]:
    """The networks' weights as leaf tensors [E, d, largest p] ([d, p] for one), narrower ones padded with zero
    columns, which objective (6) keeps at zero."""
    widest = max(network.w1.shape[1] for network in networks)
    stacks = []
    for rows in zip(*[list(network.parameters()) for network in networks], strict=True):
        padded = [torch.nn.functional.pad(w.detach(), (0, widest - w.shape[1])) for w in rows]
        stacks.append((torch.stack(padded) if len(padded) > 1 else padded[0].clone()).requires_grad_())
    return stacks


def _unstack(weights: Sequence[Tensor], networks: Sequence[ReLUDAE]) -> None:
    for i, network in enumerate(networks):
        for parameter, stack in zip(network.parameters(), weights, strict=True):
            value = stack[i] if stack.ndim == 3 else stack
            parameter.data.copy_(value[:, : parameter.shape[1]])


def _checked_together(members: Sequence[Member]) -> list[Member]:
    if not members:
        raise SpikinessError("an ensemble needs at least one member, got none")
    flat: dict[int, Tensor] = {}  # members that share data go on sharing it
    checked = [_checked(member, i, flat) for i, member in enumerate(members)]
    for i, member in enumerate(checked):
        if member.x.shape[1] != checked[0].x.shape[1]:
            raise SpikinessError(
                f"member {i} has images of d = {member.x.shape[1]}, member 0 of d = {checked[0].x.shape[1]}; "
                "networks of one ensemble share d: train them in two"
            )
    return checked


def _checked(member: Member, i: int, flat: dict[int, Tensor]) -> Member:
    x = torch.as_tensor(member.x)
    if x.ndim < 2 or len(x) == 0 or not x.is_floating_point():
        raise SpikinessError(
            f"member {i}: x must be float [n, ...] with at least one image, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if not torch.isfinite(x).all():
        raise SpikinessError(f"member {i}: x holds {int((~torch.isfinite(x)).sum())} values that are not finite")
    _at_least_one(width=member.width)
    _positive(sigma=member.sigma)
    if not (_is_number(member.lam) and member.lam >= 0):
        raise SpikinessError(f"lam must be a finite number of at least 0, got {member.lam!r}")
    if isinstance(member.seed, bool) or not isinstance(member.seed, int) or member.seed < 0:
        raise SpikinessError(f"seed must be a whole number of at least 0, got {member.seed!r}")
    x = flat.setdefault(id(member.x), x.flatten(1))
    return Member(x, member.width, float(member.sigma), float(member.lam), member.seed)


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (_is_number(value) and value > 0):
            raise SpikinessError(f"{name} must be a finite number above 0, got {value!r}")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _optimizer(name: str, decay: float) -> Callable[..., torch.optim.Optimizer]:
    OPTIMIZERS.check(name)
    if not (_is_number(decay) and decay >= 0):
        raise SpikinessError(f"decay must be a finite number of at least 0, got {decay!r}")
    if name in DECOUPLED:
        return partial(OPTIMIZERS[name], decay=decay)
    if decay:
        raise SpikinessError(
            f"decay = {decay} is decoupled, which {', '.join(DECOUPLED)} is and {name} is not; the penalty of "
            "objective (6) is lam"
        )
    return OPTIMIZERS[name]


def _diverged(loss: Tensor, members: Sequence[Member], step: int, lr: float, optimizer: str) -> str:
    worst: Iterable[int] = (~torch.isfinite(loss)).nonzero().flatten().tolist()
    which = ", ".join(f"seed {members[i].seed} (sigma {members[i].sigma}, width {members[i].width})" for i in worst)
    return f"loss is not finite at step {step} with {optimizer}, lr {lr}, for {which}; try lr={lr / 10:g}"
