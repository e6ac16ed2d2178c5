"""Sample quality against the authors' kind of reference (`prdc`), plain loops and cases worked by hand."""

import math
from importlib import import_module

import numpy as np
import prdc
import pytest
import torch

from spikiness import measures
from spikiness.errors import SpikinessError
from spikiness.measures import neighbors
from spikiness.measures.quality import _inside


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Precision and recall


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (0.4, 0.7), (0.0, 1.3), (30.0, 1.0)])
def test_precision_and_recall_are_those_of_prdc(shift, spread, k):
    real, samples = randn(300, 10), randn(250, 10, seed=1) * spread + shift
    expected = prdc.compute_prdc(real.double().numpy(), samples.double().numpy(), nearest_k=k)
    found = measures.precision_recall(samples, real, k)
    assert (found.precision, found.recall) == pytest.approx((expected["precision"], expected["recall"]), abs=1e-12)
    assert found.precision_interval == measures.wilson(round(250 * found.precision), 250)
    assert found.recall_interval == measures.wilson(round(300 * found.recall), 300)


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # radii to the nearest other: 1, 1, 2, 7
    samples = torch.tensor([[-1.0], [4.5], [17.5], [40.0], [41.0]])  # radii 5.5, 5.5, 13, 1, 1
    found = measures.precision_recall(samples, real, k=1)
    assert found.precision == 2 / 5  # -1 on the edge of 0's ball, which is inside, and 4.5 in the balls of 3 and 10
    assert found.recall == 1  # 0 to 3 within 5.5 of 4.5, 10 within 5.5 of it too
    far = measures.precision_recall(samples[2:], real, k=1)  # radii 22.5, 1, 1
    assert (far.precision, far.recall) == (0, 1)  # one stray sample with a wide ball reaches all


def test_of_a_set_and_itself_all_is_inside():
    x = torch.cat([randn(50, 6), randn(50, 6)])  # every point twice: radii of 0 at k = 1
    for k in (1, 2):
        found = measures.precision_recall(x, x.clone(), k)
        assert (found.precision, found.recall) == (1, 1)
    assert measures.precision_recall(x + 1e-3, x, 1).precision == 0
    assert measures.precision_recall(x, torch.full((9, 6), 10.0)).recall == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_inside_is_exact_on_the_edges_of_balls(scale, monkeypatch):
    """Radii that end at a point, a few units of float64 before it, or after: no float32 product can tell."""
    monkeypatch.setattr(neighbors, "CHUNK", 500)
    centers, points = (5 + randn(40, 30)) * scale, (5 + randn(40, 30, seed=1)) * scale
    edge = (points.double() - centers.double()).norm(dim=1) * (1 + 1e-13 * (torch.arange(40) % 3 - 1).double())
    alone = torch.stack([_inside(p[None], c[None], r[None])[0] for p, c, r in zip(points, centers, edge, strict=True)])
    assert alone.tolist() == (torch.arange(40) % 3 > 0).tolist()
    among = (points.double()[:, None] - centers.double()).norm(dim=2) <= edge
    assert torch.equal(_inside(points, centers, edge), among.any(dim=1))


def test_precision_and_recall_fall_for_what_they_are_for():
    real, other = randn(600, 8), randn(600, 8, seed=1)
    perfect = measures.precision_recall(other, real)
    narrow = measures.precision_recall(other * 0.3, real)  # good samples, little variety
    wide = measures.precision_recall(other * 3, real)  # poor samples, all variety
    assert narrow.precision > perfect.precision > 3 * wide.precision
    assert narrow.recall < 0.2 < perfect.recall < wide.recall


# Kernel distance


def mmd_by_loops(x, y):
    """The unbiased squared MMD, one pair at a time."""

    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + 1) ** 3

    within = [
        sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    return sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kernel_distance_by_loops_and_by_hand(monkeypatch):
    x, y = randn(23, 5, dtype=torch.float64), randn(31, 5, seed=1, dtype=torch.float64) + 0.3
    expected = mmd_by_loops(x.numpy(), y.numpy())
    found = measures.kernel_distance(x, y)
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert found.interval[0] < found.value < found.interval[1]
    monkeypatch.setattr(import_module("spikiness.measures.quality"), "CHUNK", 100)  # not the function of that name
    assert measures.kernel_distance(x, y).interval == pytest.approx(found.interval, rel=1e-9)
    ones, zeros = torch.ones(4, 2), torch.zeros(3, 2)  # k = 8 among ones, 1 elsewhere
    assert measures.kernel_distance(ones, zeros).value == pytest.approx(8 + 1 - 2)


def test_a_resample_counts_as_its_points_would_without_pairs_of_copies():
    x, y = randn(6, 3, dtype=torch.float64), randn(5, 3, seed=1, dtype=torch.float64)
    rng = np.random.default_rng(0)
    u, v = rng.multinomial(6, np.full(6, 1 / 6)), rng.multinomial(5, np.full(5, 1 / 5))
    kernel = [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]

    def within(k, copies):
        drawn = np.repeat(np.arange(len(copies)), copies)
        pairs = [(i, j) for i in drawn for j in drawn if i != j]
        return np.mean([k[i, j].item() for i, j in pairs])

    across = kernel[2][np.repeat(np.arange(6), u)][:, np.repeat(np.arange(5), v)].mean().item()
    expected = within(kernel[0], u) + within(kernel[1], v) - 2 * across
    found = measures.kernel_distance(x, y, draws=1, seed=0)
    assert found.interval == pytest.approx((expected, expected), rel=1e-10)


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
    pairs = randn(100, 2, 60, 8)
    found = [measures.kernel_distance(*pair, draws=100) for pair in pairs]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert 0.2 < (values < 0).mean() < 0.8  # not a distance that cannot be negative
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) > 0.93


