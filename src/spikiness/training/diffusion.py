"""Training of diffusion models by EDM's loss: one loop, a generator of steps, that can stop and go on to the bit.

The axis of training is images seen, since the number of training images is what the book varies. Data lie on the
device as one tensor; indices and noise are drawn there, by one generator.
"""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import spikiness.training.checkpoints as checkpoints  # not the package: a cached network is known by what this imports
from spikiness import files
from spikiness.denoisers import EDM
from spikiness.errors import Diverged, SpikinessError
from spikiness.training.dae import Step, schedule

LOG_NORMAL = ("log-normal", -1.2, 1.2)  # of sigma: mean and standard deviation of its logarithm (EDM)
LOG_UNIFORM = ("log-uniform", 0.02, 2.0)  # of sigma: its ends (the paper's time-conditioned DAE)
CHECK_EVERY = 50  # steps between looks at the losses on a GPU, where each look waits for it
SAVE_SECONDS = 20.0  # between checkpoints


def fit_diffusion(
    x: Tensor,
    network: nn.Module,
    seed: int = 0,
    labels: Tensor | None = None,
    images_seen: int = 256_000,
    *,
    stages: Sequence[int] | None = None,
    batch: int = 64,
    lr: float = 5e-3,
    noise: tuple[str, float, float] = LOG_NORMAL,
    sigma_data: float | None = None,
    lam: float = 0.0,
    clip: float = 1.0,
    label_dropout: float = 0.1,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = False,
) -> Any:
    """A denoiser `D(y, sigma)` trained on x [n, C, H, W] (or [n, d] for a `TimeDAE`), with averaged (EMA) weights.

    `network` is a raw network (`UNet`, `DiT`), which `EDM` preconditions for data of standard deviation `sigma_data`
    (default: that of x), or a denoiser itself. The loss is EDM's, weight * |D(x + sigma eps) - x|^2 / d, with `noise`
    the distribution of sigma, plus lam / d * penalty() where the network has one (`TimeDAE`: objective (6) over d).
    With `labels` [n] of a network with classes, a share `label_dropout` of them is null. Adam; the learning rate warms
    up, stays, and falls to zero from half-way on; gradients are clipped to norm `clip`.
    `images_seen` counts images drawn, with replacement. With `stages`, numbers of images seen, the result is a list of
    denoisers, one as it was at each stage and the last at the end. `device` is auto, cpu, cuda or mps.
    With `checkpoint`, a folder, everything is saved there every 20 seconds and on Ctrl-C or SIGTERM; called again, it
    goes on from there, to the bit. `.record` of each result: settings, images seen, losses along the way.
    Raises `SpikinessError` on impossible values, a device that is not there, too little memory, and a checkpoint of
    other settings; `Diverged` at the first loss that is not finite, with the last good checkpoint named.
    """
    place = find_device(device)
    loop = Loop(
        x.to(place), _denoiser(network, x, sigma_data).to(place), seed, None if labels is None else labels.to(place),
        images_seen, batch, lr, noise, lam, clip, label_dropout,
    )  # fmt: skip
    wanted = sorted({*(stages or []), images_seen})
    if wanted[0] < 1 or wanted[-1] > images_seen:
        raise SpikinessError(f"stages {list(stages or [])} must lie between 1 and images_seen = {images_seen}")
    kept = run(loop, wanted, checkpoint, progress)
    return kept if stages is not None else kept[-1]


