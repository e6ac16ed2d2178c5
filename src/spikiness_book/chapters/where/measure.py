"""Where spikiness tells memorized from generalized samples, where it does the reverse, what moves, and what carries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from spikiness import detection, measures, representations
from spikiness.denoisers import EDM
from spikiness.detection import calibration
from spikiness.errors import SpikinessError
from spikiness.statistics import Interval, rate
from spikiness_book import zoo

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


@dataclass(frozen=True, eq=False)
class ProbedNetwork:
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


# ---- networks and the map


def networks(kind: str, seeds: Sequence[int], samples: int, most: int) -> list[ProbedNetwork]:
    """A network of a `kind` per seed, with at most `most` of its `samples` of each sort."""
    return [_probed(model, samples, most) for model in zoo.train(kind, seeds)]


def of_widths(kind: str, seeds: Sequence[int], widths: Sequence[int], samples: int, most: int) -> list[ProbedNetwork]:
    """The same, trained on the same images with other `widths`; the recipe's own width is left out."""
    others = [width for width in widths if width != zoo.recipe(kind)[0].width]
    models = [zoo.train(kind, [seed], width)[0] for seed in seeds for width in others]
    return [_probed(model, samples, most) for model in models]


def _probed(model: zoo.Trained, samples: int, most: int) -> ProbedNetwork:
    drawn = zoo.two_sorts(model, samples)
    (memorized, _, near_m), (generalized, _, near_g) = (
        drawn.part(which, most) for which in (drawn.memorized, drawn.generalized)
    )
    parts = memorized, generalized, (near_m, near_g), drawn.stand_in
    return ProbedNetwork(model.kind, model.seed, model.width, model.denoiser, *parts)


def survey(
    found: Iterable[ProbedNetwork], sigmas: Sequence[float], layers: str = calibration.NONLINEARITIES
) -> pd.DataFrame:
    """`detection.grid_search` of each network, at its nonlinearities unless told otherwise.

    One row per network and setting. `spikier` is the AUROC with the sign of the measure turned so that above one half
    memorized samples are spikier.
    """
    among = {"layers": layers, "sigmas": sigmas}
    tables = [detection.grid_search(n.denoiser, n.memorized, n.generalized, **among).assign(**n.name) for n in found]
    table = pd.concat(tables, ignore_index=True)
    up = table.measure.map(lambda name: measures.MEASURES[name].spikier) > 0
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
        if kind is not None:
            pair = representations.capture(model, name, torch.stack([x[0], x[-1]]), 1.0)
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


def what_moves(found: Iterable[ProbedNetwork], sigma: float) -> pd.DataFrame:
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


def share_of_rows(table: pd.DataFrame, hits: pd.Series) -> tuple[float, Interval]:
    """Share of rows of a table that are `hits`; its interval resamples layers, whole, of each kind."""
    return rate(hits, _layer(table), over="layers")


def in_every_network(layers: pd.DataFrame, hits: pd.Series) -> list[str]:
    """Names of layers that are `hits` in every network of a kind, in the order of the table, each once."""
    all_hit = hits.groupby([layers.kind, layers.layer], sort=False).all()
    return list(dict.fromkeys(layer.removeprefix("network.") for _, layer in all_hit[all_hit].index))


def median_over_layers(table: pd.DataFrame, column: str) -> tuple[float, Interval]:
    """Median of a column, what is not known left out; its interval resamples layers, whole, of each kind.

    The range of the values where there is one layer only.
    """
    known = table.dropna(subset=[column])
    if known.empty:
        raise SpikinessError(f"{column} is not known in any layer of this kind: choose other networks")
    values = known[column].to_numpy()
    if known.layer.nunique() < 2:
        return float(np.median(values)), Interval.range(values, over="networks")
    ends = measures.bootstrap(values, np.median, groups=_layer(known))
    return float(np.median(values)), Interval(*ends, over="layers")


def _layer(table: pd.DataFrame) -> np.ndarray:
    """A label [N] of the layer of each row, apart for each kind."""
    return (table.kind + "/" + table.layer).to_numpy()
