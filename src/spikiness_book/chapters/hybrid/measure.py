"""Some images repeated, the others seen once, one network: which columns store and which generalize (Corollary 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import gmean
from torch import Tensor
from torch.nn.functional import normalize

from spikiness import images, measures, theory
from spikiness.statistics import Interval
from spikiness.theory.minimizer import optimal_gain
from spikiness_book import two_layers
from spikiness_book.two_layers import GENERALIZED, MEMORIZED, NORM, RANK, STORES, Problem

LEAST = 0.02  # gains count from here on; columns that training is still shrinking lie below
IMAGES, AMPLE, TIGHT, MODES = "images", "mixture, enough units", "mixture, too few units", "mixture, small penalty"
BATCH = {IMAGES: 32, AMPLE: 32, TIGHT: 32, MODES: 128}  # small ones merge copies of a column, large ones average noise
CLUSTERS, SCALE = 3, 0.55  # the mixture: modes, and standard deviation in the first direction of each
DIM = {AMPLE: 40, TIGHT: 40, MODES: 100}  # smaller in the sweeps: they train many networks
LENGTHS = (1.5, 2.0, 3.0)  # of its repeated samples: short ones need more copies

Samples = tuple[Tensor, tuple[Tensor, ...]]  # repeated ones [m, d], and those seen once by cluster [n_k, d]


@dataclass(frozen=True, kw_only=True)
class RepeatedProblem(Problem):
    """A network on repeated samples, each a cluster of its own and first among `clusters`, and on others seen once."""

    repeated: Tensor  # [m, d]
    copies: int  # of each repeated sample; 0 leaves them out
    threshold: tuple[float, ...]  # predicted copies to store each repeated sample [m], NaN for never

    @property
    def modes(self) -> Sequence[Tensor]:
        """The clusters of samples seen once."""
        return self.clusters[len(self.repeated) if self.copies else 0 :]

    @property
    def once(self) -> Tensor:
        """The samples seen once [n, d]."""
        return torch.cat(list(self.modes))

    @property
    def distinct(self) -> Tensor:
        """Every sample once, the repeated ones first [m + n, d]."""
        return torch.cat([self.repeated, self.once])


def choose(pool: Tensor, labels: Tensor, n: int, repeated: int, seed: int) -> Samples:
    """`repeated` of n images [m, d] with pairwise negative cosines, and the others in clusters by label.

    pool: [N, ...], centered by its mean, of which n are drawn; labels: [N].
    """
    index = images.subset(torch.arange(len(pool)), n, seed, "images")
    x, y = two_layers.centered(pool)[index], labels[index]
    chosen = theory.separable_subset(x, repeated, seed)
    once = torch.ones(n, dtype=torch.bool)
    once[chosen] = False
    return x[chosen], two_layers.by_class(x[once], y[once])


def gaussians(n: int, dim: int, lengths: Sequence[float], seed: int) -> Samples:
    """Samples of the given lengths [m, d], and n samples of CLUSTERS Gaussians; all means at equal negative cosines."""
    directions = images.simplex_means(CLUSTERS + len(lengths), dim, 1.0, seed)  # [K + m, d]
    factors = images.random_factors(CLUSTERS, dim, RANK, SCALE, seed, means=directions)
    x, y = two_layers.Mixture((NORM * directions[:CLUSTERS]).float(), factors.float()).draw(n, seed)
    repeated = directions[CLUSTERS:] * torch.tensor(lengths, dtype=directions.dtype)[:, None]
    return repeated.float(), tuple(x[y == k] for k in range(CLUSTERS))


def with_copies(
    samples: Samples, copies: int, width: int, sigma: float, lam: float, seed: int, group: str,
    threshold: Sequence[float] = (),
) -> RepeatedProblem:  # fmt: skip
    """The problem in which each repeated sample is present `copies` times."""
    repeated, once = samples
    clusters = (*(x.expand(copies, -1) for x in repeated if copies), *once)
    return RepeatedProblem(
        clusters, width, sigma, lam, seed, group, repeated=repeated, copies=copies, threshold=tuple(threshold)
    )


def sweep(
    group: str, samples: Samples, copies: Sequence[int], width: int, sigma: float, lam: float, seed: int
) -> list[RepeatedProblem]:
    """One problem for each number of copies, with the numbers at which the heuristic stores the repeated samples."""
    predicted = theory.copies_to_store(*samples, width, sigma, lam)
    threshold = [float("nan") if c is None else float(c) for c in predicted]
    return [with_copies(samples, c, width, sigma, lam, seed, group, threshold) for c in sorted(set(copies))]


def plan_images(
    pool: images.Images, n: int, repeated: int, copies: Sequence[int], width: int,
    sigma: float, lam: float, seeds: Sequence[int],
) -> list[RepeatedProblem]:  # fmt: skip
    """The networks on images: every seed its own images, every number of copies."""
    data = {seed: choose(pool.x, pool.y, n, repeated, seed) for seed in seeds}
    return [one for seed in seeds for one in sweep(IMAGES, data[seed], copies, width, sigma, lam, seed)]


def plan_mixture(
    n: int, copies: Sequence[int], widths: Sequence[int], sigma: float, lams: Sequence[float], seeds: Sequence[int]
) -> list[RepeatedProblem]:
    """The networks on mixtures: copies swept with enough units and with too few (widths, in this order) at the larger
    penalty; at the smaller one, long repeated samples and the largest number of copies, and none at all."""
    problems = []
    for seed in seeds:
        short = gaussians(n, DIM[AMPLE], LENGTHS, seed)
        for group, width in zip((AMPLE, TIGHT), (max(widths), min(widths)), strict=True):
            problems += sweep(group, short, copies, width, sigma, max(lams), seed)
        long = gaussians(n, DIM[MODES], [NORM] * len(LENGTHS), seed)
        problems += sweep(MODES, long, [0, max(copies)], max(widths), sigma, min(lams), seed)
    return problems


def train(problems: Sequence[RepeatedProblem], steps: int) -> list[RepeatedProblem]:
    """The problems with their networks: one batched training for each size of batch and of data."""
    return two_layers.train(problems, lambda problem: BATCH[problem.group], steps)


# ---- what is stored


def stored(problem: RepeatedProblem) -> pd.DataFrame:
    """One row per repeated sample: its best column's cosine, the gain that its columns store and the predicted one.

    A column counts for the training sample nearest to it, from a cosine of STORES on. Prediction: Corollary 3.4.
    """
    w, x = problem.network.w1.detach().double(), problem.repeated.double()
    gain, size = _stored_gains(problem)[: len(x)], w.norm(dim=0)
    cosine = (x @ w / (x.norm(dim=1)[:, None] * size).clamp_min(1e-12))[:, size**2 > LEAST]  # [m, columns that count]
    share = max(problem.copies, 1) / problem.n
    return pd.DataFrame(
        {
            "image": range(len(x)),
            "copies": problem.copies,
            "threshold": problem.threshold,
            "cosine": cosine.amax(dim=1) if cosine.shape[1] else torch.zeros(len(x)),
            "learned": gain,
            "predicted": optimal_gain(x.square().sum(dim=1), share, problem.sigma, problem.lam),
            "stored": gain.numpy() >= LEAST,
        }
    ).assign(setting=problem.group, seed=problem.seed)


def _stored_gains(problem: RepeatedProblem) -> Tensor:
    """Gain [m + n] stored of each distinct training sample: the sum of |w_j|^2 over the columns that store it."""
    w, distinct = problem.network.w1.detach(), problem.distinct
    columns, size = measures.stored_columns(w, distinct), w.double().square().sum(0)
    return torch.zeros(len(distinct)).double().index_add(0, columns.nearest, size * (columns.cosine >= STORES))


def singletons(problem: RepeatedProblem) -> dict[str, object]:
    """One row per network: samples seen once, how many of them are stored, the largest cosine of a column to one."""
    w, repeated = problem.network.w1.detach(), len(problem.repeated)
    columns = measures.stored_columns(w[:, w.square().sum(0) > LEAST], problem.distinct)
    nearest_once = columns.nearest >= repeated
    return {
        "seed": problem.seed,
        "copies": problem.copies,
        "singletons": len(problem.once),
        "singletons_stored": int((_stored_gains(problem)[repeated:] >= LEAST).sum()),
        "singleton_cosine": float(columns.cosine[nearest_once].max()) if nearest_once.any() else 0.0,
        "columns": len(columns.cosine),
        "other_columns": int((columns.cosine < STORES).sum()),
    }


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per repeated sample of a sweep: predicted copies to store it, and the two numbers tried between which it
    is found stored, from there on at all larger ones.

    `ratio` is the geometric middle of the two over the prediction. `open` marks samples that are stored at the fewest
    copies already, or not at the most: both ends are then that number, and the ratio is a bound.
    """
    table = []
    for (setting, seed, image), part in rows.sort_values("copies").groupby(["setting", "seed", "image"], sort=False):
        copies, lacking = part.copies.to_numpy(float), np.flatnonzero(~part.stored.to_numpy(bool))
        first = int(lacking[-1]) + 1 if len(lacking) else 0
        low, high = copies[max(first - 1, 0)], copies[min(first, len(copies) - 1)]
        row = {"setting": setting, "seed": seed, "image": image, "predicted": part.threshold.iloc[0]}
        row |= {"low": low, "high": high, "found": float(np.sqrt(low * high)), "open": not 0 < first < len(copies)}
        table.append({**row, "ratio": row["found"] / row["predicted"]})
    return pd.DataFrame(table)


