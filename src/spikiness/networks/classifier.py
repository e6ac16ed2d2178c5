"""A small classifier of images, whose features measure the quality of samples."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from spikiness.errors import SpikinessError


class Classifier(nn.Module):
    """Two 3 x 3 convolutions with max-pooling and one hidden layer of f = 4 `width` ReLUs, the features.

    For images [N, `channels`, `size`, `size`], `size` a multiple of 4. Weights start as `torch.nn.Linear`'s do.
    Raises `SpikinessError` for numbers that are not positive and whole, sizes that 4 does not divide, one class only,
    and images of another shape.
    """

    def __init__(
        self, channels: int, size: int, classes: int = 10, width: int = 32, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"channels": channels, "size": size, "classes": classes, "width": width}
        self.record: dict[str, Any] = {}  # how it was trained; JSON only
        least = {"classes": 2, "size": 4}
        for name, value in self.arguments.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least.get(name, 1):
                raise SpikinessError(f"{name} must be a whole number of at least {least.get(name, 1)}, got {value!r}")
        if size % 4:
            raise SpikinessError(f"size must be a multiple of 4, got {size}; pad the images to {size + -size % 4}")
        self.first = skip_init(nn.Conv2d, channels, width, 3, padding=1)
        self.second = skip_init(nn.Conv2d, width, 2 * width, 3, padding=1)
        self.hidden = skip_init(nn.Linear, 2 * width * (size // 4) ** 2, 4 * width)
        self.last = skip_init(nn.Linear, 4 * width, classes)
        for layer in (self.first, self.second, self.hidden, self.last):  # torch's own start, from this generator
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for weight in layer.parameters():
                nn.init.uniform_(weight, -bound, bound, generator=generator)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer's activations: images x [N, C, H, W] -> [N, f], all >= 0."""
        channels, size = self.arguments["channels"], self.arguments["size"]
        if x.shape[1:] != (channels, size, size):
            raise SpikinessError(
                f"this classifier was made for images [N, {channels}, {size}, {size}], got shape {tuple(x.shape)}"
            )
        h = nn.functional.max_pool2d(self.first(x).relu(), 2)  # [N, width, H / 2, W / 2]
        h = nn.functional.max_pool2d(self.second(h).relu(), 2)  # [N, 2 width, H / 4, W / 4]
        return self.hidden(h.flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images x [N, C, H, W]."""
        return self.last(self.features(x))
