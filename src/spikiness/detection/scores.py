"""The scores behind `BASELINES`, of one interface: `score(images [N, ...], labels=None) -> [N]`, high = memorized.

A new one is a subclass of `Baseline` (or of `AtNoise`, `Drawn`) whose fields are what it is made from, with a
`_score`, and an entry in `spikiness.detection.baselines`: every table finds it there.

Which end of a score means "memorized" is each method's own theory, fixed here and never looked up in results. The score
of an image does not depend on the images beside it: what is random is drawn from the image's own values and a seed.
Scores are float64. NaN and inf, in images or in what a model makes of them, are errors with the number of images:
"no rank" is not "not memorized". Images lie on the model's device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from inspect import signature

import torch
from torch import Tensor, nn

from spikiness.denoisers import noise_level
from spikiness.errors import SpikinessError
from spikiness.measures import nearest, std
from spikiness.measures.inputs import flat
from spikiness.networks.unet import at_least_one
from spikiness.representations import capture, evaluating, noisy
from spikiness.sampling import sample

SEEDS = 2 * 10**12  # the first seed of a density's generations, far from those of samples and noise
REFERENCES = 20  # the fewest images from which a unit's mean and Std are taken


@dataclass(eq=False, repr=False)
class Baseline(ABC):
    """Scores images in batches, and refuses those without a rank."""

    _: KW_ONLY
    batch: int = 256  # images at a time

    def __post_init__(self) -> None:
        at_least_one(batch=self.batch)

    @torch.no_grad()
    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """How memorized images [N, ...] are held to be, [N] in float64; labels [N] are read by `Conditional` alone.

        Raises SpikinessError for images that are not float or not finite, labels of another length, and scores of NaN
        or inf, with the number of images.
        """
        flat("images", images)
        labels = _labels(labels, len(images))
        rows = (slice(start, start + self.batch) for start in range(0, len(images), self.batch))
        with evaluating(getattr(self, "model", None)):
            scores = torch.cat([self._score(images[r], None if labels is None else labels[r]).double() for r in rows])
        _finite(scores, f"scores of {type(self).__name__}")
        return scores

    @abstractmethod
    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Scores [N] of one batch x [N, ...]."""


@dataclass(eq=False, repr=False)
class AtNoise(Baseline):
    """A score that asks the model at one noise level."""

    model: Callable[..., Tensor]
    sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sigma = _number(self.sigma)

    def _denoise(self, y: Tensor, **labels: Tensor) -> Tensor:
        """D(y, sigma) as rows [N, d]."""
        estimate = self.model(y, torch.full((len(y),), self.sigma, dtype=y.dtype, device=y.device), **labels)
        if estimate.shape != y.shape:
            raise SpikinessError(f"the model gives {list(estimate.shape)} for images {list(y.shape)}: not a denoiser")
        return estimate.flatten(1)


@dataclass(eq=False, repr=False)
class Drawn(AtNoise):
    """A score of noisy images, mean over `draws` of the noise."""

    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(draws=self.draws)

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        noise = (noisy(x, self.sigma, self.seed, draw) for draw in range(self.draws))
        return torch.stack([self._once(x, y, labels).double() for y in noise]).mean(dim=0)

    @abstractmethod
    def _once(self, x: Tensor, y: Tensor, labels: Tensor | None) -> Tensor:
        """Scores [N] by one noisy version y of x."""


@dataclass(eq=False, repr=False)
class FLIPD(AtNoise):
    """Minus the local intrinsic dimension: what is memorized lies on fewer dimensions than the data.

    Source: Kamkari et al. 2024, "A geometric view of data complexity"; as a sign of memorization Ross et al. 2025, "A
    geometric framework for understanding memorization in generative models". At the image itself
    `LID = d + sigma^2 (tr grad s + |s|^2) = tr J + |D(x, sigma) - x|^2 / sigma^2`, J the Jacobian of D (Tweedie).
    Assumes a model that can be differentiated and treats images one by one, and a sigma below the scale at which the
    data's manifold curves or meets another one.
    Costs one evaluation and `probes` products with J^T (Hutchinson, Rademacher probes drawn per image), or d of them
    for the exact trace (`probes=None`), one after another: memory is that of one. In reverse mode: on a small U-Net
    twice (batch 256) to 7 times (batch 1) as fast as forward mode, which fused attention does not support at all.
    Raises SpikinessError for sigma that is not positive, probes below 1, and a model without derivatives.
    """

    probes: int | None = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes is not None:
            at_least_one(probes=self.probes)

    def dimension(self, images: Tensor) -> Tensor:
        """LID [N] of images [N, ...]: near 0 for a copy, d for pure noise; an estimate may be negative."""
        return -self.score(images)

    @torch.enable_grad()
    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        x = x.detach().clone().requires_grad_()
        estimate = self._denoise(x)  # [N, d]
        if not estimate.requires_grad:
            raise SpikinessError("the model has no derivative with respect to images: does it run under no_grad?")
        residual = (estimate - x.flatten(1)).detach().double()
        return -self._trace(x, estimate) - (residual / self.sigma).square().sum(dim=1)

    def _trace(self, x: Tensor, estimate: Tensor) -> Tensor:
        """tr J [N]: the sum of e_i^T J e_i, or the mean of v^T J v."""

        def product(v: Tensor) -> Tensor:
            row = torch.autograd.grad(estimate, x, v, retain_graph=True)[0].flatten(1)  # v^T J
            return (row * v).sum(dim=1, dtype=torch.float64)

        if self.probes is None:
            axes = torch.eye(estimate.shape[1], dtype=x.dtype, device=x.device)
            return sum((product(axis.expand_as(estimate)) for axis in axes), start=torch.zeros(()))
        products = (product(self._signs(x.detach(), draw)) for draw in range(self.probes))
        return sum(products, start=torch.zeros(())) / self.probes

    def _signs(self, x: Tensor, draw: int) -> Tensor:
        """Rademacher numbers [N, d], the signs of noise of level 1."""
        return torch.where(noisy(x, 1.0, self.seed, draw) > x, 1.0, -1.0).to(x.dtype).flatten(1)


