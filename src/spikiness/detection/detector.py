"""The detector: one measure of spikiness of one layer at one noise level, above a threshold (Algorithm 1)."""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikiness import files, images, measures, representations
from spikiness.detection.calibration import FEWEST, WAYS, Case, Choice, as_model, choose, quantile, refuse_nan, values
from spikiness.errors import CorruptArtifact, SpikinessError, suggest
from spikiness.networks.unet import at_least_one

FORMAT = 1
AMONG = {"layers", "sigmas", "pools", "measures", "margin", "fpr"}  # what a calibration can be told
SIGMA = 0.17  # the paper's noise level, step 50 of 1,000, in images of [-1, 1]


@dataclass(frozen=True)
class Explanation:
    """Which units carry the energy |h|^2 of a representation, the largest first."""

    units: Tensor  # [N, k], their index in the pooled representation
    shares: Tensor  # [N, k], h^2 / |h|^2
    active: Tensor  # [N], units that are not zero
    participation: Tensor  # [N], participation ratio, 1 to p
    size: int  # p


class Detector:
    """`score(images)` is high for memorized images: a measure of spikiness of one layer's features of noisy images.

    What is left None is open. `calibrate` chooses it on images known to be memorized or not; `layers`, `sigmas`,
    `pools` and `measures` say among what. Without it the paper's choice holds (Algorithm 1: population Std of all units
    after the last nonlinearity of the first up block, at a low noise level, higher means memorized), and `calibrated`
    is False. For a model of another kind the layer is `encode` (two-layer networks), or else the middle one of its
    nonlinearities (of its modules, where no nonlinearity is one), which is our choice and not the paper's.

    `draws` of the noise are averaged; the noise of an image depends on the image and `seed` alone. `model` is a module
    called as `model(y, sigma)`: a network with classes answers for the null label. A batch that lies in [0, 1] is taken
    for badly scaled and refused; `allow_unit` accepts it. Raises SpikinessError for a layer the
    model does not have or reach, an unknown pool or measure, and a noise level that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        sigma: float | None = None,
        pool: str | None = None,
        measure: str | None = "std",
        *,
        direction: int | None = None,
        threshold: float | None = None,
        draws: int = 1,
        seed: int = 0,
        batch: int = 256,
        allow_unit: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise SpikinessError(f"model is a {type(model).__name__}; a detector looks inside a torch.nn.Module")
        at_least_one(draws=draws, batch=batch)
        if layer is not None:
            representations.check_layer(model, layer)
        if pool is not None:
            representations.check_pool(pool)
        if measure is not None and measure not in measures.MEASURES:
            every = ", ".join(measures.MEASURES)
            raise SpikinessError(f"unknown measure {measure!r}: one of {every}{suggest(measure, measures.MEASURES)}")
        if direction not in (None, 1, -1):
            raise SpikinessError(f"direction is {direction!r}: 1 where memorized is higher, -1 where it is lower")
        if sigma is not None and not (isinstance(sigma, int | float) and 0 < sigma < float("inf")):
            raise SpikinessError(f"sigma is {sigma!r}: a noise level is positive and finite, for instance {SIGMA}")
        if threshold is not None and not (isinstance(threshold, int | float) and np.isfinite(threshold)):
            raise SpikinessError(f"threshold is {threshold!r}: it is a finite number, or None where there is none yet")
        self.model = model
        self.open = {"layer": layer, "sigma": sigma, "pool": pool, "measure": measure, "direction": direction}
        self.choice = _default(model, self.open)
        self.threshold = threshold
        self.draws, self.seed, self.batch, self.allow_unit = draws, seed, batch, allow_unit
        self.record: dict[str, Any] = {}  # how it was calibrated; JSON only
        self._warn_outside()

    @property
    def calibrated(self) -> bool:
        return bool(self.record)

    def __repr__(self) -> str:
        c = self.choice
        how = f"chosen on {self.record['models']} model(s)" if self.calibrated else "the paper's choice, not calibrated"
        sign = "higher" if c.direction > 0 else "lower"
        limit = "no threshold" if self.threshold is None else f"threshold {self.threshold:.4g}"
        return f"Detector({c.measure} of {c.layer}, {c.pool} at sigma {c.sigma:g}, {sign} is memorized, {limit}; {how})"

    def score(self, x: Tensor) -> Tensor:
        """Scores [N] of images x [N, C, H, W] in [-1, 1]: higher is memorized, whatever the direction of the measure.

        Raises SpikinessError for images out of range, of other channels or size than the model's, that hold NaN, and
        for features that are not finite: an image without a score is never taken for one that is not memorized. Warns
        where different images all have one score: their layer may be dead, or rest for what is not memorized, and
        images of one sort cannot tell which (`calibrate` and `evaluate`, which see both, refuse it).
        """
        check_images(self.model, x, self.allow_unit)
        found = values(self.model, self.choice, x, self.draws, self.seed, self.batch)
        if len(found) > 1 and (found == found[0]).all() and not (x == x[:1]).all():
            warnings.warn(
                f"all {len(found)} images have the score {found[0]:.4g} in {self.choice.layer!r}: is that layer dead? "
                "Look at scores of images known to be memorized, choose another layer, or look at the model's weights",
                stacklevel=2,
            )
        return found

    def flag(self, x: Tensor) -> Tensor:
        """Which of images x [N, C, H, W] are memorized, [N]: those whose score is strictly above the threshold.

        Raises SpikinessError without a threshold: `calibrate`, or `allow(images known not to be memorized)`, sets it.
        """
        if self.threshold is None:
            raise SpikinessError(
                "this detector has no threshold: calibrate(memorized, generalized) chooses one, "
                "allow(generalized, fpr=0.01) sets it from images known not to be memorized"
            )
        return self.score(x) > self.threshold

    def allow(self, generalized: Tensor, fpr: float = 0.01) -> "Detector":
        """Set the threshold so that at most a share `fpr` of these images [N, C, H, W] is flagged; returns itself.

        Of *other* images like these, (floor(fpr N) + 1) / (N + 1) are expected above it: 5 % for N = 20, 2 % for 100,
        where 1 % is asked for. Raises SpikinessError for fewer than 20 images and for what `score` refuses.
        """
        if len(generalized) < FEWEST:
            raise SpikinessError(
                f"{len(generalized)} images set no threshold: give at least {FEWEST}, better some 4 / fpr"
            )
        self.threshold = quantile(self.score(generalized).numpy(), fpr)
        return self

    def explain(self, x: Tensor, k: int = 10) -> Explanation:
        """The `k` units that carry most energy in the representation of each of images x [N, C, H, W]."""
        check_images(self.model, x, self.allow_unit)
        c = self.choice
        h = representations.represent(
            self.model,
            c.layer,
            as_model(self.model, x),
            c.sigma,
            c.pool,
            draws=self.draws,
            seed=self.seed,
            batch=self.batch,
        )
        refuse_nan(h.isfinite().all(dim=1), c.layer)
        energy = h.double().square()
        share = energy / energy.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        shares, units = share.topk(min(k, h.shape[1]), dim=1)
        return Explanation(units, shares, (h != 0).sum(dim=1), measures.participation_ratio(h), h.shape[1])

    def cost(self, x: Tensor) -> float:
        """Share of a full pass through the model, per image and draw, that a score of images like x takes (FLOPs)."""
        y = representations.noisy(as_model(self.model, x[:1]), self.choice.sigma, self.seed)
        return representations.cost(self.model, self.choice.layer, y, self.choice.sigma)

    def calibrate(self, memorized: Tensor, generalized: Tensor, **among: Any) -> "Detector":
        """Choose what was left open, and the threshold, on images of this model; in place, returns itself.

        `among`: see `detection.calibrate`, which takes several models. A choice made on one model was seen to turn
        around on the next: prefer two or more.
        """
        return self._calibrate([(self.model, memorized, generalized)], **among)

    def _calibrate(self, cases: Sequence[Case], **among: Any) -> "Detector":
        for name in among.keys() - AMONG:
            raise SpikinessError(
                f"calibrate takes no {name!r}: one of {', '.join(sorted(AMONG))}{suggest(name, AMONG)}"
            )
        for model, *groups in cases:
            for group in groups:
                check_images(model, group, self.allow_unit)
        noise = {"draws": self.draws, "seed": self.seed, "batch": self.batch}
        self.choice, self.threshold, self.record = choose(cases, self.open, **noise, **among)
        self._warn_outside()
        return self

    def for_model(self, other: nn.Module) -> "Detector":
        """The same choices and threshold on another model. Raises SpikinessError where it lacks the layer."""
        representations.check_layer(other, self.choice.layer)
        noise = {"draws": self.draws, "seed": self.seed, "batch": self.batch, "allow_unit": self.allow_unit}
        found = Detector(other, **asdict(self.choice), **noise)
        found.open, found.threshold, found.record = self.open, self.threshold, self.record
        return found

    def save(self, path: Path | str) -> None:
        """Write choices, threshold and record as JSON, with the digest of the model they were made on."""
        content = {
            "format": FORMAT, "model": fingerprint(self.model), "choice": asdict(self.choice),
            "open": self.open, "threshold": self.threshold, "draws": self.draws, "seed": self.seed,
            "allow_unit": self.allow_unit, "record": self.record,
        }  # fmt: skip
        text = files.as_text(content)
        files.write_bytes(Path(path), files.as_text({"sha256": files.sha256(text.encode()), **content}).encode())

    @classmethod
    def load(cls, path: Path | str, model: nn.Module, *, transfer: bool = False) -> "Detector":
        """The detector written to `path`, for the `model` it was made on, or with `transfer` for another one.

        Raises SpikinessError where the file is absent or of another model, CorruptArtifact where it was altered.
        """
        content = _read(Path(path))
        mine = fingerprint(model)
        if content["model"] != mine and not transfer:
            same = content["model"]["architecture"] == mine["architecture"]
            what = "other weights" if same else "another architecture"
            raise SpikinessError(
                f"{path} was calibrated on a model with {what}; a choice need not carry over: calibrate on this model, "
                "or pass transfer=True and look at the result on images you know"
            )
        kept = {name: content[name] for name in ("draws", "seed", "allow_unit")}
        detector = cls(model, **content["choice"], **kept)
        detector.open, detector.threshold, detector.record = (content[k] for k in ("open", "threshold", "record"))
        return detector

    def _warn_outside(self) -> None:
        low, high = trained_range(self.model)
        if not low <= self.choice.sigma <= high:
            warnings.warn(
                f"sigma {self.choice.sigma:g} lies outside the noise levels this model was trained on "
                f"({low:.3g} to {high:.3g}): its features there mean little",
                stacklevel=3,
            )


def calibrate(
    cases: Sequence[Case],
    *,
    measure: str | None = None,
    draws: int = 1,
    seed: int = 0,
    batch: int = 256,
    allow_unit: bool = False,
    **among: Any,
) -> Detector:
    """A detector for the model of the first of `cases`, each (model, memorized, generalized) with images [N, C, H, W],
    whose choices are best for the worst of the models.

    Layer, noise level, pooling, measure (unless given) and direction are chosen by AUROC in the worst model; among
    choices within `margin` (.01) of the best the cheapest wins, and of these the best. The threshold is the highest of
    the models' own, at `fpr` (.01). `layers` (all "modules" that see the image, its "nonlinearities", or names),
    `sigmas`, `pools` and `measures` say among what. `.record` keeps all that was tried. Needs at least 20 images of
    each kind from each model; prefer two models or more, since the choice of one was seen to turn around on the next.
    """
    if not cases:
        raise SpikinessError("no cases: give at least one (model, memorized, generalized), better two")
    noise = {"draws": draws, "seed": seed, "batch": batch, "allow_unit": allow_unit}
    return Detector(cases[0][0], measure=measure, **noise)._calibrate(cases, **among)


def check_images(model: nn.Module, x: Tensor, allow_unit: bool = False) -> None:
    """Refuse what the door refuses, and images of other channels or size than those the model was made for."""
    arguments = getattr(getattr(model, "network", model), "arguments", {})
    images.check(x, arguments.get("channels"), arguments.get("size"), allow_unit=allow_unit)
    if "dim" in arguments and x[0].numel() != arguments["dim"]:
        raise SpikinessError(f"images have {x[0].numel()} values each; this model was made for {arguments['dim']}")


def trained_range(model: nn.Module) -> tuple[float, float]:
    """Noise levels the model was trained on, as its record says; everything where it says nothing."""
    record = getattr(model, "record", {})
    if "noise" in record:  # kind and two numbers, as `fit_diffusion` has it
        kind, a, b = record["noise"]
        return (float(np.exp(a - 3 * b)), float(np.exp(a + 3 * b))) if kind == "log-normal" else (a, b)
    if "sigma" in record:  # one level is built in; what lies within a factor of two is near enough
        return record["sigma"] / 2, record["sigma"] * 2
    return 0.0, float("inf")


def default_layer(model: nn.Module) -> str:
    """The paper's: the last nonlinearity of the first up block; elsewhere `encode`, or the middle nonlinearity, or,
    where no nonlinearity is a module, the middle module."""
    names = [name for name in representations.layers(model, nonlinearities=True) if "embed" not in name]
    names = names or representations.layers(model)
    if representations.ENCODE in names:
        return representations.ENCODE
    up = [name for name in names if re.search(r"(^|\.)up", name)]
    if up:
        block = re.match(r"(.*?(?:^|\.)up[^.]*\.\d+)?", up[0]).group()
        return [name for name in up if name.startswith(block)][-1]
    if not names:
        raise SpikinessError("this model has no modules inside it: there is no representation to look at")
    return names[len(names) // 2]


def _default(model: nn.Module, given: dict[str, Any]) -> Choice:
    """What was given, and the paper's choices for the rest."""
    sigma = getattr(model, "record", {}).get("sigma", SIGMA)  # of a two-layer network the level it was trained at
    measure = given["measure"] or "std"
    return Choice(
        layer=given["layer"] or default_layer(model),
        sigma=float(given["sigma"] or sigma),
        pool=given["pool"] or "all",
        measure=measure,
        direction=given["direction"] or WAYS[measure],
    )


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Digests of a model's architecture (names and shapes of its weights, what it was made with) and of its weights."""
    state = model.state_dict()
    made = [getattr(module, "arguments", None) for module in model.modules()]  # sigma_data is no weight, and counts
    shapes = json.dumps([[[name, list(w.shape)] for name, w in state.items()], made], default=str)
    digest = hashlib.sha256()
    for weight in state.values():
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"architecture": files.sha256(shapes.encode())[:16], "weights": digest.hexdigest()[:16]}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        claimed = content.pop("sha256")
        whole = files.sha256(files.as_text(content).encode()) == claimed
    except FileNotFoundError:
        raise SpikinessError(f"{path} is not there: save(path) writes a detector") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifact(f"{path} is not the file of a detector: {error}") from None
    if not whole or content.get("format") != FORMAT:
        raise CorruptArtifact(f"{path} was altered after it was written, or is of another version: calibrate again")
    return content
