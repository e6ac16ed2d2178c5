"""Many images, few units: columns of structure, one function from disjoint halves, denoising (Cor 3.3, App B.2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures, theory
from spikiness_book import two_layers
from spikiness_book.two_layers import BATCH, MEMORIZING, Problem, noisy

ALL, FIRST, SECOND = "all", "first half", "second half"  # groups of problems, beside MEMORIZING
Pictures = tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]  # rows [N, H, W], captions, table


def plan_images(
    pool: Tensor, halves: Sequence[int], seeds: Sequence[int], width: int,
    sigma: float, sigmas: Sequence[float], lam: float,
) -> list[Problem]:  # fmt: skip
    """All of pool [n, ...] at every noise level; disjoint halves of each size at the main one, copies left out."""
    flat = pool.flatten(1)
    everything, distinct = (flat,), flat[images.distinct(flat)]
    problems = []
    for seed in seeds:
        problems += [Problem(everything, width, s, lam, seed, ALL, start=2 * seed) for s in sorted({sigma, *sigmas})]
        for size in halves:
            chosen = images.subset(distinct, 2 * size, seed, "distinct images for two halves")
            problems += [
                Problem((x,), width, sigma, lam, seed, group, start=2 * seed + half)
                for half, (group, x) in enumerate(((FIRST, chosen[:size]), (SECOND, chosen[size:])))
            ]
    return problems


def memorize(
    pool: Tensor, n: int, seeds: Sequence[int], width: int, sigma: float, lam: float, steps: int
) -> list[Problem]:
    """Networks that store n images each, with pairwise negative cosines after centering."""
    problems = [
        Problem(two_layers.separable_images(pool, n, seed), width, sigma, lam, seed, MEMORIZING, start=2 * seed)
        for seed in seeds
    ]
    return two_layers.train(problems, BATCH[MEMORIZING], steps)


# ---- columns against images and principal directions


def second_moment(x: Tensor) -> Tensor:
    """X^T X / n [d, d] of x [n, d] in float64, the mean left in: all that the theory of one mode asks of the data."""
    return x.double().T @ x.double() / len(x)


def principal(moment: Tensor) -> Tensor:
    """Eigenvectors of a second moment [d, d] as columns, the leading one first."""
    return torch.linalg.eigh(moment)[1].flip(1)


def energy_below(w: Tensor, axes: Tensor) -> Tensor:
    """Share of |W|_F^2 within the first 1, 2, ... axes [d, m]: [m]."""
    energy = (axes.T @ w.detach().double()).square().sum(dim=1)
    return energy.cumsum(dim=0) / w.detach().double().square().sum()


def image_summary(problem: Problem, moment: Tensor) -> dict[str, object]:
    """One row per network: how its columns lie to images and principal directions, operator and loss against one mode.

    moment: of the problem's images. `kept` counts the directions that Cor 3.3 keeps with the data as one mode, `share`
    is the energy of the columns in these, `chance` that of random columns; `cosine` is the largest of a column with
    energy, `typical` the mean.
    """
    x, w = problem.x, problem.network.w1.detach().double()
    columns, mode = measures.stored_columns(w, x), ([moment], [1.0], [w.shape[1]], problem.sigma, problem.lam)
    gains, axes = theory.population_gains(*mode)[0], principal(moment)
    kept = int((gains > 0).sum())
    predicted = (axes[:, :kept] * gains[:kept]) @ axes[:, :kept].T  # [d, d]
    [learned] = theory.linear_maps(w, w, [x])
    loss = theory.true_loss(w, w, x, problem.sigma, draws=max(2, 10_000 // len(x)), seed=problem.seed).value
    return {
        "seed": problem.seed,
        "sigma": problem.sigma,
        "n": len(x),
        "alpha": theory.separability([x])[0],
        "kept": kept,
        "share": float(energy_below(w, axes)[kept - 1]) if kept else 0.0,
        "chance": kept / len(w),
        "cosine": float(columns.cosine[columns.energy > 1e-3].max()),
        "typical": columns.weighted_cosine,
        "operator_error": float((learned - predicted).norm() / predicted.norm()),
        "loss_ratio": loss / theory.population_loss(*mode),
        "stationarity": problem.network.record["stationarity"],
    }


def memorizing_summary(problem: Problem, axes: Tensor, kept: int) -> dict[str, object]:
    """The same of a memorizing network: cosine to its images, and energy in the `kept` leading axes [d, d] of all."""
    typical = measures.stored_columns(problem.network.w1, problem.x).weighted_cosine
    share = float(energy_below(problem.network.w1, axes)[kept - 1])
    return {"seed": problem.seed, "n": problem.n, "typical": typical, "share": share}


def noise_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `image_summary` as one row per measure: operator and loss error, energy outside the kept directions."""
    shown = table.assign(loss_error=(table.loss_ratio - 1).abs(), outside=1 - table.share)
    names = {"operator_error": "operator error", "loss_error": "loss error", "outside": "energy outside"}
    shown = shown.rename(columns=names)
    return shown.melt(["sigma", "seed"], list(names.values()), var_name="measure")