def ratio(flips: pd.DataFrame) -> tuple[float, Interval]:
    """Geometric mean of found over predicted copies, and its interval: over seeds, and as wide as the numbers tried."""
    known = flips.dropna(subset=["ratio"])  # without a prediction none counts
    (low, _), (_, high) = (
        measures.bootstrap((known[end] / known.predicted).to_numpy(), gmean, groups=known.seed.to_numpy())
        for end in ("low", "high")
    )
    return float(gmean(known.ratio)), Interval(low, high, over="seeds, and between the numbers tried")


def mode_errors(problem: RepeatedProblem) -> pd.DataFrame:
    """One row per well-sampled mode: the operator error against the prediction with the copies counted in n."""
    errors = theory.operator_error(problem.network.w1, problem.network.w2, *problem.theorem)
    alpha, beta = theory.separability(problem.clusters)
    name = "with" if problem.copies else "without"
    frame = pd.DataFrame({"mode": range(len(problem.modes)), "error": errors[-len(problem.modes) :]})
    return frame.assign(seed=problem.seed, repeated=name, alpha=alpha, beta=beta)


def columns_as_images(
    problem: RepeatedProblem, shape: tuple[int, int]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]], pd.DataFrame]:
    """Rows of pictures: repeated images, the column of each with its cosine, the strongest columns left with theirs."""
    w, x = problem.network.w1.detach(), problem.repeated
    columns = measures.stored_columns(w, problem.distinct)
    cosine, own = (normalize(x, dim=1) @ normalize(w, dim=0)).max(dim=1)  # [m] each
    others = [j for j in columns.energy.argsort(descending=True).tolist() if j not in own.tolist()]
    others = [j for j in others if float(w[:, j].square().sum()) > LEAST][: 2 * len(x)]
    vectors = {"repeated images": x, "columns that store them": w[:, own].T, "other columns": w[:, others].T}
    cosines = {
        "repeated images": torch.ones(len(x)),
        "columns that store them": cosine,
        "other columns": columns.cosine[others],
    }
    pictures, frame = two_layers.pictures(vectors, shape, cosine=cosines)
    captions = {name: [f"{value:.3f}" for value in cosines[name].tolist()] for name in list(pictures)[1:]}
    return pictures, captions, frame


