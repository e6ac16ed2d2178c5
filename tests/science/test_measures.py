import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from spikiness import images, measures
from spikiness.errors import SpikinessError
from spikiness.measures import MEASURES, neighbors

SCALE_FREE = sorted(set(MEASURES) - {"std"})
# Value of each measure on one unit of four, and on a flat vector of four: worked by hand.
ONE_UNIT = {
    "std": 3 * math.sqrt(3) / 4,
    "std_over_norm": math.sqrt(3) / 4,
    "l4_l2": 1.0,
    "participation_ratio": 1.0,
    "kurtosis": 4 - 5 + 1 / 3,
    "gini": 0.75,
    "hoyer": 1.0,
}
FLAT = {
    "std": 0.0,
    "std_over_norm": 0.0,
    "l4_l2": 4**-0.25,
    "participation_ratio": 4.0,
    "kurtosis": -2.0,
    "gini": 0.0,
    "hoyer": 0.0,
}
vectors = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Spikiness


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MEASURES)
def test_hand_worked(name, dtype):
    h = torch.tensor([[0, 0, 3, 0], [2, 2, 2, 2]], dtype=dtype)
    value = MEASURES[name](h)
    assert value.dtype == dtype
    torch.testing.assert_close(value, torch.tensor([ONE_UNIT[name], FLAT[name]], dtype=dtype), rtol=1e-6, atol=1e-7)


def test_hand_worked_mixed_signs():
    h = torch.tensor([[3.0, -1.0, 0.0, 2.0]], dtype=torch.float64)  # sum 4, squares 14, fourths 98
    expected = {
        "std": math.sqrt(14 / 4 - 1),
        "std_over_norm": math.sqrt(14 / 4 - 1) / math.sqrt(14),
        "l4_l2": 98**0.25 / 14**0.5,
        "participation_ratio": 14**2 / 98,
        "kurtosis": (16 + 16 + 1 + 1) / 4 / 2.5**2 - 3,
        "gini": (0 * -3 + 1 * -1 + 2 * 1 + 3 * 3) / (4 * 6),
        "hoyer": (2 - 6 / math.sqrt(14)) / (2 - 1),
    }
    for name, value in expected.items():
        assert MEASURES[name](h).item() == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("name", MEASURES)
def test_zero_vector_counts_as_flat(name):
    h = torch.zeros(2, 3, 4)
    torch.testing.assert_close(MEASURES[name](h), torch.full((2, 3), FLAT[name]))


@pytest.mark.parametrize("name", MEASURES)
def test_any_leading_shape_and_single_unit(name):
    h = randn(2, 3, 5).abs()
    together = MEASURES[name](h)
    assert together.shape == (2, 3)
    torch.testing.assert_close(together[1, 2], MEASURES[name](h[1, 2]))
    assert MEASURES[name](torch.ones(3, 1)).isfinite().all()
    assert MEASURES[name](torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["std", "std_over_norm", "gini", "hoyer"])