@dataclass(eq=False, repr=False)
class ScoreNorm(AtNoise):
    """Minus the size of the score at the image itself, `-sigma |s(x, sigma)| = -|D(x, sigma) - x| / sigma`.

    Source: ours, by Tweedie's formula: a copy is a peak of the model's density, where its gradient is small.
    Assumes a sigma so small that the peak is that of one image. Costs one evaluation.
    Raises SpikinessError for sigma that is not positive.
    """

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return -_norm(self._denoise(x) - x.flatten(1)) / self.sigma


@dataclass(eq=False, repr=False)
class DenoisingError(Drawn):
    """Minus the mean squared error per pixel, `-|D(x + sigma eps, sigma) - x|^2 / d`, over `draws` of the noise.

    Source: the loss threshold of membership inference, on diffusion models in Carlini et al. 2023, "Extracting training
    data from diffusion models". Assumes that what is memorized is denoised better than what is not, at equal difficulty
    of the images: smooth images are denoised well by anything. Costs `draws` evaluations.
    Raises SpikinessError for sigma that is not positive and draws below 1.
    """

    def _once(self, x: Tensor, y: Tensor, labels: Tensor | None) -> Tensor:
        return -(self._denoise(y) - x.flatten(1)).double().square().mean(dim=1)


@dataclass(eq=False, repr=False)
class Conditional(Drawn):
    """How far the label moves the estimate, `|D(y, sigma, label) - D(y, sigma)| / sigma`, mean over `draws` of y.

    Source: Wen et al. 2024, "Detecting, explaining, and mitigating memorization in diffusion models" (the size of the
    difference of the two noise predictions). Assumes that the label, as a prompt does there, names the memorized image:
    a class of many images need not. Costs 2 `draws` evaluations, and the label of each image (the null label scores 0).
    Raises SpikinessError for a model without classes, for missing labels, sigma that is not positive, draws below 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        network = getattr(self.model, "network", self.model)
        named = signature(getattr(self.model, "forward", self.model)).parameters
        if "labels" not in named or getattr(network, "arguments", {}).get("classes", "?") is None:
            raise SpikinessError("Conditional compares estimates with and without label; this model has no classes")

    def _once(self, x: Tensor, y: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise SpikinessError("Conditional needs labels, one for each image: score(images, labels)")
        return _norm(self._denoise(y, labels=labels) - self._denoise(y)) / self.sigma


@dataclass(eq=False, repr=False)
class Density(Baseline):
    """Minus the mean L2 distance to the k nearest of `count` other generations of the same model.

    Source: Carlini et al. 2023, "Extracting training data from diffusion models": generations crowd around what is
    memorized. Assumes that memorized images are generated again and again, and as likely as each other.
    Costs `count` generations (2 steps - 1 evaluations each) once, drawn when first asked for, then none. The audited
    images must not be among them: theirs are seeds of their own.
    `shape` [C, H, W] of an image; `labels` of a model with classes, taken in turn (range(10): one in ten of each; None:
    no class). Ready `generations` [count, ...] stand in for model and shape.
    Raises SpikinessError where there is neither a model with a shape nor generations, or fewer of them than k.
    """

    model: Callable[..., Tensor] | None = None
    shape: Sequence[int] | None = None
    count: int = 1000
    k: int = 10
    seed: int = 0
    labels: Sequence[int] | Tensor | None = None
    steps: int = 18
    generations: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(count=self.count, k=self.k)
        if self.generations is None and (self.model is None or self.shape is None):
            raise SpikinessError("Density needs a model and the shape [C, H, W] of its images, or ready generations")
        if self.labels is not None and len(self.labels) == 0:
            raise SpikinessError("labels are empty; give those of the generations, taken in turn, or None")
        count = self.count if self.generations is None else len(self.generations)
        if not self.k <= count <= 10**6:
            raise SpikinessError(f"{count} generations for k = {self.k} neighbors: give from k to a million of them")

    @cached_property
    def others(self) -> Tensor:
        """The generations [count, ...] that images are compared with."""
        if self.generations is not None:
            return self.generations
        assert self.model is not None  # __post_init__ has seen to it
        assert self.shape is not None
        first = SEEDS + self.seed * 10**6
        labels = None if self.labels is None else torch.as_tensor(self.labels)
        if labels is not None:
            labels = labels[torch.arange(self.count) % len(labels)]
        seeds = range(first, first + self.count)
        return sample(self.model, self.shape, seeds, self.steps, labels=labels, batch=self.batch)

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return -nearest(x, self.others.to(x), self.k)[0].mean(dim=1)


@dataclass(eq=False, repr=False)
class UnitZScores(Baseline):
    """Mean of the `top` largest |z| of a layer's units, z against images known not to be memorized.

    Source: after Hintersdorf et al. 2024, "Finding NeMo: localizing neurons responsible for memorization in diffusion
    models". Assumes that memorized images set off a few units far outside their usual range.
    Costs one evaluation up to `layer` for an image, and one for each of the `reference` images [n, ...], once.
    `pool` as in `representations.capture`. Units that are constant on the reference are left out, `constant` of them.
    Raises SpikinessError for fewer than 20 reference images, more `top` units than vary, sigma that is not positive, an
    unknown layer or pool, and features that are not finite.
    """

    model: nn.Module
    layer: str
    sigma: float
    _: KW_ONLY
    pool: str = "mean"
    reference: Tensor
    top: int = 10
    seed: int = 0
    constant: int = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(top=self.top)
        self.sigma = _number(self.sigma)
        flat("reference images", self.reference)
        if len(self.reference) < REFERENCES:
            raise SpikinessError(f"{len(self.reference)} reference images; a z-score needs {REFERENCES} or more")
        h = self._features(self.reference, "reference images")  # [n, p]
        low, high = h.aminmax(dim=0)
        self._varies = high - low > 1e-6 * torch.maximum(low.abs(), high.abs())  # beyond rounding
        self.constant = int((~self._varies).sum())
        if self.top > len(low) - self.constant:
            raise SpikinessError(
                f"top is {self.top}, but of {len(low)} units {self.constant} are constant on the reference images: "
                "ask for fewer, choose another layer or pool"
            )
        h = h[:, self._varies]
        self._mean, self._std = h.mean(dim=0), h.std(dim=0, correction=0)

    def _features(self, x: Tensor, name: str) -> Tensor:
        y = noisy(x, self.sigma, self.seed)
        h = capture(self.model, self.layer, y, self.sigma, self.pool, batch=self.batch).double()
        _finite(h, f"features of {name}")
        return h

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        z = (self._features(x, "images")[:, self._varies] - self._mean) / self._std
        return z.abs().topk(self.top, dim=1).values.mean(dim=1)


class PixelNorm(Baseline):
    """The 2-norm of the image: knows nothing of the model. Costs nothing; which end is memorized is open."""

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return _norm(x.flatten(1))


class PixelStd(Baseline):
    """Population Std of the image's pixels: Algorithm 1 without a network. Costs nothing; which end is open."""

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return std(x.flatten(1).double())


