import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from spikiness.detection import compare, evaluate
from spikiness.detection import evaluation as detection
from spikiness.errors import SpikinessError
from spikiness.measures import wilson


def normal(m, g, gap=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1, m), rng.normal(0, 1, g)


def by_scikit_learn(memorized, generalized, fpr=0.01):
    truth, scores = np.r_[np.ones(len(memorized)), np.zeros(len(generalized))], np.r_[memorized, generalized]
    rates = roc_curve(truth, scores, drop_intermediate=False)
    return roc_auc_score(truth, scores), rates[1][rates[0] <= fpr].max()


def width(interval):
    return interval[1] - interval[0]


def test_hand_worked():
    found = evaluate([3.0, 2.0, 1.0], [0.0, 2.0, 1.0, 0.5], draws=50)
    # pairs won: 4; 3 and one tie; 2 and one tie
    assert found.auroc == pytest.approx((4 + 3.5 + 2.5) / 12)
    assert found.ties == pytest.approx(2 / 12)
    assert found.threshold == 2.0
    assert found.fpr == 0
    assert found.tpr == pytest.approx(1 / 3)
    assert (found.memorized, found.generalized) == (3, 4)


@settings(deadline=None, max_examples=60)
@given(m=st.integers(2, 60), g=st.integers(2, 400), levels=st.sampled_from([3, 20, 10**6]), seed=st.integers(0, 10**6))
def test_point_estimates_agree_with_scikit_learn(m, g, levels, seed):
    rng = np.random.default_rng(seed)
    memorized, generalized = rng.integers(0, levels, m) + levels // 3, rng.integers(0, levels, g)
    if len(np.unique(np.r_[memorized, generalized])) == 1:
        return
    found = evaluate(memorized, generalized, draws=2)
    auroc, tpr = by_scikit_learn(memorized, generalized)
    assert found.auroc == pytest.approx(auroc, abs=1e-12)
    assert found.tpr == pytest.approx(tpr, abs=1e-12)
    assert found.fpr <= 0.01


def test_resampled_rates_agree_with_scikit_learn():
    """Weights are repetitions: the rates of each resample are those of the samples written out."""
    rng = np.random.default_rng(1)
    memorized, generalized = rng.integers(0, 30, 40) + 8.0, np.sort(rng.integers(0, 30, 300)).astype(float)
    weight_m, weight_g = rng.multinomial(40, np.ones(40) / 40, 20), rng.multinomial(300, np.ones(300) / 300, 20)
    auroc, tpr, _ = detection._rates(memorized, generalized, weight_m, weight_g, 0.05)
    for i in range(20):
        expected = by_scikit_learn(np.repeat(memorized, weight_m[i]), np.repeat(generalized, weight_g[i]), 0.05)
        assert (auroc[i], tpr[i]) == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_symmetries(seed):
    memorized, generalized = normal(30, 200, seed=seed)
    found = evaluate(memorized, generalized, draws=5)
    rng = np.random.default_rng(seed)
    shuffled = evaluate(rng.permutation(memorized), rng.permutation(generalized), draws=5)
    monotone = evaluate(np.exp(memorized), np.exp(generalized), draws=5)
    swapped = evaluate(-memorized, -generalized, draws=5)
    assert (found.auroc, found.tpr) == (shuffled.auroc, shuffled.tpr) == (monotone.auroc, monotone.tpr)
    assert swapped.auroc == pytest.approx(1 - found.auroc)


def test_inputs_of_any_kind():
    memorized, generalized = (a.astype(np.float32) for a in normal(20, 30))
    expected = evaluate(memorized, generalized)
    assert evaluate(torch.from_numpy(memorized).requires_grad_(), torch.from_numpy(generalized)) == expected
    assert evaluate(memorized.tolist(), tuple(generalized.tolist())) == expected
    assert evaluate(memorized, generalized, seed=1) != expected


