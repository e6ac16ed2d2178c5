"""The detector and its rivals on the same samples of the same models: choices, how well each tells, what it costs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spikiness import detection, images, representations, sampling
from spikiness.detection import baselines
from spikiness.detection.calibration import NONLINEARITIES, auroc, responsive_layers
from spikiness_book import two_layers, zoo
from spikiness_book.engine.cache import sampled

SPIKINESS, PAPER = "spikiness, calibrated", "Std, the paper's choice"
FLIPD_MORE, EXACT, DENSITY, CONDITIONAL = "FLIPD, 16 probes", "FLIPD exact", "density", "conditional"
ORACLE = "nearest training"
CONTROLS = detection.CONTROLS
RELU_DAE = "relu-dae"
DAE = {"n_small": 5, "networks": 10, "n_large": 1000, "width": 50, "steps": 3000}  # few, that the demo trains quickly
DECAYS = 0.005, 0.00005  # lambda of objective (6) over d, memorizing and generalizing, as in the paper
EXACT_PIXELS = 100  # numbers of an image up to which FLIPD's exact trace is taken: it costs a product for each
GENERATIONS, EVALUATIONS = 1000, 35  # that samples are compared with, and evaluations of the model for each
TOP = 5  # units whose z-scores are averaged: the narrowest layers have eight channels
DRAWN_APART = 500_000  # first of the seeds of generations that samples are compared with


@dataclass(frozen=True)
class Asked:
    """Images that one network is asked about."""

    model: nn.Module
    x: Tensor  # [N, C, H, W]
    labels: Tensor | None  # [N]
    image: np.ndarray  # [N], a label of the training image that each is nearest to


@dataclass(frozen=True)
class DetectionTask:
    """One model, or for two-layer networks one seed of them: memorized and generalized images, what rivals need."""

    kind: str
    seed: int
    memorized: tuple[Asked, ...]
    generalized: tuple[Asked, ...]
    held_out: Tensor | None = None  # [n, C, H, W], for rivals that need images known not to be memorized
    train: Tensor | None = None  # [m, C, H, W], for the oracle
    generations: Tensor | None = None  # [n, C, H, W], for the density
    drawn: zoo.Samples | None = None  # all samples that were told apart
    labels: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        both = (np.concatenate([part.image for part in parts]) for parts in (self.memorized, self.generalized))
        object.__setattr__(self, "labels", tuple(both))

    @property
    def two_layers(self) -> bool:
        return self.kind.startswith(RELU_DAE)

    @property
    def model(self) -> nn.Module:
        return self.memorized[0].model

    def first(self, most: int) -> "DetectionTask":
        """The same with at most `most` images of each sort: for what takes long."""
        return replace(self, **{name: _first(getattr(self, name), most) for name in ("memorized", "generalized")})


def _first(parts: Sequence[Asked], most: int) -> tuple[Asked, ...]:
    share = max(1, most // len(parts))
    return tuple(
        Asked(p.model, p.x[:share], None if p.labels is None else p.labels[:share], p.image[:share]) for p in parts
    )


# ---- what is audited


def cases(kind: str, seeds: Sequence[int], samples: int, most: int) -> list[DetectionTask]:
    """One case per seed: samples of a trained model, or the training images of two-layer networks of both regimes."""
    if kind.startswith(RELU_DAE):
        return [_two_layers(kind, seed, most) for seed in seeds]
    zoo.held_out(kind, most)  # before any training: refused where there are none
    return [_sampled(model, samples, most) for model in zoo.train(kind, seeds)]


def _sampled(model: zoo.Trained, samples: int, most: int) -> DetectionTask:
    drawn = zoo.two_sorts(model, samples)
    parts = [(Asked(model.denoiser, *drawn.part(which, most)),) for which in (drawn.memorized, drawn.generalized)]
    held, more = zoo.held_out(model.kind, most), min(samples, GENERATIONS)
    seeds = range(model.seed * 1_000_000 + DRAWN_APART, model.seed * 1_000_000 + DRAWN_APART + more)
    labels = model.classes_in_turn(more)
    others = sampled(model.denoiser, model.x.shape[1:], seeds, labels).clamp(-1, 1)
    given = {"held_out": held, "train": model.x, "generations": others}
    return DetectionTask(model.kind, model.seed, *parts, **given, drawn=drawn)


def _two_layers(kind: str, seed: int, most: int) -> DetectionTask:
    """Memorizing ReLU-DAEs on the few images each has learned, and a generalizing one on its many."""
    pool = images.load(kind.partition(":")[2], gray=True).x
    few, networks = DAE["n_small"], DAE["networks"]
    n_large = min(DAE["n_large"], len(pool) - few * networks - 50)
    pair = two_layers.pair(
        "images", pool, few, networks, n_large, width=DAE["width"], sigma=0.2, decays=DECAYS, seed=seed
    )
    [pair] = two_layers.train_pairs([pair], DAE["steps"])
    shape = pool.shape[1:]
    memorized = tuple(
        Asked(one.network, one.x.reshape(-1, *shape), None, np.array([f"{i}/{k}" for k in range(one.n)]))
        for i, one in enumerate(pair.memorizing)
    )
    many = pair.generalizing.x[:most].reshape(-1, *shape)
    generalized = (Asked(pair.generalizing.network, many, None, np.arange(len(many))),)
    return DetectionTask(kind, seed, memorized, generalized, held_out=pair.fresh.reshape(-1, *shape))


def trained_on(model: zoo.Trained, most: int) -> DetectionTask:
    """The images that training repeated most, against held-out ones: not samples, but what an auditor may suspect."""
    often = model.copies >= model.copies.max() / 2
    mine, held = model.x[often], zoo.held_out(model.kind, 2 * most)
    parts = ((Asked(model.denoiser, x, None, np.arange(len(x))),) for x in (mine, held[:most]))
    known = held[most:] if len(held) > most + 20 else None
    return DetectionTask(model.kind, model.seed, *parts, held_out=known, train=model.x)


# ---- scores


@dataclass(frozen=True)
class MethodSetting:
    """How one method is used: what it leaves open, and which way its scores point."""

    method: str
    sigma: float | None = None
    layer: str | None = None
    pool: str | None = None
    measure: str | None = None
    direction: int = 1  # -1: against the method's own theory
    worst: float = float("nan")  # AUROC in the worst calibration model
    tried: int = 1  # settings it was chosen from


def setting_of(settings: Sequence[MethodSetting], method: str) -> MethodSetting:
    """The setting of one method."""
    return next(setting for setting in settings if setting.method == method)


def score(case: DetectionTask, setting: MethodSetting) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the memorized [N] and of the generalized images [M] of a case."""
    both = (
        np.concatenate([setting.direction * _score(case, setting, part).numpy() for part in parts])
        for parts in (case.memorized, case.generalized)
    )
    return tuple(both)