def test_constant_vectors_are_exactly_flat(name, dtype):
    h = torch.tensor([[0.1], [1e-30], [7.3], [3e30]], dtype=dtype).expand(4, 49)
    torch.testing.assert_close(MEASURES[name](h), torch.zeros(4, dtype=dtype), rtol=0, atol=1e-7 * (name == "hoyer"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", MEASURES)
def test_not_finite_stays_visible(name, bad):
    h = torch.ones(3, 4)
    h[1, 2] = bad
    assert MEASURES[name](h).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [torch.zeros(3, 0), torch.tensor(1.0), torch.ones(2, 3, dtype=torch.int64)])
def test_refuses_what_is_no_representation(bad):
    with pytest.raises(SpikinessError, match="representation"):
        measures.gini(bad)


@pytest.mark.parametrize("name", SCALE_FREE)
@settings(deadline=None, max_examples=40)
@given(h=vectors, exponent=st.integers(-100, 100))
def test_scale_invariance(name, h, exponent):
    h = torch.tensor(h, dtype=torch.float32)
    torch.testing.assert_close(MEASURES[name](h * 2.0**exponent), MEASURES[name](h), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(h=vectors, scale=st.floats(1e-6, 1e6))
def test_std_scales_with_its_input(h, scale):
    h = torch.tensor(h, dtype=torch.float64)
    torch.testing.assert_close(measures.std(h * scale), measures.std(h) * scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", MEASURES)
@settings(deadline=None, max_examples=40)
@given(data=st.data(), h=vectors)
def test_permutation_invariance(name, data, h):
    shuffled = data.draw(st.permutations(h))
    first, second = (MEASURES[name](torch.tensor(v, dtype=torch.float64)) for v in (h, shuffled))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(h=vectors)
def test_ranges_of_nonnegative_vectors(h):
    p, h = len(h), torch.tensor(h, dtype=torch.float64)
    value = {name: f(h).item() for name, f in MEASURES.items()}
    limits = {
        "std": (0, h.norm().item() / p**0.5),
        "std_over_norm": (0, (p - 1) ** 0.5 / p),
        "l4_l2": (p**-0.25, 1),
        "participation_ratio": (1, p),
        "kurtosis": (-2, p - 5 + 1 / (p - 1)),
        "gini": (0, 1 - 1 / p),
        "hoyer": (0, 1),
    }
    for name, (low, high) in limits.items():
        assert low - 1e-9 <= value[name] <= high + 1e-9, name


def test_identities_and_scipy():
    h = randn(50, 30, dtype=torch.float64).relu()
    norm = h.norm(dim=1)
    torch.testing.assert_close(measures.std(h), (norm**2 / 30 - h.mean(dim=1) ** 2).sqrt())
    torch.testing.assert_close(measures.std_over_norm(h), measures.std(h) / norm)
    torch.testing.assert_close(measures.l4_l2(h), measures.participation_ratio(h) ** -0.25)
    torch.testing.assert_close(measures.l4_l2(h), h.norm(p=4, dim=1) / norm)
    assert np.allclose(measures.kurtosis(h), scipy.stats.kurtosis(h.numpy(), axis=1))
    pairs = (h[:, :, None] - h[:, None]).abs().sum(dim=(1, 2))  # Gini by its other definition: mean absolute difference
    torch.testing.assert_close(measures.gini(h), pairs / (2 * 30 * h.sum(dim=1)))
    # for h >= 0, Std/|h| and Hoyer's are one ranking
    assert measures.std_over_norm(h).argsort().tolist() == measures.hoyer(h).argsort().tolist()


@pytest.mark.parametrize("name", MEASURES)
def test_half_precision_is_measured_in_float32(name):
    h = randn(4, 2000).relu().bfloat16()
    value = MEASURES[name](h)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), MEASURES[name](h.double()), rtol=1e-4, atol=1e-5)


# Neighbours


def brute_force(samples, train, k):
    """Distances in float64 from differences, and their indices, lowest first on ties: NumPy alone."""
    a, b = samples.flatten(1).double().numpy(), train.flatten(1).double().numpy()
    d = np.stack([np.sqrt(((b - row) ** 2).sum(axis=1)) for row in a])
    index = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, index, axis=1), index


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_agrees_with_scikit_learn(dtype):
    train, samples = randn(500, 3, 4, 4, dtype=dtype), randn(60, 3, 4, 4, seed=1, dtype=dtype)
    distance, index = measures.nearest(samples, train, 5)
    model = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(train.flatten(1).double().numpy())
    expected, order = model.kneighbors(samples.flatten(1).double().numpy())
    assert distance.dtype == torch.float64
    assert np.array_equal(index, order)
    assert np.allclose(distance, expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_near_pairs_are_exact_where_float32_products_fail(shift):
    train = randn(400, 784) + shift
    planted = torch.arange(0, 400, 8)
    samples = train[planted] + 1e-4 * randn(50, 784, seed=2)
    distance, index = measures.nearest(samples, train, 1)
    true = (samples.double() - train[planted].double()).norm(dim=1)
    product = (samples**2).sum(1) + (train[planted] ** 2).sum(1) - 2 * (samples * train[planted]).sum(1)
    assert ((product.clamp_min(0).sqrt() - true).abs() > 0.1 * true).any()  # the usual formula does fail here
    assert index[:, 0].tolist() == planted.tolist()
    assert ((distance[:, 0] - true).abs() / true).max() < 1e-12


def test_ranks_what_the_product_cannot_tell_apart():
    """A thousand images within 1e-6 of one another, far more than the candidates of a first round."""
    base = randn(1, 64) * 5
    train = torch.cat([randn(500, 64, seed=3) * 5, base.expand(1000, 64) + 1e-6 * randn(1000, 64, seed=4)]).double()
    samples = base.double() + 1e-6 * randn(5, 64, seed=5, dtype=torch.float64)
    distance, index = measures.nearest(samples, train, 3)
    expected, order = brute_force(samples, train, 3)
    assert np.array_equal(index, order)
    assert np.allclose(distance, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e25])
