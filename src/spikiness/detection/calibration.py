"""Calibration: every setting tried on images known to be memorized or not, in a grid search, and one of them chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spikiness import representations
from spikiness.errors import SpikinessError, suggest
from spikiness.measures import MEASURES

if TYPE_CHECKING:  # imported by the functions that make tables, since it takes half a second
    import pandas as pd

SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0)
TRIED = tuple(name for name, measure in MEASURES.items() if not measure.ranks_as)
SPIKIER = "spikier"  # the theory's direction: memorized images have the spikier representation
MODULES, NONLINEARITIES = "modules", "nonlinearities"  # where a search may look, all of either
SETTING = ["layer", "sigma", "pool", "measure"]  # what is searched; with a direction it is a probe
FEWEST = 20  # images of each kind that a choice may rest on
MARGIN = 0.01  # of AUROC, within which the cheapest setting wins

Case = tuple[nn.Module, Tensor, Tensor]  # a model, images it memorized, images it did not


@dataclass(frozen=True)
class Probe:
    """What is measured where, and which way memorized images lie."""

    layer: str
    sigma: float  # noise level, in data units
    pool: str
    measure: str
    direction: int  # 1: memorized images have the higher value; -1: the lower


def values(model: nn.Module, probe: Probe, x: Tensor, draws: int = 1, seed: int = 0, batch: int = 256) -> Tensor:
    """Direction times the measure [N] of images x [N, C, H, W], in float64, mean over `draws` of the noise."""
    measure, pool = MEASURES[probe.measure], representations.POOLS[probe.pool]
    x = as_model(model, x)
    by_layer = _mean_over_draws(
        model, [probe.layer], x, probe.sigma, lambda h: measure(pool(h)), draws=draws, seed=seed, batch=batch
    )
    return probe.direction * by_layer[probe.layer]


def grid_search(
    model: nn.Module,
    memorized: Tensor,
    generalized: Tensor,
    *,
    layers: Sequence[str] | str = MODULES,
    sigmas: Sequence[float] = SIGMAS,
    pools: Sequence[str] = tuple(representations.POOLS),
    measures: Sequence[str] = TRIED,
    draws: int = 1,
    seed: int = 0,
    batch: int = 256,
) -> pd.DataFrame:
    """AUROC (higher value = memorized) of every measure, pooling, layer and noise level on images of one model.

    `layers` are names, or those that see the image: all `modules`, or the `nonlinearities` alone. One row per setting,
    with the `cost` of reaching the layer as a share of a full pass, and NaN where all values are equal. Raises
    SpikinessError for unknown names and for features that are not finite.
    """
    import pandas as pd

    for kind, chosen in {"layers": layers, "sigmas": sigmas, "pools": pools, "measures": measures}.items():
        if not len(chosen):
            raise SpikinessError(f"{kind} is empty: give at least one to choose among, or leave it out")
    pooling = {name: representations.POOLS[name] for name in pools}
    functions = {name: MEASURES[name] for name in measures}
    columns = [(pool, measure) for pool in pools for measure in measures]
    x = as_model(model, torch.cat([memorized, generalized]))
    layers = responsive_layers(model, x, layers, sigmas) if isinstance(layers, str) else layers
    cost = representations.costs(model, layers, x[:2], sigmas[0])

    def all_measures(h: Tensor) -> Tensor:
        pooled = {pool: reduce(h) for pool, reduce in pooling.items()}
        return torch.stack([functions[measure](pooled[pool]) for pool, measure in columns], dim=1)

    rows = []
    for sigma in sigmas:
        by_layer = _mean_over_draws(model, layers, x, sigma, all_measures, draws=draws, seed=seed, batch=batch)
        for layer, scores in by_layer.items():
            for (pool, measure), score in zip(columns, scores.numpy().T, strict=True):
                value = auroc(score[: len(memorized)], score[len(memorized) :])
                setting = {"layer": layer, "sigma": float(sigma), "pool": pool, "measure": measure}
                rows.append({**setting, "auroc": value, "cost": cost[layer]})
    return pd.DataFrame(rows)


def choose(
    cases: Sequence[Case],
    given: dict[str, Any],
    *,
    layers: Sequence[str] | str = MODULES,
    sigmas: Sequence[float] = SIGMAS,
    pools: Sequence[str] = tuple(representations.POOLS),
    measures: Sequence[str] = TRIED,
    margin: float = MARGIN,
    fpr: float = 0.01,
    **noise: int,
) -> tuple[Probe, float, dict[str, Any]]:
    """The probe that is best for the worst of the models of `cases`, its threshold, and a record of the search.

    `given` has the parts of the probe by name; those that are None are searched.
    """
    import pandas as pd

    _check_sizes(cases, margin)
    sigmas = [given["sigma"]] if given["sigma"] else sigmas
    if given["layer"]:
        layers = [given["layer"]]
    elif isinstance(layers, str) and len(sigmas):
        layers = _shared_layers(cases, layers, sigmas)
    pools = [given["pool"]] if given["pool"] else pools
    measures = [given["measure"]] if given["measure"] else measures
    among: dict[str, Any] = {"layers": layers, "sigmas": sigmas, "pools": pools, "measures": measures, **noise}
    searches = [grid_search(*case, **among).assign(model=i) for i, case in enumerate(cases)]
    table = worst_of(pd.concat(searches, ignore_index=True), given["direction"])
    if table.empty:
        raise SpikinessError(
            "all scores are equal in every setting tried, so nothing can be chosen: are the representations dead?"
        )
    probe, row = pick(table, margin)
    thresholds = [quantile(values(model, probe, generalized, **noise).numpy(), fpr) for model, _, generalized in cases]
    record = {
        "models": len(cases),
        "memorized": [len(memorized) for _, memorized, _ in cases],
        "generalized": [len(generalized) for _, _, generalized in cases],
        "margin": margin,
        "fpr": fpr,
        "thresholds": thresholds,
        **_search_record(table, row),
        "chosen": asdict(probe),
    }
    return probe, max(thresholds), record


def _check_sizes(cases: Sequence[Case], margin: float) -> None:
    """Refuse a negative margin, and models with too few images of a kind to choose by."""
    if not margin >= 0:
        raise SpikinessError(f"margin is {margin}: the AUROC within which the cheapest setting wins, 0 or more")
    for i, (_, *groups) in enumerate(cases):
        for kind, group in zip(("memorized", "generalized"), groups, strict=True):
            if len(group) < FEWEST:
                raise SpikinessError(
                    f"model {i} has {len(group)} {kind} images to calibrate on; a choice needs at least {FEWEST} of "
                    "each kind from each model: draw more samples, or leave the model out"
                )


def _search_record(table: pd.DataFrame, row: pd.Series) -> dict[str, Any]:
    """All that was tried, and how the chosen row did, as plain numbers."""
    tried = table[[*SETTING, "cost", "aurocs"]].to_numpy()
    return {
        "aurocs": [float(v) for v in row.aurocs],
        "worst": float(row.worst),
        "best": float(table.worst.max()),
        "cost": float(row.cost),
        "settings": len(table),
        "tried": [[*r[:4], float(r[4]), [float(v) for v in r[5]]] for r in tried],
    }


def worst_of(searches: pd.DataFrame, direction: int | str | None = None) -> pd.DataFrame:
    """One row per setting over the searches of several `model`s: `aurocs`, `direction` and, in it, the `worst` AUROC.

    The direction is the one whose worst AUROC is the higher, unless given: 1, -1, or SPIKIER, that in which memorized
    images are the spikier ones. A setting that one of the models lacks, or whose values there are all equal, is left
    out.
    """
    import pandas as pd

    rows, models = [], searches.model.nunique()
    for setting, group in searches.groupby(SETTING, sort=False):
        if group.auroc.isna().any() or group.model.nunique() < models:
            continue
        row = dict(zip(SETTING, setting, strict=True))
        up, down = group.auroc.min(), 1 - group.auroc.max()
        given = MEASURES[row["measure"]].spikier if direction == SPIKIER else direction
        sign = int(given or (1 if up >= down else -1))
        row |= {"direction": sign, "worst": up if sign > 0 else down, "cost": group.cost.max()}
        rows.append({**row, "aurocs": group.sort_values("model").auroc.tolist()})
    return pd.DataFrame(rows)


def pick(table: pd.DataFrame, margin: float = MARGIN) -> tuple[Probe, pd.Series]:
    """The probe that a table of `worst_of` leads to, and its row: within `margin` of the best worst AUROC the cheapest
    settings, and of these the best."""
    near = table[table.worst >= table.worst.max() - margin]
    cheapest = near[near.cost <= near.cost.min() + 1e-9]
    row = cheapest.loc[cheapest.worst.idxmax()]
    return Probe(row.layer, float(row.sigma), row["pool"], row.measure, int(row.direction)), row


def responsive_layers(model: nn.Module, x: Tensor, among: str = MODULES, sigmas: Sequence[float] = SIGMAS) -> list[str]:
    """The modules (or `encode`) whose features differ between images x [N, ...], in the model's order; `among` its
    nonlinearities alone where asked.

    Those count that a pass reaches at the lowest and at the highest of `sigmas`. Left out is what hands on the features
    of another, what is infinite (masks), and the image itself in another order or scale: that would measure pixels and
    not the model. Features that are NaN stay, and are refused where they are measured.
    """
    if among not in (MODULES, NONLINEARITIES):
        both = MODULES, NONLINEARITIES
        raise SpikinessError(
            f"unknown layers {among!r}: {' or '.join(both)}, or a list of names of layers(model){suggest(among, both)}"
        )
    every = names = representations.layers(model, nonlinearities=among == NONLINEARITIES)
    few = as_model(model, x[:: max(1, len(x) // 8)][:8])
    inputs = [(few, min(sigmas)), (few[: max(1, len(few) - 1)], max(sigmas))]  # of two sizes: rows must be images
    for y, sigma in inputs:
        names = representations.reached(model, names, y, sigma)
    marks = [representations.capture_each(model, names, y, sigma, _marks_beside(y)) for y, sigma in inputs]
    responsive: list[str] = []
    # a container hands on the features of the last module inside it: the inner module comes first, and is kept
    for name in sorted(names, key=lambda name: name.count("."), reverse=True):
        own = [by_name[name] for by_name in marks]
        useful = not any(m[:, 0].any() or m[:, 1].all() for m in own) and (own[0] != own[0][:1]).any()
        handed_on = any(all(map(torch.equal, own, (by_name[other] for by_name in marks))) for other in responsive)
        if useful and not handed_on:
            responsive.append(name)
    if not responsive:
        raise SpikinessError(
            f"no layer among the {among} of this model sees the image, or all of them are dead, or all images are one: "
            "give layers=[...] of representations.layers(model)"
        )
    return [name for name in every if name in responsive]


def _marks_beside(y: Tensor) -> Callable[[str, Tensor], Tensor]:
    """`_marks` of a layer's features for the images y."""
    return lambda _, h: _marks(h, y)