def _score(case: DetectionTask, setting: MethodSetting, part: Asked) -> Tensor:
    if setting.method in (SPIKINESS, PAPER):
        return detector(part.model, setting).score(part.x)
    return rival(case, setting, part.model).score(part.x, part.labels)


def detector(model: nn.Module, setting: MethodSetting) -> detection.Detector:
    """The detector of a setting: the paper's where nothing is chosen. Its scores point where the measure does."""
    way = None if setting.layer is None else 1
    return detection.Detector(
        model, setting.layer, setting.sigma, setting.pool, setting.measure or "std", direction=way, allow_unit=True
    )


def rival(case: DetectionTask, setting: MethodSetting, model: nn.Module) -> object:
    """The rival of a setting, for a model of the case."""
    name, probes = (setting.method, None) if setting.method != FLIPD_MORE else ("FLIPD", 16)
    given = {"reference": case.held_out, "train": case.train, "generations": case.generations}
    given |= {"layer": setting.layer, "pool": setting.pool or "mean", "probes": probes, "top": TOP}
    kept = {key: value for key, value in given.items() if value is not None}
    return detection.BASELINES[name].make(model, setting.sigma, **kept)


def methods(case: DetectionTask) -> list[str]:
    """The methods that can be used on a case: what they need is there."""
    there = {
        baselines.MODEL: True,
        baselines.LABELS: case.memorized[0].labels is not None,
        baselines.HELD_OUT: case.held_out is not None and len(case.held_out) >= 20,
        baselines.TRAINING: case.train is not None,
    }
    own = {"FLIPD", EXACT}  # FLIPD has two rows, by one probe and by 16; by its exact trace only where asked
    unfit = {DENSITY} if case.generations is None else set()
    if case.two_layers:  # they have one layer, and the detector looks at it
        unfit |= {name for name, method in detection.BASELINES.items() if method.per_layer}
    rivals = [name for name, method in detection.BASELINES.items() if all(there[need] for need in method.needs)]
    return [SPIKINESS, PAPER, "FLIPD", FLIPD_MORE, *(name for name in rivals if name not in own | unfit)]


