"""Some images repeated, the others seen once, one network: which columns store and which generalize (Corollary 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spikiness import images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.theory.minimizer import optimal_gain
from spikiness.training import Member, fit_ensemble
from spikiness_book.chapters.representations import measure as representations
from spikiness_book.engine.cache import cached

STORES = 0.95  # a column stores an image from this cosine on, as in the chapter on memorization
LEAST = 0.02  # and its gain counts from here on; columns that training is still shrinking lie below
IMAGES, AMPLE, TIGHT, MODES = "images", "mixture, enough units", "mixture, too few units", "mixture, small penalty"
BATCH = {IMAGES: 32, AMPLE: 32, TIGHT: 32, MODES: 128}  # small ones merge copies of a column, large ones average noise
CLUSTERS, RANK, NORM, SCALE = 3, 5, 6.0, 0.55  # the mixture: modes, directions of each, length of means, spread
DIM = {AMPLE: 40, TIGHT: 40, MODES: 100}  # smaller in the sweeps: they train many networks
LENGTHS = (1.5, 2.0, 3.0)  # of its repeated samples: short ones need more copies


@dataclass(frozen=True)
class Case:
    """One network: its repeated samples, the others in their clusters, its settings, and once trained itself."""

    setting: str
    seed: int
    sigma: float
    lam: float
    width: int
    copies: int  # of each repeated sample; 0 leaves them out
    repeated: Tensor  # [m, d]
    clusters: tuple[Tensor, ...]  # K of [n_k, d], every sample once
    threshold: tuple[float, ...]  # predicted copies to store each repeated sample [m], NaN for never
    network: ReLUDAE | None = None

    @property
    def once(self) -> Tensor:
        """The samples seen once [n, d]."""
        return torch.cat(self.clusters)

    @property
    def x(self) -> Tensor:
        """The training set [n + m copies, d]."""
        if not self.copies:
            return self.once
        first = torch.arange(len(self.repeated))
        return images.duplicate(torch.cat([self.repeated, self.once]), first, self.copies)


def choose(pool: Tensor, labels: Tensor, n: int, repeated: int, seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`repeated` of n images [m, d] with pairwise negative cosines, and the others in clusters by label.

    pool: [N, ...], centred by its mean, of which n are drawn; labels: [N].
    """
    flat = pool.flatten(1)
    index = images.subset(torch.arange(len(flat)), n, seed, "images")
    x, y = (flat - flat.mean(dim=0))[index], labels[index]
    mine = theory.separable_subset(x, repeated, seed)
    once = torch.ones(n, dtype=torch.bool)
    once[mine] = False
    return x[mine], tuple(x[once & (y == k)] for k in y[once].unique())