def test_many_ties_at_the_threshold_keep_the_rate():
    """A tenth of the generalized scores equal the highest: nobody is strictly above it, '>=' would flag them all."""
    generalized = np.r_[np.zeros(90), np.ones(10)]
    found = evaluate([1.0, 1.0, 2.0, 2.0], generalized, draws=20)
    assert (found.threshold, found.fpr, found.tpr) == (1, 0, 0.5)
    assert found.ties == pytest.approx(2 * 10 / 400)


def test_one_percent_of_a_thousand():
    found = evaluate(np.array([988.5, 989.5, 2000]), np.arange(1000), draws=20)
    assert (found.threshold, found.fpr, found.tpr) == (989, 0.01, pytest.approx(2 / 3))
    few = evaluate(np.array([40.0, 60.0]), np.arange(50), draws=20)  # 1 % of 50 cannot be resolved
    assert (few.threshold, few.fpr, few.tpr) == (49, 0, 0.5)


def test_auroc_interval_covers_and_narrows():
    """gap 1 between unit normals: AUROC = Phi(1 / sqrt 2) = .7602."""
    covered = 0
    for seed in range(60):
        low, high = evaluate(*normal(100, 100, seed=seed), draws=300).auroc_interval
        covered += low <= 0.76025 <= high
    assert covered >= 50  # binomial(60, .95) falls below with probability .001
    assert width(evaluate(*normal(2000, 2000)).auroc_interval) < 0.5 * width(evaluate(*normal(200, 200)).auroc_interval)


def test_intervals_hold_their_estimates():
    found = evaluate(*normal(200, 500, gap=2))
    assert found.auroc_interval[0] < found.auroc < found.auroc_interval[1]
    assert found.tpr_interval[0] <= found.tpr <= found.tpr_interval[1]
    narrow = evaluate(*normal(200, 500, gap=2), level=0.5)
    assert width(narrow.auroc_interval) < width(found.auroc_interval)


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 20)  # 400 samples of 20 training images
    memorized, generalized = 1 + rng.normal(size=20)[groups] + 0.2 * rng.normal(size=400), rng.normal(size=400)
    naive = evaluate(memorized, generalized)
    clustered = evaluate(memorized, generalized, torch.from_numpy(groups))
    both = evaluate(memorized, generalized, (groups, groups))
    assert clustered.auroc == naive.auroc == both.auroc
    assert width(clustered.auroc_interval) > 2 * width(naive.auroc_interval)
    assert width(clustered.tpr_interval) > 1.2 * width(naive.tpr_interval)
    assert width(both.auroc_interval) > width(naive.auroc_interval)


def test_models_widen_the_interval():
    rng = np.random.default_rng(0)
    model = np.repeat(np.arange(8), 100)
    shift = rng.normal(size=8)
    memorized, generalized = shift[model] + rng.normal(1, 1, 800), rng.normal(size=800)
    naive = evaluate(memorized, generalized)
    over_models = evaluate(memorized, generalized, seeds=(model, model))
    assert over_models.auroc == naive.auroc
    assert width(over_models.auroc_interval) > 2 * width(naive.auroc_interval)
    # a shift that both kinds of a model share does not change its own AUROC, but is drawn for both together
    paired = evaluate(memorized, shift[model] + generalized, seeds=(model, model))
    assert width(paired.auroc_interval) < width(over_models.auroc_interval)


def test_resampling_over_models_and_groups_draws_what_it_says():
    rng = np.random.default_rng(0)
    model = np.array([0, 0, 0, 0, 1, 1])
    unit, owner = detection._units("memorized", [5, 5, 6, 7, 5, 8], model)
    assert owner.tolist() == [0, 0, 0, 1, 1]  # group 5 of model 0 is not group 5 of model 1
    times = detection._counts(2, np.ones(4000, dtype=int), rng)
    assert (times.sum(axis=1) == 2).all()
    assert times[:, 0].mean() == pytest.approx(1, abs=0.05)
    weights = detection._weights(unit, owner, times, rng)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3 * times[:, 0]).all()
    assert (weights[:, 4:].sum(axis=1) == 2 * times[:, 1]).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)


