"""What a network must be to be trained, kept and measured: the contracts, and the check of them."""

import inspect
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from spikiness.errors import SpikinessError


@runtime_checkable
class Network(Protocol):
    """A raw network: a `torch.nn.Module` that `denoisers.EDM` makes a denoiser, and `training.fit_diffusion` trains.

    `forward(x, c_noise, labels)` gets images x [N, C, H, W] scaled to unit variance, c_noise [N] or [1], a quarter of
    the logarithm of the noise level, and labels [N] or None. It answers in the shape of x. A network without classes
    refuses labels; one with classes takes None for the null label.

    `arguments` holds what the constructor was called with, by name, as JSON: `type(network)(**network.arguments)` is a
    network of the same shape, and the cache rebuilds it so. Some names have a meaning elsewhere: `channels` and `size`
    (or `dim`) are what a detector asks of images, `classes` (a number, or None) what training asks of labels.

    `record` is an empty dict that training fills, as JSON, with how it went.

    Optional: a network that is a denoiser itself is a `Preconditioned` one, and EDM leaves it alone. A network with a
    `penalty()`, a scalar of its weights, may be trained with `lam`. Modules for nonlinearities (`nn.SiLU`, not
    `functional.silu`), each called once, are what the detector can look at.

    To add one: a file in `spikiness/networks/`, and its class in `networks.REGISTRY`. The constructor takes a
    `generator` for its first weights.
    """

    arguments: dict[str, Any]
    record: dict[str, Any]

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """F(x, c_noise, labels), in the shape of x."""
        ...


@runtime_checkable
class Preconditioned(Protocol):
    """A denoiser that can be trained as it is, beside its `forward(y, sigma)`: `denoisers.EDM` and `TimeDAE` are two.

    `arguments` and `record` are those of a `Network`.
    """

    arguments: dict[str, Any]
    record: dict[str, Any]

    def precondition(self, y: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        """D(y, sigma), unchecked, for `level` shaped to multiply y: training calls it at every step."""
        ...

    def loss_weight(self, level: Tensor) -> Tensor:
        """The weight of the squared error at each noise level, in the shape of `level`."""
        ...


def check_network(network: object) -> None:
    """Refuse what training cannot use, naming each part of the contract that is missing."""
    if not isinstance(network, nn.Module):
        raise SpikinessError(f"network is a {type(network).__name__}; a network is a torch.nn.Module: networks.Network")
    contract, method, call = Network.__name__, "forward", "(x, c_noise, labels)"
    if hasattr(network, "precondition"):
        contract, method, call = Preconditioned.__name__, "precondition", "(y, level, labels)"
    attributes = {"arguments": "a dict of what its constructor was called with", "record": "an empty dict"}
    lacking = [
        f"`{name}`, {what}" for name, what in attributes.items() if not isinstance(getattr(network, name, None), dict)
    ]
    if method == "precondition" and not hasattr(network, "loss_weight"):
        lacking.append("`loss_weight(level)`")
    try:
        inspect.signature(getattr(network, method)).bind(None, None, None)
    except TypeError:
        lacking.append(f"`{method}{call}`")
    if lacking:
        raise SpikinessError(
            f"{type(network).__name__} lacks {', and '.join(lacking)}: networks.{contract} says what each is"
        )