def test_nearest_at_any_scale(scale):
    train, samples = randn(300, 20) * scale, randn(40, 20, seed=1) * scale
    distance, index = measures.nearest(samples, train, 2)
    expected, order = brute_force(samples, train, 2)
    assert np.array_equal(index, order)
    assert np.allclose(distance, expected, rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_nearest_equals_brute_force_with_many_ties(data):
    d, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    train = torch.from_numpy(rng.integers(-2, 3, (data.draw(st.integers(1, 60)), d))).float()
    samples = torch.from_numpy(rng.integers(-2, 3, (data.draw(st.integers(1, 8)), d))).float()
    k = data.draw(st.integers(1, 70))
    distance, index = measures.nearest(samples, train, k)
    expected, order = brute_force(samples, train, k)
    assert distance.shape == (len(samples), min(k, len(train)))
    assert np.array_equal(index, order)
    assert np.array_equal(distance, expected)


def test_small_chunks_change_nothing(monkeypatch):
    train, samples = torch.cat([randn(100, 12), randn(100, 12)]), randn(30, 12, seed=1)
    whole = measures.nearest(samples, train, 4), measures.near_duplicates(train)
    monkeypatch.setattr(neighbors, "CHUNK", 500)
    monkeypatch.setattr(neighbors, "BLOCK", 40)
    parts = measures.nearest(samples, train, 4), measures.near_duplicates(train)
    assert torch.equal(whole[0][0], parts[0][0])
    assert torch.equal(whole[0][1], parts[0][1])
    assert whole[1].groups == parts[1].groups


def test_products_in_reduced_precision_are_noticed():
    train = randn(8000, 2)
    samples = train[:100] + 1e-3 * randn(100, 2, seed=1)
    expected, order = brute_force(samples, train, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance, index = measures.nearest(samples, train, 2)
    assert np.array_equal(index, order)
    assert np.allclose(distance, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 5, 2), (3, 1, 9), (7, 3072, 2), (3000, 1, 2), (2000, 40, 1), (900, 6, 30)]
)
def test_nearest_of_any_shape_with_copies_and_near_copies(n, d, k):
    """Half the samples are train images or copies of them at 1e-4 noise, and every train image is there twice."""
    train = randn(n, d)
    train = torch.cat([train, train])
    which = torch.arange(20) % n
    noise = 1e-4 * randn(20, d, seed=1)
    samples = torch.cat([train[which], train[which] + noise, 3 * randn(40, d, seed=2)])
    distance, index = measures.nearest(samples, train, k)
    expected, order = brute_force(samples, train, k)
    assert distance.shape == index.shape == (80, min(k, 2 * n))
    assert np.array_equal(index, order)
    assert (distance[:20, 0] == 0).all()
    assert (index[:20, 0] == which).all()  # the lower of two equals
    assert np.allclose(distance, expected, rtol=1e-9, atol=0)  # 1e-4 is what is asked for


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_products_error_bound_holds(scale):
    a, b = (5 + randn(60, 300)) * scale, (5 + randn(400, 300, seed=1) * torch.logspace(-3, 2, 400)[:, None]) * scale
    product = neighbors.Product(a, b)
    rough = (product(torch.arange(60)) + product.a2[:, None]).double()
    true = (a[:, None].double() - b.double()).square().sum(dim=2) / product.scale**2
    assert ((rough - true).abs() < product.slack[:, None]).all()


