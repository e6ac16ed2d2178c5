"""What the chapter *generalization* records: gains and losses on a mixture, then columns and denoising of images."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from spikiness import measures
from spikiness.statistics import Interval
from spikiness_book.chapters.generalization import measure
from spikiness_book.chapters.generalization.measure import MAIN, MIDDLE
from spikiness_book.two_layers import MEMORIZING

OPERATOR_TOLERANCE = {MAIN: 0.01, "wide modes": 0.01, "four modes": 0.02, "no spare units": 0.1}


def _of(rows: pd.DataFrame) -> dict[str, Any]:
    """How many rows a number is taken over, and their seeds."""
    return {"n": len(rows), "seeds": rows.seed.unique().tolist()}


def _mean(run: Any, name: str, rows: pd.DataFrame, column: str, over: str, **labels: Any) -> None:
    """The mean of a column, with an interval that draws whole seeds anew; `over` says what there is one of per seed."""
    interval = Interval(*measures.bootstrap(rows[column], groups=rows.seed), over=over)
    run.metric(name, rows[column].mean(), interval, **_of(rows), **labels)


# ---- the mixture


def networks(run: Any, table: pd.DataFrame, largest: pd.DataFrame) -> None:
    """How separable the modes are; `largest` are the rows of `table` with the largest training set."""
    run.table("networks", table)
    main, wide = (largest[largest.setting == setting] for setting in (MAIN, "wide modes"))
    for rows, setting in ((main, MAIN), (wide, "wide modes")):
        run.metric("alpha", rows.alpha.max(), **_of(rows), tolerance=0.02, setting=setting)
    run.metric("beta", main.beta.max(), **_of(main), tolerance=0.02, setting=MAIN)


def operators(run: Any, largest: pd.DataFrame, strong: pd.DataFrame) -> None:
    """How far the linear map of a mode is from the predicted one, and where the rest is; `strong`: its directions."""
    labels = {"noise": "main", "statistic": "worst"}
    for setting, rows in largest.groupby("setting", sort=False):
        tolerance = OPERATOR_TOLERANCE[setting]
        run.metric(
            "operator_error", rows.operator_error.max(), **_of(rows), tolerance=tolerance, setting=setting, **labels
        )
    main, first = (rows[rows.setting == MAIN] for rows in (largest, strong))
    _mean(run, "operator_error", main, "operator_error", "seeds", setting=MAIN, noise="main", statistic="mean")
    run.metric("gain_error", (first.learned / first.predicted - 1).abs().max(), **_of(first), tolerance=0.01)
    run.metric("elsewhere", first.elsewhere.max(), **_of(main), tolerance=0.01)
    run.metric("shared_units", main.shared_units.mean(), **_of(main), unit="units", tolerance=1)


def losses(run: Any, losses: pd.DataFrame, curve: pd.DataFrame, limits: pd.DataFrame) -> None:
    """Losses of the networks against the predicted ones, and against the two that more data lead to."""
    run.table("loss_curve", curve)
    run.table("loss_limits", limits)
    by_size = losses.groupby("n")[["train_error", "test_error"]].mean()
    main, fewest = losses[losses.n == losses.n.max()], losses.n.min()
    run.metric("loss_error", main.train_error.abs().max(), **_of(main), tolerance=0.002, samples="training")
    run.metric("loss_error", by_size.test_error.abs().max(), **_of(losses), tolerance=0.003, samples="new")
    run.metric("overfit", -by_size.train_error[fewest], **_of(losses), tolerance=0.003, size=fewest)
    _mean(run, "loss", main, "test", "seeds", of="networks")
    _mean(run, "loss", limits, "truth", "seeds", of="ground truth")
    run.metric("loss", limits.limit.mean(), **_of(limits), tolerance=0.002, of="limit")


def distances(run: Any, distances: pd.DataFrame) -> None:
    """How far networks of the largest training set are from the denoisers known exactly, and their limit."""
    largest = distances[distances.n == distances.n.max()]
    for between in ("network and ground truth", "network and empirical", "limit and ground truth"):
        rows = largest[largest.between == between]
        run.metric("distance", rows.distance.mean(), **_of(rows), tolerance=0.003, between=between)


def halves(run: Any, table: pd.DataFrame, data: str) -> None:
    """How far networks of two disjoint halves are apart, for the smallest and the largest halves: a row per pair."""
    fewest, most = (table[table.n == size] for size in (table.n.min(), table.n.max()))
    labels = {"data": data, "relative_to": "estimates"}
    _mean(run, "halves_distance", most, "distance", "pairs of networks", **labels, samples="most")
    run.metric("halves_distance", fewest.distance.mean(), **_of(fewest), tolerance=0.01, **labels, samples="fewest")
    if "of_variation" in table:
        labels = {"data": data, "relative_to": "variation", "samples": "most"}
        run.metric("halves_distance", most.of_variation.mean(), **_of(most), tolerance=0.02, **labels)


def participation(run: Any, cases: Sequence[measure.MixtureProblem]) -> None:
    """Over how much of its block the representation of a new sample is spread: one network per seed."""
    shares = [measure.participation(case) for case in cases]
    seeds = [case.seed for case in cases]
    values, groups = torch.cat(shares), [seed for seed, share in zip(seeds, shares, strict=True) for _ in share]
    interval = Interval(*measures.bootstrap(values, groups=groups), over="networks")
    labels = {"network": "largest batches"}
    run.metric("block_participation", values.mean(), interval, n=len(values), seeds=seeds, **labels)


def balance(run: Any, balance: pd.DataFrame, steps: int) -> None:
    """The same for networks trained otherwise, and for the block minimizer."""
    mean = balance.groupby(["steps", "batch"]).participation.mean()
    once, twice = f"{steps} steps", f"{2 * steps} steps"
    seeds = balance.seed.unique().tolist()
    for network, value, tolerance in (
        ("block minimizer", mean["theory"].iloc[0], 0.02),
        ("smallest batches", mean[once].iloc[0], 0.05),
        ("middle batches", mean[once, MIDDLE], 0.05),
        ("middle batches twice as long", mean[twice, MIDDLE], 0.05),
    ):
        run.metric("block_participation", value, n=len(seeds), seeds=seeds, tolerance=tolerance, network=network)


# ---- images


def columns(run: Any, every: pd.DataFrame, whole: pd.DataFrame, own: pd.DataFrame, width: int) -> None:
    """How near columns come to images: `whole` of the generalizing networks, `own` of the memorizing ones."""
    run.table("image_networks", pd.concat([every.assign(group="generalizing"), own.assign(group="memorizing")]))
    general, all_columns = {"columns": "generalizing"}, {**_of(whole), "n": len(whole) * width}
    run.metric("column_cosine", whole.cosine.max(), **all_columns, tolerance=0.1, **general, statistic="largest")
    run.metric("column_cosine", whole.typical.mean(), **_of(whole), tolerance=0.02, **general, statistic="mean")
    labels = {"columns": "memorizing", "statistic": "mean of the worst seed"}
    run.metric("column_cosine", own.typical.min(), **_of(own), tolerance=0.01, **labels)


def spectrum(run: Any, whole: pd.DataFrame, own: pd.DataFrame, dimensions: int) -> None:
    """How much of the columns lies in the directions that the theory keeps, and how good its one mode is on images."""
    row, shares = whole.iloc[0], {"tolerance": 0.01, "noise": "main"}
    run.metric("kept_directions", row.kept, n=row.n, tolerance=1)
    run.metric("dimensions", dimensions)
    run.metric("principal_share", whole.share.min(), **_of(whole), columns="generalizing", **shares)
    run.metric("principal_share", own.share.mean(), **_of(own), columns="memorizing", **shares)
    run.metric("chance_share", row.chance, tolerance=0.02)
    run.metric("alpha", row.alpha, n=row.n, tolerance=0.02, setting="images")
    labels = {"setting": "images", "noise": "main", "statistic": "worst"}
    run.metric("operator_error", whole.operator_error.max(), **_of(whole), tolerance=0.03, **labels)
    run.metric("loss_ratio", whole.loss_ratio.mean(), **_of(whole), tolerance=0.01, noise="main")


def noise(run: Any, loud: pd.DataFrame) -> None:
    """The same at the largest noise level."""
    labels = {"setting": "images", "noise": "largest", "statistic": "mean"}
    run.metric("operator_error", loud.operator_error.mean(), **_of(loud), tolerance=0.1, **labels)
    run.metric("loss_ratio", loud.loss_ratio.mean(), **_of(loud), tolerance=0.03, noise="largest")
    labels = {"columns": "generalizing", "noise": "largest"}
    run.metric("principal_share", loud.share.min(), **_of(loud), tolerance=0.05, **labels)


def denoising(run: Any, gaps: pd.DataFrame) -> None:
    """PSNR on test images, and how much better it is on training images."""
    run.table("psnr", gaps)
    run.metric("psnr", gaps.noisy.mean(), **_of(gaps), unit="dB", tolerance=0.1, estimate="noisy image")
    for group, rows in gaps.groupby("group"):
        network = "memorizing" if group == MEMORIZING else "generalizing"
        run.metric("psnr", rows.test.mean(), **_of(rows), unit="dB", tolerance=0.3, estimate=network)
        _mean(run, "psnr_gap", rows, "gap", "networks", network=network, unit="dB")
