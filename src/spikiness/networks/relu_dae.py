"""The two-layer ReLU denoising autoencoder and its loss, the network the theory is about."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikiness.errors import SpikinessError


class ReLUDAE(nn.Module):
    """`f(y) = W2 relu(W1^T y)`, bias free, with W1, W2 in R^{d x p}; tied means W2 is W1, one parameter.

    `dim` is d, the number of pixels of one image, `width` is p. Weights start as `torch.nn.Linear`'s do.
    Raises `SpikinessError` where d or p is not a positive integer.
    """

    def __init__(self, dim: int, width: int, tied: bool = True, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.arguments: dict[str, Any] = {"dim": dim, "width": width, "tied": tied}
        self.record: dict[str, Any] = {}  # how it was trained; JSON only
        self.w1 = nn.Parameter(_uniform(dim, width, fan_in=dim, generator=generator))  # [d, p]
        if not tied:
            self._w2 = nn.Parameter(_uniform(dim, width, fan_in=width, generator=generator))  # [d, p]

    @property
    def tied(self) -> bool:
        return self.arguments["tied"]

    @property
    def w2(self) -> nn.Parameter:
        return self.w1 if self.tied else self._w2

    def encode(self, y: Tensor) -> Tensor:
        """The representation `h(y) = relu(W1^T y)`: y [N, ...] of d numbers each -> [N, p]."""
        flat = y.flatten(1)
        if flat.shape[1] != self.w1.shape[0]:
            raise SpikinessError(
                f"this network was made for d = {self.w1.shape[0]}, got inputs of shape {tuple(y.shape)} "
                f"(d = {flat.shape[1]}); make one with ReLUDAE(dim={flat.shape[1]}, ...)"
            )
        return torch.relu(flat @ self.w1)

    def forward(self, y: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """The estimate of x given y [N, ...], in the shape of y; one noise level is built in, so sigma is not read."""
        return (self.encode(y) @ self.w2.T).reshape(y.shape)


def _uniform(dim: int, width: int, fan_in: int, generator: torch.Generator | None) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(dim, width).uniform_(-bound, bound, generator=generator)


def loss_and_gradients(w1: Tensor, w2: Tensor, x: Tensor, y: Tensor, lam: float | Tensor) -> tuple[Tensor, ...]:
    """Objective (6) on one batch and its gradients by hand: `(loss, dW1, dW2)`; `(loss, dW)` where w2 is w1.

    w1, w2 [..., d, p], x and y [..., B, d], lam a number or [...]; any leading ensemble axes. Five matrix products
    and no graph: at the sizes of this book autograd's bookkeeping costs as much as the arithmetic.
    """
    batch = x.shape[-2]
    lam = torch.as_tensor(lam, dtype=x.dtype, device=x.device)
    a = y @ w1  # [..., B, p]
    h = torch.relu(a)
    r = torch.matmul(h, w2.mT).sub_(x)  # [..., B, d]
    penalty = w1.square().sum((-2, -1)) + w2.square().sum((-2, -1))
    loss = r.square().sum((-2, -1)) / batch + lam * penalty
    g = (r @ w2).mul_(a > 0)  # [..., B, p]
    decay = (2 * lam)[..., None, None]
    dw1 = torch.mul(y.mT @ g, 2 / batch).add_(decay * w1)
    dw2 = torch.mul(r.mT @ h, 2 / batch).add_(decay * w2)
    return (loss, dw1.add_(dw2)) if w2 is w1 else (loss, dw1, dw2)
