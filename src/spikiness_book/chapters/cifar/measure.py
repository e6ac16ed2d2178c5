"""Color photographs: a U-Net and a class-conditional DiT, trained on few images and on many."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures
from spikiness.denoisers import Empirical
from spikiness.networks.classifier import Classifier
from spikiness.networks.dit import DiT
from spikiness.training.classifier import fit_classifier
from spikiness_book import copying, zoo
from spikiness_book.engine.cache import cached
from spikiness_book.zoo import Recipe, Trained

FEATURES_FROM = 10_000  # images that the classifier learns from, whose features measure quality


def train(
    pool: images.Images,
    sizes: Sequence[int],
    seeds: Sequence[int],
    images_seen: int,
    unet: tuple[int, int],
    dit: tuple[int, int, int],
) -> list[Trained]:
    """A U-Net (width, patch) and a DiT (width, depth, patch) for each seed and size, from the cache where they are.

    Networks of different seeds see disjoint images, or it is refused. The DiT is given the labels.
    """
    (width, patch), (width_dit, depth, patch_dit) = unet, dit
    options = {"depth": depth, "patch": patch_dit}
    recipes = [
        (zoo.unet(width, images_seen, patch), width),
        (Recipe("dit", "", DiT, labeled=True, width=width_dit, images_seen=images_seen, options=options), width_dit),
    ]
    both = [
        zoo.train_each_once(pool, how, [(n, w, i, s) for i, s in enumerate(seeds) for n in sizes], disjoint=True)
        for how, w in recipes
    ]
    return [model for pair in zip(*both, strict=True) for model in pair]


def memorized(models: Sequence[Trained], count: int, seed: int) -> pd.DataFrame:
    """One row per model and kept stage: share of `count` samples that copy a training image, with Wilson's interval."""
    rows = []
    for model in models:
        for k, denoiser in enumerate(model.stages):
            found = measures.memorization(model.draw(count, k, seed), model.x)
            low, high = found.interval
            row = {"network": model.network, "n": model.n, "seed": model.seed}
            row |= {"images_seen": denoiser.record["images_seen"], "share": found.fraction, "low": low, "high": high}
            rows.append({**row, "ratio": float(found.ratio.median())})
    return pd.DataFrame(rows)


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table over stages, the rows at the end of training."""
    return rows[rows.images_seen == rows.images_seen.max()]


def guided(models: Sequence[Trained], guidances: Sequence[float], count: int, seed: int) -> pd.DataFrame:
    """The same for each DiT at the end, with guidance toward the class."""
    rows = []
    for model in (model for model in models if model.classes is not None):
        for guidance in guidances:
            found = measures.memorization(model.draw(count, seed=seed, guidance=guidance), model.x)
            low, high = found.interval
            rows.append(
                {
                    "n": model.n,
                    "seed": model.seed,
                    "guidance": guidance,
                    "share": found.fraction,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def distances(models: Sequence[Trained], sigmas: Sequence[float], seed: int, count: int = 100) -> pd.DataFrame:
    """Relative distance of each denoiser to f_emp of its own training images, on noisy ones of them, per sigma."""
    rows = []
    for model in models:
        x = model.x[:count]
        generator = torch.Generator().manual_seed(seed)
        reference = Empirical(model.x)
        for sigma in sigmas:
            y = x + sigma * torch.randn(x.shape, generator=generator)
            far = measures.distance(model.denoiser, reference, y, sigma, batch=128)
            rows.append(
                {"network": model.network, "n": model.n, "seed": model.seed, "sigma": sigma, "distance": far.relative}
            )
    return pd.DataFrame(rows)


def losses(models: Sequence[Trained], held_out: Tensor, sigma: float, seed: int, count: int = 500) -> pd.DataFrame:
    """Mean squared error per number at one noise level, on training images (repeated to `count`) and held-out ones."""
    rows = []
    for model in models:
        groups = {"training": model.x[torch.arange(count) % len(model.x)], "held out": held_out[:count]}
        for name, x in groups.items():
            y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                estimate = torch.cat([model.denoiser(part, sigma) for part in y.split(100)])
            error = (estimate - x).square().flatten(1).mean(dim=1)
            rows.append(
                {
                    "network": model.network,
                    "n": model.n,
                    "seed": model.seed,
                    "images": name,
                    "error": float(error.mean()),
                }
            )
    return pd.DataFrame(rows)


def quality_classifier(pool: images.Images) -> Classifier:
    """The classifier whose features measure quality, trained on images of the pool."""
    index = zoo.chunk(pool.x, min(FEATURES_FROM, len(pool.x)), 0)
    return cached(fit_classifier, pool.x[index], pool.y[index])


def quality(
    models: Sequence[Trained], classifier: Classifier, held_out: images.Images, count: int, seed: int
) -> pd.DataFrame:
    """Precision, recall and kernel distance of each model's samples, beside those of other real images."""
    order = torch.randperm(len(held_out.x), generator=torch.Generator().manual_seed(seed))
    count = min(count, len(order) // 2)
    real, split = held_out.x[order[:count]], held_out.x[order[count : 2 * count]]
    features = torch.no_grad()(classifier.features)
    rows = []
    for model in models:
        found = measures.quality(model.draw(count, seed=seed), real, split, features)
        rows.append(
            {"network": model.network, "n": model.n, "seed": model.seed}
            | {name: getattr(found, name) for name in ("precision", "recall", "kernel_distance")}
            | {f"real_{name}": getattr(found, f"real_{name}") for name in ("precision", "recall", "kernel_distance")}
        )
    return pd.DataFrame(rows)


def pictures(model: Trained, count: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: samples and the nearest training image of each, with d1 / d2."""
    samples = model.draw(count, seed=seed)
    found = measures.memorization(samples, model.x)
    rows = {"samples": samples, "nearest": model.x[found.nearest]}
    captions = {"samples": [f"{r:.2f}" for r in found.ratio.tolist()]}
    frame = pd.concat(
        pd.DataFrame(x.flatten(1).numpy()).assign(row=name, ratio=found.ratio.numpy()) for name, x in rows.items()
    )
    return (
        {name: copying.pictures(x) for name, x in rows.items()},
        captions,
        frame.assign(network=model.network, n=model.n),
    )


@torch.no_grad()
def accuracy(classifier: Classifier, held_out: images.Images) -> float:
    """Share of held-out images that the classifier gets right."""
    right = [
        (classifier(x).argmax(dim=1) == y).sum()
        for x, y in zip(held_out.x.split(500), held_out.y.split(500), strict=True)
    ]
    return float(sum(right)) / len(held_out.x)
