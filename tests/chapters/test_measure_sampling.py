"""The sampling chapter's functions on networks and samples whose answer is known by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import images, sampling
from spikiness.errors import SpikinessError
from spikiness.networks.time_dae import TimeDAE
from spikiness_book.chapters.sampling import measure as chapter
from spikiness_book.chapters.sampling import record

X = torch.tensor([[3.0, 0, 0, 0], [0, 4.0, 0, 0]])


class OneColumn(TimeDAE):
    """The best denoiser without biases of images on different axes: each kept with |x|^2 / (|x|^2 + sigma^2)."""

    def encode(self, y, sigma):
        return torch.relu(y[:, :2]) * self.gains(sigma)

    def forward(self, y, sigma):
        return torch.cat([self.encode(y, sigma), torch.zeros_like(y[:, 2:])], dim=1)

    def gains(self, sigma):
        return torch.tensor([9 / (9 + sigma**2), 16 / (16 + sigma**2)])


def case(subset=chapter.FEW, x=X, network=None, seed=10):
    return chapter.SubsetNetwork(subset, seed, x, x.flip(0) + 0.5, torch.zeros(x.shape[1]), network)


def test_a_plan_has_three_networks_per_seed_of_one_draw_of_images():
    pool, unseen = images.load("digits").x[:200], images.load("digits", "test").x[:30]
    few, raw, many, *rest = chapter.plan(pool, unseen, 4, 150, [10, 11])
    assert [c.subset for c in (few, raw, many)] == [chapter.FEW, chapter.RAW, chapter.MANY]
    assert len(rest) == 3
    assert (few.regime, raw.regime, many.regime) == ("memorized", "memorized", "generalized")
    assert few.x.shape == raw.x.shape == (4, 64)
    assert many.x.shape == (150, 64)
    torch.testing.assert_close(many.x.mean(dim=0), torch.zeros(64), atol=1e-5, rtol=0)
    cosines = torch.nn.functional.normalize(few.x, dim=1) @ torch.nn.functional.normalize(few.x, dim=1).T
    assert (cosines - 2 * torch.eye(4)).max() < 0
    known = many.x + many.mean
    assert (torch.cdist(few.x + few.mean, known).amin(dim=1) < 1e-4).all()
    assert (torch.cdist(raw.x, pool.flatten(1)).amin(dim=1) == 0).all()
    assert (raw.mean == 0).all()
    torch.testing.assert_close(few.unseen + few.mean, unseen.flatten(1))


def test_a_plan_refuses_more_images_than_there_are():
    with pytest.raises(SpikinessError, match="take n of at most 20"):
        chapter.plan(torch.rand(20, 1, 2, 2), torch.rand(5, 1, 2, 2), 2, 30, [10])


def test_training_takes_each_regimes_own_settings_and_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    cases = [case(), case(chapter.MANY, torch.cat([X, -X]))]
    few, many = chapter.train(cases, 6, 20, 10, 0.01, 0.5)
    assert few.network.record["images_seen"] == 20 * chapter.BATCH
    assert few.network.record["lam"] == 0.04
    assert many.network.record["images_seen"] == 10 * chapter.BATCH
    assert many.network.record["lam"] == 2.0
    again = chapter.train(cases, 6, 20, 10, 0.01, 0.5)[0].network
    assert torch.equal(again.w, few.network.w)
    assert len(list((tmp_path / "networks").iterdir())) == 2


def test_the_network_commutes_with_scaling_so_samples_know_no_lengths():
    network = TimeDAE(4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.gate2.weight.normal_(generator=torch.Generator().manual_seed(1))
        network.skip.fill_(0.3)
    y = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(7 * y, 0.4), 7 * network(y, 0.4))


def test_copies_are_counted_as_they_are_and_by_direction():
    y = torch.tensor([[3.0, 0.1, 0, 0], [0.3, 0, 0, 0], [0, 5, 5, 0], [2, 2, 0, 0]])
    rows = chapter.copies(case(), y, source="network")
    assert rows["copy"].tolist() == [True, False, False, False]
    assert rows.copy_direction.tolist() == [True, True, False, False]
    assert rows.image.tolist()[:3] == [0, 0, 1]
    np.testing.assert_allclose(rows.length, [math.hypot(3, 0.1) / 3, 0.1, 5 * 2**0.5 / 4, 8**0.5 / 3], rtol=1e-6)
    np.testing.assert_allclose(rows.ratio[1], 2.7 / math.hypot(0.3, 4), rtol=1e-6)
    np.testing.assert_allclose(rows.ratio_direction[3], 1, rtol=1e-6)
    assert set(rows.source) == {"network"}
    assert set(rows.seed) == {10}


def test_the_closed_form_returns_training_images_by_either_sampler():
    for sampler in ("ancestral", "heun"):
        rows = chapter.copies(case(), chapter.draw(case(), 20, sampler, chapter.CLOSED))
        assert rows["copy"].all()
        assert rows.image.nunique() == 2


def test_samples_begin_with_the_noise_that_start_gives():
    seen = []

    def spy(y, sigma):
        seen.append(y)
        return y

    network = case(network=spy)
    chapter.draw(network, 3)
    assert torch.equal(seen[0], chapter.start(network, 3))
    assert not torch.equal(seen[0], chapter.start(case(seed=11), 3))


def test_all_samples_go_every_way_and_become_fractions_with_intervals():
    cases = [case(s, network=OneColumn(4, 2)) for s in (chapter.FEW, chapter.RAW, chapter.MANY)]
    rows = chapter.all_samples(cases, 8)
    ways = rows.groupby(["subset", "source", "sampler"]).size()
    assert len(ways) == 10
    assert set(ways) == {8}
    table = chapter.fractions(rows)
    assert len(table) == 20
    assert (table.low < table.high).all()
    closed = table[table.source == chapter.CLOSED]
    assert (closed.fraction == 1).all()
    assert set(closed.name) >= {"few, separable: closed form, Heun"}
    assert closed.low.between(0.6, 0.7).all()


def test_evenness_counts_images_by_the_entropy_of_their_shares():
    assert chapter.effective(np.array([0, 1, 2, 3])) == pytest.approx(4)
    assert chapter.effective(np.array([7, 7])) == pytest.approx(1)
    labels = {"subset": "a", "source": "s", "sampler": "heun", "seed": 10}
    rows = pd.DataFrame({"image": [0, 0, 1, 1, 5], "copy_direction": [True] * 4 + [False]}).assign(**labels)
    row = chapter.evenness(rows).iloc[0]
    assert row.images == 2
    assert row.effective == pytest.approx(2)
    shares = chapter.shares(rows).set_index("image").share
    assert shares.to_dict() == pytest.approx({0: 0.4, 1: 0.4, 5: 0.2})


def test_the_predicted_length_is_that_of_the_exact_path_along_one_image():
    y = torch.tensor([[1.0, -1, 0, 0]])
    predicted = chapter.predicted_length(X, y, torch.tensor([0]), 2.0)
    assert predicted.item() == pytest.approx(1 / math.sqrt(9 + 4))
    fine = sampling.geometric_sigmas(400, 0.001, 2.0)
    end = [s.y for s in sampling.heun(OneColumn(4, 2), y, fine)][-1]
    assert end[0, 0].item() / 3 == pytest.approx(predicted.item(), rel=1e-3)


def test_lengths_of_a_network_of_the_assumed_form_are_predicted():
    rows = chapter.lengths(case(network=OneColumn(4, 2)), 60)
    assert rows.copy_direction.all()
    assert 15 < len(rows) < 60
    one = rows[rows.ratio_direction < 1e-3]  # the other unit stayed silent
    np.testing.assert_allclose(one.learned, one.predicted, rtol=0.02)
    np.testing.assert_allclose(one.learned, one.own, rtol=1e-4)


def test_noisy_inputs_are_as_many_as_asked_for_from_few_images_and_many():
    assert chapter.noisy(case(), 0.1, 7).shape == (7, 4)
    assert chapter.noisy(case(x=X.repeat(10, 1)), 0.1, 7).shape == (7, 4)
    assert (chapter.noisy(case(), 1e-6, 4) - X.repeat_interleave(2, dim=0)).abs().max() < 1e-4


def test_along_sigma_a_network_is_close_to_what_it_equals():
    empirical = chapter.denoiser(case(), chapter.CLOSED)

    class Exact(OneColumn):
        def forward(self, y, sigma):
            return empirical(y, sigma)

    table = chapter.along_sigma(case(network=Exact(4, 2)), [0.01, 1.0])
    assert (table.empirical < 1e-6).all()
    assert table.wiener.iloc[1] > 0.05
    assert table.participation.iloc[0] == pytest.approx(1, abs=0.01)  # one image, one unit
    assert table["std"].iloc[0] == pytest.approx(1.75, abs=0.3)  # half of 3 or of 4
    assert table.relative_std.iloc[0] == pytest.approx(0.5, abs=0.01)


def test_the_wiener_filter_has_the_training_covariance():
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [0, 0]])
    linear = chapter.denoiser(case(x=x), chapter.LINEAR)
    torch.testing.assert_close(linear(torch.tensor([[2.0, 3.0]]), 0.5), torch.tensor([[2 * 0.5 / 0.75, 0]]))


def test_paths_end_in_samples_beside_their_nearest_image():
    rows, captions, frame = chapter.paths([case(network=OneColumn(4, 2))], (2, 2), 2)
    assert list(rows) == ["few, separable, 1", "few, separable, 2"]
    pictures = rows["few, separable, 1"]
    assert pictures.shape == (len(chapter.SHOWN) + 1, 2, 2)
    assert len(captions["few, separable, 1"]) == len(pictures)
    assert captions["few, separable, 1"][0] == "2"
    assert captions["few, separable, 1"][-1] == "nearest"
    assert any(np.array_equal(pictures[-1].ravel(), x) for x in X.numpy())
    sample = chapter.draw(case(network=OneColumn(4, 2)), 2)[0]
    np.testing.assert_allclose(pictures[-2].ravel(), sample, rtol=1e-6)
    assert len(frame) == 2 * len(pictures)


def test_newness_is_relative_to_unseen_images():
    c = case()  # unseen images lie at distance 1 from a training image each
    row = chapter.newness(c, X + torch.tensor([2.0, 0, 0, 0]))
    assert row["distance"] == pytest.approx(2)
    assert chapter.newness(c, 2 * c.unseen)["size"] == pytest.approx(2)
    assert chapter.newness(c, X)["direction"] == pytest.approx(0, abs=1e-6)


def test_quality_has_training_images_near_zero_and_far_samples_far():
    draws = torch.randn(4, 30, 4, generator=torch.Generator().manual_seed(0))
    far = OneColumn(4, 2)
    c = chapter.SubsetNetwork(chapter.MANY, 10, draws[0], draws[1], torch.full((4,), 5.0), far)
    table = chapter.quality(c, (draws[2] + 5).reshape(30, 1, 2, 2), lambda x: x.flatten(1), 40, (1, 2, 2))
    assert table.source.iloc[2] == "network, lengths restored"
    assert table.source.iloc[4] == "training images"
    assert set(table.n) == {30}
    kernel = table.set_index("source").kernel
    assert abs(kernel["training images"]) < 0.1 * kernel[chapter.NETWORK]
    assert table.precision.iloc[4] > 0.8


def test_pictures_have_the_mean_added():
    c = chapter.SubsetNetwork(chapter.MANY, 10, X, X, torch.full((4,), 5.0), OneColumn(4, 2))
    rows, frame = chapter.pictures(c, 2, (2, 2))
    assert {name: x.shape for name, x in rows.items()} == dict.fromkeys(rows, (2, 2, 2))
    assert len(frame) == 6
    assert sorted(rows["unseen images"].reshape(2, 4).tolist()) == [[5, 9, 5, 5], [8, 5, 5, 5]]


class FakeRun:
    """Keeps what is recorded: the finding's name and labels, in the order of their names, to value, interval and n."""

    def __init__(self):
        self.findings = {}

    def metric(self, name, value, interval=None, *, n=None, seeds=None, unit="", tolerance=None, **labels):
        key = (name, *(labels[label] for label in sorted(labels)))
        assert key not in self.findings
        self.findings[key] = value, interval, n