def test_nearest_of_digits():
    x = torch.from_numpy(load_digits().images / 8 - 1).float()
    distance, index = measures.nearest(x[1000:1100], x[:1000], 2)
    expected, order = brute_force(x[1000:1100], x[:1000], 2)
    assert np.array_equal(index, order)
    assert np.allclose(distance, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("samples", "train", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "all but the first axis"),
        (torch.zeros(2, 8, 8, 1), torch.zeros(2, 1, 8, 8), "all but the first axis"),
        (torch.zeros(0, 3), torch.zeros(2, 3), "samples must be"),
        (torch.zeros(2, 3), torch.zeros(0, 3), "train must be"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, 3), "uint8"),
        (torch.tensor([[0.0], [math.nan]]), torch.zeros(2, 1), "1 of 2 samples"),
        (torch.zeros(2, 1), torch.tensor([[0.0], [math.inf], [math.nan]]), "2 of 3 train"),
    ],
)
def test_bad_pairs_are_refused(samples, train, message):
    with pytest.raises(SpikinessError, match=message):
        measures.memorization(samples, train)


def test_bad_options_are_refused():
    x = randn(4, 3)
    with pytest.raises(SpikinessError, match="k is 0"):
        measures.nearest(x, x, 0)
    for ratio in (0, 1.5, math.nan):
        with pytest.raises(SpikinessError, match="ratio"):
            measures.memorization(x, x, ratio=ratio)
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(SpikinessError, match="tolerance"):
            measures.memorization(x, x, tolerance=tolerance)
        with pytest.raises(SpikinessError, match="tolerance"):
            measures.near_duplicates(x, tolerance=tolerance)


# Memorization


def test_memorization_hand_worked():
    train = torch.tensor([[0.0], [10.0], [10.05], [30.0]])
    samples = torch.tensor([[1.0], [4.0], [10.0], [20.0], [10.02]])
    report = measures.memorization(samples, train, tolerance=0.1)
    assert report.nearest.tolist() == [0, 0, 1, 2, 1]
    # d1 / d2, second over images other than 10 and 10.05 together where one of them is nearest
    assert report.ratio.tolist() == pytest.approx([1 / 9, 4 / 6, 0, 9.95 / 10, 0.02 / 10.02], rel=1e-4)
    assert report.distance.tolist() == pytest.approx([1, 4, 0, 9.95, 0.02], rel=1e-4)
    assert report.mask.tolist() == [True, False, True, False, True]
    assert report.fraction == 0.6
    assert report.interval == measures.wilson(3, 5)
    assert report.tolerance == 0.1
    strict = measures.memorization(samples, train, tolerance=0)
    assert not strict.mask[4]  # near-duplicates hide each other when they count as two


@pytest.mark.parametrize("jitter", [0, 1e-4])
@pytest.mark.parametrize("copies", [2, 9, 150])
def test_duplicates_do_not_hide_a_copy(copies, jitter):
    train = torch.cat([randn(60, 16), randn(1, 16, seed=1).expand(copies, 16)])
    samples = torch.cat([train[-1:], train[-1:] + 1e-3, randn(20, 16, seed=2) * 2])
    train[61:] += jitter * randn(copies - 1, 16, seed=3)
    for tolerance in (0.0, None)[jitter > 0 :]:
        report = measures.memorization(samples, train, tolerance=tolerance)
        assert report.mask.tolist() == [True, True] + [False] * 20
        assert report.distance[0] == 0
        assert report.nearest[0] == 60
        assert report.nearest[1] == 60 or jitter
    distinct, _ = brute_force(samples, train[:61], 2)
    assert np.allclose(report.ratio, distinct[:, 0] / distinct[:, 1], rtol=1e-9 if not jitter else 1e-3, atol=jitter)


def test_memorization_of_near_duplicates_with_the_default_tolerance():
    digits = torch.from_numpy(load_digits().images / 8 - 1).float()
    train = torch.cat([digits[:200], digits[:50] + 0.001 * randn(50, 8, 8)])
    report = measures.memorization(digits[:400] + 0.01 * randn(400, 8, 8, seed=1), train)
    assert report.mask[:200].all()
    assert not report.mask[200:].any()
    twice = measures.memorization(digits[:400] * 7 + 3, train * 7 + 3)  # whatever the scale and origin
    assert torch.equal(twice.mask[200:], report.mask[200:])
    assert twice.tolerance == pytest.approx(7 * report.tolerance, rel=1e-5)


def test_no_second_distinct_image():
    same = torch.ones(20, 5)
    for train in (torch.ones(1, 5), same):
        with pytest.raises(SpikinessError, match="second distinct"):
            measures.memorization(torch.zeros(3, 5), train)


