"""Do the minimizers of Theorem 3.1 depend on how one descends to them? Optimizer, rate, start, noise (Appendix B.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import measures, theory
from spikiness.errors import Diverged, SpikinessError, suggest
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Member, default_lr, descend, gradient_norm
from spikiness_book import two_layers
from spikiness_book.engine.cache import cached
from spikiness_book.two_layers import BATCH, GENERALIZING, MEMORIZING, STORES, Problem

LARGER_BATCH = 16  # times the memorizing regime's batch, where the batch itself is the question
SHARES = (0.4, 0.3, 0.2, 0.1)  # of an image's gain, in the columns of a network that starts split
JITTER = 0.01  # of a column's length, added to each split column: exact copies could never part
STARTS = ("default", "orthogonal", "split")
REACHED, STATIONARY = 0.1, 0.01  # largest operator error of a network that has the structure; of |gradient| at rest
LOSS_DRAWS = 4000  # samples with noise behind each loss


@dataclass(frozen=True)
class TrainingSetting:
    """One way to train, told from the others by its name; all but what it names is as in the first, Adam."""

    name: str
    group: str
    optimizer: str = "adam"
    rate: float = 1.0  # times the optimizer's own learning rate
    decay: float = 0.0  # decoupled, of adamw
    decay_only: bool = False  # leave lambda out of the objective, and give adamw the decay that L2 would need
    start: str = "default"
    scale: float = 1.0  # times the start
    sigma: float = 1.0  # times the chapter's noise level
    tied: bool = True
    batch: int = 1  # times the regime's batch
    regimes: tuple[str, ...] = (MEMORIZING, GENERALIZING)


@dataclass(frozen=True, kw_only=True)
class SettingProblem(Problem):
    """A network and how it is trained; `group` is its regime."""

    setting: TrainingSetting


def settings(
    sigma: float, sigmas: Sequence[float], rates: Sequence[float], scales: Sequence[float]
) -> list[TrainingSetting]:
    """All ways to train of the chapter; `rates` and `scales` multiply the learning rate and the start's weights."""
    few = (MEMORIZING,)
    alone = {"optimizer": "adamw", "decay_only": True}
    return [
        TrainingSetting("Adam", "optimizer"),
        TrainingSetting("AdamW, penalty kept", "optimizer", "adamw", decay=0.01),  # torch's own decay, beside lambda
        TrainingSetting("RMSprop", "optimizer", "rmsprop"),
        TrainingSetting("SGD, momentum 0.9", "optimizer", "sgd"),
        TrainingSetting("AdamW, decay for penalty", "decay only", **alone),
        TrainingSetting("same, larger batch", "decay only", batch=LARGER_BATCH, regimes=few, **alone),
        *(TrainingSetting(f"Adam, rate x {rate:g}", "learning rate", rate=rate) for rate in rates),
        TrainingSetting(f"SGD, rate x {max(rates):g}", "learning rate", "sgd", rate=max(rates)),
        *(TrainingSetting(f"start x {scale:g}", "start", scale=scale) for scale in scales),
        TrainingSetting("orthogonal start", "start", start="orthogonal"),
        *(TrainingSetting(f"noise level {s:g}", "noise", sigma=s / sigma) for s in sigmas if s != sigma),
        TrainingSetting("untied weights", "weights", tied=False),
        TrainingSetting("Adam, larger batch", "batch", batch=LARGER_BATCH, regimes=few),
    ]


def split_settings() -> list[TrainingSetting]:
    """The optimizers from a start at the prediction, each image's gain split over several columns (memorizing)."""
    names = {"Adam": "adam", "RMSprop": "rmsprop", "SGD, momentum 0.9": "sgd"}
    few = (MEMORIZING,)
    return [TrainingSetting(name, "split", optimizer, start="split", regimes=few) for name, optimizer in names.items()]


def plan(
    pool: Tensor, chosen: Sequence[TrainingSetting], seeds: Sequence[int], sigma: float,
    n: int, width: int, lam: float, n_mixture: int, width_mixture: int, lam_mixture: float,
) -> list[SettingProblem]:  # fmt: skip
    """Every setting and seed: n separable images of pool [N, ...] in the memorizing regime, three Gaussian modes,
    sampled `n_mixture` times, in the generalizing one."""
    data = {}
    for seed in seeds:
        data[MEMORIZING, seed] = two_layers.separable_images(pool, n, seed)
        data[GENERALIZING, seed] = two_layers.mixture_with_tail(seed).halves(n_mixture, seed)[0]
    sizes = {
        MEMORIZING: {"width": width, "lam": lam, "blocks": [1] * n},
        GENERALIZING: {"width": width_mixture, "lam": lam_mixture},
    }
    return [
        SettingProblem(
            data[regime, seed], sigma=sigma * setting.sigma, seed=seed, group=regime, tied=setting.tied,
            setting=setting, **sizes[regime],
        )
        for setting in chosen
        for regime in setting.regimes
        for seed in seeds
    ]  # fmt: skip


