"""Representations of any network: its layers by name, and the features of one, computed no further than needed."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from spikiness.denoisers import noise_level
from spikiness.errors import SpikinessError, suggest


def _per_unit(reduce: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Reduce over space [N, C, H, W] or tokens [N, tokens, C]; features [N, p] have neither and stay."""
    if features.ndim == 4:
        return reduce(features.flatten(2))
    return reduce(features.mT) if features.ndim == 3 else features


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda h: h.flatten(1),
    "mean": lambda h: _per_unit(lambda x: x.mean(dim=2), h),
    "max": lambda h: _per_unit(lambda x: x.amax(dim=2), h),
}
NONLINEARITIES = (nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Softplus)


class _Reached(BaseException):
    """Raised by a hook to end a forward pass: no `except Exception` of a model may catch it."""


def layers(model: nn.Module, nonlinearities: bool = False) -> list[str]:
    """Names of the layers of a model that can be captured, in its own order; only its `nonlinearities` where asked."""
    named = [(name, module) for name, module in model.named_modules() if name]
    return [name for name, module in named if not nonlinearities or isinstance(module, NONLINEARITIES)]


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
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        raise SpikinessError(f"no layer {layer!r}{suggest(layer, modules)}: layers(model) lists all {len(modules) - 1}")
    if pool not in POOLS:
        raise SpikinessError(f"unknown pool {pool!r}: one of {', '.join(POOLS)}{suggest(pool, POOLS)}")
    level = noise_level(sigma, y, 1).expand(len(y))
    parts = []
    for rows in _rows(len(y), batch):
        features = _output(
            model, modules[layer], layer, y[rows], level[rows], {k: v[rows] for k, v in arguments.items()}
        )
        if features.ndim < 2 or len(features) != len(y[rows]):
            raise SpikinessError(
                f"layer {layer!r} gives {list(features.shape)} for {len(y[rows])} images: not one row each"
            )
        parts.append(POOLS[pool](features).float() if features.dtype.itemsize < 4 else POOLS[pool](features))
    return torch.cat(parts)


def _rows(count: int, batch: int) -> Iterator[slice]:
    if count < 1 or batch < 1:
        raise SpikinessError(f"{count} images in batches of {batch}: give at least one image and a batch of at least 1")
    return (slice(start, start + batch) for start in range(0, count, batch))


def _output(model: nn.Module, module: nn.Module, layer: str, y: Tensor, sigma: Tensor, arguments: dict) -> Tensor:
    found = []

    def stop(module: nn.Module, inputs: object, output: object) -> None:
        found.append(output)
        raise _Reached

    hook = module.register_forward_hook(stop)
    try:
        model(y, sigma, **arguments)
    except _Reached:
        pass
    finally:
        hook.remove()
    if not found:
        raise SpikinessError(f"the forward pass does not reach layer {layer!r}: choose another of layers(model)")
    if not isinstance(found[0], Tensor):
        raise SpikinessError(
            f"layer {layer!r} gives a {type(found[0]).__name__}, not a tensor: choose a layer inside it"
        )
    return found[0]
