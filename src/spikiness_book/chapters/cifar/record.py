"""What the chapter *cifar* records of its networks."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from spikiness.statistics import Interval, hull
from spikiness_book.zoo import Trained

RATES = ("precision", "recall")


def networks(run: Any, cases: Sequence[Trained], sizes: Sequence[int]) -> None:
    """How many weights the networks have, and how many training images."""
    for case in {case.network: case for case in reversed(cases)}.values():
        weights = sum(weight.numel() for weight in case.denoiser.parameters())
        run.metric("weights", weights, tolerance=0, network=case.network)
    for images, n in {"few": min(sizes), "many": max(sizes)}.items():
        run.metric("training_images", n, unit="images", images=images)


def memorized(run: Any, final: pd.DataFrame, samples: int) -> None:
    """The memorized fraction of each network's samples at the end of training, mean over seeds."""
    for row, rows in _settings(final):
        seeds = rows.seed.unique()
        run.metric("memorized", *_share(rows), n=samples * len(seeds), seeds=seeds, **row)


def losses(run: Any, table: pd.DataFrame) -> None:
    """The error on held-out images over that on training images."""
    run.table("losses", table)
    for of, rows in _settings(table):
        error = rows.groupby("images").error.mean()
        ratio = error["held out"] / error["training"]
        run.metric("loss_ratio", ratio, seeds=rows.seed.unique(), tolerance=0.1 * ratio, **of)


def quality(run: Any, table: pd.DataFrame, accuracy: float, held_out: int, samples: int) -> None:
    """Precision and recall of each network's samples, and of real images; how well the judge tells `held_out` ones."""
    run.table("quality", table)
    run.metric("judge_accuracy", accuracy, n=held_out, tolerance=0.03)
    for rate in RATES:
        for of, rows in _settings(table):
            seeds = rows.seed.unique()
            run.metric("quality", rows[rate].mean(), n=samples, seeds=seeds, tolerance=0.05, rate=rate, **of)
        run.metric("real_quality", table[f"real_{rate}"].mean(), n=samples, tolerance=0.05, rate=rate)


def guided(run: Any, table: pd.DataFrame, samples: int) -> None:
    """The memorized fraction of the DiT with many images under the strongest guidance."""
    rows = table[(table.guidance == table.guidance.max()) & (table.n == table.n.max())]
    seeds = rows.seed.unique()
    run.metric("memorized_guided", *_share(rows), n=samples * len(seeds), seeds=seeds, guidance=rows.guidance.iloc[0])


def _settings(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of each network and number of training images: "few", "many", or the number between."""
    ends = {table.n.min(): "few", table.n.max(): "many"}
    return [
        ({"network": network, "images": ends.get(n, n)}, rows)
        for (network, n), rows in table.groupby(["network", "n"], sort=False)
    ]


def _share(rows: pd.DataFrame) -> tuple[float, Interval]:
    """Mean share, and Wilson's interval over samples; the hull of these where there are several networks."""
    share, ends = hull(rows.share, rows.low, rows.high)
    return share, ends if len(rows) > 1 else Interval(*ends, over="samples")
