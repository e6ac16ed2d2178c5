"""What the chapter *robustness* records of its networks, one setting of the training changed at a time."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from spikiness import measures
from spikiness.statistics import Interval

SGD = "SGD, momentum 0.9"
PAPER = ["Adam", "AdamW, penalty kept", "RMSprop"]  # the optimizers that the paper names


def networks(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many networks were trained, and how many diverged."""
    run.table("networks", table)
    run.metric("networks_trained", len(table), seeds=seeds)
    run.metric("networks_diverged", int(table.diverged.sum()), seeds=seeds, tolerance=3)


def operators(run: Any, usual: pd.DataFrame, sigmas: Sequence[float], seeds: Sequence[int]) -> None:
    """Operator errors over the paper's optimizers, of plain descent, and at the largest noise level."""
    for regime, part in usual[usual.setting.isin(PAPER)].groupby("regime", sort=False):
        error, given = part.operator_error, {"n": len(part), "seeds": seeds, "regime": regime}
        run.metric("operator_error", error.mean(), _over_seeds(error, part), **given)
        run.metric("operator_error_worst", error.max(), **given, tolerance=0.1)
    for regime, tolerance in (("memorizing", 0.05), ("generalizing", 0.1)):
        error = usual[(usual.setting == SGD) & (usual.regime == regime)].operator_error.mean()
        run.metric("operator_error_sgd", error, seeds=seeds, tolerance=tolerance, regime=regime)
    noisy = usual[(usual.sigma == max(sigmas)) & (usual.regime == "memorizing")]
    run.metric("operator_error_noisy", noisy.operator_error.mean(), seeds=seeds, tolerance=0.5)
    run.metric("noise_most", max(sigmas), tolerance=0)


def reached(run: Any, usual: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The share of networks with another learning rate, or another start, that have the structure."""
    for changed in ("learning rate", "start"):
        part = usual[usual.group == changed]
        interval = Interval(*measures.wilson(int(part.reached.sum()), len(part)), over="networks")
        run.metric("reached", part.reached.mean(), interval, n=len(part), seeds=seeds, changed=changed)


def columns(run: Any, usual: pd.DataFrame, split: pd.DataFrame, seeds: Sequence[int]) -> None:
    """In how many columns an image ends, from a start with split columns and from the usual one."""
    for optimizer, part in {"adaptive": split[split.setting != SGD], "sgd": split[split.setting == SGD]}.items():
        interval = _over_seeds(part.effective_columns, part)
        given = {"unit": "columns", "n": len(part), "seeds": seeds, "optimizer": optimizer}
        run.metric("columns_merged", part.effective_columns.mean(), interval, **given)
    objective = split.groupby("setting").objective_ratio.mean()
    run.metric("split_cost", abs(objective[SGD] / objective["Adam"] - 1), seeds=seeds, tolerance=0.01)
    memorizing = usual[usual.regime == "memorizing"]
    for batch, setting, tolerance in (("usual", "Adam", 0.5), ("larger", "Adam, larger batch", 1.5)):
        mean = memorizing[memorizing.setting == setting].effective_columns.mean()
        run.metric("columns", mean, unit="columns", seeds=seeds, tolerance=tolerance, batch_size=batch)


def decay(run: Any, usual: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Gains under AdamW, with its decay in place of the penalty and beside it, and the lambda they stand for."""
    memorizing = usual[usual.regime == "memorizing"]
    for setting, name in {
        "decay alone": "AdamW, decay for penalty",
        "decay alone at a larger batch": "same, larger batch",
        "penalty kept": "AdamW, penalty kept",
    }.items():
        part = memorizing[memorizing.setting == name]
        run.metric("implied_lam", part.implied_lam.mean(), seeds=seeds, tolerance=0.05, setting=setting)
        if setting == "decay alone":
            interval = _over_seeds(part.gain_error, part)
            run.metric("gain_error_decay", part.gain_error.mean(), interval, n=len(part), seeds=seeds)
        if setting == "penalty kept":
            run.metric("gain_error_kept", part.gain_error.mean(), seeds=seeds, tolerance=0.02)


def _over_seeds(values: pd.Series, part: pd.DataFrame) -> Interval:
    return Interval(*measures.bootstrap(values, groups=part.seed), over="seeds")