def test_perfect_separation_is_not_certainty():
    found = evaluate(np.arange(20) + 1000.0, np.arange(300))
    assert (found.auroc, found.tpr) == (1, 1)
    assert found.auroc_interval == found.tpr_interval == wilson(20, 20)
    clustered = evaluate(np.arange(20) + 1000.0, np.arange(300), np.arange(20) // 4)
    assert clustered.auroc_interval == wilson(5, 5)
    reverse = evaluate(np.arange(20) - 1000.0, np.arange(300))
    assert reverse.auroc_interval == reverse.tpr_interval == wilson(0, 20)


def test_memory_is_bounded_in_blocks(monkeypatch):
    memorized, generalized = normal(50, 60)
    monkeypatch.setattr(detection, "BLOCK", 1000)
    small = evaluate(memorized, generalized)
    monkeypatch.setattr(detection, "BLOCK", 10**6)
    large = evaluate(memorized, generalized)
    assert small.auroc == large.auroc
    assert small.auroc_interval == pytest.approx(large.auroc_interval, abs=0.02)


def test_nan_is_refused_with_a_count():
    with pytest.raises(SpikinessError, match="2 of 4 memorized scores are NaN"):
        evaluate([1, math.nan, 2, math.nan], [1.0, 2.0])
    with pytest.raises(SpikinessError, match="1 of 3 generalized scores"):
        evaluate([1.0, 2.0], [0.0, 1.0, -math.inf])


def test_constant_scores_are_one_clear_error():
    with pytest.raises(SpikinessError, match="all scores are 0 and rank nothing"):
        evaluate(torch.zeros(5), torch.zeros(8))
    assert evaluate([1.0, 1.0], [0.0, 0.0], draws=5).auroc == 1  # constant within a kind still ranks


@pytest.mark.parametrize("bad", [[], [1.0], 1.0, [[1.0, 2.0], [3.0, 4.0]]])
def test_too_few_or_oddly_shaped_scores(bad):
    with pytest.raises(SpikinessError, match="memorized scores have shape"):
        evaluate(bad, [1.0, 2.0])
    with pytest.raises(SpikinessError, match="generalized scores have shape"):
        evaluate([1.0, 2.0], bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [1, 2]}, "one label for each of the 3"),
        ({"groups": [1, 1, 1]}, "all 3 memorized samples are in one group"),
        ({"groups": (None, [2, 2, 2, 2])}, "all 4 generalized samples are in one group"),
        ({"seeds": ([0, 0, 1], [0, 1, 1])}, "two lists of labels, of 3 memorized and 4 generalized"),
        ({"seeds": ([0, 0, 1], [0, 1, 1, 2])}, "model 2 has memorized or generalized samples only"),
        ({"seeds": ([0, 0, 0], [0, 0, 0, 0])}, "one model"),
        ({"fpr": 1.0}, "fpr 1.0"),
        ({"draws": 0}, "draws 0"),
        ({"level": 95}, "level 95"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SpikinessError, match=message):
        evaluate([1.0, 2.0, 3.0], [0.0, 1.0, 0.5, 0.2], **options)


# ---- several scores over several models


def shifted(rng, n, m, by):
    return rng.normal(by, 1, n), rng.normal(0, 1, m)


def test_means_over_models_are_those_of_each_with_its_own_threshold():
    rng = np.random.default_rng(0)
    pairs = [shifted(rng, 60, 300, 1.0), tuple(5 + x for x in shifted(rng, 40, 200, 2.0))]  # scales apart
    groups = [tuple(np.arange(len(x)) for x in pair) for pair in pairs]
    found = compare({"a": pairs}, groups, "a", draws=20).iloc[0]
    each = [evaluate(*pair, draws=1) for pair in pairs]
    assert found.auroc == pytest.approx(np.mean([e.auroc for e in each]))
    assert found.tpr == pytest.approx(np.mean([e.tpr for e in each]))
    assert found.difference == found.difference_low == found.difference_high == 0


