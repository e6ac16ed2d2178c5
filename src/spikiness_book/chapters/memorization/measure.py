"""Few images, more units than images: what the columns of a trained ReLU-DAE hold (Corollary 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.engine.cache import cached

STORES = 0.95  # a column stores an image from this cosine on; unrelated digits reach about .6
BATCH = 16  # small batches: their noise drives equal copies of a column together, so the sparse form is reached

LOSS_DRAWS = 8000  # noise draws per image behind a loss: a network with one unit per image has a loss of large spread


@dataclass(frozen=True)
class Case:
    """One network of the chapter: its training images, its settings, and once trained itself."""

    subset: str  # "separable" or "random"
    seed: int
    sigma: float
    lam: float
    tied: bool
    x: Tensor  # [n, d]
    network: ReLUDAE | None = None


def choose(pool: Tensor, n: int, seed: int, subset: str) -> Tensor:
    """n images [n, d] of pool [N, ...], centred by the pool's mean: pairwise negative cosines, or at random."""
    flat = pool.flatten(1)
    flat = flat - flat.mean(dim=0)
    if subset == "separable":
        return flat[theory.separable_subset(flat, n, seed)]
    return flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:n]]


def plan(
    pool: Tensor, n: int, seeds: Sequence[int], sigma: float, sigmas: Sequence[float], lam: float, lams: Sequence[float]
) -> list[Case]:
    """The chapter's networks: separable subsets over sigmas and lambdas, random subsets, and untied weights."""
    cases = []
    for seed in seeds:
        separable, drawn = (choose(pool, n, seed, subset) for subset in ("separable", "random"))
        settings = {(s, lam) for s in (sigma, *sigmas)} | {(sigma, weight) for weight in (lam, *lams)}
        cases += [Case("separable", seed, s, weight, True, separable) for s, weight in sorted(settings)]
        cases += [Case("random", seed, sigma, lam, True, drawn), Case("separable", seed, sigma, lam, False, separable)]
    return cases


def train(cases: Sequence[Case], width: int, steps: int) -> list[Case]:
    """The cases with their networks, tied and untied each as one batched training, from the cache where it has them."""
    trained: list[Case] = []
    for tied in (True, False):
        group = [case for case in cases if case.tied == tied]
        members = [Member(case.x, width, case.sigma, case.lam, case.seed) for case in group]
        networks = cached(fit_ensemble, members, tied=tied, batch=BATCH, steps=steps) if members else []
        trained += [Case(**{**vars(case), "network": net}) for case, net in zip(group, networks, strict=True)]
    return trained


def stored(case: Case) -> pd.DataFrame:
    """One row per training image: the gain r_i^2 stored in the network, the predicted one, and its columns."""
    columns = measures.stored_columns(case.network.w1, case.x)
    held = columns.energy[:, None] * (columns.nearest[:, None] == torch.arange(len(case.x)))  # [p, n]
    untied = measures.stored_columns(case.network.w2, case.x).gain
    gain = columns.gain if case.tied else (columns.gain * untied).sqrt()  # the gain of W2 W1^T, whatever the split
    return pd.DataFrame(
        {
            "image": range(len(case.x)),
            "predicted": theory.stored_gains(case.x, case.sigma, case.lam).double(),
            "learned": gain,
            "columns": (held > 0.01 * held.sum(dim=0)).sum(dim=0),
            "cosine": (held * columns.cosine[:, None]).sum(dim=0) / held.sum(dim=0).clamp_min(1e-12),
        }
    ).assign(**_labels(case))


def summary(case: Case) -> dict[str, object]:
    """One row per network: alpha and beta, margin, worst gain error, stray energy, loss against Corollary 3.2."""
    rows, columns = stored(case), measures.stored_columns(case.network.w1, case.x)
    clusters = [image[None] for image in case.x]
    weights = case.network.w1, case.network.w2
    loss = theory.true_loss(*weights, case.x.repeat(LOSS_DRAWS // 8, 1), case.sigma, draws=8, seed=case.seed)
    predicted = theory.memorization_loss(case.x, case.sigma, case.lam)
    h = case.network.encode(case.x).detach()  # [n, p]
    return {
        **_labels(case),
        "beta": theory.separability(clusters)[1],
        "margin": theory.margin(case.network.w1[:, columns.energy > 1e-6], clusters),
        "gain_error": float((rows.learned / rows.predicted.clip(lower=1e-12) - 1).abs().max()),
        "cosine": columns.weighted_cosine,
        "stray": float(columns.energy[columns.cosine < STORES].sum()),
        "active": int((columns.energy > 1e-3).sum()),
        "participation": float(measures.participation_ratio(h).mean()),
        "loss": loss.value,
        "predicted_loss": predicted,
        "loss_error": abs(loss.value / predicted - 1),
        "stationarity": case.network.record["stationarity"],
    }


def representation(case: Case, seed: int = 0) -> pd.DataFrame:
    """h of each training image plus noise [n, p], units in the order of the image that they store: long form."""
    columns = measures.stored_columns(case.network.w1, case.x)
    order = torch.argsort(columns.nearest * 1e3 - columns.energy * (columns.cosine > 0), stable=True)
    generator = torch.Generator().manual_seed(seed)
    y = case.x + case.sigma * torch.randn(case.x.shape, generator=generator, dtype=case.x.dtype)
    h = case.network.encode(y).detach()[:, order]
    return (
        pd.DataFrame(h.double().numpy())
        .rename_axis("image")
        .reset_index()
        .melt("image", var_name="unit", value_name="h")
    )


def _labels(case: Case) -> dict[str, object]:
    return {"subset": case.subset, "seed": case.seed, "sigma": case.sigma, "lam": case.lam, "tied": case.tied}


def columns_as_images(
    case: Case, shape: tuple[int, int]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: images, the strongest column of each, the strongest others; with lengths and table."""
    columns, w = measures.stored_columns(case.network.w1, case.x), case.network.w1.detach()
    own = torch.stack([(columns.energy * (columns.nearest == i)).argmax() for i in range(len(case.x))])
    left = [j for j in columns.energy.argsort(descending=True).tolist() if j not in set(own.tolist())][: len(case.x)]
    predicted = theory.stored_gains(case.x, case.sigma, case.lam).sqrt() * case.x.norm(dim=1)
    pictures = {"images": case.x, "their columns": w[:, own].T, "other columns": w[:, left].T}
    lengths = {"images": predicted, "their columns": w[:, own].norm(dim=0), "other columns": w[:, left].norm(dim=0)}
    frame = pd.concat(
        pd.DataFrame(x.reshape(len(x), -1).numpy()).assign(row=name, length=lengths[name].numpy())
        for name, x in pictures.items()
    )
    rows = {name: x.reshape(-1, *shape).numpy() for name, x in pictures.items()}
    return rows, {name: [f"{v:.3f}" for v in values] for name, values in lengths.items()}, frame


def top_share(case: Case, draws: int = 20) -> Tensor:
    """Share of |h|^2 in the strongest unit [n * draws], over noisy versions of the training images."""
    generator = torch.Generator().manual_seed(case.seed)
    x = case.x.repeat(draws, 1)
    h = case.network.encode(x + case.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)).detach()
    return h.square().amax(dim=1) / h.square().sum(dim=1)
