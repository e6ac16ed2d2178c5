"""The hybrid chapter's functions on networks and tables whose answer is known by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book.chapters.hybrid import measure as hybrid


def network(w):
    net = ReLUDAE(*w.shape)
    net.w1.data = w
    return net


def by_hand(w, copies=3, clusters=None):
    """Two repeated samples on axes of R^4, two others elsewhere, a network with the columns w [4, p]."""
    repeated = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0]])
    once = clusters or (torch.tensor([[0, 0, 1.0, 0]]), torch.tensor([[0, 0, 0, 5.0]]))
    case = hybrid.with_copies((repeated, once), copies, w.shape[1], 0.5, 0.1, 7, hybrid.IMAGES, (1.0, 2.0))
    return replace(case, network=network(w))


def at_the_minimizer(seed=0, copies=8):
    """A mixture with repeated samples, and the network that Theorem 3.1 constructs for it."""
    samples = hybrid.gaussians(300, 30, [6.0] * 3, seed)
    case = hybrid.with_copies(samples, copies, 21, 0.2, 1e-3, seed, hybrid.MODES, (1.0, 1.0, 1.0))
    return replace(case, network=network(theory.block_minimizer(*case.theorem).float()))


def test_training_set_holds_copies_once_samples_once_and_none_without_copies():
    case = by_hand(torch.eye(4))
    assert case.x.shape == (8, 4)
    assert [(case.x == row).all(dim=1).sum().item() for row in (*case.repeated, *case.once)] == [3, 3, 1, 1]
    once = (torch.tensor([[0, 0, 1.0, 0]]), torch.tensor([[0, 0, 0, 5.0]]))
    assert torch.equal(case.once, torch.cat(once))
    assert torch.equal(by_hand(torch.eye(4), copies=0).x, case.once)
    assert torch.equal(by_hand(torch.eye(4), copies=0).distinct, case.distinct)


def test_stored_reads_planted_columns_and_gives_the_gains_of_corollary_3_4():
    w = torch.tensor(
        [[0.6, 0, 0, 0], [0.3, 0, 0, 0], [0, 0.1, 0.9, 0.5]]
    ).T  # two columns of sample 0, none of sample 1
    rows = hybrid.stored(by_hand(w))
    assert rows.stored.tolist() == [True, False]
    assert rows.learned.tolist() == pytest.approx([0.6**2 + 0.3**2, 0.0])
    n = 8  # copies counted; (|x|^2 - n lambda / c) / (|x|^2 + sigma^2)
    assert rows.predicted.tolist() == pytest.approx([(4 - n * 0.1 / 3) / 4.25, (9 - n * 0.1 / 3) / 9.25])
    assert rows.cosine.tolist() == pytest.approx([1.0, 0.1 / np.sqrt(0.01 + 0.81 + 0.25)])


def test_singletons_finds_a_planted_one_and_leaves_columns_of_repeated_samples_and_dying_ones_out():
    w = torch.tensor([[0.9, 0, 0, 0], [0, 0, 0.8, 0], [0, 0, 0, 0.01], [0, 0, 0.5, 0.5]]).T
    row = hybrid.singletons(by_hand(w))
    assert (row["singletons"], row["singletons_stored"]) == (2, 1)
    assert (row["columns"], row["other_columns"]) == (3, 1)
    assert row["singleton_cosine"] == pytest.approx(1.0)
    near = by_hand(torch.tensor([[0.9, 0, 0.05, 0]]).T, clusters=(torch.tensor([[2.0, 0, 0.3, 0]]),))
    assert (
        hybrid.singletons(near)["singletons_stored"] == 0
    )  # within STORES of the other, but nearer to the repeated one


def test_network_of_the_theorem_has_no_operator_error_and_stores_exactly_the_repeated_samples():
    case = at_the_minimizer()
    rows, errors = hybrid.stored(case), hybrid.mode_errors(case)
    assert rows.stored.all()
    assert rows.cosine.min() > 0.9999
    np.testing.assert_allclose(rows.learned, rows.predicted, rtol=1e-4)
    assert errors.error.max() < 1e-4
    assert errors.beta.max() < 0
    assert set(errors.repeated) == {"with"}
    assert hybrid.singletons(case)["singletons_stored"] == 0


def test_its_representations_are_spiky_for_repeated_samples_and_spread_for_the_others():
    case = at_the_minimizer()
    rows = hybrid.representation_rows(case, hybrid.new_samples(case, 40), draws=3)
    assert rows.group.value_counts().to_dict() == {"seen once": 300, "never seen": 40, "repeated": 9}
    mean = rows.groupby("group").participation_ratio.mean()
    assert mean["repeated"] < 1.05
    assert min(mean["seen once"], mean["never seen"]) > 3
    pair = hybrid.against(rows, "never seen", "mixture")
    assert pair.regime.value_counts().to_dict() == {"generalized": 40, "memorized": 9}
    heights = hybrid.bars(case, "mixture")
    assert heights.groupby("panel").h.apply(lambda h: (h > 0.1).sum()).to_dict() == {
        "mixture, repeated": 1,
        "mixture, seen once": 6,
    }


def test_new_samples_come_from_the_same_modes_and_are_new():
    case = at_the_minimizer()
    fresh = hybrid.new_samples(case, 40)
    assert len(fresh) == 40
    assert torch.cdist(fresh, case.once).min() > 0.1
    means = torch.stack([x.mean(dim=0) for x in case.modes])
    assert torch.cdist(fresh, means).amin(dim=1).max() < 3  # modes are about 6.6 apart


def sweep(stored_at, threshold, copies=(1, 4, 16, 64)):
    return pd.DataFrame(
        {
            "copies": list(copies) * len(stored_at),
            "stored": [c >= at for at in stored_at for c in copies],
            "image": np.repeat(range(len(stored_at)), len(copies)),
            "threshold": np.repeat(threshold, len(copies)),
            "setting": "images",
            "seed": np.repeat(range(len(stored_at)), len(copies)),
        }
    )


def test_flips_lie_between_the_numbers_tried_and_mark_the_open_ones():
    rows = sweep([16, 1, 1000, 64], [8.0, 2.0, 32.0, np.nan]).sample(frac=1, random_state=0)  # in any order
    found = hybrid.flips(rows).sort_values("image")
    assert found.found.tolist() == [8.0, 1.0, 64.0, 32.0]
    assert found.open.tolist() == [False, True, True, False]
    assert found.ratio.tolist()[:3] == [1.0, 0.5, 2.0]
    value, (low, high) = hybrid.ratio(found)
    assert value == pytest.approx(1.0)
    assert low < 0.6
    assert high > 1.9


def test_flips_count_from_where_a_sample_stays_stored():
    rows = sweep([1], [8.0]).assign(stored=[False, True, False, True])
    assert hybrid.flips(rows).found.item() == 32.0


def test_ratio_interval_is_as_wide_as_the_numbers_tried():
    value, interval = hybrid.ratio(hybrid.flips(sweep([16, 16], [8.0, 8.0])))
    assert (value, interval) == (pytest.approx(1.0), (pytest.approx(0.5), pytest.approx(2.0)))
    assert interval.level == 0.95
    assert "numbers tried" in interval.over


def test_choose_repeats_images_that_point_apart_and_clusters_the_rest_by_label():
    generator = torch.Generator().manual_seed(0)
    pool, labels = torch.randn(60, 1, 3, 3, generator=generator), torch.arange(60) % 3
    repeated, clusters = hybrid.choose(pool, labels, 40, 3, seed=1)
    assert ((repeated @ repeated.T)[~torch.eye(3, dtype=torch.bool)] < 0).all()
    assert sum(map(len, clusters)) == 37
    assert len(clusters) == 3
    centred = pool.flatten(1) - pool.flatten(1).mean(dim=0)
    for k, x in enumerate(clusters):
        assert torch.cdist(x, centred[labels == k]).amin(dim=1).max() < 1e-3
    assert torch.cdist(repeated, torch.cat(clusters)).min() > 1e-3
    with pytest.raises(SpikinessError, match="61"):
        hybrid.choose(pool, labels, 61, 3, seed=1)


def test_plan_mixture_sweeps_both_widths_and_looks_at_the_modes_with_and_without():
    cases = hybrid.plan_mixture(60, [2, 8], [16, 30], 0.2, [1e-3, 0.02], [3])
    kinds = [(c.group, c.copies, c.width, c.lam) for c in cases]
    assert kinds == [
        (hybrid.AMPLE, 2, 30, 0.02),
        (hybrid.AMPLE, 8, 30, 0.02),
        (hybrid.TIGHT, 2, 16, 0.02),
        (hybrid.TIGHT, 8, 16, 0.02),
        (hybrid.MODES, 0, 30, 1e-3),
        (hybrid.MODES, 8, 30, 1e-3),
    ]
    lengths = cases[0].repeated.norm(dim=1)
    assert lengths.tolist() == pytest.approx(list(hybrid.LENGTHS), rel=1e-5)
    assert list(cases[0].threshold) == sorted(cases[0].threshold, reverse=True)  # short samples need more copies


def test_columns_as_images_shows_the_column_of_each_repeated_image_and_the_strongest_others():
    w = torch.tensor([[0, 0, 0.3, 0.3], [0, 0.7, 0, 0], [0.9, 0, 0, 0], [0, 0, 0, 0.01]]).T
    rows, captions, frame = hybrid.columns_as_images(by_hand(w), (2, 2))
    np.testing.assert_allclose(rows["columns that store them"].reshape(2, 4), w.T[[2, 1]].numpy())
    np.testing.assert_allclose(rows["other columns"].reshape(1, 4), w.T[[0]].numpy())
    assert captions["columns that store them"] == ["1.000", "1.000"]
    assert captions["other columns"] == ["0.707"]
    assert frame.row.value_counts().to_dict() == {
        "repeated images": 2,
        "columns that store them": 2,
        "other columns": 1,
    }
