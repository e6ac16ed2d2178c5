"""How the diffusion models of the book are trained. Its code and all it imports are part of what a kept model is known
by, so it imports what trains and nothing else."""

from typing import Any

import torch
from torch import Tensor

from spikiness.denoisers import EDM
from spikiness.networks.dit import DiT
from spikiness.networks.unet import UNet
from spikiness.training.diffusion import fit_diffusion

NETWORKS = {"unet": UNet, "dit": DiT}
STAGES = 8  # denoisers kept along one training, at images_seen / 2^7 .. images_seen


def stages(images_seen: int) -> list[int]:
    """Images seen at which a model is kept: doubling, up to the end."""
    return [max(1, images_seen >> k) for k in reversed(range(STAGES))]


def fit(
    x: Tensor,
    width: int,
    seed: int,
    images_seen: int,
    network: str = "unet",
    labels: Tensor | None = None,
    sigma_data: float | None = None,
    options: dict[str, Any] | None = None,
    checkpoint: object = None,
) -> list[EDM]:
    """One model at its `stages`: `network` of `width` (ten classes where there are labels), started from `seed`."""
    classes = None if labels is None else 10
    generator = torch.Generator().manual_seed(seed)
    raw = NETWORKS[network](x.shape[1], x.shape[2], width, classes=classes, generator=generator, **(options or {}))
    return fit_diffusion(
        x, raw, seed, labels, images_seen, stages=stages(images_seen), sigma_data=sigma_data, checkpoint=checkpoint
    )
