"""Networks that memorize some images and generalize over the rest, and their samples, told apart: what the chapters on
detection share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from spikiness import images, measures
from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError, suggest
from spikiness_book.chapters.duplicates import measure as duplicates
from spikiness_book.engine.cache import sampled
from spikiness_book.zoo import models

FEWEST = 20  # memorized samples that a detector can be chosen on
COPY, NEW = 1 / 3, 1 / 2  # d1 / d2 below which a sample is memorized, and above which it is not; between, it is neither


@dataclass(frozen=True)
class Recipe:
    """How networks are trained that memorize some images and not the others."""

    n_large: int  # distinct images
    copies: tuple[int, ...]
    repeated: int  # images for each number of copies
    images_seen: int
    width: int
    options: dict = field(default_factory=dict)


DIGITS = {"n_large": 1400, "copies": (4, 8, 16, 32, 64), "repeated": 10, "images_seen": 320_000}
LARGER = {"n_large": 2020, "copies": (200,), "repeated": 20, "images_seen": 400_000}
TINY = {"n_large": 60, "copies": (4, 16), "repeated": 3, "images_seen": 2000}  # for tests: it learns little
OFTEN = LARGER | {"n_large": 2010, "copies": (500,), "repeated": 10}  # of 20 that come 200 times a DiT copies none
DIT = {"width": 64, "options": {"depth": 3, "patch": 4}}
RECIPES = {  # network and sort of images
    ("unet", "small"): Recipe(width=16, **DIGITS),  # those of the chapter on duplicates
    ("dit", "small"): Recipe(width=64, options={"depth": 3, "patch": 2}, **DIGITS),
    ("unet", "gray"): Recipe(width=32, options={"patch": 2}, **LARGER),
    ("unet", "color"): Recipe(width=32, options={"patch": 2}, **LARGER),
    ("dit", "gray"): Recipe(**DIT, **LARGER),
    ("dit", "color"): Recipe(**DIT, **OFTEN),
    ("tiny-unet", "small"): Recipe(width=8, **TINY),
    ("tiny-dit", "small"): Recipe(width=16, options={"depth": 1, "patch": 2}, **TINY),
}
NAMES = {
    "unet": "U-Net", "dit": "DiT", "relu-dae": "ReLU-DAE", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10 (JPEG)",
}  # fmt: skip
SMALL = 16  # pixels per side up to which images are learned as digits are


@dataclass(frozen=True)
class Model:
    """One network of a kind along its training, with what it was trained on."""

    kind: str  # network:data
    seed: int
    distinct: Tensor  # [m, C, H, W], each training image once: the repeated ones first
    copies: Tensor  # [m]
    stages: list[EDM]

    @property
    def denoiser(self) -> EDM:
        return self.stages[-1]

    @property
    def labeled(self) -> bool:
        return self.kind.partition(":")[0].endswith("dit")


@dataclass(frozen=True)
class Samples:
    """Samples of a model, each beside its nearest training image."""

    x: Tensor  # [N, C, H, W]
    labels: Tensor | None  # [N], where the model takes labels
    ratio: np.ndarray  # [N], d1 / d2
    nearest: np.ndarray  # [N], index into the model's distinct images
    memorized: np.ndarray  # [N] bool
    generalized: np.ndarray  # [N] bool; neither of the two where the ratio lies between
    stand_in: bool  # too few are memorized: those closest to one training image stand in for them

    def part(self, which: np.ndarray, most: int | None = None) -> tuple[Tensor, Tensor | None, np.ndarray]:
        """Images, labels and nearest training images of the first `most` of the samples `which` [N] bool."""
        index = np.flatnonzero(which)[:most]
        return self.x[index], None if self.labels is None else self.labels[index], self.nearest[index]


def recipe(kind: str) -> tuple[str, images.Images, Recipe]:
    """Network, training images and recipe of a `kind`, written network:data, as unet:digits or dit:npz:FILE."""
    network, _, data = kind.partition(":")
    known = sorted({name for name, _ in RECIPES})
    if network not in known or not data:
        raise SpikinessError(
            f"unknown kind {kind!r}: it is network:data, the network one of {', '.join(known)}{suggest(network, known)}"
        )
    pool = images.load(data)
    sort = "small" if pool.x.shape[-1] <= SMALL else "gray" if pool.x.shape[1] == 1 else "color"
    found = RECIPES.get((network, sort))
    if found is None:
        raise SpikinessError(f"{kind!r}: a {network} is for images of at most {SMALL} pixels, take unet or dit")
    return network, pool, found


def label(kind: str) -> str:
    """A kind for figures and tables: unet:folder:cifar10-jpeg.zip is U-Net, CIFAR-10 (JPEG)."""
    network, _, data = kind.partition(":")
    stem = PurePosixPath(data.rpartition(":")[2]).stem
    return f"{NAMES.get(network, network)}, {NAMES.get(stem, stem)}"


def slug(kind: str) -> str:
    """A kind as part of a metric's name: unet:folder:cifar10-jpeg.zip is unet_cifar10."""
    network, _, data = kind.partition(":")
    found = re.match(r"[a-z0-9]+", PurePosixPath(data.rpartition(":")[2]).name.lower())
    return f"{network}_{found.group() if found else 'data'}".replace("-", "_")


