"""Two-layer networks trained on all noise levels, and sampled: what do they return, copies or new images (Figure 2)?"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, sampling, theory
from spikiness.denoisers import Empirical, Wiener
from spikiness.networks.time_dae import TimeDAE
from spikiness.statistics import rate
from spikiness.training.classifier import fit_classifier
from spikiness.training.diffusion import fit_diffusion
from spikiness.training.loop import LOG_UNIFORM
from spikiness_book import two_layers, zoo
from spikiness_book.engine.cache import cached
from spikiness_book.two_layers import GENERALIZED, MEMORIZED

FEW, RAW, MANY = "few, separable", "few, not centered", "many"
BATCH, LR = 64, 3e-3  # of training, chosen on calibration seeds: the loss is flat from here on
LADDER = sampling.geometric_sigmas()  # the paper's: 60 levels from 2 to .02, then 0
NETWORK, CLOSED, LINEAR, RESTORED = "network", "closed form", "Wiener", ", lengths restored"
WAYS = {  # the closed form of many images is sampled once only, as it costs most
    FEW: [(NETWORK, "ancestral"), (NETWORK, "heun"), (CLOSED, "ancestral"), (CLOSED, "heun")],
    RAW: [(NETWORK, "ancestral"), (NETWORK, "heun"), (CLOSED, "ancestral")],
    MANY: [(NETWORK, "ancestral"), (NETWORK, "heun"), (CLOSED, "ancestral")],
}
SHOWN = (0, 10, 20, 30, 40, 50, 60)  # states of a path in the pictures; 60 is the sample


@dataclass(frozen=True)
class SubsetNetwork:
    """One network of the chapter, with the images it learned and those it did not see."""

    subset: str  # FEW, RAW or MANY
    seed: int
    x: Tensor  # [n, d], training images, minus `mean`
    unseen: Tensor  # [N, d], held-out images, minus `mean`
    mean: Tensor  # [d], 0 where images are not centered
    network: TimeDAE | None = None

    @property
    def regime(self) -> str:
        """What the theory expects of it: MEMORIZED of few images, GENERALIZED of many."""
        return GENERALIZED if self.subset == MANY else MEMORIZED


def plan(pool: Tensor, unseen: Tensor, n_small: int, n_large: int, seeds: Sequence[int]) -> list[SubsetNetwork]:
    """Three networks per seed: few centered separable images of pool [N, ...], few raw ones, many centered ones.

    Few and many of a seed are drawn from the same n_large images, whose mean is taken off. unseen: [M, ...].
    """
    cases = []
    for seed in seeds:
        x = images.subset(pool.flatten(1), n_large, seed, "images")
        mean, none = x.mean(dim=0), torch.zeros_like(x[0])
        centered, other = x - mean, unseen.flatten(1)
        few = centered[theory.separable_subset(centered, n_small, seed)]
        cases += [
            SubsetNetwork(FEW, seed, few, other - mean, mean),
            SubsetNetwork(RAW, seed, x[:n_small], other, none),
            SubsetNetwork(MANY, seed, centered, other - mean, mean),
        ]
    return cases


def train(
    cases: Sequence[SubsetNetwork], width: int, steps_small: int, steps: int, decay_small: float, decay_large: float
) -> list[SubsetNetwork]:
    """The cases with their networks; steps and lambda over d of those of few images, and of those of many."""
    settings = {MEMORIZED: (steps_small, decay_small), GENERALIZED: (steps, decay_large)}
    trained = []
    for case in cases:
        count, decay = settings[case.regime]
        trained.append(replace(case, network=fit(case.x, width, case.seed, count, decay * case.x.shape[1])))
    return trained


def fit(x: Tensor, width: int, seed: int, steps: int, lam: float) -> TimeDAE:
    """A `TimeDAE` of `width` units on x [n, d], objective (6) with lambda `lam`, noise levels log-uniform, .02 to 2.

    From the cache where it was trained before.
    """
    network = functools.partial(TimeDAE, x.shape[1], width)
    return cached(
        fit_diffusion, x, network, seed, images_seen=steps * BATCH, batch=BATCH, lr=LR, noise=LOG_UNIFORM, lam=lam
    )


def denoiser(case: SubsetNetwork, source: str) -> Callable[[Tensor, Tensor | float], Tensor]:
    """The case's network, or of its training set in closed form: f_emp, or the Wiener filter of the covariance."""
    if source == NETWORK:
        return case.network
    if source == CLOSED:
        return Empirical(case.x)
    mean = case.x.mean(dim=0)
    return Wiener(mean, (case.x - mean).T.double() @ (case.x - mean).double() / len(case.x))