def test_one_model_gives_the_interval_of_evaluate():
    rng = np.random.default_rng(1)
    m, g = shifted(rng, 80, 300, 1.0)
    groups = np.repeat(np.arange(20), 4), np.arange(300)
    found = compare({"a": [(m, g)]}, [groups], "a", draws=2000).iloc[0]
    e = evaluate(m, g, groups, draws=2000, seed=5)
    assert (found.auroc_low, found.auroc_high) == pytest.approx(e.auroc_interval, abs=0.01)
    assert (found.tpr_low, found.tpr_high) == pytest.approx(e.tpr_interval, abs=0.03)


def test_paired_differences_are_sharper_than_those_of_intervals_apart():
    rng = np.random.default_rng(2)
    m, g = shifted(rng, 100, 300, 1.0)
    near = (m - 0.05 + rng.normal(0, 0.01, 100), g + rng.normal(0, 0.01, 300))
    groups = [(np.arange(100), np.arange(300))]
    found = compare({"a": [(m, g)], "b": [near]}, groups, "a", draws=500).set_index("score")
    row = found.loc["b"]
    assert 0 < row.difference_low < row.difference < row.difference_high
    assert row.difference_high - row.difference_low < 0.3 * (row.auroc_high - row.auroc_low)


def test_the_interval_over_models_covers_the_mean_of_all_models():
    """Models differ by a known spread: a 95 % interval should mostly hold the mean."""
    rng, held = np.random.default_rng(3), 0
    for seed in range(60):
        pairs = [shifted(rng, 40, 80, 1.0 + rng.normal(0, 0.6)) for _ in range(8)]
        groups = [(np.arange(40), np.arange(80))] * 8
        row = compare({"a": pairs}, groups, "a", draws=200, seed=seed).iloc[0]
        held += row.auroc_low <= 0.7425 <= row.auroc_high  # E Phi((1 + .6 z) / sqrt 2) = Phi(1 / sqrt(2 + .36))
    assert held >= 48


def test_perfect_scores_keep_a_width():
    m, g = np.arange(10, 20.0), np.arange(10.0)
    row = compare({"a": [(m, g)]}, [(np.arange(10), np.arange(10))], "a", draws=50).iloc[0]
    assert row.auroc == row.auroc_high == 1.0
    assert row.auroc_low == pytest.approx(wilson(10, 10)[0])


def test_comparisons_that_do_not_fit_are_refused():
    m, g = np.arange(5.0), np.arange(6.0)
    groups = [(np.arange(5), np.arange(6))]
    with pytest.raises(SpikinessError, match="'b' is not one of the scores: a"):
        compare({"a": [(m, g)]}, groups, "b")
    with pytest.raises(SpikinessError, match="scores of 2 models, the groups are of 1"):
        compare({"a": [(m, g)] * 2}, groups, "a")
    with pytest.raises(SpikinessError, match=r"5 and 5 scores, the groups \(5, 6\)"):
        compare({"a": [(m, g[:5])]}, groups, "a")
    with pytest.raises(SpikinessError, match=r"1 of 5 memorized \(a\) scores are NaN"):
        compare({"a": [(np.where(m == 2, np.nan, m), g)]}, groups, "a")
    with pytest.raises(SpikinessError, match="fpr 2"):
        compare({"a": [(m, g)]}, groups, "a", fpr=2)


def test_a_difference_to_perfect_scores_is_as_uncertain_as_they_are():
    g = np.arange(40.0)
    perfect, nearly = np.arange(50, 58.0), np.r_[np.arange(50, 57.0), 38.5]
    found = compare(
        {"a": [(perfect, g)], "b": [(nearly, g)], "c": [(perfect, g)]}, [(np.arange(8), np.arange(40))], "a"
    )
    b, c = found.set_index("score").loc["b"], found.set_index("score").loc["c"]
    short = wilson(8, 8)[0] - 1
    assert b.difference_low == pytest.approx(b.difference + short)
    assert b.difference_low < 0 < b.difference
    assert (c.difference_low, c.difference_high) == pytest.approx((short, -short))
