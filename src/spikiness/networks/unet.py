"""A small U-Net: residual blocks on two or three scales, noise level and class as scale and shift of a norm."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikiness.errors import SpikinessError


class UNet(nn.Module):
    """`F(x, c_noise, labels)` for images [N, C, size, size], in their shape: a raw network, to be preconditioned.

    One residual block per scale on the way down and up, one in the middle; skips join by addition, which halves the
    arithmetic of the way up against concatenation. `width` is the number of channels at the finest scale, `multipliers`
    its factors at each scale (default: two scales up to 16 pixels, three above), `patch` > 1 makes the finest scale
    blocks of patch x patch pixels. With `classes` the network takes labels 0 .. classes - 1, and the null label
    `classes`, which is also what labels=None means. No dropout and no attention. Nonlinearities are modules of their
    own: `down.0.act1` .. `middle.act1` .. `up.0.act2`, `up.0` being the coarsest.
    Raises `SpikinessError` for a size that the scales do not divide, and for labels that are not classes.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int = 32,
        classes: int | None = None,
        *,
        multipliers: Sequence[int] | None = None,
        patch: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        at_least_one(channels=channels, size=size, width=width, patch=patch)
        multipliers = list(multipliers or ((1, 2) if size // patch <= 16 else (1, 2, 2)))
        check_size(size, patch * 2 ** (len(multipliers) - 1), "its scales")
        self.arguments: dict[str, Any] = {
            "channels": channels, "size": size, "width": width, "classes": classes, "multipliers": multipliers,
            "patch": patch,
        }  # fmt: skip
        self.record: dict[str, Any] = {}
        widths = [width * m for m in multipliers]
        embedding = 4 * width
        self.embed = Embedding(embedding, classes)
        self.unpatch, self.patch = nn.PixelShuffle(patch), nn.PixelUnshuffle(patch)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        steps = list(zip([width, *widths], widths, strict=False))
        self.down = nn.ModuleList(Block(a, b, embedding) for a, b in steps)
        self.middle = Block(widths[-1], widths[-1], embedding)
        self.up = nn.ModuleList(Block(b, a, embedding) for a, b in reversed(steps))
        self.shrink, self.grow = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
        self.norm, self.act = nn.GroupNorm(groups(width), width), nn.SiLU()
        self.head = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        initialize(self, generator)
        for last in [*(b.conv2 for b in self.modules() if isinstance(b, Block)), self.head]:
            nn.init.zeros_(last.weight)  # every block starts as its skip, the network as zero

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """F(x, c_noise, labels), in the shape of x [N, C, size, size]: see `networks.Network`."""
        check_images(x, self.arguments)
        e = self.embed(c_noise, labels, len(x))  # [N, 4 * width]
        h = self.stem(self.patch(x))
        skips = []
        for i, block in enumerate(self.down):
            h = block(h if i == 0 else self.shrink(h), e)
            skips.append(h)
        h = self.middle(h, e)
        for i, block in enumerate(self.up):
            h = block((h if i == 0 else self.grow(h)) + skips.pop(), e)
        return self.unpatch(self.head(self.act(self.norm(h))))


class Block(nn.Module):
    """norm, SiLU, conv, norm scaled and shifted by the embedding, SiLU, conv, plus the input."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.GroupNorm(groups(channels), channels), nn.SiLU()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * out)
        self.norm2, self.act2 = nn.GroupNorm(groups(out), out), nn.SiLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(self.act1(self.norm1(x)))
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, dim=1)
        h = self.act2(torch.addcmul(shift, self.norm2(h), 1 + scale))
        return self.skip(x) + self.conv2(h)


class Embedding(nn.Module):
    """Noise level c_noise [N] and labels [N] as one vector [N, dim]."""

    def __init__(self, dim: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.linspace(0, math.log(32), dim // 4).exp(), persistent=False)
        self.linear1, self.act1, self.linear2, self.act2 = (
            nn.Linear(dim // 2, dim),
            nn.SiLU(),
            nn.Linear(dim, dim),
            nn.SiLU(),
        )
        if classes is not None:
            at_least_one(classes=classes)
            self.label = nn.Embedding(classes + 1, dim)

    def forward(self, c_noise: Tensor, labels: Tensor | None, count: int) -> Tensor:
        angle = c_noise.reshape(-1, 1) * self.frequencies  # [N or 1, dim / 4]
        e = self.linear2(self.act1(self.linear1(torch.cat([angle.cos(), angle.sin()], dim=1))))
        if self.classes is not None:
            e = e + self.label(check_labels(labels, self.classes, count, e.device))
        elif labels is not None:
            raise SpikinessError("labels were given to a network without classes; make it with classes=...")
        return self.act2(e).expand(count, -1)


def groups(channels: int) -> int:
    """Groups of a GroupNorm: of 8 channels where they divide, else one."""
    return channels // 8 if channels % 8 == 0 else 1


def initialize(network: nn.Module, generator: torch.Generator | None) -> None:
    """Weights uniform as torch's default, from `generator` (torch's global one where it is None); biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            with torch.no_grad():
                module.weight.normal_(generator=generator)


def check_size(size: int, factor: int, what: str) -> None:
    """Refuse a `size` in pixels that is no multiple of `factor`; `what` needs it, and the error names the nearest."""
    at_least_one(size=size)
    if size % factor:
        low, high = size // factor * factor, (size // factor + 1) * factor
        nearest = f"{low} or {high}" if low else f"{high}"
        raise SpikinessError(f"size is {size}; {what} need a multiple of {factor}: resize or pad to {nearest}")


def check_images(x: Tensor, arguments: dict[str, Any]) -> None:
    """Refuse images that are not [N, C, size, size] with the `channels` and `size` of a network's arguments."""
    shape = (arguments["channels"], arguments["size"], arguments["size"])
    if x.ndim != 4 or tuple(x.shape[1:]) != shape:
        raise SpikinessError(
            f"images of shape {list(x.shape)}; this network was made for [N, {', '.join(map(str, shape))}]"
        )


def check_labels(labels: Tensor | None, classes: int, count: int, device: torch.device) -> Tensor:
    """labels [N] of 0 .. classes, the last one null; None means null for all."""
    if labels is None:
        return torch.full((count,), classes, device=device)
    labels = torch.as_tensor(labels, device=device)
    if labels.shape not in ((), (1,), (count,)) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise SpikinessError(
            f"labels are {labels.dtype} {list(labels.shape)}; give whole numbers, one for each of {count} images"
        )
    if not torch.compiler.is_compiling() and ((labels < 0) | (labels > classes)).any():
        bad = labels[(labels < 0) | (labels > classes)].flatten()[0].item()
        raise SpikinessError(f"label {bad} is not one of 0 .. {classes - 1}, or {classes} for none")
    return labels.long().expand(count)


def at_least_one(**values: int) -> None:
    """Refuse, by its name, what is not a whole number of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpikinessError(f"{name} must be a whole number of at least 1, got {value!r}")
