"""The phase diagram, read: where networks agree with the theory, where storing ends, and the same for U-Nets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spikiness import images, measures
from spikiness.statistics import Interval, last_fall, rate
from spikiness_book import zoo
from spikiness_book.chapters.phase.measure import CELL, GENERALIZING, MEMORIZING, MODES, NEITHER, NORM


def cell_map(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row per cell of the grid: the mean of `value` over seeds, as `value`."""
    return table.groupby(CELL, as_index=False)[value].mean().rename(columns={value: "value"})


def phase_map(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: the phase of most of its networks (the first in order where they tie), as `phase`, the theory's
    as `theory`, and the share of networks in the theory's phase as `agree`."""
    rows = []
    for cell, mine in table.groupby(CELL):
        rows.append(
            {
                **dict(zip(CELL, cell, strict=True)),
                "phase": mine.phase.mode()[0],
                "theory": mine.theory.mode()[0],
                "agree": (mine.phase == mine.theory).mean(),
            }
        )
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame) -> tuple[float, Interval]:
    """Share of networks in the phase of the theory, its interval resampling whole cells of the grid; Wilson's, for as
    many trials as cells, where all or none agree."""
    return rate(table.phase == table.theory, _cells(table), over="cells")


def mean_over_cells(table: pd.DataFrame, value: str) -> tuple[float, Interval]:
    """Mean of a share in [0, 1], with the same interval as `agreement`."""
    return rate(table[value], _cells(table), over="cells")


def _cells(table: pd.DataFrame) -> np.ndarray:
    """A label [N] of the cell of the grid that each row is of."""
    return table.groupby(CELL).ngroup().to_numpy()


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The networks by what the theory says: memorizing with one sample per mode at most, `separable`, and with more,
    `crowded`; `generalizing`; `neither`. Those without a network are left out."""
    memorizing, few = table.theory == MEMORIZING, table.n <= MODES
    found = {
        "separable": table[memorizing & few],
        "crowded": table[memorizing & ~few],
        GENERALIZING: table[table.theory == GENERALIZING],
        NEITHER: table[table.theory == NEITHER],
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def half_stored(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network setting but n: the n at which the stored share falls below 1/2 for good, as `turning`,
    interpolated in log n, and over the width as `ratio`; NaN where it does not, within the n tried."""
    rows = []
    for (width, sigma, lam, seed), mine in table.groupby(["width", "sigma", "lam", "seed"]):
        curve = mine.sort_values("n")
        fall = last_fall(curve.n, curve.stored)
        turning = fall.value if fall.inside else np.nan
        rows.append((width, sigma, lam, seed, turning, turning / width))
    return pd.DataFrame(rows, columns=["width", "sigma", "lam", "seed", "turning", "ratio"])


def geometric_mean(table: pd.DataFrame, value: str) -> tuple[float, Interval]:
    """Geometric mean of a positive column, its interval resampling whole settings (width, sigma, lambda); the range of
    the values where there is one setting only."""
    logs = np.log(table[value].to_numpy(float))
    groups = table.groupby(["width", "sigma", "lam"]).ngroup().to_numpy()
    if len(np.unique(groups)) == 1:
        return float(np.exp(logs.mean())), Interval.range(np.exp(logs), over="seeds")
    low, high = measures.bootstrap(logs, groups=groups)
    return float(np.exp(logs.mean())), Interval(np.exp(low), np.exp(high), over="settings")


def by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Share of networks in the theory's phase by noise level and penalty, and how many there are; the worst first."""
    same = table.assign(agree=(table.phase == table.theory).astype(float)).groupby(["sigma", "lam"])
    found = same.agree.agg(["mean", "size"]).reset_index()
    return found.rename(columns={"mean": "agree", "size": "networks"}).sort_values("agree", kind="stable")


def loss_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The networks of which Theorem 3.1 predicts the loss on new samples, one unit and one sample per mode at least,
    with `loss_ratio`, measured over predicted."""
    known = table[table.predicted.notna() & (table.width >= MODES)]
    return known.assign(loss_ratio=known.test_loss / known.predicted)


def boundaries(
    sizes: Sequence[int], widths: Sequence[int], sigmas: Sequence[float], lams: Sequence[float]
) -> pd.DataFrame:
    """Where the theory has its boundaries, as points (n, width) of lines by panel (sigma, lam): p = n, and n = |x|^2 /
    lambda with the length of the means for |x|, where that lies within the sizes; and n = K, one sample per mode."""
    rows = []
    for sigma in sigmas:
        for lam in lams:
            ends = max(min(sizes), min(widths)), min(max(sizes), max(widths))
            rows += [("p = n", sigma, lam, v, v) for v in ends]
            for name, n in (("one sample per mode", MODES), ("sample dropped", NORM**2 / lam if lam else np.inf)):
                if min(sizes) < n < max(sizes):
                    rows += [(name, sigma, lam, n, w) for w in (min(widths), max(widths))]
    return pd.DataFrame(rows, columns=["kind", "sigma", "lam", "n", "width"])


# ---- U-Nets


def unet_fractions(
    data: str, networks: Sequence[tuple[int, int, int, int]], images_seen: int, samples: int
) -> pd.DataFrame:
    """One row per network of a `zoo.plan_each_once`, the same networks as in the chapter on the transition: the
    memorized fraction of `samples` samples, `value`, with Wilson's interval."""
    rows = []
    for model in zoo.train_each_once(images.load(data), zoo.unet(0, images_seen), networks):
        report = measures.memorization(model.draw(samples, seed=zoo.SHARED_NOISE), model.x)
        low, high = report.interval
        name = f"width {model.width}"
        rows.append((model.n, model.width, model.index, model.seed, report.fraction, low, high, name))
    return pd.DataFrame(rows, columns=["n", "width", "index", "seed", "value", "low", "high", "kind"])