def draw(case: SubsetNetwork, count: int, sampler: str = "ancestral", source: str = NETWORK) -> Tensor:
    """`count` samples [count, d], from the same noise of the largest noise level whatever sampler and source."""
    seeds = zoo.initial_seeds(count, case.seed)
    return sampling.sample(denoiser(case, source), case.x.shape[1:], seeds, sampler=sampler, sigmas=LADDER)


def start(case: SubsetNetwork, count: int) -> Tensor:
    """The noise [count, d] that `draw` begins with."""
    noise = sampling.Noise(case.x.shape[1:], zoo.initial_seeds(count, case.seed), case.x.device, case.x.dtype)
    return LADDER[0].item() * noise()


def copies(case: SubsetNetwork, y: Tensor, **labels: object) -> pd.DataFrame:
    """One row per sample of y [N, d]: is it a copy, and of which image, as it is and by direction alone.

    `ratio` is d1 / d2; `ratio_direction` the same with samples and training images all brought to length 1, since a
    network without biases cannot know lengths. `length` is |y| over the length of the nearest image by direction.
    """
    plain = measures.memorization(y, case.x)
    turned = measures.memorization(normalize(y, dim=1), normalize(case.x, dim=1))
    size = case.x.norm(dim=1)[turned.nearest]
    frame = pd.DataFrame(
        {
            "ratio": plain.ratio,
            "ratio_direction": turned.ratio,
            "copy": plain.mask,
            "copy_direction": turned.mask,
            "distance": plain.distance,
            "distance_direction": turned.distance,
            "image": turned.nearest,
            "length": y.norm(dim=1) / size,
        }
    )
    return frame.assign(subset=case.subset, regime=case.regime, seed=case.seed, **labels)


def all_samples(cases: Sequence[SubsetNetwork], count: int) -> pd.DataFrame:
    """`copies` by each of WAYS: from networks by both samplers, from the closed form for comparison."""
    frames = []
    for case in cases:
        for source, sampler in WAYS[case.subset]:
            frames.append(copies(case, draw(case, count, sampler, source), source=source, sampler=sampler))
    return pd.concat(frames, ignore_index=True)


def fractions(rows: pd.DataFrame) -> pd.DataFrame:
    """Memorized fraction of each network, source and sampler by both criteria, with Wilson's interval: long form."""
    found = []
    for keys, part in rows.groupby(["subset", "regime", "source", "sampler", "seed"], sort=False):
        for criterion in ("copy", "copy_direction"):
            fraction, (low, high) = rate(part[criterion])
            labels = dict(zip(("subset", "regime", "source", "sampler", "seed"), keys, strict=True))
            value = {"fraction": fraction, "low": low, "high": high, "n": len(part)}
            found.append({**labels, "criterion": criterion, **value})
    table = pd.DataFrame(found)
    return table.assign(name=table.subset + ": " + table.source + ", " + table.sampler.replace("heun", "Heun"))


def effective(image: np.ndarray) -> float:
    """How many images are returned, counted by how evenly: exp of the entropy of their shares."""
    share = np.unique(image, return_counts=True)[1] / len(image)
    return float(np.exp(-(share * np.log(share)).sum()))


def bins(rows: pd.DataFrame) -> pd.DataFrame:
    """Histograms of both ratios d1 / d2 of the networks of centered images, one row of panels per sampler."""
    kept = rows[(rows.subset != RAW) & (rows.source == NETWORK)]
    kept = kept.assign(data=kept.sampler.replace("heun", "Heun"))
    return two_layers.histogram(kept, ["ratio", "ratio_direction"], 40)


