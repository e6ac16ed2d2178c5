"""The chapter on dynamics: planted curves with known times and slopes, closed-form denoisers, choices known by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from spikiness import detection, representations
from spikiness.denoisers import EDM, Empirical
from spikiness.networks.unet import UNet
from spikiness.statistics import EARLIER, INSIDE, LATER
from spikiness_book import zoo
from spikiness_book.chapters.dynamics import measure as dynamics


def pool(n=12, seed=0):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


class Keeps(nn.Module):
    """An empirical denoiser with the weight of EDM's loss."""

    def __init__(self, train):
        super().__init__()
        self.inner = Empirical(train)

    def forward(self, y, sigma):
        return self.inner(y, sigma)

    def loss_weight(self, level):
        return 1 / level.square()


def trained(x, seen, stages, seed=10):
    return zoo.Trained("unet:noise", seed, 8, x, torch.ones(len(x), dtype=torch.int64), seen, stages)


def unet(seed=0):
    return EDM(UNet(1, 4, 8, generator=torch.Generator().manual_seed(seed)), 1.0)


def stages(quality, share, n=20, seed=10):
    quality, share = np.array(quality), np.array(share)
    frame = pd.DataFrame({"images_seen": [100.0 * 4**k for k in range(len(share))], "share": share})
    frame = frame.assign(n=n, seed=seed, low=(share - 0.1).clip(0), high=(share + 0.1).clip(max=1), quality=quality)
    return frame.assign(quality_low=quality - 1, quality_high=quality + 1)


def test_noise_belongs_to_the_image_and_is_not_that_of_its_sample():
    x = torch.zeros(4, 1, 4, 4)
    first = dynamics.noisy(x, 2.0, 7)
    assert torch.equal(first[:2], dynamics.noisy(x[:2], 2.0, 7))
    assert first.std() == pytest.approx(2.0, rel=0.3)
    start = dynamics.Noise(x.shape[1:], zoo.initial_seeds(4, 7), x.device, x.dtype)()
    assert not torch.allclose(first / 2, start)


def test_loss_of_the_empirical_denoiser_is_small_on_its_own_images_only():
    x = pool()
    keeps = Keeps(x[:6])
    mine, other = dynamics.losses(keeps, x[:6], 0, [0.05], weigh=False), dynamics.losses(keeps, x[6:], 0, [0.05], False)
    assert mine.max() < 1e-6
    nearest = torch.cdist(x[6:].flatten(1), x[:6].flatten(1)).amin(dim=1).square() / 16
    torch.testing.assert_close(other, nearest, rtol=0.5, atol=0.1)
    weighed = dynamics.losses(keeps, x[6:], 0, [0.05])
    torch.testing.assert_close(weighed, other / 0.05**2)


def test_following_a_network_that_memorizes_finds_copies_and_no_distance():
    x = pool(30)
    network = trained(x[:6], [50, 100], [Keeps(x[:6])] * 2)
    found = dynamics.follow(network, x[6:], lambda images: images.flatten(1).abs(), 24, 0.5)
    assert found.share.tolist() == [1, 1]
    assert (found.low < 0.99).all()
    assert found.to_empirical.tolist() == [0, 0]
    assert (found.train < found.held).all()
    assert (found.train_low < found.train).all()
    assert dynamics.chance_copies([network], x[6:])[6, 10] < 0.4


def test_times_are_interpolated_and_bounds_are_marked():
    rows = pd.concat(
        [
            stages([90, 50, 10, 10], [0, 0.25, 0.75, 1.0], n=20),
            stages([9, 8, 9, 9], [0, 0, 0, 0.1], n=700),
        ]
    )
    table = dynamics.times(rows, real=1.0, factor=3.0).set_index(["n", "kind"])
    assert table.images_seen[20, dynamics.COPIES] == pytest.approx(800)
    assert table.bound[20, dynamics.COPIES] == INSIDE
    assert table.low[20, dynamics.COPIES] < 800 < table.high[20, dynamics.COPIES]
    assert table.images_seen[20, dynamics.GOOD] == pytest.approx(400 * 4**0.5)  # half-way from 50 to 10
    assert table.level[20, dynamics.GOOD] == pytest.approx(30)
    assert table.bound[700, dynamics.COPIES] == LATER
    assert table.images_seen[700, dynamics.COPIES] == 6400
    assert table.bound[700, dynamics.GOOD] == EARLIER


