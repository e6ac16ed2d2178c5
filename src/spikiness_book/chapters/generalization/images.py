"""Many images, few units: columns of structure, one function from disjoint halves, denoising (Cor 3.3, App B.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.chapters.generalization.measure import noisy
from spikiness_book.chapters.memorization import measure as memorization
from spikiness_book.engine.cache import cached


@dataclass(frozen=True)
class ImageCase:
    """One network on images: all of them, or one of two disjoint halves, or a few that it memorizes."""

    group: str  # "all", "first half", "second half" or "memorizing"
    seed: int
    sigma: float
    lam: float
    x: Tensor  # [n, d]
    network: ReLUDAE | None = None


def plan_images(
    pool: Tensor, halves: Sequence[int], seeds: Sequence[int], sigma: float, sigmas: Sequence[float], lam: float
) -> list[ImageCase]:
    """All of pool [n, ...] at every noise level; disjoint halves of each size at the main one, copies left out."""
    flat = pool.flatten(1)
    distinct = flat[images.distinct(flat)]
    cases = []
    for seed in seeds:
        cases += [ImageCase("all", seed, s, lam, flat) for s in sorted({sigma, *sigmas})]
        for size in halves:
            drawn = images.subset(distinct, 2 * size, seed, "distinct images for two halves")
            cases += [
                ImageCase(name, seed, sigma, lam, part)
                for name, part in (("first half", drawn[:size]), ("second half", drawn[size:]))
            ]
    return cases


def train_images(cases: Sequence[ImageCase], width: int, batch: int, steps: int) -> list[ImageCase]:
    """The cases with their networks, trained side by side, from the cache where it has them."""
    members = [Member(c.x, width, c.sigma, c.lam, 2 * c.seed + (c.group == "second half")) for c in cases]
    networks = cached(fit_ensemble, members, batch=batch, steps=steps)
    return [replace(case, network=network) for case, network in zip(cases, networks, strict=True)]


def memorize(
    pool: Tensor, n: int, seeds: Sequence[int], width: int, sigma: float, lam: float, steps: int
) -> list[ImageCase]:
    """Networks that store n images each, with pairwise negative cosines after centring, as in the chapter before."""
    cases = [
        ImageCase("memorizing", seed, sigma, lam, memorization.choose(pool, n, seed, "separable")) for seed in seeds
    ]
    return train_images(cases, width, memorization.BATCH, steps)


def second_moment(x: Tensor) -> Tensor:
    """X^T X / n [d, d] of x [n, d] in float64, the mean left in: all that the theory of one mode asks of the data."""
    return x.double().T @ x.double() / len(x)


def principal(moment: Tensor) -> Tensor:
    """Eigenvectors of a second moment [d, d] as columns, the leading one first."""
    return torch.linalg.eigh(moment)[1].flip(1)


def image_summary(case: ImageCase, moment: Tensor) -> dict[str, object]:
    """One row per network: how its columns lie to images and principal directions, operator and loss against one mode.

    moment: of the case's images. `kept` counts the directions that Cor 3.3 keeps with the data as one mode, `share` is
    the energy of the columns in these, `chance` that of random columns; `cosine` is the largest of a column with
    energy, `typical` the mean.
    """
    w = case.network.w1.detach().double()
    columns, fit = measures.stored_columns(w, case.x), ([moment], [1.0], [w.shape[1]], case.sigma, case.lam)
    gains, axes = theory.population_gains(*fit)[0], principal(moment)
    kept = int((gains > 0).sum())
    predicted = (axes[:, :kept] * gains[:kept]) @ axes[:, :kept].T  # [d, d]
    on = theory.active_units(w, [case.x])[0]
    loss = theory.true_loss(w, w, case.x, case.sigma, draws=max(2, 10_000 // len(case.x)), seed=case.seed).value
    return {
        "seed": case.seed,
        "sigma": case.sigma,
        "n": len(case.x),
        "alpha": theory.separability([case.x])[0],
        "kept": kept,
        "share": float(energy_below(w, axes)[kept - 1]) if kept else 0.0,
        "chance": kept / len(w),
        "cosine": float(columns.cosine[columns.energy > 1e-3].max()),
        "typical": columns.weighted_cosine,
        "operator_error": float((w[:, on] @ w[:, on].T - predicted).norm() / predicted.norm()),
        "loss_ratio": loss / theory.population_loss(*fit),
        "stationarity": case.network.record["stationarity"],
    }


def memorizing_summary(case: ImageCase, axes: Tensor, kept: int) -> dict[str, object]:
    """The same of a memorizing network: cosine to its images, and energy in the `kept` leading axes [d, d] of all."""
    typical = measures.stored_columns(case.network.w1, case.x).weighted_cosine
    share = float(energy_below(case.network.w1, axes)[kept - 1])
    return {"seed": case.seed, "n": len(case.x), "typical": typical, "share": share}


def noise_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `image_summary` as one row per measure: operator and loss error, energy outside the kept directions."""
    shown = table.assign(loss_error=(table.loss_ratio - 1).abs(), outside=1 - table.share)
    names = {"operator_error": "operator error", "loss_error": "loss error", "outside": "energy outside"}
    shown = shown.rename(columns=names)
    return shown.melt(["sigma", "seed"], list(names.values()), var_name="measure")


