"""Where spikiness tells memorized from generalized samples, where it does the reverse, what moves, and what carries."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn

from spikiness import detection, measures, representations
from spikiness.denoisers import EDM
from spikiness.detection import calibration
from spikiness.errors import SpikinessError
from spikiness.experiments import audited, copying, models

CLEAR = 0.2  # an AUROC farther than this from chance takes a side
SPIKIER, REVERSED, NEITHER, DISAGREE = "spikier", "less spiky", "no side", "networks disagree"
SIDES = (SPIKIER, REVERSED, NEITHER, DISAGREE)
NETWORK = ["kind", "seed", "width"]  # what names a network

NORM, NONLINEARITY, LINEAR, BLOCK = "norm", "nonlinearity", "convolution or linear", "residual stream"
IMAGES = "noisy images"  # the input itself, beside the layers
MODULES = (NORM, NONLINEARITY, LINEAR, BLOCK, IMAGES)
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d, nn.InstanceNorm2d, nn.RMSNorm)
TOTAL, WITHIN, BETWEEN = "Std", "over space", "between channels"
PLACES, CHANNELS = "places that take part", "channels that take part"
INGREDIENTS = (TOTAL, WITHIN, BETWEEN, "size", "mean", "units near zero", "units that take part", PLACES, CHANNELS)
NEAR_ZERO = 0.1  # of the root mean square of a representation: a unit below it is silent for this image

SEED, WIDTH, DATA = "another seed", "another width", "another data set"
FREE = "any of them"  # the measure left open
OPEN, THEORY = "direction open", "memorized is spikier"
FPR = 0.01


@dataclass(frozen=True, eq=False)
class Network:
    """A network, samples it memorized and samples it did not."""

    kind: str  # network:data
    seed: int
    width: int
    denoiser: EDM
    memorized: Tensor  # [m, C, H, W]
    generalized: Tensor  # [g, C, H, W]
    nearest: tuple[np.ndarray, np.ndarray]  # [m] and [g], the training image nearest to each
    stand_in: bool  # too few are memorized: those closest to one training image stand in for them

    @property
    def name(self) -> dict[str, object]:
        return {"kind": self.kind, "seed": self.seed, "width": self.width}


def label(kind: str) -> str:
    """A kind for figures: the network, and the name of the data without folder and ending."""
    network, _, data = kind.partition(":")
    return f"{network}, {Path(data.rpartition(':')[2]).stem}"


def slug(kind: str) -> str:
    """A kind as part of the name of a metric."""
    return re.sub("[^a-z0-9]+", "_", label(kind).lower())


# ---- networks and the map


def networks(kind: str, seeds: Sequence[int], samples: int, most: int) -> list[Network]:
    """A network of a `kind` per seed, with at most `most` of its `samples` of each sort."""
    width = audited.recipe(kind)[2].width
    return [_sort(model, width, samples, most) for model in audited.train(kind, seeds)]


def of_widths(kind: str, seeds: Sequence[int], widths: Sequence[int], samples: int, most: int) -> list[Network]:
    """The same, trained on the same images with other `widths`; the recipe's own width is left out."""
    network, pool, how = audited.recipe(kind)
    if network.endswith("dit"):
        raise SpikinessError(f"{kind}: other widths are trained of networks without classes only, take a unet")
    found = []
    for model in audited.train(kind, seeds):
        x = model.distinct.repeat_interleave(model.copies, dim=0)
        for width in widths:
            if width != how.width:
                given: dict = {"options": dict(how.options)} if how.options else {}
                stages = models.model(
                    x, width, model.seed, how.images_seen, sigma_data=float(pool.x.std()), **given
                )  # fmt: skip
                found.append(_sort(replace(model, stages=stages), width, samples, most))
    return found


def _sort(model: audited.Model, width: int, samples: int, most: int) -> Network:
    drawn = audited.draw(model, samples)
    (memorized, _, near_m), (generalized, _, near_g) = (
        drawn.part(which, most) for which in (drawn.memorized, drawn.generalized)
    )
    if min(len(near_m), len(near_g)) < 2:
        raise SpikinessError(
            f"{model.kind}, seed {model.seed}: {len(near_m)} memorized and {len(near_g)} generalized samples of "
            f"{samples} tell nothing: draw more samples"
        )
    parts = memorized, generalized, (near_m, near_g), drawn.stand_in
    return Network(model.kind, model.seed, width, model.denoiser, *parts)


