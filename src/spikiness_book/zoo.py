"""The trained diffusion models that chapters share, from one table of recipes, kept in the cache.

A model is known by its images, its network, its seed and how many images it saw. All are kept at the same stages of
training, so that one chapter can look at the end and another at the way there. A *kind* of model is written
network:data, as `unet:digits` or `dit:npz:FILE`; findings are labelled with it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikiness import images, measures, sampling
from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError, suggest
from spikiness.networks.dit import DiT
from spikiness.networks.unet import UNet
from spikiness.training.diffusion import fit_diffusion
from spikiness_book.engine.cache import cached, sampled

STAGES = 8  # denoisers kept along one training, at images_seen / 2^7 .. images_seen
MEMORIZED_BELOW, GENERALIZED_ABOVE = 1 / 3, 1 / 2  # d1 / d2 of a sample that is memorized, and of one that is not
FEWEST_MEMORIZED = 20  # memorized samples that a detector can be chosen on
SHARED_NOISE = 10  # seed of the initial noise of all networks that are compared sample by sample
SMALL = 16  # pixels per side up to which images are learned as digits are


# ---- the table


@dataclass(frozen=True)
class Recipe:
    """How one kind of network is trained on one sort of images: some of them often, so that it memorizes these."""

    name: str  # of the network, in kinds and labels
    sort: str  # of the images: small, gray or color
    network: Callable[..., nn.Module]  # network(channels, size, width=, classes=, **options, generator=)
    labeled: bool  # whether it is told the classes of images
    width: int
    images_seen: int
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of the network
    n_large: int = 0  # distinct images
    copies: tuple[int, ...] = ()
    repeated: int = 0  # images for each number of copies


DIGITS = {"n_large": 1400, "copies": (4, 8, 16, 32, 64), "repeated": 10, "images_seen": 320_000}
LARGER = {"n_large": 2020, "copies": (200,), "repeated": 20, "images_seen": 400_000}
OFTEN = LARGER | {"n_large": 2010, "copies": (500,), "repeated": 10}  # of 20 that come 200 times a DiT copies none
TINY = {"n_large": 60, "copies": (4, 16), "repeated": 3, "images_seen": 2000}  # for tests: it learns little
RECIPES = [
    Recipe("unet", "small", UNet, labeled=False, width=16, **DIGITS),  # those of the chapter on duplicates
    Recipe("unet", "gray", UNet, labeled=False, width=32, options={"patch": 2}, **LARGER),
    Recipe("unet", "color", UNet, labeled=False, width=32, options={"patch": 2}, **LARGER),
    Recipe("dit", "small", DiT, labeled=True, width=64, options={"depth": 3, "patch": 2}, **DIGITS),
    Recipe("dit", "gray", DiT, labeled=True, width=64, options={"depth": 3, "patch": 4}, **LARGER),
    Recipe("dit", "color", DiT, labeled=True, width=64, options={"depth": 3, "patch": 4}, **OFTEN),
    Recipe("tiny-unet", "small", UNet, labeled=False, width=8, **TINY),
    Recipe("tiny-dit", "small", DiT, labeled=True, width=16, options={"depth": 1, "patch": 2}, **TINY),
]
NAMES = {
    "unet": "U-Net", "dit": "DiT", "relu-dae": "ReLU-DAE", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10", "cifar10-jpeg": "CIFAR-10 (JPEG)",
}  # fmt: skip


def recipe(kind: str) -> tuple[Recipe, images.Images]:
    """The recipe of a kind, and the images it learns. Raises `SpikinessError` for a kind that the table lacks."""
    name, data = _named(kind)
    pool = images.load(data)
    sort = "small" if pool.x.shape[-1] <= SMALL else "gray" if pool.x.shape[1] == 1 else "color"
    for row in RECIPES:
        if (row.name, row.sort) == (name, sort):
            return row, pool
    able = [row.name for row in RECIPES if row.sort == sort]
    raise SpikinessError(f"{kind!r}: there is no recipe of a {name} for {sort} images, take {' or '.join(able)}")


def _named(kind: str) -> tuple[str, str]:
    name, _, data = kind.partition(":")
    known = sorted({row.name for row in RECIPES})
    if name not in known or not data:
        raise SpikinessError(
            f"unknown kind {kind!r}: it is network:data, the network one of {', '.join(known)}{suggest(name, known)}"
        )
    return name, data


def check(kinds: Sequence[str], held_out: bool = False, others: Sequence[str] = ()) -> None:
    """Refuse before any training what would fail after it.

    Raises `SpikinessError` for a kind that no recipe makes (but for networks named in `others`), for data without a
    test split where images `held_out` of training will be needed.
    """
    for kind in kinds:
        name, _, data = kind.partition(":")
        if name not in others:
            recipe(kind)
        if held_out:
            images.load(data, "test")


def reported(kind: str, seeds: Sequence[int], seeds_dit: Sequence[int]) -> list[int]:
    """Seeds of the networks of a kind that results are reported on: DiTs have their own."""
    return list(seeds_dit if any(r.network is DiT for r in RECIPES if r.name == kind.partition(":")[0]) else seeds)


def label(kind: str) -> str:
    """A kind for figures and tables: unet:folder:cifar10-jpeg.zip is U-Net, CIFAR-10 (JPEG)."""
    name, _, data = kind.partition(":")
    stem = PurePosixPath(data.rpartition(":")[2]).stem
    return f"{NAMES.get(name, name)}, {NAMES.get(stem, stem)}"


def unet(width: int, images_seen: int, patch: int = 1, **repeats: Any) -> Recipe:
    """The recipe of a chapter's own U-Nets; where it is one of the table, their networks are the same."""
    options = {} if patch == 1 else {"patch": patch}
    return Recipe("unet", "", UNet, labeled=False, width=width, images_seen=images_seen, options=options, **repeats)