def test_the_interval_of_the_kernel_distance_covers():
    big = measures.kernel_distance(randn(3000, 8, seed=1) + 0.5, randn(3000, 8, seed=2), draws=1).value
    pairs = randn(100, 2, 60, 8)
    found = [measures.kernel_distance(pair[0] + 0.5, pair[1], draws=100) for pair in pairs]
    assert np.mean([one.interval[0] <= big <= one.interval[1] for one in found]) > 0.88
    widths = np.array([one.interval[1] - one.interval[0] for one in found])
    assert widths.mean() / 3.92 == pytest.approx(np.std([one.value for one in found]), rel=0.25)


# All together


def test_quality_sets_samples_beside_real_images():
    real, split = randn(200, 1, 4, 4), randn(200, 1, 4, 4, seed=1)
    samples = randn(200, 1, 4, 4, seed=2) * 0.5

    def features(x):
        return x.flatten(1)[:, :9].relu()

    found = measures.quality(samples, real, split, features, batch=64)
    a, b, c = (features(x) for x in (samples, real, split))
    assert (found.n, found.precision) == (200, measures.precision_recall(a, b).precision)
    assert found.recall_interval == measures.precision_recall(a, b).recall_interval
    assert found.real_precision_interval == measures.precision_recall(c, b).precision_interval
    assert found.kernel_distance_interval == measures.kernel_distance(a, b).interval
    assert found.real_kernel_distance == measures.kernel_distance(c, b).value
    assert found.kernel_distance > found.kernel_distance_interval[0] > found.real_kernel_distance
    assert found.recall < found.real_recall
    again = measures.quality(split, real, split, features)
    assert again.precision == again.real_precision
    assert again.kernel_distance_interval == again.real_kernel_distance_interval


def test_bad_input_is_refused():
    x = randn(9, 4)
    bad = x.clone()
    bad[3, 1] = math.nan
    for measure in (measures.precision_recall, measures.kernel_distance):
        with pytest.raises(SpikinessError, match="1 of 9 samples hold NaN"):
            measure(bad, x)
        with pytest.raises(SpikinessError, match="1 of 9 real hold NaN"):
            measure(x, bad)
        with pytest.raises(SpikinessError, match="must agree in all but the first axis"):
            measure(x, x[:, :3])
        with pytest.raises(SpikinessError, match=r"samples \(9, 2, 2\) must be features"):
            measure(x.view(9, 2, 2), x)
        with pytest.raises(SpikinessError, match="must be float"):
            measure(x.long(), x)
    with pytest.raises(SpikinessError, match=r"real \(4, 4\) must be features .* k \+ 2 = 5 images"):
        measures.precision_recall(x, x[:4])
    assert measures.precision_recall(x, x[:5]).recall == 1
    with pytest.raises(SpikinessError, match=r"samples \(2, 4\) must be features .* = 3 images"):
        measures.kernel_distance(x[:2], x)
    for k in (0, -1, 1.5, True):
        with pytest.raises(SpikinessError, match="k is"):
            measures.precision_recall(x, x, k)
    with pytest.raises(SpikinessError, match="draws is 0"):
        measures.kernel_distance(x, x, draws=0)
    with pytest.raises(SpikinessError, match="samples 9, real 9, split 8"):
        measures.quality(x, x, x[:8], lambda v: v)
    with pytest.raises(SpikinessError, match=r"features answers \(9,\)"):
        measures.quality(x, x, x, lambda v: v.sum(dim=1))


def test_an_interval_of_few_points_is_finite():
    found = measures.kernel_distance(randn(3, 4), randn(4, 4), draws=200)  # one resample in nine is a single point
    assert np.isfinite(found.interval).all()