def survey(found: Iterable[Network], sigmas: Sequence[float]) -> pd.DataFrame:
    """`detection.survey` of each network at its nonlinearities: one row per network and setting.

    `spikier` is the AUROC with the sign of the measure turned so that above one half memorized samples are spikier.
    """
    tables = [detection.survey(n.denoiser, n.memorized, n.generalized, sigmas=sigmas).assign(**n.name) for n in found]
    table = pd.concat(tables, ignore_index=True)
    up = table.measure.map(calibration.SPIKIER) > 0
    return table.assign(spikier=table.auroc.where(up, 1 - table.auroc))


def mean_map(table: pd.DataFrame, sigma: float) -> pd.DataFrame:
    """`spikier` at one noise level, mean over networks: a row per kind, layer and pooling with measure."""
    mine = table[table.sigma == sigma]
    if mine.empty:
        raise SpikinessError(f"noise level {sigma:g} is not among those tried: {sorted(table.sigma.unique())}")
    mine = mine.assign(what=mine["pool"] + ", " + mine.measure.str.replace("_", " "), layer=_short(mine.layer))
    return mine.groupby(["kind", "layer", "what"], sort=False).spikier.mean().reset_index()


def _short(layer: pd.Series) -> pd.Series:
    return layer.str.removeprefix("network.")


def sides(table: pd.DataFrame) -> pd.DataFrame:
    """Which side each setting of each kind takes: one row each, with the `worst` of its networks for either side.

    Spikier or less spiky where all networks are more than CLEAR from chance on that side; they disagree where some are
    on one side and some on the other; else the setting takes no side, as where all values are equal.
    """
    by = ["kind", *calibration.SETTING]
    found = table.assign(spikier=table.spikier.fillna(0.5)).groupby(by, sort=False).spikier.agg(["min", "max"])
    low, high = found["min"], found["max"]
    side = np.select(
        [low > 0.5 + CLEAR, high < 0.5 - CLEAR, (high > 0.5 + CLEAR) & (low < 0.5 - CLEAR)],
        [SPIKIER, REVERSED, DISAGREE],
        NEITHER,
    )
    return found.reset_index().assign(side=side)