def test_near_duplicates_planted():
    train = randn(200, 1, 6, 6)
    train[50], train[120] = train[10], train[10]  # exact
    train[77] = train[30] + 1e-3 * randn(1, 6, 6, seed=9)
    chain = randn(1, 6, 6, seed=8)
    for step, index in enumerate((5, 90, 199)):  # ends are two tolerances apart, linked by the middle
        train[index] = chain + step * 0.9 * 0.01 / 6
    found = measures.near_duplicates(train, tolerance=0.01)
    assert found.groups == [[5, 90, 199], [10, 50, 120], [30, 77]]
    assert (found.copies, found.exact, found.tolerance) == (5, 2, 0.01)
    expected = torch.arange(200)
    expected[torch.tensor([90, 199, 50, 120, 77])] = torch.tensor([5, 5, 10, 10, 30])
    assert torch.equal(found.first, expected)
    assert measures.near_duplicates(train, tolerance=0).groups == [[10, 50, 120]]


def test_near_duplicates_finer_than_the_product():
    train = 10 * randn(300, 784)
    train[200:] = train[:100] + 1e-4 * randn(100, 784, seed=1)  # 2.8e-3 apart, where the product is off by as much
    found = measures.near_duplicates(train, tolerance=4e-3)
    assert found.groups == [[i, 200 + i] for i in range(100)]
    assert measures.near_duplicates(train, tolerance=2e-3).groups == []


def test_near_duplicates_extremes():
    assert measures.near_duplicates(torch.ones(6, 3)).groups == [[0, 1, 2, 3, 4, 5]]
    alone = measures.near_duplicates(torch.ones(1, 3))
    assert (alone.groups, alone.copies, alone.first.tolist()) == ([], 0, [0])
    digits = torch.from_numpy(load_digits().images / 8 - 1).float()
    assert measures.near_duplicates(digits).copies == 0  # the default must not merge different digits


# Denoisers, weights, images


def test_distance_hand_worked():
    y = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    sigma = torch.tensor([1.0, 2.0, 3.0])
    found = measures.distance(lambda y, s: y + s[:, None], lambda y, s: y, y, sigma, batch=2)
    assert found.each.tolist() == pytest.approx([1, 2, 3])
    assert found.rms == pytest.approx(math.sqrt((1 + 4 + 9) / 3))
    assert found.relative == pytest.approx(math.sqrt(28 / 125))


def test_distance_to_itself_and_to_nothing():
    y = randn(5, 1, 4, 4)
    zero = measures.distance(lambda y, s: 0 * y, lambda y, s: 0 * y, y, 0.2)
    assert (zero.rms, zero.relative) == (0, 0)
    assert measures.distance(lambda y, s: y, lambda y, s: 0 * y, y, 0.2).relative == math.inf
    assert measures.distance(lambda y, s: 0 * y, lambda y, s: y, y, 0.2).relative == pytest.approx(1)


def test_distance_refuses_bad_denoisers():
    y = randn(5, 4)
    with pytest.raises(SpikinessError, match=r"first denoiser answers \(5, 1\)"):
        measures.distance(lambda y, s: y[:, :1], lambda y, s: y, y, 0.2)
    with pytest.raises(SpikinessError, match="20 of 20 values of the second"):
        measures.distance(lambda y, s: y, lambda y, s: y * math.nan, y, 0.2)


def test_stored_columns_hand_worked():
    train = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    # half of x_0 twice, x_1, a column away from both, an empty one
    w = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 5.0, 0], [-3.0, 0, 0], [0, 0, 0]]).T
    found = measures.stored_columns(w, train)
    assert found.cosine.tolist() == pytest.approx([1, 1, 1, 0, 0])
    assert found.nearest[:3].tolist() == [0, 0, 1]
    assert found.gain.tolist() == pytest.approx([2 / 4, 1])
    assert found.energy.tolist() == pytest.approx([1 / 36, 1 / 36, 25 / 36, 9 / 36, 0])
    assert found.weighted_cosine == pytest.approx(27 / 36)


