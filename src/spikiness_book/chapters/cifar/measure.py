"""Color photographs: a U-Net and a class-conditional DiT, trained on few images and on many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spikiness import images, measures, sampling
from spikiness.denoisers import Empirical
from spikiness.networks.classifier import Classifier
from spikiness.training.classifier import fit_classifier
from spikiness_book.engine.cache import cached
from spikiness_book.zoo import copying, models

CLASSES = 10
FEATURES_FROM = 10_000  # images that the classifier learns from, whose features measure quality


@dataclass(frozen=True)
class Case:
    """One network: its training images and labels, and the denoisers kept along its training."""

    network: str  # "unet" or "dit"
    n: int
    seed: int
    x: Tensor  # [n, C, H, W]
    stages: list

    @property
    def final(self) -> nn.Module:
        return self.stages[-1]


def train(
    pool: images.Images,
    sizes: Sequence[int],
    seeds: Sequence[int],
    images_seen: int,
    unet: tuple[int, int],
    dit: tuple[int, int, int],
) -> list[Case]:
    """A U-Net (width, patch) and a DiT (width, depth, patch) for each size and seed, from the cache where they are.

    Networks of different seeds see disjoint images. The DiT is given the labels.
    """
    (width, patch), (width_dit, depth, patch_dit) = unet, dit
    shared, cases = {"sigma_data": float(pool.x.std())}, []
    for seed in seeds:
        for n in sizes:
            index = models.chunk(pool.x, n, seed - min(seeds))
            x, y = pool.x[index], pool.y[index]
            small = {"options": {"patch": patch}, **shared}
            cases.append(Case("unet", n, seed, x, models.model(x, width, seed, images_seen, **small)))
            labeled = {"network": "dit", "labels": y, "options": {"depth": depth, "patch": patch_dit}, **shared}
            cases.append(Case("dit", n, seed, x, models.model(x, width_dit, seed, images_seen, **labeled)))
    return cases


def draw(case: Case, count: int, seed: int, guidance: float = 1.0, stage: int = -1) -> Tensor:
    """`count` samples of a case; a DiT gets every class in turn, with `guidance`."""
    labels = torch.arange(count) % CLASSES if case.network == "dit" else None
    shape, seeds = case.x.shape[1:], models.initial_seeds(count, seed)
    return sampling.sample(case.stages[stage], shape, seeds, labels=labels, guidance=guidance)


def memorized(cases: Sequence[Case], count: int, seed: int) -> pd.DataFrame:
    """One row per case and kept stage: share of `count` samples that copy a training image, with Wilson's interval."""
    rows = []
    for case in cases:
        for k, denoiser in enumerate(case.stages):
            found = measures.memorization(draw(case, count, seed, stage=k), case.x)
            low, high = found.interval
            rows.append(
                {"network": case.network, "n": case.n, "seed": case.seed, "images_seen": denoiser.record["images_seen"],
                 "share": found.fraction, "low": low, "high": high, "ratio": float(found.ratio.median())}
            )  # fmt: skip
    return pd.DataFrame(rows)


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table over stages, the rows at the end of training."""
    return rows[rows.images_seen == rows.images_seen.max()]


def guided(cases: Sequence[Case], guidances: Sequence[float], count: int, seed: int) -> pd.DataFrame:
    """The same for each DiT at the end, with guidance toward the class."""
    rows = []
    for case in (case for case in cases if case.network == "dit"):
        for guidance in guidances:
            found = measures.memorization(draw(case, count, seed, guidance), case.x)
            low, high = found.interval
            rows.append(
                {
                    "n": case.n,
                    "seed": case.seed,
                    "guidance": guidance,
                    "share": found.fraction,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def distances(cases: Sequence[Case], sigmas: Sequence[float], seed: int, count: int = 100) -> pd.DataFrame:
    """Relative distance of each denoiser to f_emp of its own training images, on noisy ones of them, per sigma."""
    rows = []
    for case in cases:
        x = case.x[:count]
        generator = torch.Generator().manual_seed(seed)
        reference = Empirical(case.x)
        for sigma in sigmas:
            y = x + sigma * torch.randn(x.shape, generator=generator)
            far = measures.distance(case.final, reference, y, sigma, batch=128)
            rows.append(
                {"network": case.network, "n": case.n, "seed": case.seed, "sigma": sigma, "distance": far.relative}
            )
    return pd.DataFrame(rows)


def losses(cases: Sequence[Case], held_out: Tensor, sigma: float, seed: int, count: int = 500) -> pd.DataFrame:
    """Mean squared error per number at one noise level, on training images (repeated to `count`) and held-out ones."""
    rows = []
    for case in cases:
        groups = {"training": case.x[torch.arange(count) % len(case.x)], "held out": held_out[:count]}
        for name, x in groups.items():
            y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                estimate = torch.cat([case.final(part, sigma) for part in y.split(100)])
            error = (estimate - x).square().flatten(1).mean(dim=1)
            rows.append(
                {"network": case.network, "n": case.n, "seed": case.seed, "images": name, "error": float(error.mean())}
            )
    return pd.DataFrame(rows)


def judge(pool: images.Images) -> Classifier:
    """The classifier whose features measure quality, trained on images of the pool."""
    index = models.chunk(pool.x, min(FEATURES_FROM, len(pool.x)), 0)
    return cached(fit_classifier, pool.x[index], pool.y[index])


def quality(cases: Sequence[Case], judge: Classifier, held_out: images.Images, count: int, seed: int) -> pd.DataFrame:
    """Precision, recall and kernel distance of each case's samples, beside those of other real images."""
    order = torch.randperm(len(held_out.x), generator=torch.Generator().manual_seed(seed))
    count = min(count, len(order) // 2)
    real, split = held_out.x[order[:count]], held_out.x[order[count : 2 * count]]
    features = torch.no_grad()(judge.features)
    rows = []
    for case in cases:
        found = measures.quality(draw(case, count, seed), real, split, features)
        rows.append(
            {"network": case.network, "n": case.n, "seed": case.seed}
            | {name: getattr(found, name) for name in ("precision", "recall", "kernel_distance")}
            | {f"real_{name}": getattr(found, f"real_{name}") for name in ("precision", "recall", "kernel_distance")}
        )
    return pd.DataFrame(rows)


def pictures(case: Case, count: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: samples and the nearest training image of each, with d1 / d2."""
    samples = draw(case, count, seed)
    found = measures.memorization(samples, case.x)
    rows = {"samples": samples, "nearest": case.x[found.nearest]}
    captions = {"samples": [f"{r:.2f}" for r in found.ratio.tolist()]}
    frame = pd.concat(
        pd.DataFrame(x.flatten(1).numpy()).assign(row=name, ratio=found.ratio.numpy()) for name, x in rows.items()
    )
    return (
        {name: copying.pictures(x) for name, x in rows.items()},
        captions,
        frame.assign(network=case.network, n=case.n),
    )


@torch.no_grad()
def accuracy(judge: Classifier, held_out: images.Images) -> float:
    """Share of held-out images that the classifier gets right."""
    right = [
        (judge(x).argmax(dim=1) == y).sum() for x, y in zip(held_out.x.split(500), held_out.y.split(500), strict=True)
    ]
    return float(sum(right)) / len(held_out.x)