class TotalVariation(Baseline):
    """Sum of |differences| of neighbors, down and across (anisotropic): how busy the image is. Costs nothing.

    Source: Rudin, Osher and Fatemi 1992, "Nonlinear total variation based noise removal algorithms"; here a control:
    which end is memorized is open. Raises SpikinessError for images that are not [N, C, H, W].
    """

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if x.ndim != 4:
            raise SpikinessError(f"images have shape {list(x.shape)}; TotalVariation needs [N, C, H, W]")
        down, across = (x.double().diff(dim=dim).abs().sum(dim=(1, 2, 3)) for dim in (2, 3))
        return down + across


@dataclass(eq=False, repr=False)
class NearestTraining(Baseline):
    """Minus the L2 distance to the nearest of the training images [n, ...]: an oracle, no auditor has them.

    Source: the usual definition of a copy. Assumes that a copy is near in pixels. Costs no evaluation.
    Raises SpikinessError for training images of another shape, empty or not finite.
    """

    train: Tensor

    def _score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return -nearest(x, self.train, 1)[0][:, 0]


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)


def _number(sigma: float) -> float:
    return noise_level(sigma, torch.zeros((), dtype=torch.float64), 0).item()


def _labels(labels: object, count: int) -> Tensor | None:
    labels = None if labels is None else torch.as_tensor(labels)
    if labels is not None and labels.shape != (count,):
        raise SpikinessError(f"labels have shape {list(labels.shape)}; give one for each of {count} images")
    return labels


def _finite(values: Tensor, what: str) -> None:
    """Refuse values [N, ...] with rows that are not finite, with their number."""
    bad = int((~values.isfinite()).flatten(1).any(dim=1).sum()) if values.ndim > 1 else int((~values.isfinite()).sum())
    if bad:
        raise SpikinessError(f"{bad} of {len(values)} {what} are NaN or inf and have no rank; look at the model there")