def find_device(name: str) -> torch.device:
    """The device called `name`; auto is a GPU where there is one. Raises `SpikinessError` where it is absent."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    kind = name.partition(":")[0]
    if not there.get(kind, False):
        present = ", ".join(["auto", *(other for other, here in there.items() if here)])
        raise SpikinessError(f"device {name!r} is not on this machine: choose one of {present}")
    return torch.device(name)


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
        device = self.x.device
        self.cuda = device.type == "cuda"
        if self.cuda and self.x.ndim == 4:
            self.denoiser.to(memory_format=torch.channels_last)
        self.parameters = list(self.denoiser.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.lr, fused=device.type in ("cpu", "cuda"))
        self.average = AveragedModel(self.denoiser, multi_avg_fn=self._average)
        self.generator = torch.Generator(device).manual_seed(self.seed)
        self.steps = math.ceil(self.images_seen / self.batch)
        self.step = 0
        self.losses: list[float] = []  # means over 1 / 50 of the steps each
        self._pending: list[Tensor] = []
        self.settings = self._settings()

    def __iter__(self) -> Iterator[Step]:
        """Train to the end from where it stands, yielding after each optimizer step."""
        forward = torch.compile(self._loss) if self.cuda else self._loss
        while self.step < self.steps:
            self.optimizer.param_groups[0]["lr"] = self.lr * schedule(self.step, self.steps)
            loss = forward(*self.draw())
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
            self._pending.append(loss.detach())
            if not self.cuda or len(self._pending) == CHECK_EVERY or self.step + 1 == self.steps:
                self.check()  # on the CPU before the step that would spread it
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update_parameters(self.denoiser)
            self.step += 1
            yield Step(self.step - 1, loss.detach(), self.step * self.batch)

    def draw(self) -> tuple[Tensor, ...]:
        """Clean images, noisy images, their noise levels (shaped to multiply them) and labels."""
        make = {"generator": self.generator, "device": self.x.device}
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
            estimate = self.denoiser.precondition(y, level, labels)
        loss = (self.denoiser.loss_weight(level) * (estimate.float() - x).square()).mean()
        return loss + self.lam / x[0].numel() * self.denoiser.penalty() if self.lam else loss

    def check(self) -> None:
        """Look at the losses since the last look; raise `Diverged` at the first that is not finite."""
        first = self.step + 1 - len(self._pending)
        values = torch.stack(self._pending).tolist() if self._pending else []
        self._pending = []
        for step, value in enumerate(values, first):
            if not math.isfinite(value):
                raise Diverged(
                    f"loss is not finite at step {step} ({step * self.batch:,} images seen) with lr {self.lr:g}, seed "
                    f"{self.seed}; try lr={self.lr / 10:g}, and look for extreme values in the data"
                )
            self.losses.append(value)

    @property
    def checked(self) -> bool:
        """Whether every loss so far was looked at."""
        return not self._pending

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: object) -> None:
        """The average moves toward the weights by 9 / (10 + steps): it looks back over a tenth of the steps so far, so
        that a short run does not keep its random start, which would hide memorization."""
        torch._foreach_lerp_(averages, weights, 9 / (10 + self.step))  # as swa_utils does, without waiting for a GPU

    def _settings(self) -> dict[str, Any]:
        """What makes this training this one: a checkpoint of another is refused."""
        inner = getattr(self.denoiser, "network", self.denoiser)
        labels = None if self.labels is None else files.sha256(self.labels.cpu().numpy().tobytes())
        return {
            "network": type(inner).__name__, "arguments": inner.arguments,
            "sigma_data": getattr(self.denoiser, "sigma_data", None), "n": len(self.x),
            "data": files.sha256(self.x.cpu().contiguous().numpy().tobytes()), "labels": labels, "seed": self.seed,
            "images_seen": self.images_seen, "batch": self.batch, "lr": self.lr, "noise": list(self.noise),
            "lam": self.lam, "clip": self.clip, "label_dropout": self.label_dropout,
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
        self.denoiser.load_state_dict(_part(tensors, "raw."))
        self.average.load_state_dict(_part(tensors, "average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            i, _, key = name.partition(".")
            moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(tensors["generator"].cpu())
        self.step, self.losses, self._pending = step, list(losses), []

    def averaged(self, losses_every: int = 50) -> nn.Module:
        """A copy of the denoiser with averaged weights, on the CPU, with its record."""
        result = _copy(self.denoiser)
        weights = {k.removeprefix("module."): v for k, v in self.average.state_dict().items() if k != "n_averaged"}
        result.load_state_dict({k: v.detach().cpu().clone() for k, v in weights.items()})
        every = max(1, self.steps // losses_every)
        means = [
            sum(part) / len(part) for i in range(0, len(self.losses), every) if (part := self.losses[i : i + every])
        ]
        settings = {k: v for k, v in self.settings.items() if k not in ("data", "labels", "arguments")}
        result.record = {
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
        self.classes = getattr(self.denoiser, "network", self.denoiser).arguments.get("classes")
        if (self.labels is None) != (self.classes is None):
            has, lacks = ("labels", "classes") if self.classes is None else (f"{self.classes} classes", "labels")
            raise SpikinessError(
                f"{has} but no {lacks}: give both the network classes= and the training labels=, or neither"
            )
        if self.labels is not None:
            if self.labels.shape != (len(self.x),) or self.labels.is_floating_point():
                raise SpikinessError(
                    f"labels are {self.labels.dtype} {list(self.labels.shape)}; give {len(self.x)} whole numbers"
                )
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= self.classes:
                raise SpikinessError(
                    f"labels go from {low} to {high}; this network has classes 0 .. {self.classes - 1}"
                )


def run(loop: Loop, stages: Sequence[int], checkpoint: Path | None, progress: bool) -> list[nn.Module]:
    """Train to the end; the denoiser as it was at each stage. Interrupted, it leaves a checkpoint and says so."""
    kept = _resume(loop, checkpoint) if checkpoint else []
    saved = time.monotonic()
    with _interruptions(checkpoint is not None) as asked, _bar(loop, progress) as bar:
        try:
            for step in loop:
                while len(kept) < len(stages) and step.images_seen >= stages[len(kept)]:
                    kept.append(loop.averaged())
                _show(bar, loop)
                late = time.monotonic() - saved > SAVE_SECONDS
                if loop.step == loop.steps or not loop.checked:
                    continue
                if checkpoint and (late or asked):
                    _save(loop, kept, checkpoint)
                    saved = time.monotonic()
                if asked:
                    _stop(asked[0], checkpoint)
        except torch.OutOfMemoryError as error:
            raise SpikinessError(
                f"out of memory with batches of {loop.batch}: use a smaller batch (try {max(1, loop.batch // 2)}), a "
                "smaller width, or device='cpu'"
            ) from error
        except Diverged as error:
            last = checkpoints.versions(checkpoint) if checkpoint else []
            raise Diverged(f"{error}; last good checkpoint: {last[0] if last else 'none'}") from error
    return kept


def _save(loop: Loop, kept: Sequence[nn.Module], folder: Path) -> None:
    tensors = loop.state()
    for i, denoiser in enumerate(kept):
        tensors |= {f"kept.{i}.{k}": v for k, v in denoiser.state_dict().items()}
    content = {"settings": loop.settings, "losses": loop.losses, "step": loop.step, "kept": [k.record for k in kept]}
    checkpoints.save(folder, loop.step, tensors, content)


def _resume(loop: Loop, folder: Path) -> list[nn.Module]:
    """Bring the loop to its newest whole checkpoint, if there is one; the denoisers kept until then."""
    found = checkpoints.load(folder, loop.settings)
    if found is None:
        return []
    tensors, content = found
    try:
        loop.restore(tensors, content["step"], content["losses"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise SpikinessError(
            f"the checkpoint in {folder} is of another version: delete it to start anew ({error})"
        ) from error
    kept = []
    for i, record in enumerate(content["kept"]):
        denoiser = _copy(loop.denoiser)
        denoiser.load_state_dict(_part(tensors, f"kept.{i}."))
        denoiser.record = record
        kept.append(denoiser.requires_grad_(False).eval())
    return kept


@contextlib.contextmanager
def _interruptions(wanted: bool) -> Iterator[list[int]]:
    """Signals asked to stop, in a list that a first Ctrl-C or SIGTERM fills; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before = {}
    if wanted:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread: the caller's own handling stays
                before[number] = signal.getsignal(number)
                signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)


