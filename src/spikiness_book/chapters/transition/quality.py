"""The networks of the transition: how far they are from f_emp, their loss on unseen images, how good they sample."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures
from spikiness.denoisers import Denoiser, Empirical
from spikiness.networks.classifier import Classifier
from spikiness.statistics import Interval
from spikiness.training.classifier import fit_classifier
from spikiness.training.loop import LOG_NORMAL
from spikiness_book import copying, zoo
from spikiness_book.chapters.transition.measure import (
    PERFECT,
    STEPS,
    SampledDenoiser,
    Study,
    agreement,
    draw,
    kind,
    ratio,
)
from spikiness_book.engine.cache import cached

INPUTS = 400  # noisy images at which a network is compared with f_emp, at most: kept small because two cores
LOSS_DRAWS = 2000  # noisy images over which a loss is averaged, about
SPLITS = 100  # halves of the held-out images over which quality is averaged
TRAIN, TEST = "training images", "held-out images"
QUALITIES = ("precision", "recall", "kernel_distance")


def from_perfect(study: Study, sigmas: Sequence[float]) -> pd.DataFrame:
    """One row per network of the smallest and the largest n, noise level and kind of image: the distance to f_emp of
    its training images, rms over pixels in standard deviations of the pixels, with a bootstrap interval over inputs.
    """
    generator, rows = torch.Generator().manual_seed(zoo.SHARED_NOISE), []
    for net in [*study.of(study.sizes[0]), *study.of(study.sizes[-1])]:
        train = study.train(net)
        for name, clean in {TRAIN: train[:INPUTS], TEST: study.test.x[:INPUTS]}.items():
            clean = clean.repeat_interleave(max(1, INPUTS // len(clean)), dim=0)
            for sigma in sigmas:
                y = clean + sigma * torch.randn(clean.shape, generator=generator)
                each = measures.distance(net.denoiser, Empirical(train), y, sigma).each.double() / study.scale
                value, (low, high) = _rms(each.numpy()), measures.bootstrap(each, _rms, draws=500)
                row = {"data": study.name, "n": net.n, "seed": net.seed, "sigma": sigma, "kind": name}
                rows.append({**row, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def losses(study: Study) -> pd.DataFrame:
    """One row per network of the larger width and kind of image, and for f_emp in its place: EDM's weighted loss, with
    a bootstrap interval over images."""
    rows = []
    for net in (m for m in study.networks if m.width == study.width):
        train = study.train(net)
        for kind_of, x in {TRAIN: train, TEST: study.test.x}.items():
            for name, denoiser in {kind_of: net.denoiser, f"{PERFECT}, {kind_of}": Empirical(train)}.items():
                each = weighted_loss(denoiser, study.scale, x)
                low, high = measures.bootstrap(each)
                row = {"data": study.name, "n": net.n, "seed": net.seed, "kind": name}
                rows.append({**row, "value": float(each.mean()), "low": low, "high": high})
    return pd.DataFrame(rows)


@torch.no_grad()
def weighted_loss(denoiser: Denoiser, scale: float, x: Tensor, draws: int = LOSS_DRAWS, batch: int = 500) -> Tensor:
    """The loss each network is trained with, at each of x [n, C, H, W], mean over its noise levels and noise: [n].

    `(sigma^2 + scale^2) / (sigma scale)^2 |D(x + sigma eps) - x|^2 / d`, log sigma normal as in training; images are
    seen as often as makes about `draws` noisy ones, the same for every denoiser.
    """
    generator = torch.Generator().manual_seed(zoo.SHARED_NOISE)
    _, mean, deviation = LOG_NORMAL
    total = []
    for _ in range(max(1, draws // len(x))):
        sigma = (mean + deviation * torch.randn(len(x), generator=generator)).exp()
        noise = torch.randn(x.shape, generator=generator)
        parts = zip(x.split(batch), noise.split(batch), sigma.split(batch), strict=True)
        error = [(denoiser(a + s.reshape(-1, 1, 1, 1) * e, s) - a).square().flatten(1).mean(1) for a, e, s in parts]
        total.append(torch.cat(error) * (sigma**2 + scale**2) / (sigma * scale) ** 2)
    return torch.stack(total).mean(dim=0)


def loss_ratio(rows: pd.DataFrame, n: int) -> tuple[float, Interval]:
    """Held-out over training loss of the networks of n images, means over networks, with the range of what the ends of
    both ranges allow."""
    mine = rows[rows.n == n]
    (train, (low, high)), (test, (test_low, test_high)) = (
        copying.over_networks(mine[mine.kind == name]) for name in (TRAIN, TEST)
    )
    return test / train, Interval(test_low / high, test_high / low, None, "networks")


def quality(study: Study) -> tuple[pd.DataFrame, float]:
    """One row per network and measure, and for real images in place of samples: mean over SPLITS random halves of the
    held-out images, with their central 95 %; the accuracy on held-out images of the classifier whose features it uses.

    One half is what samples are held against; the other half, held against the same, is what perfect samples would
    give. All three sets have one size, since precision and recall depend on it. `gap` is samples minus real images.
    By half-sampling, the spread of the halves is about the interval of a figure of all held-out images; that of a rate
    is no narrower than Wilson's for one half.
    """
    network = cached(fit_classifier, study.pool.x, study.pool.y)
    with torch.no_grad():
        test = _features(network, study.test.x)
        accuracy = float((network.last(test).argmax(dim=1) == study.test.y).double().mean())
        parts = [_quality(study, net, _features(network, net.samples), test) for net in study.networks]
    return pd.concat(parts, ignore_index=True), accuracy


def _features(network: Classifier, x: Tensor, batch: int = 500) -> Tensor:
    return torch.cat([network.features(part) for part in x.split(batch)])


def _quality(study: Study, net: SampledDenoiser, features: Tensor, test: Tensor) -> pd.DataFrame:
    size, found = min(len(features), len(test) // 2), []
    for seed in range(SPLITS):
        halves = images.subset(test, 2 * size, seed)
        mine = images.subset(features, size, seed)
        found.append(measures.quality(mine, halves[:size], halves[size:], lambda f: f, draws=1))
    rows = []
    for name in QUALITIES:
        samples, real = (np.array([getattr(f, f"{of}{name}") for f in found]) for of in ("", "real_"))
        row = {"data": study.name, "n": net.n, "width": net.width, "seed": net.seed, "measure": name, "size": size}
        for what, split in {kind(net): samples, "real images": real, "gap": samples - real}.items():
            low, high = np.quantile(split, [0.025, 0.975])
            if what != "gap" and name != "kernel_distance":  # a rate of 0 or 1 has an interval, too
                wilson = measures.wilson(round(split.mean() * size), size)
                low, high = min(low, wilson[0]), max(high, wilson[1])
            rows.append({**row, "kind": what, "value": split.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def quality_panels(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of `quality` by measure, without gaps; real images once for each n."""
    shown = rows[rows.kind != "gap"]
    real = shown.kind == "real images"
    shown = pd.concat([shown[~real], shown[real].drop_duplicates(["n", "measure"])])
    return {name: shown[shown.measure == name] for name in QUALITIES}