def evenness(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per set of samples: number of images that its copies (by direction) return, and the `effective` one."""
    found = []
    labels = ["subset", "source", "sampler", "seed"]
    for keys, part in rows[rows.copy_direction].groupby(labels, sort=False):
        values = part.image.to_numpy()
        row = dict(zip(labels, keys, strict=True))
        found.append({**row, "images": len(np.unique(values)), "effective": effective(values)})
    return pd.DataFrame(found)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of each training image among the samples nearest to it by direction, per subset, source and sampler."""
    labels = ["subset", "source", "sampler", "seed"]
    counts = rows.groupby([*labels, "image"]).size().rename("share").reset_index()
    counts["share"] /= counts.groupby(labels).share.transform("sum")
    return counts


def predicted_length(x: Tensor, y: Tensor, nearest: Tensor, sigma: float) -> Tensor:
    """Length of samples over that of the images x[nearest], were each the only one stored; y [N, d]: the first noise.

    Along one stored direction the best denoiser without bias has the gain |x|^2 / (|x|^2 + sigma^2) (Corollary 3.2,
    lambda -> 0), and the path dy / dsigma = (y - D) / sigma keeps y . x / sqrt(|x|^2 + sigma^2) as it was at `sigma`.
    """
    image = x[nearest]
    size = image.norm(dim=1)
    return (y * image).sum(dim=1) / size / (size.square() + sigma**2).sqrt()


@torch.no_grad()
def lengths(case: SubsetNetwork, count: int) -> pd.DataFrame:
    """Predicted and found relative length of each of `count` samples by Heun's steps, copies by direction only.

    `own` is the prediction with the network's gain in place of the formula's: Heun's path from the image itself, which
    for a network that commutes with scaling tells the paths from all multiples of it.
    """
    rows, y = copies(case, draw(case, count, "heun")), start(case, count)
    nearest = torch.tensor(rows.image.tolist())
    rows["predicted"] = predicted_length(case.x, y, nearest, LADDER[0].item()).numpy()
    unit = normalize(case.x, dim=1)
    kept = [state.y for state in sampling.heun(case.network, unit, LADDER)][-1].norm(dim=1)  # [n], of a length of 1
    rows["own"] = ((y * unit[nearest]).sum(dim=1) * (kept / case.x.norm(dim=1))[nearest]).numpy()
    rows["learned"] = rows.length
    return rows[rows.copy_direction]


def noisy(case: SubsetNetwork, sigma: float, most: int = 500) -> Tensor:
    """Noisy training images [most, d]: all of them as often as they fit, at least `most` in all, then cut."""
    x = case.x[:most]
    return two_layers.noisy(x, sigma, case.seed, draws=-(-most // len(x)))[:most]


@torch.no_grad()
def along_sigma(case: SubsetNetwork, sigmas: Sequence[float]) -> pd.DataFrame:
    """Per noise level, on noisy training images: distances to f_emp and to the Wiener filter, spikiness of h.

    Distances are relative, |D - reference| / |reference|; spikiness is a median over the inputs.
    """
    found = []
    empirical, linear = denoiser(case, CLOSED), denoiser(case, LINEAR)
    for sigma in sigmas:
        y = noisy(case, sigma)
        h = case.network.encode(y, sigma)
        found.append(
            {
                "sigma": sigma,
                "empirical": measures.distance(case.network, empirical, y, sigma).relative,
                "wiener": measures.distance(case.network, linear, y, sigma).relative,
                "participation": float(measures.participation_ratio(h).median()),
                "std": float(measures.std(h).median()),
                "relative_std": float(measures.std_over_norm(h).median()),
            }
        )
    return pd.DataFrame(found).assign(subset=case.subset, regime=case.regime, seed=case.seed)


def paths(cases: Sequence[SubsetNetwork], shape: Sequence[int], count: int) -> tuple[dict, dict, pd.DataFrame]:
    """Rows of pictures: states of `count` ancestral samples of each case, then the nearest image; captions, table."""
    rows, captions, frames = {}, {}, []
    for case in cases:
        seeds = zoo.initial_seeds(count, case.seed)
        states = sampling.trajectories(
            case.network, case.x.shape[1:], seeds, sampler="ancestral", sigmas=LADDER, keep=lambda s: [p.y for p in s]
        )[0]
        path = torch.stack([start(case, count), *states], dim=1)[:, list(SHOWN)]  # [count, states, d]
        found = copies(case, path[:, -1])
        for i in range(count):
            name = f"{case.subset}, {i + 1}"
            picture = torch.cat([path[i], case.x[found.image[i]][None]])
            rows[name] = picture.reshape(-1, *shape).numpy()
            levels = [f"{LADDER[k].item():.2g}" for k in SHOWN[:-1]]
            captions[name] = [*levels, f"sample, {found.length[i]:.2f}", "nearest"]
            frames.append(pd.DataFrame(picture.numpy()).assign(row=name, state=captions[name]))
    return rows, captions, pd.concat(frames, ignore_index=True)


def newness(case: SubsetNetwork, y: Tensor) -> dict[str, object]:
    """Median distance of y [N, d] to the nearest training image over that of unseen images, as is and by direction.

    `size` is |y| over that of unseen images (medians), with the mean taken off.
    """
    size = float(y.norm(dim=1).median() / case.unseen.norm(dim=1).median())
    row: dict[str, object] = {"seed": case.seed, "size": size}
    for name, change in (("distance", lambda x: x), ("direction", lambda x: normalize(x, dim=1))):
        train, mine, others = change(case.x), change(y), change(case.unseen)
        near, usual = (measures.nearest(x, train, 1)[0].median() for x in (mine, others))
        row[name] = float(near / usual)
    return row


def classifier_features(pool: images.Images, seed: int) -> Callable[[Tensor], Tensor]:
    """Features of a classifier of `pool`: images [N, C, H, W] -> [N, f]."""
    return cached(fit_classifier, pool.x, pool.y, seed).features


def quality(
    case: SubsetNetwork, pool: Tensor, features: Callable[[Tensor], Tensor], count: int, shape: Sequence[int]
) -> pd.DataFrame:
    """Kernel distance and precision against unseen images: samples of network and Wiener filter, training images.

    Samples also with lengths restored: each as far from the mean as the median training image.
    All sets have one size: `count`, or as many as there are unseen images. pool: [N, C, H, W], shape: C, H, W.
    """
    count = min(count, len(case.unseen))
    real = (images.subset(case.unseen, count, case.seed) + case.mean).reshape(-1, *shape)
    split = images.subset(pool, count, case.seed)
    found = []
    sets = {source: draw(case, count, source=source) for source in (NETWORK, LINEAR)}
    typical = case.x.norm(dim=1).median()
    sets |= {source + RESTORED: normalize(y, dim=1) * typical for source, y in sets.items()}
    for source, y in sets.items():
        q = measures.quality((y + case.mean).reshape(-1, *shape), real, split, features, draws=100)
        found.append({"source": source, "kernel": q.kernel_distance, "precision": q.precision})
    found.append({"source": "training images", "kernel": q.real_kernel_distance, "precision": q.real_precision})
    return pd.DataFrame(found).assign(seed=case.seed, n=count)


def pictures(case: SubsetNetwork, count: int, shape: Sequence[int]) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """`count` samples of network and Wiener filter from the same noise, and unseen images, all plus the mean image."""
    x = {
        "network": draw(case, count),
        "Wiener filter": draw(case, count, source=LINEAR),
        "unseen images": images.subset(case.unseen, count, case.seed),
    }
    x = {name: rows + case.mean for name, rows in x.items()}
    frame = pd.concat([pd.DataFrame(rows.numpy()).assign(row=name) for name, rows in x.items()], ignore_index=True)
    return {name: rows.reshape(-1, *shape).numpy() for name, rows in x.items()}, frame