def test_a_memorized_fraction_is_of_all_seeds_of_one_way_and_one_criterion():
    run = FakeRun()
    rows = chapter.all_samples([case(network=OneColumn(4, 2), seed=seed) for seed in (10, 11)], 8)
    record.fractions(run, chapter.fractions(rows), [10, 11])
    assert len(run.findings) == 8  # two sources, two samplers, two criteria
    value, interval, n = run.findings["memorized", "distance", "heun", "closed form", "few"]
    assert (value, interval[1], interval.level, interval.over, n) == (1, 1, None, "training sets", 16)
    assert 0.6 < interval[0] < 0.7  # Wilson's of 8 out of 8, the lowest of two
    assert run.findings["memorized", "direction", "ancestral", "network", "few"][1].over == "networks"


def test_the_ratio_of_spikiness_is_that_of_few_images_to_many_at_the_same_noise_level():
    few = pd.DataFrame({"subset": chapter.FEW, "sigma": [0.1, 0.1, 1.0, 1.0], "std": [6, 8, 3, 3.0]})
    many = few.assign(subset=chapter.MANY, std=[1, 1, 2, 2.0])
    looks = pd.concat([few, many]).assign(relative_std=1.0, participation=[1, 2, 1, 2, 30, 40, 10, 20.0])
    run = FakeRun()
    record.spikiness(run, looks, [10, 11])
    assert run.findings["spikiness_ratio", "greatest", "std"][0] == 7
    assert run.findings["spikiness_ratio", "least", "std"][0] == 1.5
    assert run.findings["participation", "many"][:2] == (25, (10, 40))


def test_samples_are_recorded_by_source_and_lengths():
    names = [chapter.NETWORK, chapter.LINEAR, chapter.NETWORK + chapter.RESTORED, chapter.LINEAR + chapter.RESTORED]
    table = pd.DataFrame({"source": [*names, "training images"], "kernel": range(5), "precision": 0.5, "n": 9})
    run = FakeRun()
    run.table = lambda name, data: None
    record.quality(run, table, [10])
    found = {key[1:]: value for key, (value, *_) in run.findings.items() if key[0] == "kernel_distance"}
    assert found == {
        ("own", "network"): 0, ("own", "wiener"): 1, ("restored", "network"): 2, ("restored", "wiener"): 3,
        ("own", "training images"): 4,
    }  # fmt: skip