def choose(calibration: Sequence[DetectionTask], sigmas: Sequence[float]) -> list[MethodSetting]:
    """Every method's setting, by its worst AUROC over the calibration cases; the paper's choice stays as it is.

    Rivals choose noise level (and layer) and direction, spikiness also pooling and measure: see `detection.calibrate`.
    """
    found = []
    for name in methods(calibration[0]):
        if name == PAPER:
            found.append(_best(calibration, [MethodSetting(PAPER)], turn=False))
        elif name == SPIKINESS and not calibration[0].two_layers:
            found.append(_spikiness(calibration, sigmas))
        else:
            found.append(_best(calibration, list(_options(name, calibration[0], sigmas))))
    return found


def _options(name: str, case: DetectionTask, sigmas: Sequence[float]) -> Iterator[MethodSetting]:
    """What a method may choose among. Two-layer networks have one layer and one noise level."""
    levels: Sequence[float | None] = [0.2] if case.two_layers else sigmas
    if name == SPIKINESS:
        yield from (MethodSetting(name, 0.2, "encode", "all", measure) for measure in detection.calibration.TRIED)
    elif name in detection.BASELINES and detection.BASELINES[name].per_layer:
        layers = responsive_layers(case.model, case.memorized[0].x, NONLINEARITIES)
        yield from (MethodSetting(name, sigma, layer, "mean") for sigma in levels for layer in layers)
    elif detection.BASELINES.get(name, detection.BASELINES["FLIPD"]).per_sigma:
        yield from (MethodSetting(name, sigma) for sigma in levels)
    else:
        yield MethodSetting(name)


def _best(calibration: Sequence[DetectionTask], options: Sequence[MethodSetting], turn: bool = True) -> MethodSetting:
    """The option whose worst AUROC is best, in one direction for all cases; `turn` allows it to be reversed."""
    judged = []
    for option in options:
        values = [auroc(*score(case, option)) for case in calibration]
        up, down = min(values), 1 - max(values)
        reverse = turn and down > up
        judged.append(replace(option, direction=-1 if reverse else 1, worst=down if reverse else up))
    best = max(judged, key=lambda option: option.worst)
    return replace(best, tried=len(options))


def _spikiness(calibration: Sequence[DetectionTask], sigmas: Sequence[float]) -> MethodSetting:
    groups = [(case.model, case.memorized[0].x, case.generalized[0].x) for case in calibration]
    chosen = detection.calibrate(groups, sigmas=sigmas, allow_unit=True)
    c, record = chosen.probe, chosen.record
    return MethodSetting(
        SPIKINESS, c.sigma, c.layer, c.pool, c.measure, c.direction, worst=record["worst"], tried=record["settings"]
    )


# ---- tables