def side_shares(settings: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Share of the settings on each side in each group `by`; intervals resample layers, whole."""
    rows = []
    for key, mine in settings.groupby(list(by), sort=False):
        for side in SIDES:
            share, (low, high) = share_of_rows(mine, mine.side == side)
            row = dict(zip(by, key, strict=True))
            rows.append({**row, "side": side, "share": share, "low": low, "high": high, "settings": len(mine)})
    return pd.DataFrame(rows)


def along_sigma(table: pd.DataFrame, layers: dict[str, str], tried: Sequence[str]) -> pd.DataFrame:
    """`spikier` over noise levels for one layer per kind and the measures `tried`: mean over networks, with the lowest
    and highest, by pooling."""
    mine = table[(table.layer == table.kind.map(layers)) & table.measure.isin(tried)]
    found = (
        mine.groupby(["kind", "measure", "pool", "sigma"], sort=False).spikier.agg(["mean", "min", "max"]).reset_index()
    )
    return found.rename(columns={"mean": "auroc", "min": "low", "max": "high"})


# ---- why: what a representation's spread is made of


def module_kinds(model: nn.Module, x: Tensor) -> dict[str, str]:
    """Norms, nonlinearities, convolutions or linear maps, and blocks (the residual stream) whose output differs between
    images x [N, ...]; in the model's order, a block after its parts. A block is a module whose parts have none."""
    found = {}
    for name in representations.reached(model, representations.layers(model), x[:2], 1.0):
        kind = _module_kind(dict(model.named_modules()).get(name))
        if kind is None:
            continue
        try:
            pair = representations.capture(model, name, torch.stack([x[0], x[-1]]), 1.0)
        except SpikinessError:  # no tensor with one row per image
            continue
        if not torch.equal(pair[0], pair[1]):
            found[name] = kind
    names = sorted(found, key=lambda name: _last_part(name, list(found)))  # stable: a part before its block
    return {name: found[name] for name in names}


def _last_part(name: str, names: Sequence[str]) -> tuple[int, bool]:
    """Index of the last of `names` inside `name` (of itself, where it has no parts), and whether it has parts."""
    inside = [i for i, other in enumerate(names) if other.startswith(f"{name}.")]
    return (inside[-1], True) if inside else (names.index(name), False)


def _module_kind(module: nn.Module | None) -> str | None:
    parts = [] if module is None else list(module.children())
    if parts:
        return None if any(list(part.children()) for part in parts) else BLOCK
    kinds = {NORM: NORMS, NONLINEARITY: representations.NONLINEARITIES, LINEAR: (nn.Conv2d, nn.Linear)}
    return next((name for name, types in kinds.items() if isinstance(module, types)), None)


def ingredients(h: Tensor) -> Tensor:
    """What the Std of a representation is made of, [N, 9] as in INGREDIENTS; h [N, C, H, W], [N, tokens, C] or [N, C].

    `Std^2 = within + between` exactly: the variance over space inside each channel, mean over channels, and the
    variance of the channels' means. The last is the squared Std after mean pooling. Size is `|h| / sqrt(p)`, so
    `Std^2 = size^2 - mean^2`; units near zero are those below NEAR_ZERO of the size, as a share. What takes part is a
    participation ratio over its maximum: of the units, and of the energy (sum of squares) of each place and channel.
    Std, within and between are given squared.
    """
    h = h.double()
    rows = h.flatten(2) if h.ndim == 4 else h.mT if h.ndim == 3 else h[:, :, None]  # [N, C, places]
    centres, flat = rows.mean(dim=2), rows.flatten(1)
    within = rows.var(dim=2, unbiased=False).mean(dim=1)
    between = centres.var(dim=1, unbiased=False)
    size = flat.square().mean(dim=1).sqrt()
    silent = (flat.abs() < NEAR_ZERO * size[:, None]).double().mean(dim=1)
    energies = flat, rows.square().sum(dim=1).sqrt(), rows.square().sum(dim=2).sqrt()  # of units, places, channels
    taking_part = [measures.participation_ratio(e) / e.shape[1] for e in energies]
    total = (flat - flat.mean(dim=1, keepdim=True)).square().mean(dim=1)
    return torch.stack([total, within, between, size, flat.mean(dim=1), silent, *taking_part], dim=1)


def what_moves(found: Iterable[Network], sigma: float) -> pd.DataFrame:
    """AUROC (memorized higher) of each ingredient in each layer of each network, the noisy images themselves first.

    `coupling` is the rank correlation, over all samples, of the variance over space with that between channels: -1
    where what one gains the other loses. NaN where a quantity is the same for all.
    """
    rows = []
    for network in found:
        x = torch.cat([network.memorized, network.generalized])
        kinds = module_kinds(network.denoiser, x)
        y = representations.noisy(x, sigma)
        parts = {IMAGES: ingredients(y)}
        parts |= representations.capture_each(network.denoiser, list(kinds), y, sigma, lambda _, h: ingredients(h))
        for place, layer in enumerate([IMAGES, *kinds]):
            values = parts[layer].cpu().numpy()
            row = {**network.name, "layer": layer, "module": kinds.get(layer, IMAGES), "place": place}
            row["coupling"] = _rank_correlation(values[:, 1], values[:, 2])
            row["between_share"] = float(np.mean(values[:, 2] / np.maximum(values[:, 1] + values[:, 2], 1e-300)))
            cut = len(network.memorized)
            rows += [
                {**row, "ingredient": name, "auroc": _auroc(values[:, i], cut)} for i, name in enumerate(INGREDIENTS)
            ]
    return pd.DataFrame(rows)


def _auroc(values: np.ndarray, cut: int) -> float:
    """AUROC of values [N], memorized before `cut`; NaN where they agree to ten digits: rounding is no difference."""
    if np.ptp(values) <= 1e-10 * max(float(np.abs(values).max()), 1e-300):
        return float("nan")
    return calibration.auroc(values[:cut], values[cut:])


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    constant = min(np.ptp(a) / max(np.abs(a).max(), 1e-300), np.ptp(b) / max(np.abs(b).max(), 1e-300)) < 1e-10
    return float("nan") if constant else float(spearmanr(a, b).statistic)


def wide(moves: pd.DataFrame) -> pd.DataFrame:
    """One row per network and layer of `what_moves`, ingredients side by side, without the images themselves."""
    index = [*NETWORK, "layer", "module", "place"]
    mine = moves[moves.module != IMAGES]
    table = mine.pivot_table(index=index, columns="ingredient", values="auroc", sort=False, dropna=False)
    extra = mine.drop_duplicates(index).set_index(index)[["coupling", "between_share"]]
    return table.dropna(how="all").join(extra).reset_index()


def share_of_rows(table: pd.DataFrame, hits: pd.Series) -> tuple[float, tuple[float, float]]:
    """Share of rows of a table that are `hits`; its interval resamples layers, whole, of each kind."""
    return copying.rate(hits, _layer(table))


def in_every_network(layers: pd.DataFrame, hits: pd.Series) -> list[str]:
    """Names of layers that are `hits` in every network of a kind, in the order of the table, each once."""
    all_hit = hits.groupby([layers.kind, layers.layer], sort=False).all()
    return list(dict.fromkeys(layer.removeprefix("network.") for _, layer in all_hit[all_hit].index))


def median_over_layers(table: pd.DataFrame, column: str) -> tuple[float, tuple[float, float]]:
    """Median of a column, what is not known left out; its interval resamples layers, whole, of each kind."""
    known = table.dropna(subset=[column])
    if known.empty:
        raise SpikinessError(f"{column} is not known in any layer of this kind: choose other networks")
    values = known[column].to_numpy()
    if known.layer.nunique() < 2:
        return float(np.median(values)), (float(values.min()), float(values.max()))
    return float(np.median(values)), measures.bootstrap(values, np.median, groups=_layer(known))


def _layer(table: pd.DataFrame) -> np.ndarray:
    """A label [N] of the layer of each row, apart for each kind."""
    return (table.kind + "/" + table.layer).to_numpy()


# ---- does a choice carry


def pairs(found: Sequence[Network], calibration_seeds: Sequence[int]) -> pd.DataFrame:
    """Which network a choice is made on (a) and which it is used on (b), by what differs between them.

    Another seed and another data set: from each calibration network to each of the others that share the kind, or the
    architecture; another width: from the recipe's own width to the others, on the same training images.
    """
    own = {kind: audited.recipe(kind)[2].width for kind in {n.kind for n in found}}
    rows = []
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            usual = a.width == own[a.kind], b.width == own[b.kind]
            relation = None
            if all(usual) and a.seed in calibration_seeds and b.seed not in calibration_seeds:
                same = a.kind.partition(":")[0] == b.kind.partition(":")[0]
                relation = SEED if a.kind == b.kind else DATA if same else None
            elif usual == (True, False) and (a.kind, a.seed) == (b.kind, b.seed):
                relation = WIDTH
            if relation:
                rows.append({"relation": relation, "a": i, "b": j})
    return pd.DataFrame(rows, columns=["relation", "a", "b"])


def beside(table: pd.DataFrame, a: Network, b: Network) -> pd.DataFrame:
    """AUROC of every setting that both networks have, `auroc_a` and `auroc_b`: a row each. It `flip`s where both are
    clear, on opposite sides, and they `agree` where both are, on one."""
    one, two = (table[(table[NETWORK] == pd.Series(n.name)).all(axis=1)] for n in (a, b))
    both = one.merge(two, on=calibration.SETTING, suffixes=("_a", "_b"))
    both = both[[*calibration.SETTING, "auroc_a", "auroc_b"]].dropna()
    a, b = both.auroc_a - 0.5, both.auroc_b - 0.5
    clear = (a.abs() > CLEAR) & (b.abs() > CLEAR)
    return both.assign(flip=clear & (a * b < 0), agree=clear & (a * b > 0))


def carries(both: pd.DataFrame) -> dict[str, float]:
    """How much of what network a says about settings holds in network b.

    Shares of settings that flip and that agree, rank correlation of the AUROC, and the regret: the best AUROC in b, in
    the better direction, less that in b of the setting that is best in a, in the direction that it has in a.
    """
    a, b = (both[name].to_numpy() - 0.5 for name in ("auroc_a", "auroc_b"))
    best = int(np.argmax(np.abs(a)))
    reached, possible = float(np.sign(a[best]) * b[best]), float(np.abs(b).max())
    ranks = np.corrcoef(rankdata(a), rankdata(b))[0, 1] if np.ptp(a) and np.ptp(b) else 0.0
    return {
        "settings": len(both),
        "flip": float(both.flip.mean()),
        "agree": float(both.agree.mean()),
        "ranks": float(ranks),
        "carried": reached + 0.5,
        "best": possible + 0.5,
        "regret": possible - reached,
    }


def transfers(table: pd.DataFrame, found: Sequence[Network], chosen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`carries` of each of the `pairs` chosen, and the settings behind it, `beside` each other."""
    rows, points = [], []
    for relation, i, j in chosen.itertuples(index=False):
        both = beside(table, found[i], found[j])
        if both.empty:
            continue
        ends = {"a": found[i].name, "b": found[j].name}
        names = {f"{key}_{end}": value for end, name in ends.items() for key, value in name.items()}
        rows.append({"relation": relation, **names, **carries(both)})
        points.append(both.assign(relation=relation, **names))
    return pd.DataFrame(rows), pd.concat(points, ignore_index=True)


def by_relation(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """One row per relation over its pairs: share of settings that flip (interval over layers), mean and lowest rank
    correlation, mean and largest regret."""
    found = []
    for relation, mine in rows.groupby("relation", sort=False):
        settings = points[points.relation == relation]
        flip, (low, high) = copying.rate(settings.flip, (settings.kind_b + "/" + settings.layer).to_numpy())
        row = {"relation": relation, "pairs": len(mine), "flip": flip, "flip_low": low, "flip_high": high}
        row |= {"agree": mine.agree.mean(), "ranks": mine.ranks.mean(), "ranks_lowest": mine.ranks.min()}
        found.append({**row, "regret": mine.regret.mean(), "regret_largest": mine.regret.max()})
    return pd.DataFrame(found)


# ---- one measure alone


def choose(
    table: pd.DataFrame, measure: str | None = None, direction: str = OPEN, margin: float = calibration.MARGIN
) -> calibration.Choice:
    """Layer, noise level, pooling and direction (and measure, where None) as `detection.calibrate` chooses them, from
    a survey of calibration networks of one kind: of what is within `margin` of the best worst AUROC the cheapest.

    With the `direction` of the THEORY only settings count in which memorized samples are the spikier ones.
    """
    mine = table if measure is None else table[table.measure == measure]
    held = direction == THEORY
    aurocs = mine.spikier if held else mine.auroc
    labels = mine.seed.astype(str) + "/" + mine.width.astype(str)
    tried = detection.worst_of(mine.assign(model=labels, auroc=aurocs), 1 if held else None)
    if tried.empty:
        raise SpikinessError(f"{measure or 'all measures'}: values are equal in every setting tried, nothing to choose")
    near = tried[tried.worst >= tried.worst.max() - margin]
    cheapest = near[near.cost <= near.cost.min() + 1e-9]
    row = cheapest.loc[cheapest.worst.idxmax()]
    way = calibration.SPIKIER[row.measure] if held else int(row.direction)
    return calibration.Choice(row.layer, float(row.sigma), row["pool"], row.measure, way)


def threshold(calibrated: Sequence[Network], choice: calibration.Choice) -> float:
    """The highest of the thresholds that let 1 % of the generalized samples of a calibration network pass."""
    scores = (calibration.values(n.denoiser, choice, n.generalized).numpy() for n in calibrated)
    return max(calibration.quantile(mine, FPR) for mine in scores)


def elsewhere(choice: calibration.Choice, found: Iterable[Network]) -> pd.DataFrame:
    """AUROC of one choice in each of other networks, a row each, with intervals over nearest training images."""
    rows = []
    for n in found:
        scores = [calibration.values(n.denoiser, choice, x).numpy() for x in (n.memorized, n.generalized)]
        rows.append({**n.name, **_auroc_interval(scores, n.nearest)})
    return pd.DataFrame(rows)


def alone(
    table: pd.DataFrame, calibrated: Sequence[Network], fresh: Sequence[Network]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each measure by itself, and any of them, on networks of one kind, with an open direction and the theory's.

    Chosen on the calibrated networks alone. First a row per measure, direction and fresh network: AUROC there with an
    interval over nearest training images, and the rates above the threshold that was set on the calibrated ones. Then
    a row per sample: whether it is memorized, and flagged.
    """
    mine = table[(table.kind == fresh[0].kind) & table.seed.isin([n.seed for n in calibrated])]
    rows, samples = [], []
    for measure in [*calibration.TRIED, FREE]:
        for direction in (OPEN, THEORY):
            choice = choose(mine, None if measure == FREE else measure, direction)
            limit = threshold(calibrated, choice)
            for network in fresh:
                name = {"kind": network.kind, "seed": network.seed, "alone": measure, "way": direction}
                images = {"tpr": network.memorized, "fpr": network.generalized}
                scores = [calibration.values(network.denoiser, choice, x).numpy() for x in images.values()]
                row = {**name, **asdict(choice), **_auroc_interval(scores, network.nearest)}
                for rate, values, near in zip(images, scores, network.nearest, strict=True):
                    row[rate], (row[f"{rate}_low"], row[f"{rate}_high"]) = copying.rate(values > limit, near)
                    drawn = {**name, "memorized": rate == "tpr", "flagged": values > limit, "nearest": near}
                    samples.append(pd.DataFrame(drawn))
                rows.append(row)
    return pd.DataFrame(rows), pd.concat(samples, ignore_index=True)


def _auroc_interval(scores: Sequence[np.ndarray], nearest: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    if np.ptp(np.concatenate(scores)) == 0:
        return {"auroc": 0.5, "low": 0.0, "high": 1.0}
    if any(len(set(near)) < 2 for near in nearest):  # one training image behind all: nothing to resample
        return {"auroc": calibration.auroc(*scores), "low": 0.0, "high": 1.0}
    found = detection.evaluate(*scores, groups=nearest, fpr=FPR)
    return dict(zip(("auroc", "low", "high"), (found.auroc, *found.auroc_interval), strict=True))


def by_measure(rows: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """One row per measure and direction, over the fresh networks of all kinds: the worst AUROC with its interval, the
    mean, and the rates above the carried threshold, with intervals that resample nearest training images."""
    found = []
    for (measure, way), mine in rows.groupby(["alone", "way"], sort=False):
        worst = mine.loc[mine.auroc.idxmin()]
        row = {"alone": measure, "way": way, "worst": worst.auroc, "worst_low": worst.low, "worst_high": worst.high}
        row["mean"] = mine.auroc.mean()
        drawn = samples[(samples.alone == measure) & (samples.way == way)]
        for rate, part in (("tpr", drawn[drawn.memorized]), ("fpr", drawn[~drawn.memorized])):
            groups = (part.kind + "/" + part.seed.astype(str) + "/" + part.nearest.astype(str)).to_numpy()
            row[rate], (row[f"{rate}_low"], row[f"{rate}_high"]) = copying.rate(part.flagged, groups)
        found.append(row)
    return pd.DataFrame(found)


def better_than(found: pd.DataFrame, measure: str = "std") -> list[str]:
    """Measures of `by_measure`, with an open direction, that carry better than `measure`: a higher worst AUROC, an FPR
    nearer to what the threshold was set for, and at least as high a TPR."""
    mine = found[found.way == OPEN]
    own = mine[mine.alone == measure].iloc[0]
    nearer = (mine.fpr - FPR).abs() < abs(own.fpr - FPR)
    return list(mine[(mine.worst > own.worst) & nearer & (mine.tpr >= own.tpr)].alone)
