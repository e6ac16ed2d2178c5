"""The generalization chapter's numbers on networks built by hand: the theory's own, planted columns, linear maps."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spikiness import images, measures, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book import two_layers
from spikiness_book.chapters.generalization import images as on_images
from spikiness_book.chapters.generalization import measure as experiment
from spikiness_book.chapters.generalization.measure import MAIN, MixtureProblem
from spikiness_book.two_layers import RANK, Problem


class _Linear:
    """y -> gain * y, in the place of a network."""

    def __init__(self, gain, record=None):
        self.gain, self.record = gain, record

    def __call__(self, y, sigma=None):
        return self.gain * y


def _network(w):
    network = ReLUDAE(*w.shape)
    network.w1.data = w
    network.record = {"stationarity": 0.0}
    return network


@pytest.fixture(scope="module")
def case():
    """The main setting with the network of Theorem 3.1, in float32 as trained ones are."""
    mixture = two_layers.mixture_with_tail(seed=1)
    case = MixtureProblem(mixture.halves(300, 1)[0], 24, 0.2, 5e-4, 1, MAIN, mixture=mixture)
    return replace(case, network=_network(theory.block_minimizer(*case.theorem, steps=10)))


def _problem(group, sigma, lam, x, network):
    return Problem((x,), 2, sigma, lam, 0, group, network=network)


def test_the_mixtures_are_as_described():
    for setting in experiment.SETTINGS.values():
        here = two_layers.mixture_with_tail(0, setting.modes, setting.spread)
        cosines = here.means @ here.means.T / 36
        off = cosines[~torch.eye(setting.modes, dtype=torch.bool)]
        assert torch.allclose(off, torch.full_like(off, -1 / (setting.modes - 1)), atol=1e-5)
        strong = here.factors[..., :RANK]
        assert (here.means @ strong).abs().max() < 1e-4
        x, label = here.draw(20_000, seed=3)
        for k in range(setting.modes):
            sampled = x[label == k].T @ x[label == k] / int((label == k).sum())
            assert (sampled - here.moments[k]).norm() < 0.05 * here.moments[k].norm()


def test_the_plan_has_disjoint_halves_and_nested_sizes():
    cases = experiment.plan([30, 90], seeds=[0, 1, 2, 3], width=24, sigma=0.2, lam=5e-4)
    main = [c for c in cases if c.group == MAIN]
    assert sorted(len(c.x) for c in main) == [30] * 7 + [90] * 7  # four seeds, three with a second half
    assert len(cases) - len(main) == 3 * 3
    assert {c.width for c in cases if c.group == "no spare units"} == {3 * (RANK + 1)}
    first, second = (c for c in main if c.seed == 0 and len(c.x) == 90)
    assert torch.cdist(first.x, second.x).min() > 1e-3
    small = next(c for c in main if c.seed == 0 and len(c.x) == 30)
    assert measures.nearest(small.x, first.x, k=1)[0].max() == 0


def test_the_block_minimizer_has_no_operator_error_and_the_predicted_losses(case):
    row = experiment.summary(case)
    assert row["operator_error"] < 1e-5
    assert row["shared_units"] == 0
    assert abs(row["train_error"]) < 0.02
    assert abs(row["test_error"]) < 0.02
    assert row["alpha"] < 0.5
    assert row["beta"] < 0
    gains = experiment.block_gains(case)
    assert len(gains) == sum(case.widths)
    assert (gains.learned - gains.predicted).abs().max() < 1e-5
    assert gains.elsewhere.max() < 1e-5


def test_a_changed_gain_is_seen(case):
    louder = replace(case, network=_network(case.network.w1.detach() * 2**0.5))  # W W^T is doubled
    assert experiment.summary(louder)["operator_error"] == pytest.approx(1, abs=1e-4)
    gains = experiment.block_gains(louder)
    assert ((gains.learned / gains.predicted - 2).abs() < 1e-4).all()


def test_the_limit_is_that_of_many_samples_and_above_the_ground_truth(case):
    found = experiment.limits(case)
    many = case.mixture.halves(30_000, 1)[0]
    expected = theory.predicted_loss(many, [RANK + 1] * 3, case.sigma, case.lam)
    assert found["limit"] == pytest.approx(expected, rel=0.01)
    # f_gt by hand: modes are far apart, so sigma^2 t / (t + sigma^2) per eigenvalue t of Sigma
    t = torch.linalg.eigvalsh(case.mixture.factors[0] @ case.mixture.factors[0].T)
    assert found["truth"] == pytest.approx(float((0.04 * t / (t + 0.04)).sum()), rel=0.03)
    assert found["truth"] < found["limit"]
    curve = experiment.predicted_curve([case, replace(case, clusters=case.mixture.halves(60, 1)[0])], points=3)
    few, most = (curve[curve.n == n].iloc[0] for n in (60, 300))
    assert few.train < most.train < found["limit"] < most.test < few.test


def test_distances_of_the_network_to_itself_and_to_the_references(case):
    found = experiment.distances([case, replace(case, half=1)]).set_index("between").distance
    assert found["networks of two halves"] == 0
    gap = experiment.limits(case)
    rough = math.sqrt((gap["limit"] - gap["truth"]) / 36)  # E|f - x|^2 = E|f - f_gt|^2 + E|f_gt - x|^2
    assert found["limit and ground truth"] == pytest.approx(rough, rel=0.01)
    assert found["network and ground truth"] == pytest.approx(rough, rel=0.3)
    assert found["network and empirical"] > found["network and ground truth"]
    alone = experiment.distances([case])  # a seed without a second half
    assert len(alone) == 3
    assert "networks of two halves" not in set(alone.between)


def test_participation_counts_units_of_the_block(case):
    means = torch.stack([c.mean(dim=0) for c in case.clusters]) / 6  # [K, d]
    even = _network(torch.cat([means, means, means]).T)
    assert torch.allclose(experiment.participation(replace(case, network=even), 50), torch.ones(50))
    uneven = _network(torch.cat([means, 3 * means]).T)  # (1 + 9)^2 / (1 + 81) of 2 units
    assert torch.allclose(experiment.participation(replace(case, network=uneven), 50), torch.full((50,), 100 / 82 / 2))
    panels = experiment.representations(replace(case, network=uneven))
    assert [len(h) for h in panels.values()] == [6, 6, 6]
    assert [int(h.argmax()) for h in panels.values()] == [0, 2, 4]  # its own mode's stronger unit comes first


def test_balance_lists_every_training_and_the_theory(case, monkeypatch):
    monkeypatch.setattr(two_layers, "train", lambda problems, batch, steps: problems)
    found = experiment.balance([case], batch=128, steps=100)
    assert sorted(zip(found.steps, found.batch, strict=True)) == sorted(
        [("100 steps", b) for b in (16, 64, 128)] + [("200 steps", 64)] + [("theory", b) for b in (16, 64, 128)]
    )
    assert found.participation.nunique() <= 2  # one network throughout: the block minimizer, here and there
    assert found.participation.min() > 0.6


def test_energy_below_and_the_summary_of_planted_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator) * torch.tensor([3.0, 2.0, 1.0, 0.1, 0.1, 0.1]) + 1
    moment = on_images.second_moment(x)
    axes = on_images.principal(moment)
    assert torch.allclose(moment, (x.T @ x / 300).double(), atol=1e-4)
    energy = (axes.T @ moment @ axes).diagonal()
    assert torch.allclose(axes * energy @ axes.T, moment)
    assert (energy.diff() < 0).all()
    w = (axes[:, :3] * torch.tensor([2.0, 1.0, 0.0])).float()
    expected = torch.tensor([0.8, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert torch.allclose(on_images.energy_below(w, axes), expected, atol=1e-6)
    row = on_images.image_summary(_problem("all", 0.2, 0.5, x, _network(w)), moment)
    assert row["kept"] == 3
    assert row["share"] == pytest.approx(1)
    assert row["chance"] == 0.5
    stored = x[:2].T.contiguous()  # two columns that are images
    row = on_images.image_summary(_problem("all", 0.2, 0.0, x, _network(stored)), moment)
    assert row["cosine"] == pytest.approx(1)
    assert row["typical"] == pytest.approx(1)
    row = on_images.memorizing_summary(_problem("memorizing", 0.2, 0.0, x[:2], _network(stored)), axes, 6)
    assert row["typical"] == pytest.approx(1)
    assert row["share"] == pytest.approx(1)


def test_the_block_of_one_mode_has_no_error_on_images_with_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(400, 5, generator=generator) * torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1])
    w = theory.block_minimizer([x], [4], 0.1, 0.01, steps=5)
    row = on_images.image_summary(_problem("all", 0.1, 0.01, x, _network(w)), on_images.second_moment(x))
    assert row["operator_error"] < 1e-5
    assert row["loss_ratio"] == pytest.approx(1, abs=0.02)
    rows = on_images.noise_rows(pd.DataFrame([row])).set_index("measure").value
    assert rows["operator error"] < 1e-5
    assert rows["loss error"] < 0.02
    assert rows["energy outside"] < 1e-6


def test_image_halves_and_plan():
    pool = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    cases = on_images.plan_images(torch.cat([pool, pool]), [5, 20], [0, 1], 8, 0.2, [0.2, 1.0], 0.1)
    assert [c.group for c in cases].count("all") == 4
    assert len(cases) == 2 * (2 + 4)
    first, second = (c for c in cases if c.seed == 1 and len(c.x) == 20)
    assert torch.cdist(first.x, second.x).min() > 1e-3  # the pool's copies are not on both sides
    trained = [replace(c, network=_Linear(0.5 if c.group == "first half" else 0.4)) for c in cases]
    test = pool.flatten(1) + 10  # a large mean, which the variation leaves out
    found = on_images.image_halves(trained, test)
    assert len(found) == 4
    assert found.distance.to_numpy() == pytest.approx([0.25] * 4)
    assert (found.of_variation > 5 * found.distance).all()


def test_psnr_gaps_see_what_each_network_sees():
    mean = torch.full((4,), 0.5)
    centered = torch.tensor([[0.25, -0.25, 0.25, -0.25]])
    test = torch.tensor([[0.5, 0.5, 0.5, -0.5]])
    few = _problem("memorizing", 1e-6, 0.1, centered, _Linear(1.0))
    blank = _problem("all", 1e-6, 0.1, centered, _Linear(0.0))
    found = on_images.psnr_gaps([replace(few, network=_Linear(0.0)), blank], test, mean, draws=3).set_index("group")
    # gains of 0: the memorizing network answers the mean, the other one zero
    assert found.train["memorizing"] == pytest.approx(10 * math.log10(4 / 0.0625), abs=1e-3)
    assert found.test["memorizing"] == pytest.approx(10 * math.log10(4 / 0.25), abs=1e-3)
    assert found.train["all"] == pytest.approx(10 * math.log10(4 / 0.0625), abs=1e-3)
    assert found.test["all"] == pytest.approx(10 * math.log10(4 / 0.25), abs=1e-3)
    assert found.noisy.min() > 60  # hardly any noise
    assert found.gap["all"] == pytest.approx(found.train["all"] - found.test["all"])


def test_pictures_and_spectra_fit_together():
    pool = images.load("digits", gray=True).x[:60]
    x, mean = pool.flatten(1), pool.flatten(1).mean(dim=0)
    moment = on_images.second_moment(x)
    axes = on_images.principal(moment)
    general = _problem("all", 0.2, 0.1, x, _network(axes[:, :10].float()))
    few = _problem("memorizing", 0.2, 0.1, x[:3] - mean, _network((x[:3] - mean).T.contiguous()))
    rows, captions, frame = on_images.column_pictures(general, few, (8, 8), count=4)
    assert [len(v) for v in rows.values()] == [4, 4, 3, 3, 4]
    assert len(frame) == 18
    assert captions["memorizing:\nnearest images"] == ["cos 1.00"] * 3
    rows, captions, frame = on_images.denoising_pictures(few, general, x[50:], mean, (8, 8), count=2)
    assert captions["clean"] == ["train", "train", "test", "test"]
    assert len(frame) == 16
    curves = on_images.spectra([general], [few], moment).set_index("columns").share
    assert curves["generalizing"].to_numpy()[9:] == pytest.approx(1)
    assert all(curves[name].max() <= 1 + 1e-9 for name in ("theory", "random", "memorizing"))


def test_regimes_show_the_strongest_columns_and_ordered_activations():
    few, many = ReLUDAE(4, 3), ReLUDAE(4, 3)
    few.w1.data = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0]))[:, :3]
    x = torch.tensor([[5.0, 0.0, 1.0, 0.0]])
    cases = [_problem("memorizing", 1e-6, 0.1, x, few), _problem("all", 1e-6, 0.1, x, many)]
    sides, table = on_images.regimes(*cases, shape=(2, 2), count=2)
    columns, heights = sides["few images"]
    assert columns.reshape(2, 4).tolist() == [[0, 0, 3, 0], [0, 2, 0, 0]]
    assert heights.tolist() == pytest.approx([5, 3, 0], abs=1e-4)
    assert len(table) == 6