def energy_below(w: Tensor, axes: Tensor) -> Tensor:
    """Share of |W|_F^2 within the first 1, 2, ... axes [d, m]: [m]."""
    energy = (axes.T @ w.detach().double()).square().sum(dim=1)
    return energy.cumsum(dim=0) / w.detach().double().square().sum()


def spectra(generalizing: Sequence[ImageCase], memorizing: Sequence[ImageCase], moment: Tensor) -> pd.DataFrame:
    """Energy of columns within the first r principal directions: both kinds of networks, theory, random columns."""
    case, axes = generalizing[0], principal(moment)
    d, width = len(axes), min(case.network.w1.shape)
    gains = theory.population_gains([moment], [1.0], [width], case.sigma, case.lam)[0].cumsum(dim=0)
    curves = {"theory": torch.nn.functional.pad(gains / gains[-1], (0, d - width), value=1.0)}
    curves["random"] = torch.arange(1, d + 1) / d
    for name, group in (("generalizing", generalizing), ("memorizing", memorizing)):
        curves[name] = torch.stack([energy_below(c.network.w1, axes) for c in group]).mean(dim=0)
    frames = [
        pd.DataFrame({"directions": range(1, d + 1), "share": v.tolist(), "columns": k}) for k, v in curves.items()
    ]
    return pd.concat(frames)


def image_halves(cases: Sequence[ImageCase], test: Tensor) -> pd.DataFrame:
    """Relative distance between the networks of two disjoint halves, on new noisy images [N, d]; also with the mean
    of the images taken out of the denominator."""
    rows, seconds = [], {(c.seed, len(c.x)): c for c in cases if c.group == "second half"}
    spread = (test - test.mean(dim=0)).square().mean().sqrt()
    for first in (c for c in cases if c.group == "first half"):
        second = seconds[first.seed, len(first.x)]
        found = measures.distance(first.network, second.network, noisy(test, first.sigma, first.seed), first.sigma)
        rows.append(
            {
                "seed": first.seed,
                "n": len(first.x),
                "distance": found.relative,
                "of_variation": found.rms / float(spread),
            }
        )
    return pd.DataFrame(rows)