def train(problems: Sequence[SettingProblem], steps: dict[str, int]) -> list[SettingProblem]:
    """The problems with their networks; those that share a way to descend are trained side by side, and kept.

    `steps` is that of each regime.
    """

    def descent(problem: SettingProblem) -> tuple[str, TrainingSetting]:
        return problem.group, replace(problem.setting, name="", group="", sigma=1.0, regimes=())

    networks: dict[int, ReLUDAE] = {}
    for (regime, setting), group in two_layers.grouped(problems, descent).items():
        members = [problem.member(problem.x) for problem in group]
        if setting.decay_only:
            members = [replace(member, lam=0.0) for member in members]
        fitted = cached(
            fit_from, members, start=setting.start, scale=setting.scale, tied=setting.tied, optimizer=setting.optimizer,
            lr=setting.rate * own_rate(setting.optimizer, members), decay=_decay(group[0]),
            batch=setting.batch * BATCH[regime], steps=steps[regime],
        )  # fmt: skip
        networks |= zip(map(id, group), fitted, strict=True)
    return [replace(problem, network=networks[id(problem)]) for problem in problems]


def _decay(problem: SettingProblem) -> float:
    """The decoupled decay of a problem; alone it is that by which L2 would give lambda: 4 lambda for tied weights."""
    return 4 * problem.lam if problem.setting.decay_only else problem.setting.decay


def own_rate(optimizer: str, members: Sequence[Member]) -> float:
    """The learning rate that the chapter's rates multiply: `default_lr`, and for plain descent what its step bears.

    Along the leading direction of energy e the loss of tied weights has curvature 8 e at its minimum, and momentum .9
    is stable below 3.8 over that; .1 / e is a fifth of it.
    """
    if optimizer != "sgd":
        return default_lr(members[0].x.shape[1])
    return 0.1 / max(float(torch.linalg.matrix_norm(m.x.double(), 2) ** 2 / len(m.x)) for m in members)


def fit_from(
    members: Sequence[Member], *, start: str, scale: float, tied: bool, optimizer: str, lr: float, decay: float,
    batch: int, steps: int,
) -> list[ReLUDAE]:  # fmt: skip
    """Descend objective (6) from a start of one's own; a network that diverges is kept, with the step in its record.

    Raises `SpikinessError` for a start that is not one of STARTS, and where `descend` refuses its arguments.
    """
    networks = [started(member, start, scale, tied) for member in members]
    loop = descend(networks, members, optimizer=optimizer, lr=lr, decay=decay, batch=batch, steps=steps)
    done = 0
    try:
        for state in loop:
            done = state.step + 1
    except Diverged:
        if len(members) > 1:  # one stops all: each goes on alone, which is what it does among the others
            options = {"start": start, "scale": scale, "tied": tied, "optimizer": optimizer, "lr": lr, "decay": decay}
            return [fit_from([member], **options, batch=batch, steps=steps)[0] for member in members]
    for network in networks:
        network.record = {"steps": steps, "done": done, "lr": lr, "optimizer": optimizer, "start": start}
    return networks


def started(member: Member, start: str, scale: float = 1.0, tied: bool = True) -> ReLUDAE:
    """A network before training: Linear's default, orthonormal columns or rows, or the prediction with split columns.

    Split: column r_i x_i of Corollary 3.2 in len(SHARES) collinear pieces with the squared lengths SHARES, jittered.
    """
    if start not in STARTS:
        raise SpikinessError(f"unknown start {start!r}: one of {', '.join(STARTS)}{suggest(start, STARTS)}")
    generator = torch.Generator().manual_seed(member.seed * 4)  # as a network of `fit_dae` with this seed starts
    network = ReLUDAE(member.x.shape[1], member.width, tied, generator=generator).to(member.x.dtype)
    for weight in network.parameters():
        if start == "orthogonal":
            torch.nn.init.orthogonal_(weight, generator=generator)
        elif start == "split":
            weight.data = _split(member, generator)
        weight.data *= scale
    return network