def test_stored_columns_recover_the_gains_of_corollary_3_2():
    x = randn(5, 40, dtype=torch.float64)
    r = torch.tensor([0.5, 0.9, 1.1, 0.2, 0.7], dtype=torch.float64)
    split = torch.tensor([0.36, 0.64], dtype=torch.float64).sqrt()  # column 4 in two collinear copies
    columns = [r[i] * x[i] for i in range(4)] + [r[4] * x[4] * s for s in split] + [torch.zeros(40).double()] * 3
    found = measures.stored_columns(torch.stack(columns, dim=1), x.view(5, 1, 5, 8))
    torch.testing.assert_close(found.gain, r**2)
    assert found.nearest[:6].tolist() == [0, 1, 2, 3, 4, 4]
    assert found.weighted_cosine == pytest.approx(1)


def test_stored_columns_give_duplicates_to_the_lowest_index():
    x = randn(1, 300)
    train = torch.cat([randn(3, 300, seed=1), x, randn(2, 300, seed=2), x, x])
    assert measures.stored_columns(x.T * 0.3, train).nearest.tolist() == [3]
    collinear = (
        x.double() * torch.tensor([[0.3], [1.1], [0.7], [13.0], [0.9]]).double()
    )  # cosines equal but for rounding
    columns = randn(300, 20, seed=3)
    assert set(measures.stored_columns(columns, collinear).nearest.tolist()) == {0}


def test_stored_columns_of_nothing_and_of_bad_shapes():
    nothing = measures.stored_columns(torch.zeros(4, 3), randn(2, 4))
    assert nothing.weighted_cosine == 0
    assert nothing.gain.tolist() == [0, 0]
    assert measures.stored_columns(randn(4, 3), torch.zeros(2, 4)).gain.tolist() == [0, 0]
    for w in (torch.zeros(3, 4), torch.zeros(4), torch.full((4, 3), math.nan)):
        with pytest.raises(SpikinessError, match="w must be"):
            measures.stored_columns(w, randn(2, 4))


def test_psnr():
    target = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    estimate = torch.stack([torch.full((1, 2, 2), 0.1), torch.tensor([[[0.2, 0], [0, 0]]])]).double()
    assert measures.psnr(estimate, target, 1.0).tolist() == pytest.approx([20, 20], rel=1e-6)
    assert measures.psnr(estimate, target, 2.0).tolist() == pytest.approx([20 + 20 * math.log10(2)] * 2, rel=1e-6)
    assert measures.psnr(target, target, 2.0).tolist() == [math.inf, math.inf]
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(SpikinessError, match="data_range"):
            measures.psnr(estimate, target, bad)
    with pytest.raises(SpikinessError, match="same shape"):
        measures.psnr(estimate, target[:1], 1.0)
    with pytest.raises(TypeError, match="data_range"):
        measures.psnr(estimate, target)


# Intervals


def test_wilson_by_its_definition():
    """Ends p of the interval solve |rate - p| = z sqrt(p (1 - p) / n)."""
    z = scipy.stats.norm.ppf(0.975)
    for k, n in ((1, 10), (3, 5), (37, 100), (999, 1000)):

        def excess(p, rate=k / n, n=n):
            return (rate - p) ** 2 - z**2 * p * (1 - p) / n

        low, high = brentq(excess, 0, k / n), brentq(excess, k / n, 1)
        assert measures.wilson(k, n) == pytest.approx((low, high), rel=1e-6)
        ci = scipy.stats.binomtest(k, n).proportion_ci(0.9, "wilson")
        assert measures.wilson(k, n, 0.9) == pytest.approx((ci.low, ci.high))
    assert measures.wilson(0, 10)[0] == 0
    assert 0.2 < measures.wilson(0, 10)[1] < 0.35
    assert measures.wilson(10, 10)[1] == 1


@pytest.mark.parametrize(("rate", "n"), [(0.02, 100), (0.3, 50), (0.5, 500)])
def test_wilson_coverage(rate, n):
    k = np.arange(n + 1)
    inside = np.array([low <= rate <= high for low, high in (measures.wilson(i, n) for i in k)])
    assert 0.93 < (scipy.stats.binom.pmf(k, n, rate) * inside).sum() < 0.985  # exact, not simulated


