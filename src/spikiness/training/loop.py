"""The loop that trains one diffusion model by EDM's loss, a generator of steps, and the state that it can go back to.

Data lie on the device as one tensor; indices and noise are drawn there, by one generator.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spikiness import files
from spikiness.denoisers import EDM
from spikiness.errors import Diverged, SpikinessError
from spikiness.networks.contract import Network, Preconditioned
from spikiness.training.dae import Step, schedule

LOG_NORMAL = ("log-normal", -1.2, 1.2)  # of sigma: mean and standard deviation of its logarithm (EDM)
LOG_UNIFORM = ("log-uniform", 0.02, 2.0)  # of sigma: its ends (the paper's time-conditioned DAE)
CHECK_EVERY = 50  # steps between looks at the losses on a GPU, where each look waits for it
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


@dataclass
class Loop:
    """One training and its whole state: what a checkpoint holds."""

    x: Tensor
    denoiser: nn.Module
    seed: int
    labels: Tensor | None
    images_seen: int
    batch: int
    lr: float
    noise: tuple[str, float, float]
    lam: float
    clip: float
    label_dropout: float

    def __post_init__(self) -> None:
        self._check()
        self.trained = cast(Preconditioned, self.denoiser)
        device = self.x.device
        self.cuda = device.type == "cuda"
        if self.cuda and self.x.ndim == 4:
            self.denoiser.to(memory_format=torch.channels_last)
        self.parameters = list(self.denoiser.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.lr, fused=device.type in ("cpu", "cuda"))
        self.average = AveragedModel(self.denoiser)
        self.generator = torch.Generator(device).manual_seed(self.seed)
        self.steps = math.ceil(self.images_seen / self.batch)
        self.step = 0
        self.losses: list[float] = []  # of every step
        self._pending: list[Tensor] = []
        self.settings = self._settings()

    def __iter__(self) -> Iterator[Step]:
        """Train to the end from where it stands, yielding after each optimizer step."""
        forward = torch.compile(self._loss) if self.cuda else self._loss
        while self.step < self.steps:
            self.optimizer.param_groups[0]["lr"] = self.lr * schedule(self.step, self.steps)
            loss = forward(*self.draw())
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
            self._pending.append(torch.stack([loss.detach(), norm.to(loss.dtype)]))
            if not self.cuda or len(self._pending) == CHECK_EVERY or self.step + 1 == self.steps:
                self.check()  # on the CPU before the step that would spread it
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._average()
            self.step += 1
            yield Step(self.step - 1, loss.detach(), self.step * self.batch)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Clean images, noisy images, their noise levels (shaped to multiply them) and labels."""
        make: dict[str, Any] = {"generator": self.generator, "device": self.x.device}
        index = torch.randint(len(self.x), (self.batch,), **make)
        x = self.x[index]
        kind, a, b = self.noise
        if kind == "log-normal":
            log_sigma = a + b * torch.randn(self.batch, **make)
        else:
            log_sigma = math.log(a) + math.log(b / a) * torch.rand(self.batch, **make)
        level = log_sigma.exp().to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        y = x + level * torch.randn(x.shape, dtype=x.dtype, **make)
        if self.labels is None:
            return x, y, level, None
        dropped = torch.rand(self.batch, **make) < self.label_dropout
        return x, y, level, torch.where(dropped, self.classes, self.labels[index])

    def _loss(self, x: Tensor, y: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16) if self.cuda else contextlib.nullcontext():
            estimate = self.trained.precondition(y, level, labels)
        loss = (self.trained.loss_weight(level) * (estimate.float() - x).square()).mean()
        return loss + self.lam / x[0].numel() * cast(Any, self.denoiser).penalty() if self.lam else loss

    def check(self) -> None:
        """Look at losses and gradients since the last look; raise `Diverged` at the first that is not finite."""
        first = self.step + 1 - len(self._pending)
        values = torch.stack(self._pending).tolist() if self._pending else []
        self._pending = []
        for step, (loss, norm) in enumerate(values, first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self.diverged("gradient" if math.isfinite(loss) else "loss", step)
            self.losses.append(loss)

    def check_weights(self) -> None:
        """Raise `Diverged` where the last step left weights that are not finite: they must not be kept."""
        if not all(bool(weight.isfinite().all()) for weight in self.parameters):
            raise self.diverged("a weight", self.step - 1)

    def diverged(self, what: str, step: int) -> Diverged:
        return Diverged(
            f"{what} is not finite at step {step} ({step * self.batch:,} images seen) with lr {self.lr:g}, seed "
            f"{self.seed}; try lr={self.lr / 10:g}, and look for extreme values in the data"
        )

    @property
    def checked(self) -> bool:
        """Whether every loss so far was looked at."""
        return not self._pending

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average toward the weights by 9 / (10 + step): it looks back over a tenth of the steps so far, so
        that a short run does not keep its random start, which would hide memorization.

        `AveragedModel.update_parameters` does the same sum but waits for a GPU at every step.
        """
        averages, weights = tuple(self.average.module.parameters()), tuple(self.parameters)
        if self.step == 0:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 9 / (10 + self.step))

    def _settings(self) -> dict[str, Any]:
        """What makes this training this one: a checkpoint of another is refused."""
        inner: Any = getattr(self.denoiser, "network", self.denoiser)
        labels = None if self.labels is None else files.sha256(self.labels.cpu().numpy().tobytes())
        return {
            "network": type(inner).__name__, "arguments": inner.arguments,
            "sigma_data": getattr(self.denoiser, "sigma_data", None), "n": len(self.x),
            "data": files.sha256(self.x.cpu().contiguous().numpy().tobytes()), "labels": labels, "seed": self.seed,
            "images_seen": self.images_seen, "batch": self.batch, "lr": self.lr, "noise": list(self.noise),
            "lam": self.lam, "clip": self.clip, "label_dropout": self.label_dropout, "device": self.x.device.type,
            "start": files.sha256(b"".join(w.detach().cpu().contiguous().numpy().tobytes() for w in self.parameters)),
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state: weights, their average, the optimizer's moments and the generator's state."""
        tensors = {f"raw.{k}": v for k, v in self.denoiser.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        return {k: v.clone() for k, v in tensors.items()} | {"generator": self.generator.get_state().clone()}

    def restore(self, tensors: dict[str, Tensor], step: int, losses: Sequence[float]) -> None:
        """Go back to a `state`; the next step is then the one that followed it."""
        self.denoiser.load_state_dict(part(tensors, "raw."))
        self.average.load_state_dict(part(tensors, "average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part(tensors, "optimizer.").items():
            i, _, key = name.partition(".")
            weight = self.parameters[int(i)]
            if tensor.shape == weight.shape:  # a GPU wants moments laid out in memory as the weights are
                tensor = torch.empty_like(weight).copy_(tensor)
            moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(tensors["generator"].cpu())
        self.step, self.losses, self._pending = step, list(losses), []

    def averaged(self, parts: int = 50) -> nn.Module:
        """A copy of the denoiser with averaged weights, on the CPU, with its record: losses as some `parts` means."""
        result = fresh_copy(self.denoiser)
        weights = {k.removeprefix("module."): v for k, v in self.average.state_dict().items() if k != "n_averaged"}
        result.load_state_dict({k: v.detach().cpu().clone() for k, v in weights.items()})
        every = max(1, self.steps // parts)
        means = [
            sum(part) / len(part) for i in range(0, len(self.losses), every) if (part := self.losses[i : i + every])
        ]
        settings = {k: v for k, v in self.settings.items() if k not in ("data", "labels", "arguments", "start")}
        cast(Preconditioned, result).record = {
            **settings,
            "images_seen": self.step * self.batch,
            "loss_every": every * self.batch,
            "loss": means,
        }
        return result.requires_grad_(False).eval()

    def _check(self) -> None:
        for name in ("images_seen", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, least in (("lr", 0), ("clip", 0), ("lam", -1e-300), ("label_dropout", -1e-300)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > least):
                raise SpikinessError(
                    f"{name} must be a finite number {'above' if least == 0 else 'of at least'} 0, got {value!r}"
                )
        kind, a, b = self.noise
        if kind not in ("log-normal", "log-uniform") or not (b > 0 and (kind == "log-normal" or 0 < a < b)):
            raise SpikinessError(
                f"noise is {self.noise!r}; use ('log-normal', mean, std) or ('log-uniform', low, high)"
            )
        if self.lam and not hasattr(self.denoiser, "penalty"):
            raise SpikinessError("lam is for networks with a penalty (TimeDAE); leave it at 0 for this one")
        self._check_labels()

    def _check_labels(self) -> None:
        network: Any = getattr(self.denoiser, "network", self.denoiser)
        self.classes = network.arguments.get("classes")
        if (self.labels is None) != (self.classes is None):
            has, lacks = ("labels", "classes") if self.classes is None else (f"{self.classes} classes", "labels")
            raise SpikinessError(
                f"{has} but no {lacks}: give both the network classes= and the training labels=, or neither"
            )
        if self.labels is not None:
            if self.labels.shape != (len(self.x),) or self.labels.dtype not in INTEGERS:
                raise SpikinessError(
                    f"labels are {self.labels.dtype} {list(self.labels.shape)}; give {len(self.x)} whole numbers"
                )
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= self.classes:
                raise SpikinessError(
                    f"labels go from {low} to {high}; this network has classes 0 .. {self.classes - 1}"
                )


def fresh_copy(denoiser: nn.Module) -> nn.Module:
    """A denoiser of the same kind on the CPU, to be given other weights."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from torch's global generator
        if isinstance(denoiser, EDM):
            return EDM(_as_constructed(denoiser.network), denoiser.sigma_data)
        return _as_constructed(denoiser)


def _as_constructed(network: nn.Module) -> nn.Module:
    """A network of the same shape, with weights of its own."""
    return type(network)(**cast(Network, network).arguments)


def part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """Tensors whose names begin with `start`, without it."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