# ---- representations


def representation_rows(problem: RepeatedProblem, unseen: Tensor, draws: int) -> pd.DataFrame:
    """All measures of h for noisy inputs of one network: repeated samples (`draws` each), seen once, never seen."""
    groups = {"repeated": (problem.repeated, draws), "seen once": (problem.once, 1), "never seen": (unseen, 1)}
    frames = [
        two_layers.measured(problem.network, x, problem.sigma, problem.seed, times, group=name, model=problem.seed)
        for name, (x, times) in groups.items()
    ]
    return pd.concat(frames, ignore_index=True)


def against(rows: pd.DataFrame, group: str, name: str) -> pd.DataFrame:
    """The repeated samples as memorized and one other group as generalized, under the name of a comparison."""
    regime = {"repeated": MEMORIZED, group: GENERALIZED}
    part = rows[rows.group.isin(regime)]
    return part.assign(regime=part.group.map(regime), data=name)


def comparisons(inputs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Repeated samples against those seen once and those never seen, for the rows of each data."""
    return pd.concat(
        against(rows, group, f"{data}, {group}")
        for data, rows in inputs.items()
        for group in ("seen once", "never seen")
    )


def new_samples(problem: RepeatedProblem, n: int) -> Tensor:
    """n samples [n, d] of the mixture behind a problem that it does not contain."""
    _, clusters = gaussians(len(problem.once) + n, problem.repeated.shape[1], LENGTHS, problem.seed)
    return torch.cat([more[len(known) :] for more, known in zip(clusters, problem.modes, strict=True)])


def bars(problem: RepeatedProblem, name: str) -> pd.DataFrame:
    """h of the typical noisy input, the one with the median Std/|h|, repeated and seen once: units, largest first."""
    frames = []
    for group, x in {"repeated": problem.repeated, "seen once": problem.once}.items():
        h = two_layers.typical(problem.network, x, problem.sigma, problem.seed)
        frames.append(pd.DataFrame({"panel": f"{name}, {group}", "unit": range(len(h)), "h": h}))
    return pd.concat(frames, ignore_index=True)
