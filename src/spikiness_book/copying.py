"""What the chapters on copied images share: which samples copy a training image, and the size at which copying ends."""

import numpy as np
import pandas as pd
from torch import Tensor

from spikiness import measures
from spikiness.statistics import Interval, hull, last_fall


def table(samples: Tensor, distinct: Tensor) -> pd.DataFrame:
    """One row per sample: its nearest image of `distinct`, the ratio d1 / d2, and whether it is memorized."""
    report = measures.memorization(samples, distinct)
    return pd.DataFrame(
        {
            "sample": range(len(samples)),
            "nearest": report.nearest.numpy(),
            "ratio": report.ratio.numpy(),
            "memorized": report.mask.numpy(),
        }
    )


def over_networks(rows: pd.DataFrame) -> tuple[float, Interval]:
    """Mean of `value` over networks, and the range from the lowest end of their intervals to the highest."""
    return hull(rows.value, rows.low, rows.high)


def turning(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per width and index that has every size: the n at which its memorized fraction falls below 1/2 for good.

    `rows` has columns n, width (0 for closed forms, left out), index, value. `turning` is interpolated in log n between
    `low`, the last size with at least 1/2, and `high`, the next; all three are NaN where no size has 1/2, or the
    largest still has.
    """
    rows, turns = rows[rows.width > 0], []
    for (width, index), curve in rows.sort_values("n").groupby(["width", "index"]):
        if set(curve.n) == set(rows.n):
            fall = last_fall(curve.n, curve.value)
            ends = (fall.value, fall.low, fall.high) if fall.inside else (np.nan, np.nan, np.nan)
            turns.append((width, index, *ends))
    return pd.DataFrame(turns, columns=["width", "index", "turning", "low", "high"])


def turning_point(turns: pd.DataFrame) -> tuple[float, Interval] | None:
    """Geometric mean over networks of `turning`, and the range of the sizes between which they turn.

    None where one of them does not turn within the sizes tried.
    """
    if not len(turns) or turns.turning.isna().any():
        return None
    sizes = Interval(turns.low.min(), turns.high.max(), level=None, over="sizes tried")
    return float(np.exp(np.log(turns.turning).mean())), sizes


def pictures(x: Tensor) -> np.ndarray:
    """Images x [N, C, H, W] as a figure shows them: [N, H, W], colors as [N, H, W, 3] from 0 to 1."""
    return x[:, 0].numpy() if x.shape[1] == 1 else ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