def reported(kind: str, seeds: Sequence[int], seeds_dit: Sequence[int]) -> list[int]:
    """Seeds of the networks of a kind that results are reported on: DiTs have their own."""
    return list(seeds_dit if kind.partition(":")[0].endswith("dit") else seeds)


def train(kind: str, seeds: Sequence[int]) -> list[Model]:
    """One model of a `kind` per seed, each with its own images, from the cache where it was trained before."""
    network, pool, how = recipe(kind)
    labeled, found = network.endswith("dit"), []
    for seed in seeds:
        index = torch.arange(len(pool.x))
        chosen = duplicates.training_set(index, min(how.n_large, len(index)), how.copies, how.repeated, seed)
        given: dict = {"sigma_data": float(pool.x.std())}
        if how.options:
            given["options"] = dict(how.options)
        if labeled:
            given |= {"network": "dit", "labels": pool.y[chosen.x]}
        stages = models.model(pool.x[chosen.x], how.width, seed, how.images_seen, **given)
        found.append(Model(kind, seed, pool.x[chosen.distinct], chosen.copies, stages))
    return found


def held_out(kind: str, most: int) -> Tensor:
    """At most `most` images [N, C, H, W] of the test split of a kind's data: no model of it saw them."""
    test = images.load(kind.partition(":")[2], "test").x
    return images.subset(test, min(len(test), most))


def draw(model: Model, count: int, stage: int = -1) -> Samples:
    """`count` samples of a model at a stage of its training (the end), cut to [-1, 1]; a DiT's of all classes."""
    labels = torch.arange(count) % 10 if model.labeled else None
    seeds = models.initial_seeds(count, model.seed)
    x = sampled(model.stages[stage], model.distinct.shape[1:], seeds, labels).clamp(-1, 1)
    return judge(x, model.distinct, labels)


def judge(x: Tensor, distinct: Tensor, labels: Tensor | None = None) -> Samples:
    """Which samples x [N, C, H, W] copy one of the training images `distinct` [m, C, H, W], which do not."""
    found = measures.memorization(x, distinct)
    ratio = found.ratio.numpy()
    memorized, stand_in = ratio < COPY, False
    if memorized.sum() < FEWEST:
        memorized, stand_in = ratio <= np.sort(ratio)[min(max(FEWEST, len(ratio) // 10), len(ratio)) - 1], True
    generalized = (ratio > NEW) & ~memorized
    return Samples(x, labels, ratio, found.nearest.numpy(), memorized, generalized, stand_in)