def _split(member: Member, generator: torch.Generator) -> Tensor:
    """W [d, p]: for every image of member its split columns, then zeros."""
    pieces = len(member.x) * len(SHARES)
    if member.width < pieces:
        raise SpikinessError(f"width = {member.width}; {len(member.x)} images in {len(SHARES)} columns need {pieces}")
    stored = theory.stored_gains(member.x, member.sigma, member.lam).sqrt() * member.x.T  # [d, n]
    w = stored.repeat_interleave(len(SHARES), dim=1) * torch.tensor(SHARES).sqrt().repeat(len(member.x)).to(stored)
    noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    w = w + JITTER * w.norm(dim=0) * noise / noise.norm(dim=0)
    return torch.nn.functional.pad(w, (0, member.width - pieces))


def summary(problem: SettingProblem) -> dict[str, object]:
    """One row per network: state, operator error, columns, gains, objective over its prediction, stationarity.

    A network that diverged has NaN for all but its state.
    """
    network, x, setting = problem.network, problem.x, problem.setting
    labels = {"setting": setting.name, "group": setting.group, "regime": problem.group, "seed": problem.seed}
    labels |= {"sigma": problem.sigma, "lr": network.record["lr"]}
    weights = network.w1.detach(), network.w2.detach()
    if network.record["done"] < network.record["steps"] or not all(w.isfinite().all() for w in weights):
        return {**labels, "diverged": True, "stationary": False, "reached": False}
    theorem, member = problem.theorem, problem.member(x)
    error = max(theory.operator_error(*weights, *theorem))
    predicted = theory.predicted_loss(*theorem) + 2 * problem.lam * sum(float(g.sum()) for g in theory.gains(*theorem))
    data = x.repeat(max(1, LOSS_DRAWS // len(x)), 1)
    objective = theory.objective(*weights, data, problem.sigma, problem.lam, seed=problem.seed).value
    rest = gradient_norm(network, member) / gradient_norm(started(member, "default", tied=network.tied), member)
    own = _memorizing(problem) if problem.group == MEMORIZING else _generalizing(problem)
    return {
        **labels,
        "diverged": False,
        "stationary": rest <= STATIONARY,
        "reached": error <= REACHED,
        "operator_error": error,
        "active": int((_energy(problem) > 1e-3).sum()),
        "objective_ratio": objective / predicted,
        "stationarity": rest,
        **own,
    }


def _energy(problem: SettingProblem) -> Tensor:
    """Share of |W2_j| |W1_j| of each unit [p]: for tied weights, of the energy."""
    size = problem.network.w1.detach().double().norm(dim=0) * problem.network.w2.detach().double().norm(dim=0)
    return size / size.sum().clamp_min(1e-300)


def _memorizing(problem: SettingProblem) -> dict[str, float]:
    """Columns per stored image, counted and effective, cosine, worst gain, and the lambda that the gains stand for."""
    shares, x = column_shares(problem), problem.x.double()
    learned, energy = _gains(problem), x.square().sum(dim=1)
    predicted = theory.stored_gains(problem.x, problem.sigma, problem.lam).double() * energy
    implied = (energy - learned * (energy + problem.sigma**2)) / len(x)  # eq 7 solved for lambda
    return {
        "columns": float((shares > 0.01).sum(dim=1).double().mean()),
        "effective_columns": float((1 / shares.square().sum(dim=1).clamp_min(1e-300))[shares.sum(dim=1) > 0].mean()),
        "cosine": float(_energy(problem) @ measures.stored_columns(problem.network.w1, problem.x).cosine),
        "gain_error": float((learned / predicted.clamp_min(1e-12) - 1).abs().max()),
        "implied_lam": float(implied.median()),
    }


def _gains(problem: SettingProblem) -> Tensor:
    """u^T W2 D W1^T u [n] of each image's direction u, D the units active at the image: Theorem 3.1's w^2."""
    w1, w2, x = problem.network.w1.detach().double(), problem.network.w2.detach().double(), problem.x.double()
    u = x / x.norm(dim=1, keepdim=True)
    return (torch.relu(u @ w1) * (u @ w2)).sum(dim=1)


def column_shares(problem: SettingProblem) -> Tensor:
    """Shares [n, p] of each image's gain in the columns that store it, rows that sum to 1 (or 0: nothing stored)."""
    columns = measures.stored_columns(problem.network.w1, problem.x)
    stores = (columns.nearest[None] == torch.arange(problem.n)[:, None]) & (columns.cosine > STORES)
    held = _energy(problem) * stores  # [n, p]
    return held / held.sum(dim=1, keepdim=True).clamp_min(1e-300)


def _generalizing(problem: SettingProblem) -> dict[str, float]:
    """Share of the columns' energy in the predicted directions, and the worst gain, relative to its mode's largest:
    most directions of a mode are weak, and have gains near zero."""
    w1, w2 = problem.network.w1.detach().double(), problem.network.w2.detach().double()
    modes = theory.fit(*problem.theorem)
    active, worst, axes = theory.active_units(w1, problem.clusters), 0.0, []
    for on, mode in zip(active, modes, strict=True):
        keep = mode.gain > 0
        u = mode.axes[:, keep]  # [d, directions]
        learned = ((u.T @ w2[:, on]) * (u.T @ w1[:, on])).sum(dim=1)
        worst = max(worst, float(((learned - mode.gain[keep]) / mode.gain[0]).abs().max()))
        axes.append(u)
    basis = torch.linalg.qr(torch.cat(axes, dim=1)).Q
    return {"gain_error": worst, "in_span": float((basis.T @ w1).square().sum() / w1.square().sum())}


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """One row per setting and regime: means over the seeds that did not diverge, their intervals, and counts of states.

    `operator_error` has the bootstrap's interval over seeds, `low` to `high`, NaN for fewer than two.
    """
    rows = []
    numbers = ["gain_error", "active", "columns", "effective_columns", "cosine", "in_span", "objective_ratio",
               "stationarity", "implied_lam"]  # fmt: skip
    table = table.reindex(
        columns=table.columns.union(["operator_error", *numbers], sort=False)
    )  # all may have diverged
    for (group, name, regime), part in table.groupby(["group", "setting", "regime"], sort=False):
        error = part.operator_error.dropna().to_numpy()
        low, high = measures.bootstrap(error) if len(error) > 1 else (math.nan, math.nan)
        states = {state: int(part[state].sum()) for state in ("reached", "stationary", "diverged")}
        row = {"group": group, "setting": name, "regime": regime, "seeds": len(part), **states}
        row |= {"operator_error": error.mean() if len(error) else math.nan, "low": low, "high": high}
        rows.append({**row, **{key: part[key].mean() for key in numbers}})
    return pd.DataFrame(rows)


def readable(rows: pd.DataFrame, regime: str) -> pd.DataFrame:
    """The rows of `overview` of one regime as the page's table shows them: text, counts as "3 of 3"."""
    part = rows[rows.regime == regime]
    errors = zip(part.operator_error, part.low, part.high, strict=True)
    shown = {
        "setting": part.setting,
        "operator error": [
            f"{_plain(e)} ({_plain(low)} to {_plain(high)})" if np.isfinite(low) else _plain(e)
            for e, low, high in errors
        ],
        "gain error": part.gain_error.map(_plain),
        "objective / predicted": part.objective_ratio.map(_plain),
        "columns in use": part.active.map(_plain),
    }
    if regime == MEMORIZING:
        shown |= {"columns per image": part["columns"].map(_plain), "cosine": part.cosine.map(_plain)}
    else:
        shown |= {"energy in predicted directions": part.in_span.map(_plain)}
    shown["gradient left"] = part.stationarity.map(_plain)
    for state in ("reached", "diverged"):
        shown[state] = [f"{v} of {n}" for v, n in zip(part[state], part.seeds, strict=True)]
    return pd.DataFrame(shown).set_index("setting")


def _plain(value: float) -> str:
    """Three digits, or two where small."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.3g}" if 0.1 <= abs(value) < 1e4 or value == 0 else f"{value:.2g}"


def before_and_after(problems: Sequence[SettingProblem]) -> pd.DataFrame:
    """Shares of each image's gain over its columns before and after training from a split start, in order of size.

    Long form: setting, seed, image, column (1 is the largest), start, end.
    """
    rows = []
    for problem in problems:
        before = replace(problem, network=started(problem.member(problem.x), "split", tied=problem.setting.tied))
        shares = (column_shares(state).sort(dim=1, descending=True).values for state in (before, problem))
        first, last = (largest[:, : len(SHARES)] for largest in shares)
        for i, j in np.ndindex(*first.shape):
            row = {"setting": problem.setting.name, "seed": problem.seed, "image": i, "column": j + 1}
            rows.append({**row, "start": float(first[i, j]), "end": float(last[i, j])})
    return pd.DataFrame(rows)
