"""Training of diffusion models by EDM's loss, that can stop and go on to the bit.

The axis of training is images seen, since the number of training images is what the book varies.
"""

import contextlib
import copy
import operator
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

import spikiness.training.checkpoints as checkpoints  # not the package: a cached network is known by what this imports
from spikiness.denoisers import EDM
from spikiness.errors import Diverged, SpikinessError
from spikiness.networks.contract import Preconditioned, check_network
from spikiness.training.loop import LOG_NORMAL, Loop, fresh_copy, part

SAVE_SECONDS = 20.0  # between checkpoints


def fit_diffusion(
    x: Tensor,
    network: nn.Module | Callable[..., nn.Module],
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
    (default: that of x), or a denoiser itself. It may also be a factory of one: a callable that takes `generator=`,
    such as `functools.partial(UNet, 1, 8, width=16)`, and is built with a generator of this `seed`. Then the seed fixes
    all that a call does, while a network given ready-made starts from the weights that it has.
    The loss is EDM's, weight * |D(x + sigma eps) - x|^2 / d, with `noise` the distribution of sigma, plus
    lam / d * penalty() where the network has one (`TimeDAE`: objective (6) over d). With `labels` [n] of a network with
    classes, a share `label_dropout` of them is null. Adam; the learning rate warms up, stays, and falls to zero from
    half-way on; gradients are clipped to norm `clip`.
    `images_seen` counts images drawn, with replacement. With `stages`, numbers of images seen, the result is a list of
    denoisers, one as it was at each stage and the last at the end. `device` is auto, cpu, cuda or mps.
    With `checkpoint`, a folder, everything is saved there every 20 seconds and on Ctrl-C or SIGTERM; called again, it
    goes on from there, on a CPU with as many threads to the bit. `network` itself is left as it is, and results are on
    the CPU, whatever trained them. `.record` of each result: settings, images seen, losses along the way.
    Raises `SpikinessError` on impossible values, a factory that builds no network, a device that is not there, too
    little memory, and a checkpoint of other settings; `Diverged` at the first loss that is not finite, with the last
    good checkpoint named.
    """
    place, seed = find_device(device), operator.index(seed)
    denoiser = _denoiser(_built(network, seed), x, sigma_data)
    with _enough_memory(batch):
        x = x.to(place, next(denoiser.parameters()).dtype)
        labels = None if labels is None else torch.as_tensor(labels).to(place)
        denoiser = copy.deepcopy(denoiser).to(place)
        loop = Loop(x, denoiser, seed, labels, images_seen, batch, lr, noise, lam, clip, label_dropout)
        wanted = sorted({*(stages or []), images_seen})
        if wanted[0] < 1 or wanted[-1] > images_seen:
            raise SpikinessError(f"stages {list(stages or [])} must lie between 1 and images_seen = {images_seen}")
        kept = run(loop, wanted, None if checkpoint is None else Path(checkpoint), progress)
    return kept if stages is not None else kept[-1]


@contextlib.contextmanager
def _enough_memory(batch: int) -> Iterator[None]:
    """Running out of memory, on a GPU or a CPU, as one error that says what to do."""
    try:
        yield
    except RuntimeError as error:  # torch's own error on a GPU is one, on a CPU it is known by its words
        if not isinstance(error, torch.OutOfMemoryError) and not re.search(
            r"allocate memory|enough memory", str(error)
        ):
            raise
        raise SpikinessError(
            f"out of memory with batches of {batch}: use a smaller batch (try {max(1, batch // 2)}), a smaller width, "
            "or another device"
        ) from error


def find_device(name: str) -> torch.device:
    """The device called `name`; auto is a GPU where there is one. Raises `SpikinessError` where it is absent."""
    name = str(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind, False) or (number and not (number.isdigit() and int(number) < count)):
        present = ", ".join(["auto", *(other for other, here in there.items() if here)])
        raise SpikinessError(f"device {name!r} is not on this machine: choose one of {present}")
    return torch.device(name)


def run(loop: Loop, stages: Sequence[int], checkpoint: Path | None, progress: bool) -> list[nn.Module]:
    """Train to the end; the denoiser as it was at each stage. Interrupted, it leaves a checkpoint and says so."""
    settings = {**loop.settings, "stages": list(stages)}
    started = time.monotonic()
    kept, before = _resume(loop, settings, checkpoint) if checkpoint else ([], 0.0)
    saved = time.monotonic()
    with _interruptions(checkpoint is not None) as asked, _bar(loop, progress) as bar:
        try:
            for step in loop:
                while len(kept) < len(stages) and step.images_seen >= stages[len(kept)]:
                    kept.append(loop.averaged())
                _show(bar, loop)
                if not loop.checked or (loop.step == loop.steps and not asked):
                    continue
                if checkpoint and (asked or time.monotonic() - saved > SAVE_SECONDS):
                    _save(loop, settings, kept, checkpoint, before + time.monotonic() - started)
                    saved = time.monotonic()
                if asked:
                    _stop(asked[0], checkpoint)
            loop.check_weights()
        except Diverged as error:
            last = checkpoints.versions(checkpoint) if checkpoint else []
            raise Diverged(f"{error}; last good checkpoint: {last[0] if last else 'none'}") from error
    return kept


def _save(loop: Loop, settings: dict[str, Any], kept: Sequence[nn.Module], folder: Path, seconds: float) -> None:
    """A checkpoint, with the seconds of training that led to it, those before an interruption included."""
    loop.check_weights()
    tensors = loop.state()
    for i, denoiser in enumerate(kept):
        tensors |= {f"kept.{i}.{k}": v for k, v in denoiser.state_dict().items()}
    content = {"settings": settings, "losses": loop.losses, "step": loop.step, "kept": [k.record for k in kept]}
    content["seconds"] = seconds
    checkpoints.save(folder, loop.step, tensors, content)


def _resume(loop: Loop, settings: dict[str, Any], folder: Path) -> tuple[list[nn.Module], float]:
    """Bring the loop to its newest whole checkpoint, if there is one; denoisers kept and seconds taken until then."""
    version = checkpoints.load(folder, settings)
    if version is None:
        return [], 0.0
    tensors, content = version
    try:
        loop.restore(tensors, content["step"], content["losses"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise SpikinessError(
            f"the checkpoint in {folder} is of another version: delete it to start anew ({error})"
        ) from error
    kept = []
    for i, record in enumerate(content["kept"]):
        denoiser = fresh_copy(loop.denoiser)
        denoiser.load_state_dict(part(tensors, f"kept.{i}."))
        cast(Preconditioned, denoiser).record = record
        kept.append(denoiser.requires_grad_(False).eval())
    return kept, content.get("seconds", 0.0)  # a checkpoint of an earlier version does not say


@contextlib.contextmanager
def _interruptions(wanted: bool) -> Iterator[list[int]]:
    """Signals asked to stop, in a list that a first Ctrl-C or SIGTERM fills; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    if wanted:
        numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            with contextlib.suppress(ValueError):  # not the main thread: the caller's own handling stays
                before[number] = signal.getsignal(number)
                if before[number] != signal.SIG_IGN:  # nohup and the like chose not to be interrupted
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


def _built(network: nn.Module | Callable[..., nn.Module], seed: int) -> nn.Module:
    """The network itself, or what a factory of one builds from a generator of this seed."""
    if isinstance(network, nn.Module):
        return network
    built = network(generator=torch.Generator().manual_seed(seed)) if callable(network) else network
    if not isinstance(built, nn.Module):
        raise SpikinessError(
            f"network must be a torch module, or a callable that takes generator= and builds one; it gave {built!r}"
        )
    return built


def _denoiser(network: nn.Module, x: Tensor, sigma_data: float | None) -> nn.Module:
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise SpikinessError(f"x must be float [n, ...] with at least one image, got {x.dtype} {list(x.shape)}")
    if bad := int((~x.isfinite()).flatten(1).any(dim=1).sum()):
        raise SpikinessError(f"{bad} of {len(x)} images hold NaN or inf: remove them")
    check_network(network)
    if hasattr(network, "precondition"):
        if sigma_data is not None:
            raise SpikinessError("sigma_data is for raw networks: this one is a denoiser already, leave it out")
        return network
    return EDM(network, float(x.std()) if sigma_data is None else sigma_data)
