"""Representations of any network: its layers by name, and the features of one, computed no further than needed."""

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikiness.denoisers import noise_level
from spikiness.errors import Registry, SpikinessError, suggest


def _per_unit(reduce: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Reduce over space [N, C, H, W] or tokens [N, tokens, C]; features [N, p] have neither and stay."""
    if features.ndim == 4:
        return reduce(features.flatten(2))
    return reduce(features.mT) if features.ndim == 3 else features


#: Ways to make features [N, p] of a layer's output, of all places or one number for each channel.
POOLS: Registry[Callable[[Tensor], Tensor]] = Registry(
    "pool",
    {
        "all": lambda h: h.flatten(1),
        "mean": lambda h: _per_unit(lambda x: x.mean(dim=2), h),
        "max": lambda h: _per_unit(lambda x: x.amax(dim=2), h),
    },
)
NONLINEARITIES = (nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Softplus)


ENCODE = "encode"  # the layer of a two-layer network, whose representation is a method and no module


class _Reached(BaseException):
    """Raised by a hook to end a forward pass: no `except Exception` of a model may catch it."""


def layers(model: nn.Module, nonlinearities: bool = False) -> list[str]:
    """Names of the layers of a model that can be captured, in its own order; only its `nonlinearities` where asked.

    A model with a method `encode` (the two-layer networks) has a layer of that name, first.
    """
    named = [(name, module) for name, module in model.named_modules() if name]
    names = [name for name, module in named if not nonlinearities or isinstance(module, NONLINEARITIES)]
    return [ENCODE, *names] if _has_encode(model) else names


def _has_encode(model: nn.Module) -> bool:
    return callable(getattr(model, ENCODE, None)) and ENCODE not in dict(model.named_modules())


def noisy(x: Tensor, sigma: Tensor | float, seed: int = 0, draw: int = 0) -> Tensor:
    """x [N, ...] with noise of level sigma, N(0, sigma^2): image i's depends on its own values, `seed` and `draw`
    alone, not on its place, the batch or the device."""
    flat = x.detach().to("cpu", torch.float32).flatten(1).contiguous()
    noise = torch.empty(len(flat), -(-flat.shape[1] // 16) * 16)  # torch's draws of multiples of 16 are stable
    generator = torch.Generator()
    for image, row in zip(flat.numpy(), noise, strict=True):
        digest = hashlib.blake2b(image, digest_size=8, key=f"{seed}/{draw}".encode()).digest()
        row.normal_(generator=generator.manual_seed(int.from_bytes(digest) >> 1))
    noise = noise[:, : flat.shape[1]].reshape(x.shape).to(x.device, x.dtype)
    return torch.addcmul(x, noise, noise_level(sigma, x, x.ndim))


@torch.no_grad()
def capture(
    model: nn.Module,
    layer: str,
    y: Tensor,
    sigma: Tensor | float,
    pool: str = "all",
    *,
    batch: int = 256,
    **arguments: Tensor,
) -> Tensor:
    """Features [N, p] of `layer` when `model(y, sigma)` is called with noisy y [N, ...]: no layer after it is computed.

    `pool` is all (every unit at every place), mean or max (over space or tokens, one number per channel). `arguments`
    [N, ...] go to the model with each batch (labels). Raises SpikinessError for a layer the model does not have (the
    nearest names listed), one that the forward pass does not reach, and one whose output is not one row per image.
    """
    reduce = POOLS[pool]
    parts = capture_each(model, [layer], y, sigma, lambda _, h: reduce(h), batch=batch, **arguments)
    return parts[layer]


@torch.no_grad()
def capture_each(
    model: nn.Module,
    names: Sequence[str],
    y: Tensor,
    sigma: Tensor | float,
    reduce: Callable[[str, Tensor], Tensor],
    *,
    batch: int = 256,
    **arguments: Tensor,
) -> dict[str, Tensor]:
    """`reduce(name, features)` [N, ...] of several layers, from one pass through `model(y, sigma)` to the last of them.

    `features` are those of a batch at a time, whole: [B, C, H, W], [B, tokens, C] or [B, p]. The model answers as in
    evaluation (no dropout, no moving statistics), whatever mode it is left in. Errors as for `capture`.
    """
    modules = {name: check_layer(model, name) for name in names}
    level = noise_level(sigma, y, 1).expand(len(y))
    parts: dict[str, list[Tensor]] = {name: [] for name in modules}
    with evaluating(model):
        for rows in _rows(len(y), batch):
            given = {key: value[rows] for key, value in arguments.items()}
            for name, value in _reduced(model, modules, y[rows], level[rows], given, reduce).items():
                parts[name].append(value)
    return {name: torch.cat(batches) for name, batches in parts.items()}


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """A module, and all in it, in evaluation mode; afterwards each is in the mode it was in."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    if not isinstance(model, nn.Module) or not training:  # most often: telling every module again takes its time
        yield
        return
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)  # for what a model keeps apart from its modules
        for module in model.modules():
            module.training = False
        for module in training:
            module.training = True


def represent(
    model: nn.Module, layer: str, x: Tensor, sigma: float, pool: str = "all", *, draws: int = 1, seed: int = 0,
    batch: int = 256, **arguments: Tensor,
) -> Tensor:  # fmt: skip
    """Features [N, p] of clean images x [N, ...]: `capture` of `noisy` ones, mean over `draws` of the noise."""
    if draws < 1:
        raise SpikinessError(f"draws is {draws}: a representation is the mean over at least 1 draw of the noise")
    parts = (
        capture(model, layer, noisy(x, sigma, seed, draw), sigma, pool, batch=batch, **arguments)
        for draw in range(draws)
    )
    return sum(parts, start=torch.zeros(())) / draws


