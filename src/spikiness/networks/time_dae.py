"""The ReLU-DAE of all noise levels at once: the two-layer network that the paper samples from (Figure 2)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikiness.errors import SpikinessError


class TimeDAE(nn.Module):
    """`D(y, sigma) = W (relu(W^T y) * exp(MLP(log sigma))) + s y`, one tied W in R^{d x p}, s a learned scalar.

    A denoiser itself: y [N, ...] of d numbers each, sigma a number or [N]. The gate's last layer starts at zero, so
    that the network starts as a ReLU-DAE. Raises `SpikinessError` where d or p is not a positive integer and for
    inputs of another d.
    """

    def __init__(self, dim: int, width: int, *, hidden: int = 64, generator: torch.Generator | None = None) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("hidden", hidden)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.arguments: dict[str, Any] = {"dim": dim, "width": width, "hidden": hidden}
        self.record: dict[str, Any] = {}
        bound = 1 / math.sqrt(dim)
        self.w = nn.Parameter(torch.empty(dim, width).uniform_(-bound, bound, generator=generator))  # [d, p]
        self.gate1, self.act, self.gate2 = nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, width)
        with torch.no_grad():
            self.gate1.weight.uniform_(-1, 1, generator=generator)
            self.gate1.bias.uniform_(-1, 1, generator=generator)
        nn.init.zeros_(self.gate2.weight)
        nn.init.zeros_(self.gate2.bias)
        self.skip = nn.Parameter(torch.zeros(()))

    def encode(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """The representation `relu(W^T y) * exp(MLP(log sigma))`: y [N, ...] -> [N, p]."""
        flat = y.flatten(1)
        if flat.shape[1] != self.w.shape[0]:
            raise SpikinessError(
                f"this network was made for d = {self.w.shape[0]}; inputs {tuple(y.shape)} have another"
            )
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).reshape(-1, 1)  # [N or 1, 1]
        return torch.relu(flat @ self.w) * self.gate2(self.act(self.gate1(level.log()))).exp()

    def forward(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """The estimate of x given y [N, ...], in the shape of y."""
        return (self.encode(y, sigma) @ self.w.T).reshape(y.shape) + self.skip * y

    def precondition(self, y: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same, as training calls every denoiser; there are no classes."""
        return self(y, level)

    def loss_weight(self, level: Tensor) -> Tensor:
        """Plain squared error at every noise level, as in the paper."""
        return torch.ones_like(level)

    def penalty(self) -> Tensor:
        """|W1|_F^2 + |W2|_F^2 of objective (6), with W1 = W2 = W."""
        return 2 * self.w.square().sum()