def by_kind(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One table of those of several kinds, with a last column `kind`."""
    return pd.concat([frame.assign(kind=kind) for kind, frame in frames.items()], ignore_index=True)


def compare(
    reported: Sequence[DetectionTask], settings: Sequence[MethodSetting], resamples: int, exact: int = 0
) -> pd.DataFrame:
    """One row per method: AUROC and TPR at 1 % FPR, means over the reported cases, and how far spikiness is ahead.

    With `exact`, also FLIPD by its exact trace on so many images of each sort, at the noise level of the estimate; not
    where images have more than EXACT_PIXELS numbers.
    """
    scores = {s.method: [score(case, s) for case in reported] for s in settings}
    table = detection.compare(scores, [case.labels for case in reported], SPIKINESS, draws=resamples)
    table = table.assign(images=sum(len(case.labels[0]) for case in reported))
    if exact and reported[0].memorized[0].x[0].numel() <= EXACT_PIXELS:
        few = [case.first(exact) for case in reported]
        chosen = [setting_of(settings, SPIKINESS), replace(setting_of(settings, FLIPD_MORE), method=EXACT)]
        part = {s.method: [score(case, s) for case in few] for s in chosen}
        more = detection.compare(part, [case.labels for case in few], SPIKINESS, draws=resamples)
        table = pd.concat([table, more[more.score == EXACT].assign(images=exact)], ignore_index=True)
    return table.rename(columns={"score": "method"})


def histogram(reported: Sequence[DetectionTask], setting: MethodSetting, bins: int = 50) -> pd.DataFrame:
    """Share of memorized and of generalized samples in each bin of the scores of one setting, per kind."""
    found = []
    for kind in dict.fromkeys(case.kind for case in reported):
        both = [score(case, setting) for case in reported if case.kind == kind]
        values = [np.concatenate(part) for part in zip(*both, strict=True)]
        edges = np.histogram_bin_edges(np.concatenate(values), bins)
        for regime, mine in zip(("memorized", "generalized"), values, strict=True):
            share = np.histogram(mine, edges)[0] / len(mine)
            frame = pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": share})
            found.append(frame.assign(data=kind, measure="std", regime=regime))
    return pd.concat(found, ignore_index=True)


def typical(case: DetectionTask, setting: MethodSetting, units: int = 200) -> dict[str, np.ndarray]:
    """The largest `units` activations of the sample with the median score of its sort, memorized and generalized."""
    found = {}
    for name, parts, scores in zip(
        ("memorized", "generalized"), (case.memorized, case.generalized), score(case, setting), strict=True
    ):
        part = parts[0]
        scores = scores[: len(part.x)]
        middle = int(np.argsort(scores)[len(scores) // 2])
        c = detector(part.model, setting).probe
        h = representations.represent(part.model, c.layer, part.x[middle : middle + 1], c.sigma, "all")[0]
        found[f"{name} sample"] = h.sort(descending=True).values[:units].numpy()
    return found


# ---- cost


def arithmetic(case: DetectionTask, setting: MethodSetting) -> float:
    """FLOPs of products and convolutions that a score takes, over those of one full pass through the model.

    A product with the Jacobian, in reverse mode, takes as many as a pass: every product of the pass once, transposed.
    """
    part = case.generalized[0]
    x, labels = part.x[:2], None if part.labels is None else part.labels[:2]
    if setting.method in (SPIKINESS, PAPER):
        return detector(part.model, setting).cost(x)
    products = {"FLIPD": 1, FLIPD_MORE: 16, EXACT: x[0].numel()}
    if setting.method in products:
        return 1.0 + products[setting.method]
    if setting.method == DENSITY:
        return float(GENERATIONS * EVALUATIONS)  # once, however many images are then asked about
    method = rival(case, setting, part.model)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        part.model(x, torch.tensor(0.2))
    with FlopCounterMode(display=False) as mine:
        method.score(x, labels)
    return mine.get_total_flops() / whole.get_total_flops()


def costs(
    reported: Mapping[str, Sequence[DetectionTask]], settings: Mapping[str, Sequence[MethodSetting]]
) -> pd.DataFrame:
    """One row per kind and method: its arithmetic in passes through the first network of the kind."""
    rows = [
        {"kind": kind, "method": setting.method, "passes": arithmetic(cases[0], setting)}
        for kind, cases in reported.items()
        for setting in settings[kind]
    ]
    return pd.DataFrame(rows)


def timings(
    case: DetectionTask, settings: Sequence[MethodSetting], batches: Sequence[int], repeats: int = 3
) -> pd.DataFrame:
    """Milliseconds per image of each method and of one full pass, at each size of batch: the best of `repeats`.

    The density counts its 1,000 generations, spread over the images of the batch.
    """
    part, found = case.generalized[0], []
    generation = _milliseconds(lambda x, _: sampling.sample(part.model, x.shape[1:], range(len(x))), part, 64, 1)
    for setting in settings:
        name = setting.method
        method = detector(part.model, setting) if name in (SPIKINESS, PAPER) else rival(case, setting, part.model)
        call = _scorer(method, name)
        for batch in batches:
            ms = _milliseconds(call, part, batch, repeats)
            found.append(
                {"method": name, "batch": batch, "ms": ms + (GENERATIONS * generation / batch) * (name == DENSITY)}
            )
    forward = torch.no_grad()(lambda x, _: part.model(x, torch.tensor(0.2)))
    found += [
        {"method": "one full pass", "batch": batch, "ms": _milliseconds(forward, part, batch, repeats)}
        for batch in batches
    ]
    return pd.DataFrame(found)


def exact_timing(case: DetectionTask, sigma: float, batch: int) -> float:
    """Milliseconds per image of FLIPD's exact trace: one estimate and d products, from the slope over 8 probes."""
    part = case.generalized[0]
    few, more = (
        _milliseconds(_scorer(detection.BASELINES["FLIPD"].make(part.model, sigma, probes=p), ""), part, batch, 2)
        for p in (1, 9)
    )
    per_product = max(more - few, 0) / 8
    return few + (part.x[0].numel() - 1) * per_product


def _scorer(method: object, name: str) -> Callable[[Tensor, Tensor | None], object]:
    if name in (SPIKINESS, PAPER):
        return lambda x, labels: method.score(x)
    return lambda x, labels: method.score(x, labels)


def _milliseconds(call: Callable, part: Asked, batch: int, repeats: int) -> float:
    x = part.x[torch.arange(batch) % len(part.x)]
    labels = None if part.labels is None else part.labels[torch.arange(batch) % len(part.x)]
    best = float("inf")
    for _ in range(max(repeats, 20 // batch)):
        start = time.perf_counter()
        call(x, labels)
        best = min(best, time.perf_counter() - start)
    return 1000 * best / batch
