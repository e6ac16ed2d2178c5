"""Training: ReLU-DAEs by objective (6), diffusion models by EDM's loss. Both loops are generators of steps."""

from spikiness.training.classifier import fit_classifier
from spikiness.training.dae import (
    Batches,
    Member,
    Step,
    default_lr,
    descend,
    fit_dae,
    fit_ensemble,
    gradient_norm,
    schedule,
)
from spikiness.training.diffusion import fit_diffusion
from spikiness.training.loop import LOG_NORMAL, LOG_UNIFORM, Loop

__all__ = [
    "LOG_NORMAL", "LOG_UNIFORM", "Batches", "Loop", "Member", "Step", "default_lr", "descend", "fit_classifier",
    "fit_dae", "fit_diffusion", "fit_ensemble", "gradient_norm", "schedule",
]  # fmt: skip