def _marks(h: Tensor, y: Tensor) -> Tensor:
    """What features h [N, ...] of images y [N, ...] are told apart by, [N, 4]: whether some are infinite and none NaN,
    whether they are the image's own values in another order or scale, and two weighted sums."""
    h, y = h.flatten(1).double(), y.flatten(1).double()
    masked = h.isinf().any(dim=1) & ~h.isnan().any(dim=1)
    pixels = torch.zeros_like(masked)
    if h.shape == y.shape:
        a, b = (v.abs().sort(dim=1).values for v in (h, y))
        a, b = (v / v[:, -1:].clamp_min(torch.finfo(v.dtype).tiny) for v in (a, b))
        pixels = ((a - b).abs() < 1e-5).all(dim=1)
    at = torch.arange(h.shape[1], dtype=h.dtype, device=h.device)
    return torch.stack([masked, pixels, (h * torch.cos(at)).sum(dim=1), (h * torch.sin(1.7 * at)).sum(dim=1)], dim=1)


def as_model(model: nn.Module, x: Tensor) -> Tensor:
    """x in the type and on the device of the model's weights, where it has any."""
    weight = next(model.parameters(), None)
    return x if weight is None else x.to(weight.device, weight.dtype)


def _shared_layers(cases: Sequence[Case], among: str, sigmas: Sequence[float]) -> list[str]:
    """Layers that see the image in every model, in the order of the first."""
    first, *others = (responsive_layers(model, torch.cat(groups), among, sigmas) for model, *groups in cases)
    shared = [name for name in first if all(name in other for other in others)]
    if not shared:
        raise SpikinessError("the models have no layer name in common: calibrate each kind of model by itself")
    return shared