# ---- trained models


@dataclass(frozen=True, eq=False)
class Trained:
    """One diffusion model along its training, with what it was trained on."""

    kind: str  # network:data
    seed: int
    width: int
    x: Tensor  # [m, C, H, W], its training images, each once: the repeated ones first
    copies: Tensor  # [m], how often each is in the training set
    seen: Sequence[int]  # images seen at each stage, with repetition
    stages: Sequence[EDM]  # the denoiser at each stage
    labels: Tensor | None = None  # [m], classes of the images, where the network is told them
    classes: Tensor | None = None  # the labels that its data have, in order, where the network is told them
    chosen: Tensor | None = None  # [m], positions of its images in the data
    index: int = 0  # networks of one size and different index see different images, as long as there are enough

    @property
    def network(self) -> str:
        return self.kind.partition(":")[0]

    @property
    def data(self) -> str:
        return self.kind.partition(":")[2]

    @property
    def n(self) -> int:
        """Size of the training set, copies counted."""
        return int(self.copies.sum())

    @property
    def denoiser(self) -> EDM:
        """The model at the end of its training."""
        return self.stages[-1]

    def classes_in_turn(self, count: int) -> Tensor | None:
        """Labels [count] for samples: every class in turn, where the network is told classes."""
        return None if self.classes is None else self.classes[torch.arange(count) % len(self.classes)]

    def draw(self, count: int, stage: int = -1, seed: int | None = None, guidance: float = 1.0) -> Tensor:
        """`count` samples [count, C, H, W] at a stage of training, the end unless told: always the same ones.

        Their noise is that of the model's own seed or of another `seed`; `guidance` strengthens the class.
        """
        seeds = initial_seeds(count, self.seed if seed is None else seed)
        labels = self.classes_in_turn(count)
        return sampling.sample(self.stages[stage], self.x.shape[1:], seeds, labels=labels, guidance=guidance)


def stages(images_seen: int) -> list[int]:
    """Images seen at which a model is kept: doubling, up to the end."""
    return [max(1, images_seen >> k) for k in reversed(range(STAGES))]


def initial_seeds(count: int, seed: int) -> range:
    """Seeds of `count` samples, the same noise for every model, apart from those of other `seed`s."""
    return range(seed * 1_000_000, seed * 1_000_000 + count)


def train(kind: str, seeds: Sequence[int], width: int | None = None) -> list[Trained]:
    """One model of a kind per seed, each with its own repeated images, as the table says or of another `width`."""
    row, pool = recipe(kind)
    return train_with_repeats(pool, row if width is None else replace(row, width=width), seeds, kind)


def train_with_repeats(pool: images.Images, how: Recipe, seeds: Sequence[int], kind: str = "") -> list[Trained]:
    """One model per seed on distinct images of the pool of which some are repeated, as the recipe says.

    From the cache where it was trained before. Raises `SpikinessError` where there are not images enough.
    """
    models = []
    for seed in seeds:
        chosen, copies = repeated_set(len(pool.x), how.n_large, how.copies, how.repeated, seed)
        models.append(_train(pool, how, seed, chosen, copies, kind=kind))
    return models


def train_each_once(
    pool: images.Images,
    how: Recipe,
    plan: Sequence[tuple[int, int, int, int]],
    kind: str = "",
    disjoint: bool = False,
) -> list[Trained]:
    """One model for each (n, width, index, seed) of a plan, on the index-th of the chunks of n images of the pool.

    From the cache where it was trained before. Chunks of different index are disjoint as long as there are enough;
    where all must be, `disjoint`, raises `SpikinessError` before training if there are not.
    """
    models, crowded = [], [(n, index) for n, _, index, _ in plan if (index + 1) * n > len(pool.x)]
    if disjoint and crowded:
        n, index = max(crowded, key=lambda pair: (pair[1] + 1) * pair[0])
        raise SpikinessError(
            f"{pool.name} has {len(pool.x)} images, not {index + 1} times {n} different ones: lower sizes or seeds"
        )
    for n, width, index, seed in plan:
        chosen = chunk(pool.x, n, index)
        once = torch.ones(n, dtype=torch.int64)
        models.append(_train(pool, replace(how, width=width), seed, chosen, once, index=index, kind=kind))
    return models


