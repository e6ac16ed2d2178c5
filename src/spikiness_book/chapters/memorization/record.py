"""What the chapter *memorization* records of its networks."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spikiness import measures
from spikiness.statistics import Interval

SEPARABLE, RANDOM = {"subset": "separable"}, {"subset": "random"}


def networks(run: Any, table: pd.DataFrame, main: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many networks there are, and the largest cosine between two of their images."""
    run.table("networks", table)
    random = table.query("subset == 'random'")
    run.metric("networks_trained", len(table), seeds=seeds)
    run.metric("beta", main.beta.max(), n=len(main), seeds=seeds, tolerance=0.02, **SEPARABLE)
    run.metric("beta", random.beta.mean(), n=len(random), seeds=seeds, tolerance=0.1, **RANDOM)


def columns(run: Any, main: pd.DataFrame, n: int, seeds: Sequence[int]) -> None:
    """Whether the columns of the weights are the images, and how many there are."""
    run.metric("column_cosine", main.cosine.min(), n=len(main) * n, seeds=seeds, tolerance=0.005)
    run.metric("stray_energy", main.stray.max(), n=len(main), seeds=seeds, tolerance=0.005)
    run.metric("active_columns", main.active.mean(), n=len(main), seeds=seeds, tolerance=1.0)


def gains(run: Any, table: pd.DataFrame, main: pd.DataFrame, n: int, seeds: Sequence[int]) -> None:
    """The worst stored gain of any image and seed against its closed form, and the loss."""
    random, untied = table.query("subset == 'random'"), table.query("not tied")
    for rows, labels, tolerance in (
        (main, {**SEPARABLE, "weights": "tied"}, 0.005),
        (untied, {**SEPARABLE, "weights": "untied"}, 0.02),
        (random, {**RANDOM, "weights": "tied"}, 0.3),
    ):
        worst = rows.gain_error.max()
        run.metric("gain_error", worst, n=len(rows) * n, seeds=seeds, tolerance=tolerance, **labels)
    run.metric("loss_error", main.loss_error.max(), n=len(main), seeds=seeds, tolerance=0.01)


def representation(run: Any, shares: Sequence[Tensor], main: pd.DataFrame, n: int, seeds: Sequence[int]) -> None:
    """How spiky the representation of a noisy training image is; `shares` [N] of each network in `main`'s order."""
    values = torch.cat(list(shares))
    network = [index for index, share in enumerate(shares) for _ in share]
    interval = Interval(*measures.bootstrap(values, groups=network), over="networks")
    run.metric("top_unit_share", values.mean(), interval, n=len(values), seeds=seeds)
    run.metric("participation", main.participation.mean(), unit="units", n=len(main) * n, seeds=seeds, tolerance=0.1)


def regimes(run: Any, by_noise: pd.DataFrame, by_penalty: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The median of the worst gain error at the largest noise level and at the smallest penalty."""
    noisiest = by_noise[by_noise.sigma == by_noise.sigma.max()]
    freest = by_penalty[by_penalty.lam == by_penalty.lam.min()]
    for at, rows in {"largest sigma": noisiest, "smallest lambda": freest}.items():
        run.metric("gain_error_median", rows.gain_error.median(), seeds=seeds, tolerance=0.2, at=at)


def margin(run: Any, main: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The margin gamma over the noise level, median over networks."""
    run.metric("margin_over_sigma", (main.margin / main.sigma).median(), seeds=seeds, tolerance=0.2)