def gaussians(n: int, dim: int, lengths: Sequence[float], seed: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Samples of the given lengths [m, d], and n samples of CLUSTERS Gaussians; all means at equal negative cosines."""
    directions = images.simplex_means(CLUSTERS + len(lengths), dim, 1.0, seed)  # [K + m, d]
    factors = images.random_factors(CLUSTERS, dim, RANK, SCALE, seed, means=directions)
    means = NORM * directions[:CLUSTERS]
    x, y = images.mixture(means.float(), list(factors.float()), [1 / CLUSTERS] * CLUSTERS, n, seed)
    repeated = directions[CLUSTERS:] * torch.tensor(lengths, dtype=directions.dtype)[:, None]
    return repeated.float(), tuple(x[y == k] for k in range(CLUSTERS))


def sweep(
    setting: str,
    data: tuple[Tensor, tuple[Tensor, ...]],
    copies: Sequence[int],
    width: int,
    sigma: float,
    lam: float,
    seed: int,
) -> list[Case]:
    """One case for each number of copies, with the numbers at which the heuristic stores the repeated samples."""
    repeated, clusters = data
    predicted = theory.copies_to_store(repeated, clusters, width, sigma, lam)
    threshold = tuple(float("nan") if c is None else float(c) for c in predicted)
    return [Case(setting, seed, sigma, lam, width, c, repeated, clusters, threshold) for c in sorted(set(copies))]


def plan_images(
    pool: images.Images,
    n: int,
    repeated: int,
    copies: Sequence[int],
    width: int,
    sigma: float,
    lam: float,
    seeds: Sequence[int],
) -> list[Case]:
    """The networks on images: every seed its own images, every number of copies."""
    data = {seed: choose(pool.x, pool.y, n, repeated, seed) for seed in seeds}
    return [case for seed in seeds for case in sweep(IMAGES, data[seed], copies, width, sigma, lam, seed)]


def plan_mixture(
    n: int,
    copies: Sequence[int],
    widths: Sequence[int],
    sigma: float,
    lams: Sequence[float],
    seeds: Sequence[int],
) -> list[Case]:
    """The networks on mixtures: copies swept with enough units and with too few (widths, in this order) at the larger
    penalty; at the smaller one, long repeated samples and the largest number of copies, and none at all."""
    cases = []
    for seed in seeds:
        short = gaussians(n, DIM[AMPLE], LENGTHS, seed)
        for setting, width in zip((AMPLE, TIGHT), (max(widths), min(widths)), strict=True):
            cases += sweep(setting, short, copies, width, sigma, max(lams), seed)
        long = gaussians(n, DIM[MODES], [NORM] * len(LENGTHS), seed)
        cases += sweep(MODES, long, [0, max(copies)], max(widths), sigma, min(lams), seed)
    return cases


def train(cases: Sequence[Case], steps: int) -> list[Case]:
    """The cases with their networks: one batched training for each size of batch and of data."""
    trained: list[Case] = []
    for kind in dict.fromkeys(_kind(case) for case in cases):
        group = [case for case in cases if _kind(case) == kind]
        members = [Member(case.x, case.width, case.sigma, case.lam, case.seed) for case in group]
        networks = cached(fit_ensemble, members, batch=kind[0], steps=steps)
        trained += [replace(case, network=net) for case, net in zip(group, networks, strict=True)]
    return trained


def _kind(case: Case) -> tuple[int, int]:
    return BATCH[case.setting], case.repeated.shape[1]


def stored(case: Case) -> pd.DataFrame:
    """One row per repeated sample: its best column's cosine, the gain that its columns store and the predicted one.

    A column counts for the training sample nearest to it, from a cosine of STORES on. Prediction: Corollary 3.4.
    """
    w, x = case.network.w1.detach().double(), case.repeated.double()
    gain = _held(case)[: len(x)]
    size = w.norm(dim=0)
    cosine = (x @ w / (x.norm(dim=1)[:, None] * size).clamp_min(1e-12))[:, size**2 > LEAST]  # [m, columns that count]
    energy = x.square().sum(dim=1)
    share = max(case.copies, 1) / len(case.x)
    return pd.DataFrame(
        {
            "image": range(len(x)),
            "copies": case.copies,
            "threshold": case.threshold,
            "cosine": cosine.amax(dim=1) if cosine.shape[1] else torch.zeros(len(x)),
            "learned": gain,
            "predicted": optimal_gain(energy, share, case.sigma, case.lam),
            "stored": gain.numpy() >= LEAST,
        }
    ).assign(setting=case.setting, seed=case.seed)


def _held(case: Case) -> Tensor:
    """Gain [m + n] stored of each distinct training sample: the sum of |w_j|^2 over the columns that store it."""
    distinct = torch.cat([case.repeated, case.once])
    columns, size = (
        measures.stored_columns(case.network.w1, distinct),
        case.network.w1.detach().double().square().sum(0),
    )
    return torch.zeros(len(distinct)).double().index_add(0, columns.nearest, size * (columns.cosine >= STORES))


def singletons(case: Case) -> dict[str, object]:
    """One row per network: samples seen once, how many of them are stored, the largest cosine of a column to one."""
    size = case.network.w1.detach().square().sum(0)
    columns = measures.stored_columns(case.network.w1[:, size > LEAST], torch.cat([case.repeated, case.once]))
    mine = columns.nearest >= len(case.repeated)
    return {
        "seed": case.seed,
        "copies": case.copies,
        "singletons": len(case.once),
        "singletons_stored": int((_held(case)[len(case.repeated) :] >= LEAST).sum()),
        "singleton_cosine": float(columns.cosine[mine].max()) if mine.any() else 0.0,
        "columns": int((size > LEAST).sum()),
        "other_columns": int((columns.cosine < STORES).sum()),
    }


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per repeated sample of a sweep: predicted copies to store it, and the two numbers tried between which it
    is found stored, from there on at all larger ones.

    `ratio` is the geometric middle of the two over the prediction. `open` marks samples that are stored at the fewest
    copies already, or not at the most: both ends are then that number, and the ratio is a bound.
    """
    found = []
    for (setting, seed, image), mine in rows.sort_values("copies").groupby(["setting", "seed", "image"], sort=False):
        copies, lacking = mine.copies.to_numpy(float), np.flatnonzero(~mine.stored.to_numpy(bool))
        first = int(lacking[-1]) + 1 if len(lacking) else 0
        low, high = copies[max(first - 1, 0)], copies[min(first, len(copies) - 1)]
        row = {"setting": setting, "seed": seed, "image": image, "predicted": mine.threshold.iloc[0]}
        row |= {"low": low, "high": high, "found": float(np.sqrt(low * high)), "open": not 0 < first < len(copies)}
        found.append({**row, "ratio": row["found"] / row["predicted"]})
    return pd.DataFrame(found)


def geometric_mean(values: np.ndarray) -> float:
    """exp of the mean logarithm."""
    return float(np.exp(np.mean(np.log(values))))


def ratio(found: pd.DataFrame) -> tuple[float, tuple[float, float]]:
    """Geometric mean of found over predicted copies, and its interval: over seeds, and as wide as the numbers tried."""
    kept = found.dropna(subset=["ratio"])  # without a prediction none counts
    ends = [
        measures.bootstrap((kept[end] / kept.predicted).to_numpy(), geometric_mean, groups=kept.seed.to_numpy())
        for end in ("low", "high")
    ]
    return geometric_mean(kept.ratio.to_numpy()), (ends[0][0], ends[1][1])


def mode_errors(case: Case) -> pd.DataFrame:
    """One row per well-sampled mode: the operator error against the prediction with the copies counted in n."""
    extra = [x[None].repeat(case.copies, 1) for x in case.repeated] if case.copies else []
    clusters = [*case.clusters, *extra]
    widths = theory.rank_directions(clusters, case.width, case.sigma, case.lam)
    error = theory.operator_error(case.network.w1, case.network.w2, clusters, widths, case.sigma, case.lam)
    alpha, beta = theory.separability(clusters)
    name = "with" if case.copies else "without"
    frame = pd.DataFrame({"mode": range(len(case.clusters)), "error": error[: len(case.clusters)]})
    return frame.assign(seed=case.seed, repeated=name, alpha=alpha, beta=beta)


def columns_as_images(case: Case, shape: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict, pd.DataFrame]:
    """Rows of pictures: repeated images, the column of each with its cosine, the strongest columns left with theirs."""
    w, x = case.network.w1.detach(), case.repeated
    columns = measures.stored_columns(w, torch.cat([x, case.once]))
    cosine = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(w, dim=0)  # [m, p]
    own = cosine.argmax(dim=1)
    left = [j for j in columns.energy.argsort(descending=True).tolist() if j not in own.tolist()]
    left = [j for j in left if float(w[:, j].square().sum()) > LEAST][: 2 * len(x)]
    pictures = {"repeated images": x, "columns that store them": w[:, own].T, "other columns": w[:, left].T}
    beside = {"columns that store them": cosine.amax(dim=1), "other columns": columns.cosine[left]}
    frame = pd.concat(
        pd.DataFrame(picture.numpy()).assign(row=name, cosine=beside.get(name, torch.ones(len(picture))).numpy())
        for name, picture in pictures.items()
    )
    rows = {name: picture.reshape(-1, *shape).numpy() for name, picture in pictures.items() if len(picture)}
    return rows, {name: [f"{v:.3f}" for v in beside[name].tolist()] for name in rows if name in beside}, frame


def representation_rows(case: Case, unseen: Tensor, draws: int) -> pd.DataFrame:
    """All measures of h for noisy inputs of one network: repeated samples (`draws` each), seen once, never seen."""
    groups = {"repeated": (case.repeated, draws), "seen once": (case.once, 1), "never seen": (unseen, 1)}
    return pd.concat(
        [
            representations.represent(case.network, x, case.sigma, times, case.seed, group=name, model=case.seed)
            for name, (x, times) in groups.items()
        ],
        ignore_index=True,
    )


def against(rows: pd.DataFrame, group: str, name: str) -> pd.DataFrame:
    """The repeated samples as memorized and one other group as generalized, under the name of a comparison."""
    regime = {"repeated": representations.MEMORIZED, group: representations.GENERALIZED}
    part = rows[rows.group.isin(regime)]
    return part.assign(regime=part.group.map(regime), data=name)


def new_samples(case: Case, n: int) -> Tensor:
    """n samples [n, d] of the mixture behind a case that it was not trained on."""
    size = len(case.once)
    _, clusters = gaussians(size + n, case.repeated.shape[1], LENGTHS, case.seed)
    fresh = [more[len(old) :] for more, old in zip(clusters, case.clusters, strict=True)]
    return torch.cat(fresh)


def bars(case: Case, name: str) -> pd.DataFrame:
    """h of the typical noisy input, the one with the median Std/|h|, repeated and seen once: units, largest first."""
    found = []
    for group, x in {"repeated": case.repeated, "seen once": case.once}.items():
        h = case.network.encode(representations.noisy(x, case.sigma, 1, case.seed)).detach()
        order = measures.std_over_norm(h).argsort()
        heights = h[order[len(order) // 2]].sort(descending=True).values.numpy()
        found.append(pd.DataFrame({"panel": f"{name}, {group}", "unit": range(len(heights)), "h": heights}))
    return pd.concat(found, ignore_index=True)
