"""Few images, more units than images: what the columns of a trained ReLU-DAE hold (Corollary 3.2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import measures, theory
from spikiness_book import two_layers
from spikiness_book.two_layers import BATCH, MEMORIZING, STORES, Problem

LOSS_DRAWS = 8000  # noise draws per image behind a loss: a network with one unit per image has a loss of large spread


def random_images(pool: Tensor, n: int, seed: int) -> tuple[Tensor, ...]:
    """n random images of pool [N, ...], centered by its mean: n clusters [1, d]."""
    x = two_layers.centered(pool)
    return two_layers.each_alone(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]])


def plan(
    pool: Tensor, n: int, width: int, seeds: Sequence[int],
    sigma: float, sigmas: Sequence[float], lam: float, lams: Sequence[float],
) -> list[Problem]:  # fmt: skip
    """The chapter's networks, "separable" subsets over sigmas and lambdas and "random" ones; those untied come last."""
    problems = []
    for seed in seeds:
        separable, random = two_layers.separable_images(pool, n, seed), random_images(pool, n, seed)
        settings = {(s, lam) for s in (sigma, *sigmas)} | {(sigma, penalty) for penalty in (lam, *lams)}
        problems += [Problem(separable, width, s, penalty, seed, "separable") for s, penalty in sorted(settings)]
        problems.append(Problem(random, width, sigma, lam, seed, "random"))
        problems.append(Problem(separable, width, sigma, lam, seed, "separable", tied=False))
    return sorted(problems, key=lambda problem: not problem.tied)


def train(problems: Sequence[Problem], steps: int) -> list[Problem]:
    """The problems with their networks, tied and untied each as one batched training."""
    return two_layers.train(problems, BATCH[MEMORIZING], steps)


def stored(problem: Problem) -> pd.DataFrame:
    """One row per training image: the gain r_i^2 stored in the network, the predicted one, and its columns."""
    x, network = problem.x, problem.network
    columns = measures.stored_columns(network.w1, x)
    held = columns.energy[:, None] * (columns.nearest[:, None] == torch.arange(len(x)))  # [p, n]
    untied = measures.stored_columns(network.w2, x).gain
    gain = columns.gain if problem.tied else (columns.gain * untied).sqrt()  # of W2 W1^T, whatever the split
    return pd.DataFrame(
        {
            "image": range(len(x)),
            "predicted": theory.stored_gains(x, problem.sigma, problem.lam).double(),
            "learned": gain,
            "columns": (held > 0.01 * held.sum(dim=0)).sum(dim=0),
            "cosine": (held * columns.cosine[:, None]).sum(dim=0) / held.sum(dim=0).clamp_min(1e-12),
        }
    ).assign(**_labels(problem))


def summary(problem: Problem) -> dict[str, object]:
    """One row per network: beta, margin, worst gain error, stray energy, loss against Corollary 3.2."""
    x, network, rows = problem.x, problem.network, stored(problem)
    columns = measures.stored_columns(network.w1, x)
    repeated = x.repeat(LOSS_DRAWS // 8, 1)
    loss = theory.true_loss(network.w1, network.w2, repeated, problem.sigma, draws=8, seed=problem.seed).value
    predicted = theory.memorization_loss(x, problem.sigma, problem.lam)
    h = network.encode(x).detach()  # [n, p]
    return {
        **_labels(problem),
        "beta": theory.separability(problem.clusters)[1],
        "margin": theory.margin(network.w1[:, columns.energy > 1e-6], problem.clusters),
        "gain_error": float((rows.learned / rows.predicted.clip(lower=1e-12) - 1).abs().max()),
        "cosine": columns.weighted_cosine,
        "stray": float(columns.energy[columns.cosine < STORES].sum()),
        "active": int((columns.energy > 1e-3).sum()),
        "participation": float(measures.participation_ratio(h).mean()),
        "loss": loss,
        "predicted_loss": predicted,
        "loss_error": abs(loss / predicted - 1),
        "stationarity": network.record["stationarity"],
    }


def _labels(problem: Problem) -> dict[str, object]:
    names = {"seed": problem.seed, "sigma": problem.sigma, "lam": problem.lam, "tied": problem.tied}
    return {"subset": problem.group, **names}


def representation(problem: Problem, seed: int = 0) -> pd.DataFrame:
    """h of each training image plus noise [n, p], units in the order of the image that they store: long form."""
    columns = measures.stored_columns(problem.network.w1, problem.x)
    order = torch.argsort(columns.nearest * 1e3 - columns.energy * (columns.cosine > 0), stable=True)
    h = two_layers.represent(problem.network, problem.x, problem.sigma, seed)[:, order]
    wide = pd.DataFrame(h.double().numpy()).rename_axis("image").reset_index()
    return wide.melt("image", var_name="unit", value_name="h")


def top_share(problem: Problem, draws: int = 20) -> Tensor:
    """Share of |h|^2 in the strongest unit [n * draws], over noisy versions of the training images."""
    h = two_layers.represent(problem.network, problem.x.repeat(draws, 1), problem.sigma, problem.seed)
    return h.square().amax(dim=1) / h.square().sum(dim=1)


def columns_as_images(
    problem: Problem, shape: tuple[int, int]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: images, the strongest column of each, the strongest others; with lengths and table."""
    x, w = problem.x, problem.network.w1.detach()
    columns = measures.stored_columns(w, x)
    own = torch.stack([(columns.energy * (columns.nearest == i)).argmax() for i in range(len(x))])
    others = [j for j in columns.energy.argsort(descending=True).tolist() if j not in set(own.tolist())][: len(x)]
    vectors = {"images": x, "their columns": w[:, own].T, "other columns": w[:, others].T}
    lengths = {name: rows.norm(dim=1) for name, rows in vectors.items()}
    lengths["images"] *= theory.stored_gains(x, problem.sigma, problem.lam).sqrt()  # what their columns should have
    pictures, frame = two_layers.pictures(vectors, shape, length=lengths)
    return pictures, {name: [f"{v:.3f}" for v in values] for name, values in lengths.items()}, frame