def grown(n, seen, bound="inside"):
    frame = pd.DataFrame({"n": n, "images_seen": seen, "bound": bound})
    return frame.assign(kind=dynamics.COPIES, seed=10, low=frame.images_seen / 1.1, high=frame.images_seen * 1.1)


def test_growth_finds_a_planted_exponent():
    n = np.repeat([20, 50, 100], 3)
    found = dynamics.growth(grown(n, 7.0 * n**1.5))
    assert found.slope == pytest.approx(1.5)
    assert found.interval[0] < 1.5 < found.interval[1]
    assert (found.used, found.bound) == (9, False)


def test_growth_with_one_size_that_copies_is_a_lower_bound_and_with_none_is_nothing():
    found = dynamics.growth(grown([10, 1000], [100.0, 10_000.0], ["inside", "after"]))
    assert found.bound
    assert found.slope == pytest.approx(1.0)
    assert dynamics.growth(grown([10, 1000], [100.0, 100.0], "after")) is None
    assert dynamics.growth(grown([10, 10], [100.0, 110.0])) is None
    assert dynamics.growth(grown([10, 1000], [100.0, 10_000.0], ["after", "inside"])) is None


def table(rows):
    found = pd.DataFrame(rows, columns=["model", "layer", "pool", "measure", "sigma", "auroc"])
    return found.assign(cost=found.layer.map(dict.fromkeys("abcd", 0.5)))


def test_choice_is_the_best_of_the_worst_in_one_direction():
    rows = [(s, "a", "all", "std", 0.2, v) for s, v in ((0, 0.99), (1, 0.2))]  # flips from one network to the next
    rows += [(s, "b", "all", "std", 0.2, v) for s, v in ((0, 0.8), (1, 0.75))]
    rows += [(s, "c", "all", "std", 0.2, v) for s, v in ((0, 0.1), (1, 0.15))]
    rows += [(s, "d", "all", "participation_ratio", 0.2, v) for s, v in ((0, 0.18), (1, 0.22))]
    (free, worst), (spiky, worst_spiky) = dynamics.choose(table(rows)), dynamics.choose(table(rows), spiky=True)
    assert (free.layer, free.direction, worst) == ("c", -1, pytest.approx(0.85))
    assert (spiky.layer, spiky.direction, worst_spiky) == ("d", -1, pytest.approx(0.78))  # few units: spiky
    assert dynamics.spikier(table(rows)) == pytest.approx(5 / 8)


def test_calibration_tries_every_setting_on_the_samples_of_each_network():
    net, x = unet(), pool(20)
    network = trained(x[:10], [10], [net], seed=3)
    mask = np.arange(20) < 8
    found = dynamics.calibrate([network], [x], [mask], [0.3])
    assert not found.layer.str.contains("embed").any()
    assert len(found) == found.layer.nunique() * 3 * len(dynamics.TRIED)
    row = found[(found["pool"] == "max") & (found.measure == "kurtosis")].iloc[3]
    y = representations.noisy(x, 0.3, seed=3)
    score = dynamics.measures.kurtosis(representations.capture(net, row.layer, y, 0.3, "max")).numpy()
    assert row.auroc == pytest.approx(roc_auc_score(mask, score))


def test_stand_in_is_used_only_where_too_few_are_memorized_and_says_so():
    ratio = np.linspace(0.1, 1, 100)
    found = pd.DataFrame({"ratio": ratio, "memorized": ratio < 1 / 3})
    mask, replaced = dynamics.stand_in(found)
    assert (mask.sum(), replaced) == (26, False)
    mask, replaced = dynamics.stand_in(found.assign(memorized=False))
    assert (mask.sum(), replaced) == (10, True)
    assert mask[:10].all()


