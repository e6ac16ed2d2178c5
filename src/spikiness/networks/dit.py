"""A small diffusion transformer (DiT): patches as tokens; noise level and class scale, shift and gate (adaLN-zero)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spikiness.errors import SpikinessError
from spikiness.networks.unet import Embedding, at_least_one, check_images, check_size, initialize


class DiT(nn.Module):
    """`F(x, c_noise, labels)` for images [N, C, size, size], in their shape: a raw network, to be preconditioned.

    Images are cut into patches of `patch` pixels (default 2 up to 16 pixels, 4 above), each a token of `width` numbers;
    `depth` blocks of attention and MLP follow. `width` should be at least the C * patch^2 numbers of a patch: at small
    noise levels the noise must pass through, whole. With `classes` it takes labels as `UNet` does. No dropout.
    Nonlinearities are modules of their own, `blocks.0.act` to the last, [N, tokens, 4 * width] each.
    Raises `SpikinessError` for a size that patches do not divide, a width that heads do not divide, wrong labels.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int = 128,
        depth: int = 4,
        classes: int | None = None,
        *,
        heads: int = 4,
        patch: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        at_least_one(channels=channels, width=width, depth=depth, heads=heads)
        patch = (2 if size <= 16 else 4) if patch is None else patch
        at_least_one(size=size, patch=patch)
        check_size(size, patch, "patches")
        if width % (4 * heads):
            raise SpikinessError(f"width is {width}; {heads} heads and a grid of sines need a multiple of {4 * heads}")
        self.arguments: dict[str, Any] = {
            "channels": channels, "size": size, "width": width, "depth": depth, "classes": classes, "heads": heads,
            "patch": patch,
        }  # fmt: skip
        self.record: dict[str, Any] = {}
        self.embed = Embedding(width, classes)
        self.stem = nn.Conv2d(channels, width, patch, stride=patch)
        self.register_buffer("position", _grid(size // patch, width), persistent=False)  # [tokens, width]
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.modulate = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.head, self.unpatch = nn.Linear(width, channels * patch**2), nn.PixelShuffle(patch)
        initialize(self, generator)
        for last in [*(b.modulate for b in self.modules() if isinstance(b, Block)), self.modulate, self.head]:
            nn.init.zeros_(last.weight)  # adaLN-zero: every block starts as the identity, the network as zero

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """F(x, c_noise, labels), in the shape of x [N, C, size, size]: see `networks.Network`."""
        check_images(x, self.arguments)
        e = self.embed(c_noise, labels, len(x))  # [N, width]
        h = self.stem(x)  # [N, width, size / patch, size / patch]
        grid = h.shape[2:]
        h = h.flatten(2).mT + self.position  # [N, tokens, width]
        for block in self.blocks:
            h = block(h, e)
        scale, shift = self.modulate(e)[:, None].chunk(2, dim=2)
        h = self.head(torch.addcmul(shift, self.norm(h), 1 + scale))
        return self.unpatch(h.mT.unflatten(2, grid))


class Block(nn.Module):
    """Attention, then MLP, each after a norm scaled and shifted, and before a gate, by the embedding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulate = nn.Linear(width, 6 * width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.act, self.linear2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulate(e)[:, None].chunk(6, dim=2)
        h = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [N, heads, tokens, -1]
        h = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = torch.addcmul(x, gate1, self.out(h))
        h = torch.addcmul(shift2, self.norm2(x), 1 + scale2)
        return torch.addcmul(x, gate2, self.linear2(self.act(self.linear1(h))))


def _grid(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [side^2, width]: fixed positions, as in ViT."""
    frequencies = torch.linspace(0, -math.log(100), width // 4).exp()
    angle = torch.arange(side)[:, None] * frequencies  # [side, width / 4]
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, width / 2]
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
