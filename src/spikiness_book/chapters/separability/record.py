"""What the chapter *separability* records of real images, of block minimizers, and of trained networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spikiness import measures
from spikiness.statistics import Interval
from spikiness_book.chapters.separability import measure


def subsets(run: Any, betas: Mapping[str, np.ndarray], clusters: pd.DataFrame) -> None:
    """The largest cosine of random subsets, `betas` [draws] of each treatment, and classes as clusters."""
    for images, beta in betas.items():
        negative = measures.wilson(int((beta < 0).sum()), len(beta))
        run.metric("negative", (beta < 0).mean(), Interval(*negative, over="subsets"), n=len(beta), images=images)
        median = measures.bootstrap(beta, np.median)
        run.metric("beta", np.median(beta), Interval(*median, over="subsets"), n=len(beta), images=images)
    run.table("clusters", clusters)
    for kind, row in zip(("raw", "centered", "found"), clusters.itertuples(), strict=True):
        run.metric("clusters_alpha", row.alpha, n=row.number, tolerance=0.02, clusters=kind)
        run.metric("clusters_beta", row.beta, n=row.number, tolerance=0.02, clusters=kind)


def largest(run: Any, treated: Mapping[str, Any], seed: int) -> None:
    """The size of the largest separable subset that the search finds among images [N, d] of each treatment."""
    for images, x in treated.items():
        run.metric("largest", measure.largest_subset(x, seed), unit="images", tolerance=1, images=images)


def block_losses(run: Any, block: pd.DataFrame, alpha: float, sigma: float, seeds: Sequence[int]) -> None:
    """The worst relative error of the predicted loss, over mixtures of some sorts."""
    near = block[(block.alpha <= alpha) & (block.sigma == sigma)]
    noisy = block[(block.cosine < 0) & (block.sigma == block.sigma.max())]
    sorts = {
        "separable": (near[near.cosine < 0], 0.02),
        "orthogonal": (near[near.cosine == 0], 0.4),
        "separable at the largest sigma": (noisy, 0.05),
    }
    for mixtures, (rows, tolerance) in sorts.items():
        worst = rows.loss_error.max()
        run.metric("block_loss_error", worst, n=len(rows), seeds=seeds, tolerance=tolerance, mixtures=mixtures)


def rotations(run: Any, turned: pd.DataFrame, alpha: float, seeds: Sequence[int]) -> None:
    """True over predicted loss of networks with other rotations of their blocks, median over alpha."""
    for rotation, tolerance in (("identity", 0.5), ("random", 20.0)):
        rows = turned[(turned.rotation == rotation) & (turned.alpha <= alpha)]
        ratio = rows.ratio.median()
        run.metric("rotation_loss_ratio", ratio, n=len(rows), seeds=seeds, tolerance=tolerance, rotation=rotation)


def margins(run: Any, trained: pd.DataFrame, sigma: float, sigmas: Sequence[float], seeds: Sequence[int]) -> None:
    """Residuals against margins, over all networks and where the theorem applies."""
    run.table("networks", trained)
    run.metric("networks_trained", len(trained), seeds=seeds)
    separable = trained[trained.sigma.isin(sigmas) & (trained.cosine < 0)]
    for networks, rows in {"all": trained, "separable": separable}.items():
        value, interval = measure.rank_correlation(rows, "margin", "residual")
        run.metric("residual_margin_correlation", value, interval, n=len(rows), seeds=seeds, networks=networks)
    rows = trained[(trained.sigma == sigma) & (trained.cosine < 0)]
    run.metric("operator_error", rows.residual.max(), seeds=seeds, tolerance=0.02, networks="separable")
    run.metric("gain_error", rows.gain_error.max(), seeds=seeds, tolerance=0.01)
    run.metric("operator_error_outside", rows.outside.max(), seeds=seeds, tolerance=0.02)


def noise(
    run: Any, apart: pd.DataFrame, longer: pd.DataFrame, sigmas: Sequence[float], lowest: float, seeds: Sequence[int]
) -> None:
    """The most separable mixtures over noise levels; `longer` are those at the lowest, with three times the steps."""
    rows = apart[apart.sigma.isin(sigmas)]
    worst = rows.residual.max()
    run.metric("operator_error", worst, n=len(rows), seeds=seeds, tolerance=0.03, networks="any noise level")
    for at, level, tolerance in (("least", min(sigmas), 0.3), ("most", max(sigmas), 0.1)):
        margin = rows[rows.sigma == level].margin.median()
        run.metric("margin_over_sigma", margin, seeds=seeds, tolerance=tolerance, noise=at)
    quiet = apart[apart.sigma == lowest]
    for steps, part in {"usual": quiet, "three times": longer}.items():
        run.metric("residual_low_noise", part.residual.median(), seeds=seeds, tolerance=0.1, steps_taken=steps)
    run.metric("loss_ratio", quiet.loss_ratio.median(), seeds=seeds, tolerance=0.05, networks="least noise")


def relaxed(run: Any, at_sigma: pd.DataFrame, apart: pd.DataFrame, sigma: float, seeds: Sequence[int]) -> None:
    """Mixtures whose means do not point away from each other, beside the most separable ones."""
    beyond, widest = at_sigma[at_sigma.cosine >= 0], at_sigma[at_sigma.cosine == at_sigma.cosine.max()]
    orthogonal, separable = at_sigma[at_sigma.cosine == 0], apart[apart.sigma == sigma]
    worst = beyond.residual.max()
    run.metric("operator_error", worst, n=len(beyond), seeds=seeds, tolerance=0.1, networks="beta at least 0")
    run.metric("operator_error", orthogonal.residual.max(), seeds=seeds, tolerance=0.05, networks="orthogonal")
    run.metric("shared_energy", widest.shared.mean(), seeds=seeds, tolerance=0.1, networks="largest beta")
    run.metric("shared_energy", separable.shared.mean(), seeds=seeds, tolerance=0.03, networks="separable")
    run.metric("loss_ratio", widest.loss_ratio.mean(), seeds=seeds, tolerance=0.1, networks="largest beta")
    run.metric("block_loss_ratio", widest.block_loss_ratio.median(), seeds=seeds, tolerance=100.0)


def classes(run: Any, on_images: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Networks on real images, whose clusters are the classes."""
    for data, rows in on_images.groupby("data"):
        networks = "classes centered" if "centered" in data else "classes raw"
        for name, value, tolerance in (
            ("operator_error", rows.residual.max(), 0.3),
            ("one_block_error", rows.one_block.max(), 0.1),
            ("shared_energy", rows.shared.mean(), 0.1),
            ("loss_ratio", rows.loss_ratio.mean(), 0.05),
        ):
            run.metric(name, value, n=len(rows), seeds=seeds, tolerance=tolerance, networks=networks)