def cost(model: nn.Module, layer: str, y: Tensor, sigma: Tensor | float, **arguments: Tensor) -> float:
    """Share of the arithmetic (FLOPs of products and convolutions) of `model(y, sigma)` done until `layer` is known."""
    return costs(model, [layer], y, sigma, **arguments)[layer]


@torch.no_grad()
def costs(
    model: nn.Module, names: Sequence[str], y: Tensor, sigma: Tensor | float, **arguments: Tensor
) -> dict[str, float]:
    """The `cost` of each of the layers `names`, all from one pass. Raises SpikinessError for what is not reached."""
    from torch.utils.flop_counter import FlopCounterMode  # here, since it brings triton

    modules = {name: check_layer(model, name) for name in names}
    level = noise_level(sigma, y, 1).expand(len(y))
    done: dict[str, int] = {}
    with evaluating(model):
        if ENCODE in modules and modules[ENCODE] is None:
            with FlopCounterMode(display=False) as part:
                _encode(model, y, level)
            done[ENCODE] = part.get_total_flops()
        whole = FlopCounterMode(display=False)
        with whole, _watched(modules, lambda name, _: done.setdefault(name, whole.get_total_flops())):
            model(y, level, **arguments)
    for name in names:
        if name not in done:
            raise _not_reached(name)
    return {name: done[name] / max(whole.get_total_flops(), 1) for name in names}


@torch.no_grad()
def reached(model: nn.Module, names: Sequence[str], y: Tensor, sigma: Tensor | float) -> list[str]:
    """Those of the layers `names` that `model(y, sigma)` reaches and that have features: a row of numbers per image.

    With two images of y [N, ...] or more, what all images share (an embedding of the noise level) is left out.
    """
    modules = {name: check_layer(model, name) for name in names}
    modules = {name: m for name, m in modules.items() if not isinstance(m, torch.jit.ScriptModule)}  # takes no hook
    able = {name: True for name, module in modules.items() if module is None}

    def judge(name: str, output: object) -> None:
        if name not in able:  # of a layer that is called several times, the first, as in `capture`
            able[name] = (
                isinstance(output, Tensor)
                and output.is_floating_point()
                and output.layout == torch.strided
                and output.ndim >= 2
                and len(output) == len(y)
            )

    with evaluating(model), _watched(modules, judge):
        model(y, noise_level(sigma, y, 1).expand(len(y)))
    return [name for name in names if able.get(name)]


@contextlib.contextmanager
def _watched(modules: dict[str, nn.Module | None], see: Callable[[str, object], object]) -> Iterator[None]:
    """`see(name, output)` is called whenever one of the modules has answered."""

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def call(module: nn.Module, inputs: object, output: object) -> None:
            see(name, output)  # what a hook returns would take the place of the output

        return call

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items() if module is not None]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _encode(model: nn.Module, y: Tensor, sigma: Tensor) -> Tensor:
    """The representation of a two-layer network, which may know the noise level."""
    encode: Any = getattr(model, ENCODE)
    return encode(y, sigma) if len(inspect.signature(encode).parameters) > 1 else encode(y)


def _not_reached(name: str) -> SpikinessError:
    return SpikinessError(f"the forward pass does not reach layer {name!r}: choose another of layers(model)")


def check_layer(model: nn.Module, name: str) -> nn.Module | None:
    """The module called `name`, None for a model's own `encode`; refused, naming the nearest, where there is none."""
    modules = dict(model.named_modules())
    if name == ENCODE and _has_encode(model):
        return None
    if not name or name not in modules:
        every = layers(model)
        raise SpikinessError(f"no layer {name!r}{suggest(name, every)}: layers(model) lists all {len(every)}")
    return modules[name]


def _rows(count: int, batch: int) -> Iterator[slice]:
    if count < 1 or batch < 1:
        raise SpikinessError(f"{count} images in batches of {batch}: give at least one image and a batch of at least 1")
    return (slice(start, start + batch) for start in range(0, count, batch))


def _reduced(
    model: nn.Module,
    modules: dict[str, nn.Module | None],
    y: Tensor,
    sigma: Tensor,
    arguments: dict[str, Tensor],
    reduce: Callable[[str, Tensor], Tensor],
) -> dict[str, Tensor]:
    """What `reduce` makes of each layer's features, as they leave the layer: what changes them in place comes later."""
    reduced: dict[str, Tensor] = {}

    def take(name: str, features: object) -> None:
        if not isinstance(features, Tensor):
            kind = type(features).__name__
            raise SpikinessError(f"layer {name!r} gives a {kind}, not a tensor: choose a layer inside it")
        if features.ndim < 2 or len(features) != len(y):
            raise SpikinessError(f"layer {name!r} gives {list(features.shape)} for {len(y)} images: not one row each")
        value = reduce(name, features.float() if features.dtype.itemsize < 4 else features)
        reduced[name] = value.clone() if value.data_ptr() == features.data_ptr() else value

    if ENCODE in modules and modules[ENCODE] is None:
        take(ENCODE, _encode(model, y, sigma))

    def keep(name: str, output: object) -> None:
        if name not in reduced:  # of a layer that is called several times, the first
            take(name, output)
        if len(reduced) == len(modules):
            raise _Reached

    if len(reduced) < len(modules):
        with contextlib.suppress(_Reached), _watched(modules, keep):
            model(y, sigma, **arguments)
    for name in modules:
        if name not in reduced:
            raise _not_reached(name)
    return reduced