def spectra(generalizing: Sequence[Problem], memorizing: Sequence[Problem], moment: Tensor) -> pd.DataFrame:
    """Energy of columns within the first r principal directions: both kinds of networks, theory, random columns."""
    first, axes = generalizing[0], principal(moment)
    d, width = len(axes), min(first.network.w1.shape)
    gains = theory.population_gains([moment], [1.0], [width], first.sigma, first.lam)[0].cumsum(dim=0)
    curves = {"theory": torch.nn.functional.pad(gains / gains[-1], (0, d - width), value=1.0)}
    curves["random"] = torch.arange(1, d + 1) / d
    for name, group in (("generalizing", generalizing), ("memorizing", memorizing)):
        curves[name] = torch.stack([energy_below(problem.network.w1, axes) for problem in group]).mean(dim=0)
    return pd.concat(
        pd.DataFrame({"directions": range(1, d + 1), "share": share.tolist(), "columns": name})
        for name, share in curves.items()
    )


def image_halves(problems: Sequence[Problem], test: Tensor) -> pd.DataFrame:
    """Relative distance between the networks of two disjoint halves, on new noisy images [N, d]; also with the mean
    of the images taken out of the denominator."""
    seconds = {(problem.seed, problem.n): problem.network for problem in problems if problem.group == SECOND}
    spread = float((test - test.mean(dim=0)).square().mean().sqrt())
    rows = []
    for first in (problem for problem in problems if problem.group == FIRST):
        y, second = noisy(test, first.sigma, first.seed), seconds[first.seed, first.n]
        distance = measures.distance(first.network, second, y, first.sigma)
        row = {"seed": first.seed, "n": first.n, "distance": distance.relative}
        rows.append({**row, "of_variation": distance.rms / spread})
    return pd.DataFrame(rows)


# ---- denoising


def denoised(problem: Problem, x: Tensor, mean: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy versions of images x [N, d] and the network's estimates; memorizing networks see centered images."""
    shift = mean if problem.group == MEMORIZING else torch.zeros_like(mean)
    y = noisy(x, problem.sigma, seed)
    return y, problem.network(y - shift).detach() + shift


def psnr_gaps(problems: Sequence[Problem], test: Tensor, mean: Tensor, draws: int = 2000) -> pd.DataFrame:
    """PSNR in dB (range 2, images in [-1, 1]) on each network's own training images and on test ones, the gap, and
    that of the noisy test images themselves."""
    rows = []
    for problem in problems:
        own = problem.x + mean if problem.group == MEMORIZING else problem.x
        psnr = {}
        for name, x in (("train", own), ("test", test)):
            x = x[torch.arange(draws) % len(x)]  # few images are seen with many noises
            y, estimate = denoised(problem, x, mean, problem.seed)
            psnr[name] = float(measures.psnr(estimate, x, 2.0).mean())
        psnr["noisy"] = float(measures.psnr(y, x, 2.0).mean())
        rows.append({"group": problem.group, "seed": problem.seed, **psnr, "gap": psnr["train"] - psnr["test"]})
    return pd.DataFrame(rows)


# ---- pictures


def column_pictures(generalizing: Problem, memorizing: Problem, shape: tuple[int, int], count: int = 8) -> Pictures:
    """Rows of pictures: strongest columns of either network above their nearest images, and principal directions."""
    rows, captions = {}, {}
    for name, problem, most in (("generalizing", generalizing, count), ("memorizing", memorizing, memorizing.n)):
        columns = measures.stored_columns(problem.network.w1, problem.x)
        best = columns.energy.argsort(descending=True)[:most]
        rows[f"{name}:\ncolumns"] = problem.network.w1.detach().T[best]
        rows[f"{name}:\nnearest images"] = problem.x[columns.nearest[best]]
        captions[f"{name}:\nnearest images"] = [f"cos {cosine:.2f}" for cosine in columns.cosine[best]]
    rows["principal\ndirections"] = principal(second_moment(generalizing.x))[:, :count].T.float()
    pictures, frame = two_layers.pictures(rows, shape)
    return pictures, captions, frame


def denoising_pictures(
    memorizing: Problem, generalizing: Problem, test: Tensor, mean: Tensor, shape: tuple[int, int], count: int = 4
) -> Pictures:
    """Training images of the memorizing network (the other one has seen them too), then test images; both denoised."""
    x = torch.cat([memorizing.x[:count] + mean, test[:count]])
    train = min(count, memorizing.n)
    rows = {"clean": x, "noisy": denoised(generalizing, x, mean, 1)[0]}
    captions = {"clean": ["train"] * train + ["test"] * (len(x) - train)}
    for name, problem in (("memorizing", memorizing), ("generalizing", generalizing)):
        rows[name] = denoised(problem, x, mean, 1)[1]
        captions[name] = [f"{psnr:.1f} dB" for psnr in measures.psnr(rows[name], x, 2.0)]
    pictures, frame = two_layers.pictures(rows, shape)
    return pictures, captions, frame


def regimes(
    memorizing: Problem, generalizing: Problem, shape: tuple[int, int], count: int = 5
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], pd.DataFrame]:
    """Of either network the strongest columns [count, H, W] and the representation [p] of one of its images plus
    noise, largest activation first; and the representations as a table."""
    sides, tables = {}, []
    for name, problem in (("few images", memorizing), ("many images", generalizing)):
        w = problem.network.w1.detach()
        best = w.norm(dim=0).argsort(descending=True)[:count]
        h = two_layers.represent(problem.network, problem.x[:1], problem.sigma, problem.seed)[0]
        heights = h.sort(descending=True).values.numpy()
        sides[name] = w.T[best].reshape(-1, *shape).numpy(), heights
        tables.append(pd.DataFrame({"network": name, "unit": range(len(heights)), "activation": heights}))
    return sides, pd.concat(tables, ignore_index=True)