def column_pictures(
    generalizing: ImageCase, memorizing: ImageCase, shape: tuple[int, int], count: int = 8
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: strongest columns of either network above their nearest images, and principal directions."""
    rows, captions = {}, {}
    for name, case in (("generalizing", generalizing), ("memorizing", memorizing)):
        columns = measures.stored_columns(case.network.w1, case.x)
        best = columns.energy.argsort(descending=True)[: count if name == "generalizing" else len(case.x)]
        rows[f"{name}:\ncolumns"] = case.network.w1.detach().T[best]
        rows[f"{name}:\nnearest images"] = case.x[columns.nearest[best]]
        captions[f"{name}:\nnearest images"] = [f"cos {v:.2f}" for v in columns.cosine[best]]
    rows["principal\ndirections"] = principal(second_moment(generalizing.x))[:, :count].T.float()
    frame = pd.concat(
        pd.DataFrame(x.numpy()).assign(row=name.replace("\n", " ")).rename(columns=str) for name, x in rows.items()
    )
    return {name: x.reshape(-1, *shape).numpy() for name, x in rows.items()}, captions, frame


def denoised(case: ImageCase, x: Tensor, mean: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy versions of images x [N, d] and the network's estimates; memorizing networks see centered images."""
    shift = mean if case.group == "memorizing" else torch.zeros_like(mean)
    y = noisy(x, case.sigma, seed)
    return y, case.network(y - shift).detach() + shift


def psnr_gaps(cases: Sequence[ImageCase], test: Tensor, mean: Tensor, draws: int = 2000) -> pd.DataFrame:
    """PSNR in dB (range 2, images in [-1, 1]) on each network's own training images and on test ones, the gap, and
    that of the noisy test images themselves."""
    rows = []
    for case in cases:
        own = case.x + mean if case.group == "memorizing" else case.x
        found = {}
        for name, x in (("train", own), ("test", test)):
            x = x[torch.arange(draws) % len(x)]  # few images are seen with many noises
            y, estimate = denoised(case, x, mean, case.seed)
            found[name] = float(measures.psnr(estimate, x, 2.0).mean())
        found["noisy"] = float(measures.psnr(y, x, 2.0).mean())
        rows.append({"group": case.group, "seed": case.seed, **found, "gap": found["train"] - found["test"]})
    return pd.DataFrame(rows)


def denoising_pictures(
    memorizing: ImageCase, generalizing: ImageCase, test: Tensor, mean: Tensor, shape: tuple[int, int], count: int = 4
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Training images of the memorizing network (the other one has seen them too), then test images; both denoised."""
    x = torch.cat([memorizing.x[:count] + mean, test[:count]])
    train = min(count, len(memorizing.x))
    rows = {"clean": x, "noisy": denoised(generalizing, x, mean, 1)[0]}
    captions = {"clean": ["train"] * train + ["test"] * (len(x) - train)}
    for name, case in (("memorizing", memorizing), ("generalizing", generalizing)):
        rows[name] = denoised(case, x, mean, 1)[1]
        captions[name] = [f"{v:.1f} dB" for v in measures.psnr(rows[name], x, 2.0)]
    frame = pd.concat(pd.DataFrame(v.numpy()).assign(row=name).rename(columns=str) for name, v in rows.items())
    return {name: v.reshape(-1, *shape).numpy() for name, v in rows.items()}, captions, frame


def regimes(
    memorizing: ImageCase, generalizing: ImageCase, shape: tuple[int, int], count: int = 5
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], pd.DataFrame]:
    """Of either network the strongest columns [count, H, W] and the representation [p] of one of its images plus
    noise, largest activation first; and the representations as a table."""
    found, tables = {}, []
    for name, case in (("few images", memorizing), ("many images", generalizing)):
        w = case.network.w1.detach()
        best = w.norm(dim=0).argsort(descending=True)[:count]
        h = case.network.encode(noisy(case.x[:1], case.sigma, case.seed)).detach()[0]
        heights = h.sort(descending=True).values.numpy()
        found[name] = w.T[best].reshape(-1, *shape).numpy(), heights
        tables.append(pd.DataFrame({"network": name, "unit": range(len(heights)), "activation": heights}))
    return found, pd.concat(tables, ignore_index=True)