def _train(
    pool: images.Images, how: Recipe, seed: int, chosen: Tensor, copies: Tensor, kind: str, index: int = 0
) -> Trained:
    """A model on pool[chosen], each image as often as `copies` says, its start and training from `seed`."""
    x, y = pool.x[chosen], pool.y[chosen]
    classes = pool.y.unique() if how.labeled else None
    count = None if classes is None else int(classes.max()) + 1
    network = functools.partial(how.network, *x.shape[1:3], width=how.width, classes=count, **how.options)
    kept = cached(
        fit_diffusion,
        x.repeat_interleave(copies, dim=0),
        network,
        seed,
        y.repeat_interleave(copies) if how.labeled else None,
        how.images_seen,
        stages=stages(how.images_seen),
        sigma_data=float(pool.x.std()),
    )
    seen, labels = stages(how.images_seen), y if how.labeled else None
    name = kind or f"{how.name}:{pool.name}"
    return Trained(name, seed, how.width, x, copies, seen, kept, labels, classes, chosen, index)


def repeated_set(
    available: int, n_large: int, copies: Sequence[int], repeated: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Positions [m] of m = n_large images (or all that are `available`), at random, and how often each is to come [m].

    The first `repeated` come copies[0] times, the next copies[1] times, and so on; all others come once.
    """
    count = min(n_large, available)
    if repeated * len(copies) > count:
        raise SpikinessError(
            f"{repeated} images for each of {len(copies)} numbers of copies are more than the "
            f"{count} distinct ones: lower repeated, or raise n_large"
        )
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    times = torch.ones(count, dtype=torch.int64)
    times[: repeated * len(copies)] = torch.tensor(copies, dtype=torch.int64).repeat_interleave(repeated)
    return chosen, times


def chunk(x: Tensor, n: int, index: int, seed: int = 0) -> Tensor:
    """Indices of n images of x [N, ...]: the index-th of the disjoint chunks of one random order (wrapping around).

    Models of different index see no image in common as long as there are chunks enough: N // n of them.
    """
    if not 1 <= n <= len(x):
        raise SpikinessError(f"a chunk of {n} images of {len(x)}: ask for 1 to {len(x)}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    start = index % (len(x) // n) * n
    return order[start : start + n]


def plan_each_once(
    sizes: Sequence[int], widths: Sequence[int], seeds: Sequence[int], partners: Sequence[int] = ()
) -> list[tuple[int, int, int, int]]:
    """(n, width, index, seed) of networks on n images each: the index is the place of the seed in the list given.

    With one seed only, there is a second network, of the next seed, at the sizes in `partners`.
    """
    more = {n: [*seeds, seeds[0] + 1] if len(seeds) == 1 and n in partners else list(seeds) for n in sizes}
    return [(n, w, i, seed) for w in widths for n in sorted(set(sizes)) for i, seed in enumerate(more[n])]


# ---- samples told apart


def held_out(kind: str, most: int) -> Tensor:
    """At most `most` images [N, C, H, W] of the test split of a kind's data: no model of it saw them."""
    test = images.load(kind.partition(":")[2], "test").x
    return images.subset(test, min(len(test), most))


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


def told_apart(model: Trained, count: int, stage: int = -1) -> Samples:
    """`count` samples of a model at a stage of its training (the end), kept on disk, cut to [-1, 1], and told apart."""
    seeds, labels = initial_seeds(count, model.seed), model.classes_in_turn(count)
    x = sampled(model.stages[stage], model.x.shape[1:], seeds, labels).clamp(-1, 1)
    return tell_apart(x, model.x, labels)


def two_sorts(model: Trained, count: int) -> Samples:
    """`told_apart` at the end of training, for what compares memorized samples with new ones.

    Raises `SpikinessError` where fewer than two samples are new, as from a model that copies everything.
    """
    samples = told_apart(model, count)
    new = int(samples.generalized.sum())
    if new < 2:
        raise SpikinessError(
            f"{model.kind}, seed {model.seed}: {new} of {count} samples are new (d1 / d2 above {GENERALIZED_ABOVE:g}), "
            "and at least 2 are needed to tell copies from: draw more samples, or take a model of more images"
        )
    return samples


def tell_apart(x: Tensor, train: Tensor, labels: Tensor | None = None) -> Samples:
    """Which samples x [N, C, H, W] copy one of the distinct training images `train` [m, C, H, W], and which do not."""
    report = measures.memorization(x, train)
    ratio = report.ratio.numpy()
    memorized, stand_in = ratio < MEMORIZED_BELOW, False
    if memorized.sum() < FEWEST_MEMORIZED:
        few = min(max(FEWEST_MEMORIZED, len(ratio) // 10), len(ratio))
        memorized, stand_in = ratio <= np.sort(ratio)[few - 1], True
    generalized = (ratio > GENERALIZED_ABOVE) & ~memorized
    return Samples(x, labels, ratio, report.nearest.numpy(), memorized, generalized, stand_in)