def _stop(number: int, checkpoint: Path | None) -> None:
    sys.stderr.write(f"\ninterrupted: the same call goes on from the checkpoint in {checkpoint}\n")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _bar(loop: Loop, progress: bool) -> Iterator[Any]:
    """A bar of images seen, with rate and time left: on the terminal, or in the log of a run."""
    with contextlib.ExitStack() as stack:
        log = os.environ.get("SPIKINESS_LOG")
        file = stack.enter_context(open(log, "a", encoding="utf-8")) if log else sys.stderr
        looks = {"unit": " images", "unit_scale": True, "file": file, "mininterval": 10 if log else 0.5}
        name, done = f"n {len(loop.x)}, seed {loop.seed}", loop.step * loop.batch
        off = not (progress or log)
        yield stack.enter_context(tqdm(total=loop.images_seen, initial=done, desc=name, disable=off, **looks))


def _show(bar: Any, loop: Loop) -> None:
    bar.update(min(loop.step * loop.batch, loop.images_seen) - bar.n)
    if loop.losses and loop.step % 50 == 0:
        bar.set_postfix(loss=f"{sum(loop.losses[-50:]) / len(loop.losses[-50:]):.4f}", refresh=False)


def _denoiser(network: nn.Module, x: Tensor, sigma_data: float | None) -> nn.Module:
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise SpikinessError(f"x must be float [n, ...] with at least one image, got {x.dtype} {list(x.shape)}")
    if bad := int((~x.isfinite()).flatten(1).any(dim=1).sum()):
        raise SpikinessError(f"{bad} of {len(x)} images hold NaN or inf: remove them")
    if hasattr(network, "precondition"):
        return network
    return EDM(network, float(x.std()) if sigma_data is None else sigma_data)


def _copy(denoiser: nn.Module) -> nn.Module:
    """A denoiser of the same kind on the CPU, to be given other weights."""
    if isinstance(denoiser, EDM):
        return EDM(type(denoiser.network)(**denoiser.network.arguments), denoiser.sigma_data)
    return type(denoiser)(**denoiser.arguments)


def _part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