@pytest.mark.parametrize("bad", [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses(bad):
    with pytest.raises(SpikinessError, match="successes"):
        measures.wilson(*bad)
    with pytest.raises(SpikinessError, match="level"):
        measures.wilson(1, 2, level=95)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    low, high = measures.bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert (low, high) == measures.bootstrap(torch.from_numpy(values))  # seeded
    assert (low, high) != measures.bootstrap(values, seed=1)
    narrow = measures.bootstrap(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_of_any_statistic():
    x = np.random.default_rng(0).normal(size=(300, 2)) @ np.array([[1, 0.8], [0, 0.6]])
    low, high = measures.bootstrap(x, lambda v: np.corrcoef(v.T)[0, 1], draws=500)
    assert 0.7 < low < 0.8 < high < 0.88


def test_clustered_bootstrap_is_wider_and_right():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    values = rng.normal(size=40)[groups] + 0.3 * rng.normal(size=1000)
    naive, clustered = measures.bootstrap(values), measures.bootstrap(values, groups=groups)
    widths = np.diff(naive)[0], np.diff(clustered)[0]
    assert widths[1] > 3 * widths[0]
    assert widths[1] == pytest.approx(2 * 1.96 * values.reshape(40, 25).mean(axis=1).std() / 40**0.5, rel=0.15)
    names = [f"image {g}" for g in groups]
    assert measures.bootstrap(values, groups=names, draws=200) != measures.bootstrap(values, draws=200)


def test_clusters_of_unequal_size_are_drawn_whole():
    values, groups = np.array([1.0, 0, 0, 5, 5, 5]), np.array([7, 3, 3, 9, 9, 9])
    seen = []
    measures.bootstrap(values, lambda v: seen.append(np.bincount(v.astype(int), minlength=6)) or 0.0, groups, draws=300)
    seen = np.array(seen)
    assert (seen[:, 0] % 2 == 0).all()
    assert (seen[:, 5] % 3 == 0).all()
    assert ((seen[:, 1] + seen[:, 0] // 2 + seen[:, 5] // 3) == 3).all()
    assert len(np.unique(seen, axis=0)) == 10  # every multiset of three of three


def test_bootstrap_refuses():
    with pytest.raises(SpikinessError, match="2 of 4 values are NaN"):
        measures.bootstrap([1, math.nan, 2, math.nan])
    for values, groups in (([], None), ([1.0], None), ([1.0, 2.0, 3.0], [4, 4, 4])):
        with pytest.raises(SpikinessError, match="fewer than two groups"):
            measures.bootstrap(values, groups=groups)
    with pytest.raises(SpikinessError, match="one label for each of the 3"):
        measures.bootstrap([1.0, 2, 3], groups=[1, 2])
    with pytest.raises(SpikinessError, match="statistics are NaN"):
        measures.bootstrap([1.0, 2, 3], lambda v: math.nan)
    with pytest.raises(SpikinessError, match="draws"):
        measures.bootstrap([1.0, 2, 3], draws=0)
    with pytest.raises(SpikinessError, match="level"):
        measures.bootstrap([1.0, 2, 3], level=0)


def test_what_is_no_tensor_is_told_how_to_become_one():
    train = [torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]
    with pytest.raises(SpikinessError, match=r"train is a list, not a float tensor \[N, \.\.\.\]; .* torch\.stack"):
        measures.memorization(torch.stack(train), train)
    numbers = [[0.0, 1.0], [2.0, 0.0]]
    assert measures.memorization(numbers, numbers).fraction == 1  # lists of numbers need no remedy
    with pytest.raises(SpikinessError, match=r"samples is Images, not a tensor .*; give its \.x"):
        measures.memorization(images.load("digits", n=3), torch.stack(train))


def test_the_table_of_measures_says_which_way_spikier_lies():
    flat, spiky = torch.ones(8), torch.eye(8)[0]
    for name, measure in MEASURES.items():
        assert measure.name == name
        assert (measure(spiky) - measure(flat)).item() * measure.spikier > 0
    h = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for measure in MEASURES.values():
        if measure.ranks_as:  # up to rounding it orders all representations as the other one does
            other = MEASURES[measure.ranks_as]
            order = (measure.spikier * measure(h)).argsort()
            assert torch.equal(order, (other.spikier * other(h)).argsort())
    with pytest.raises(SpikinessError, match=r"unknown measure 'sdt': one of std, .*; did you mean 'std'"):
        MEASURES["sdt"]
