"""The chapter on duplicates: samples planted at known places, curves with known crossings, shares counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness.denoisers import Empirical
from spikiness.statistics import INSIDE, LATER, Interval, hull
from spikiness_book import zoo
from spikiness_book.chapters.duplicates import measure as duplicates


def pool(n=12, seed=0):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def network(seed=3, stages=1):
    """Copies 1 (6 images), 2 and 5 (2 images each), with the empirical denoiser of the set at every stage."""
    chosen, copies = zoo.repeated_set(12, 10, [2, 5], 2, seed)
    x = pool()[chosen]
    denoisers = [Empirical(x.repeat_interleave(copies, dim=0))] * stages
    return zoo.Trained("unet:noise", seed, 8, x, copies, [100 * 2**k for k in range(stages)], denoisers)


def planted(net, times):
    """Samples: `times[i]` copies of image i, and one half-way between the first two images, which copies none."""
    x = net.x
    copies = torch.cat([x[i][None].repeat(k, 1, 1, 1) for i, k in times.items()])
    return torch.cat([copies, x[:2].mean(dim=0, keepdim=True)])


def test_the_empirical_denoiser_copies_in_every_sample():
    net = network()
    found = duplicates.rows(net, net.draw(40))
    assert found.memorized.all()
    assert found.ratio.max() < 1e-2
    assert set(found.copies) <= {1, 2, 5}


def test_rows_tell_copies_and_presentations_of_the_nearest_image():
    net = network(stages=3)
    found = duplicates.rows(net, planted(net, {0: 1, 3: 2, 7: 1}), stage=1)
    assert found.nearest.tolist()[:4] == [0, 3, 3, 7]
    assert found.copies.tolist()[:4] == [2, 5, 5, 1]
    assert found.memorized.tolist() == [True] * 4 + [False]
    assert found.presentations.tolist()[:4] == [200 * c / 20 for c in (2, 5, 5, 1)]
    assert set(found.images_seen) == {200}


def test_frequencies_and_shares_counted_by_hand():
    net = network()
    found = duplicates.rows(net, planted(net, {0: 1, 2: 4, 3: 4}))  # 10 samples, 9 of them copies
    table = duplicates.by_copies(duplicates.image_counts(found, [net])).set_index("copies")
    assert table.copied.to_dict() == {1: 0, 2: 1, 5: 8}
    assert table.images_copied.to_dict() == {1: 0, 2: 1, 5: 2}
    assert table.share.to_dict() == pytest.approx({1: 0.0, 2: 0.1, 5: 0.8})
    assert table.frequency[5] == pytest.approx(0.4)
    assert table.expected.to_dict() == pytest.approx({1: 1 / 20, 2: 2 / 20, 5: 5 / 20})
    assert table.expected_share.sum() == pytest.approx(1)
    assert table.ratio[5] == pytest.approx(0.4 / 0.25)
    assert (table.low[1], table.share_low[1]) == (0, 0)
    assert table.share_high[1] == pytest.approx(0.2775, abs=1e-3)  # Wilson's for none of 10
    assert (table.low <= table.frequency).all()
    assert (table.frequency <= table.high).all()


def test_frequencies_of_two_networks_are_means_over_both():
    nets = [network(3), network(4)]
    found = pd.concat(
        [duplicates.rows(nets[0], planted(nets[0], {2: 9})), duplicates.rows(nets[1], planted(nets[1], {2: 4}))]
    )
    table = duplicates.by_copies(duplicates.image_counts(found, nets)).set_index("copies")
    assert table.share[5] == pytest.approx((0.9 + 0.8) / 2)
    assert table.images[5] == 4
    summary = duplicates.overview(found, nets)
    assert summary.share.tolist() == pytest.approx([0.9, 0.8])
    assert summary.distinct.tolist() == [1, 1]
    assert summary.repeated_share.tolist() == pytest.approx([14 / 20] * 2)
    value, (low, high) = hull(summary.share, summary.low, summary.high)
    assert value == pytest.approx(0.85)
    assert low == summary.low.min()
    assert high == summary.high.max()


def test_memorized_share_by_copies_never_has_an_interval_without_width():
    net = network()
    found = duplicates.rows(net, planted(net, {0: 3, 2: 4, 3: 4, 6: 1}))
    table = duplicates.memorized_by(found, ["copies", "seed"]).set_index("copies")
    assert table.share[5] == 1
    assert table.n.sum() == len(found)
    assert (table.high - table.low > 0.05).all()


def test_image_flip_lies_where_half_of_the_images_are_copied():
    copies = np.repeat([1, 4, 16, 64], 20)
    counts = pd.DataFrame({"copies": copies, "copied": [int(c >= 16) for c in copies]})
    flip = duplicates.image_flip(counts)
    assert (flip.value, flip.where) == (pytest.approx(8.0), INSIDE)
    assert flip.interval[0] <= flip.value <= flip.interval[1]
    assert (flip.interval.level, flip.interval.over) == (0.95, "training images")


def test_logistic_regression_finds_planted_slopes():
    x = np.random.default_rng(0).normal(size=(400, 2))
    trials = np.full(400, 10_000)
    hits = trials / (1 + np.exp(-(0.3 + 2.0 * x[:, 0] - 1.0 * x[:, 1])))
    assert duplicates.slopes(x, hits, trials) == pytest.approx([2.0, -1.0], abs=1e-3)


@pytest.mark.parametrize("exponent", [1.0, 0.0])
def test_collapse_is_one_for_presentations_and_zero_where_copies_do_not_count(exponent):
    rng, parts = np.random.default_rng(1), []
    for copies in (2, 8, 32):
        for seen in (100, 400, 1600, 6400):
            p = 1 / (1 + np.exp(-2 * (np.log(seen * copies**exponent) - 8)))
            hits = rng.random(400) < p
            part = pd.DataFrame({"memorized": hits, "nearest": np.arange(400) % 40 + 100 * copies})
            parts.append(part.assign(copies=copies, images_seen=seen, presentations=seen * copies / 50, seed=10))
    stages = pd.concat(parts, ignore_index=True)
    value, (low, high) = duplicates.collapse(stages, draws=50)
    assert value == pytest.approx(exponent, abs=0.12)
    assert low <= value <= high
    order = duplicates.crossings(stages)
    assert order.copies.tolist() == [2, 8, 32]
    assert duplicates.collapse(stages.assign(memorized=False)) is None


def test_networks_on_few_images_flip_between_the_sizes_tried():
    once = pd.DataFrame({"presentations": [10.0, 10.0, 40.0, 160.0], "share": [0.0, 0.1, 0.45, 0.95]})
    flip = duplicates.once_flip(once)
    assert flip.value == pytest.approx(40 * 4**0.1)
    assert (flip.interval, flip.interval.level, flip.where) == ((40, 160), None, INSIDE)


def test_flip_along_training_is_interpolated_and_says_when_it_is_a_bound():
    share = [0.0, 0.25, 0.75, 1.0]
    once = pd.DataFrame({"presentations": [10.0, 40, 160, 640], "share": share, "low": share, "high": share, "n": 20})
    flip = duplicates.flip_along(pd.concat([once.assign(seed=10), once.assign(seed=11)]))
    assert flip.value == flip.interval[0] == flip.interval[1] == pytest.approx(80)
    assert (flip.where, flip.n) == (INSIDE, 2)
    never = pd.concat([once.assign(seed=10), once.assign(share=0.1, seed=11)])
    assert duplicates.flip_along(never).where == LATER


def test_a_flip_in_presentations_keeps_what_its_interval_is():
    flip = duplicates.Flip(4.0, Interval(2, 8, over="training images"), LATER, 10).times(2.5)
    assert (flip.value, flip.interval, flip.where, flip.n) == (10.0, (5.0, 20.0), LATER, 10)
    assert (flip.interval.level, flip.interval.over) == (0.95, "training images")


def test_networks_that_see_each_image_once_along_their_training():
    def once(n):
        x = pool()[:n]
        seen = zoo.stages(1280)
        ones = torch.ones(n, dtype=torch.int64)
        return zoo.Trained("unet:noise", 10, 8, x, ones, seen, [Empirical(x)] * len(seen))

    found = duplicates.each_once([once(3), once(6)], 12, along=True)
    assert len(found) == 2 * zoo.STAGES
    assert (found.share == 1).all()
    ends = duplicates.each_once([once(3), once(6)], 12)
    assert ends.n.tolist() == [6, 3]
    assert ends.presentations.tolist() == pytest.approx([1280 / 6, 1280 / 3])


def test_grid_shows_each_repeated_image_beside_its_closest_copy():
    net = network()
    drawn = planted(net, {0: 2, 2: 1, 3: 2, 7: 1})
    pictures, captions, frame = duplicates.grid(net, drawn, duplicates.rows(net, drawn))
    assert captions["repeated images"] == ["2 copies", "5 copies", "5 copies"]
    np.testing.assert_array_equal(pictures["repeated images"], pictures["samples that copy them"])
    assert len(pictures["new samples"]) == 1
    assert len(frame) == 8