def more_steps(study: Study) -> pd.DataFrame:
    """One row per end of the sizes: the first network sampled from the same noise with twice the steps.

    `shift` is how far the memorized fraction moves, `high` the upper end of Wilson's interval of the share of samples
    whose verdict changes (no shift is larger), `half` half the interval of the fraction, `moved` how far samples move
    over the distance of unrelated ones.
    """
    rows = []
    for n in (study.sizes[0], study.sizes[-1]):
        net = study.of(n)[0]
        finer = draw(net.denoiser, study.pool.x, len(net.samples), STEPS[1])
        few, many = (measures.memorization(x, study.train(net)) for x in (net.samples, finer))
        changed = int((few.mask != many.mask).sum())
        row = {"data": study.name, "n": n, "fraction": few.fraction, "finer": many.fraction, "changed": changed}
        row |= {"shift": abs(many.fraction - few.fraction), "high": measures.wilson(changed, len(finer))[1]}
        moved = ratio(agreement(finer, net.samples))
        rows.append({**row, "half": (few.interval[1] - few.interval[0]) / 2, "moved": moved})
    return pd.DataFrame(rows)


def excess(rows: pd.DataFrame, n: int) -> tuple[float, float]:
    """Loss of the networks of n images over that of f_emp, on training images, where f_emp has the least possible, and
    on held-out ones; means over networks."""
    mine = rows[rows.n == n].groupby("kind").value.mean()
    train, test = (float(mine[kind_of] / mine[f"{PERFECT}, {kind_of}"]) for kind_of in (TRAIN, TEST))
    return train, test


def usual_level(sigmas: Sequence[float]) -> float:
    """The one of the noise levels that is nearest, in its logarithm, to the median of those trained on, about .30."""
    return min(sigmas, key=lambda sigma: abs(math.log(sigma) - LOG_NORMAL[1]))
