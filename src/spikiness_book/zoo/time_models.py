"""How a two-layer denoiser of all noise levels is trained; imports little, since the cache knows networks by code."""

from pathlib import Path

import torch
from torch import Tensor

from spikiness.networks.time_dae import TimeDAE
from spikiness.training.diffusion import fit_diffusion
from spikiness.training.loop import LOG_UNIFORM

BATCH, LR = 64, 3e-3  # chosen on calibration seeds: the loss is flat from here on


def fit(x: Tensor, width: int, seed: int, steps: int, lam: float, checkpoint: Path | None = None) -> TimeDAE:
    """A `TimeDAE` of `width` units on x [n, d], objective (6) with lambda `lam`, noise levels log-uniform, .02 to 2."""
    network = TimeDAE(x.shape[1], width, generator=torch.Generator().manual_seed(seed))
    return fit_diffusion(
        x, network, seed, images_seen=steps * BATCH, batch=BATCH, lr=LR, noise=LOG_UNIFORM, lam=lam,
        checkpoint=checkpoint,
    )  # fmt: skip
