"""Training: ReLU-DAEs by objective (6), diffusion models by EDM's loss. Both loops are generators of steps."""

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

__all__ = [
    "Batches", "Member", "Step", "default_lr", "descend", "fit_dae", "fit_ensemble", "gradient_norm", "schedule",
]  # fmt: skip