def _mean_over_draws(
    model: nn.Module,
    layers: Sequence[str],
    x: Tensor,
    sigma: float,
    measure: Callable[[Tensor], Tensor],
    *,
    draws: int,
    seed: int,
    batch: int,
) -> dict[str, Tensor]:
    """What `measure` makes [N, ...] of each layer's features of noisy x, in float64 on the CPU, mean over the draws."""

    def measured(layer: str, h: Tensor) -> Tensor:
        return measure(h).double().cpu()

    total: dict[str, Tensor] = {}
    for draw in range(draws):
        y = representations.noisy(x, sigma, seed, draw)
        for name, value in representations.capture_each(model, layers, y, sigma, measured, batch=batch).items():
            refuse_nan(value.flatten(1).isfinite().all(dim=1) if value.ndim > 1 else value.isfinite(), name)
            total[name] = total[name] + value if name in total else value
    return {name: value / draws for name, value in total.items()}


def refuse_nan(good: Tensor, layer: str) -> None:
    """Refuse images that have no score; good: [N]."""
    if not good.all():
        bad = (~good).nonzero().flatten()
        raise SpikinessError(
            f"features of {layer!r} are NaN or infinite for {len(bad)} of {len(good)} images, the first at "
            f"{int(bad[0])}: these have no score and count neither as memorized nor as not; look at the model's weights"
        )


def auroc(memorized: np.ndarray, generalized: np.ndarray) -> float:
    """Share of pairs in which the memorized score is higher, ties half (Mann-Whitney); NaN where all are equal."""
    both = np.concatenate([memorized, generalized])
    if not both.min() < both.max():  # or one of them is NaN
        return float("nan")
    ascending = np.sort(generalized)
    below, upto = (np.searchsorted(ascending, memorized, side).sum() for side in ("left", "right"))
    return float((below + upto) / 2 / (len(memorized) * len(generalized)))


def quantile(generalized: np.ndarray, fpr: float) -> float:
    """The smallest of scores [N] with at most a share `fpr` strictly above it, as `evaluate` has it."""
    if not 0 < fpr < 1:
        raise SpikinessError(f"fpr is {fpr}: a false positive rate lies between 0 and 1, usually .01")
    ascending = np.sort(generalized)
    return float(ascending[len(ascending) - 1 - int(np.floor(fpr * len(ascending) + 1e-9))])