def test_warnings_compare_training_images_with_held_out_ones():
    x, net = pool(40), unet()
    choice = detection.Probe("network.act", 0.3, "all", "std", -1)
    network = trained(x[:10], [50], [net])
    found = dynamics.warnings(network, x[:10], x[10:], {dynamics.SPIKY: choice}, 2, 20).set_index("signal")
    assert set(found.index) == {dynamics.SPIKY, dynamics.LOSS, dynamics.ERROR}
    assert (found.low <= found.share).all()
    noisy = [representations.noisy(x, 0.3, 10, draw) for draw in range(2)]
    std = [dynamics.measures.std(representations.capture(net, "network.act", y, 0.3)) for y in noisy]
    score = -torch.stack(std).mean(dim=0).numpy()
    mine = dynamics.scores(net, x, {dynamics.SPIKY: choice}, 2, 10)
    np.testing.assert_allclose(mine[dynamics.SPIKY], score, rtol=1e-5)


def test_unused_leaves_out_what_a_choice_has_seen():
    x = pool(6)
    assert torch.equal(dynamics.unused(x, [x[2:3], x[:1] + 1e-3, x[5:]]), x[[0, 1, 3, 4]])


def test_first_signs_count_from_where_a_signal_stays_and_leads_compare_them():
    seen = [100.0, 400.0, 1600.0, 6400.0]
    low = {dynamics.SPIKY: [0.6, 0.4, 0.6, 0.7], dynamics.LOSS: [0.4, 0.55, 0.6, 0.7]}
    warned = pd.concat(
        [pd.DataFrame({"images_seen": seen, "low": v, "signal": k, "n": 20, "seed": 10}) for k, v in low.items()]
    )
    rows = stages([1] * 4, [0, 0, 0.15, 0.6]).assign(low=[0, 0, 0.01, 0.5])
    chance = pd.Series({(20, 10): 0.02})
    signs = dynamics.first_signs(warned, rows, chance)
    assert signs.set_index("signal").images_seen.to_dict() == {
        dynamics.SPIKY: 1600,
        dynamics.LOSS: 400,
        dynamics.APPEAR: 6400,
    }
    assert dynamics.leads(signs, dynamics.SPIKY, dynamics.APPEAR)["before"] == 1
    assert dynamics.leads(signs, dynamics.SPIKY, dynamics.LOSS)["after"] == 1
    never = dynamics.first_signs(warned, rows.assign(low=0.0), chance)
    assert dynamics.leads(never, dynamics.LOSS, dynamics.APPEAR) == {
        "before": 0,
        "same": 0,
        "after": 0,
        "alone": 1,
        "missed": 0,
    }


def test_map_of_layers_shows_the_network_nearest_to_chance_and_curves_of_losses_are_positive():
    rows = [("network.a", 0.1, 0.9), ("network.a", 0.1, 0.4), ("network.b", 0.1, 0.2), ("network.a", 0.2, 0.5)]
    tried = pd.DataFrame(rows, columns=["layer", "sigma", "auroc"]).assign(pool="all", measure="std")
    layers = dynamics.by_layer(tried, 0.1)
    assert layers.set_index("layer").auroc.to_dict() == {"a": 0.4, "b": 0.2}
    assert set(layers.what) == {"all, std"}
    rows = pd.DataFrame({"n": [20], "seed": [10], "images_seen": [100], "train": [0.5], "held": [1.0]})
    curves = dynamics.loss_curves(rows.assign(train_low=-0.1, train_high=0.6, held_low=0.9, held_high=1.1))
    assert curves.images.tolist() == ["training images", "held-out images"]
    assert curves.loss.tolist() == [0.5, 1.0]
    assert curves.low.tolist() == [0.001, 0.9]


def test_copied_images_are_each_there_once():
    x = pool(6)
    found = pd.DataFrame({"nearest": [4, 1, 4, 2]})
    assert torch.equal(dynamics.copied(trained(x, [50], [unet()]), found, np.array([1, 1, 1, 0], bool)), x[[1, 4]])
