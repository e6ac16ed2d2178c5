"""The rivals of the spikiness detector, against closed forms, autograd's Jacobian, scipy and hand-worked cases."""

from functools import partial

import pytest
import torch
from scipy.stats import zmap
from torch import nn
from torch.autograd.functional import jacobian

from spikiness.denoisers import EDM, Empirical, Wiener, score
from spikiness.detection import BASELINES, CONTROLS, Method, scores
from spikiness.detection.baselines import HELD_OUT, LABELS, MODEL, TRAINING
from spikiness.detection.scores import (
    FLIPD,
    Conditional,
    DenoisingError,
    Density,
    NearestTraining,
    PixelNorm,
    PixelStd,
    ScoreNorm,
    TotalVariation,
    UnitZScores,
)
from spikiness.errors import SpikinessError
from spikiness.networks import DiT, ReLUDAE, TimeDAE, UNet
from spikiness.representations import capture, noisy

LAYER = "network.up.0.act1"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(network, seed=0):
    generator = rng(seed)
    for weight in network.parameters():  # fresh networks end in zeros
        nn.init.normal_(weight, std=0.2, generator=generator)
    return network


def images(n=6, seed=0, shape=(1, 8, 8), **kinds):
    return torch.randn(n, *shape, generator=rng(seed), **kinds)


def gaussian(d=12, rank=3):
    factor = torch.randn(d, rank, generator=rng(), dtype=torch.float64)
    return torch.full((1, 3, d // 3), 0.5, dtype=torch.float64), factor


def labelled():
    return EDM(awake(UNet(1, 8, 8, classes=3)))


def every(model):
    """One of each, by the registry, with a context that serves all."""
    context = {"reference": images(20, seed=7), "layer": LAYER, "pool": "all", "train": images(9, seed=8)}
    context |= {"shape": (1, 8, 8), "count": 6, "k": 3, "steps": 3, "labels": [0, 1, 2]}
    return {name: method.make(model, 0.3, **context) for name, method in BASELINES.items()}


# ---- FLIPD


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_dimension_of_a_gaussian_is_its_closed_form(sigma):
    mean, factor = gaussian()
    model = Wiener(mean, factor @ factor.T)
    x = images(5, shape=mean.shape, dtype=torch.float64)
    energies = torch.linalg.svdvals(factor) ** 2
    inverse = torch.linalg.inv(factor @ factor.T + sigma**2 * torch.eye(12, dtype=torch.float64))
    pull = (x - mean).flatten(1) @ inverse  # minus the score of N(mean, cov + sigma^2 I)
    expected = (energies / (energies + sigma**2)).sum() + sigma**2 * pull.square().sum(dim=1)
    torch.testing.assert_close(FLIPD(model, sigma, probes=None).dimension(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(FLIPD(model, sigma, probes=None).score(x), -expected, rtol=1e-9, atol=1e-9)


def test_dimension_on_a_plane_is_that_of_the_plane():
    mean, factor = gaussian()
    coordinates = torch.randn(4, 3, generator=rng(1), dtype=torch.float64)
    on = mean + (coordinates @ factor.T).unflatten(1, mean.shape)
    found = FLIPD(Wiener(mean, factor @ factor.T), 1e-3, probes=None).dimension(on)
    torch.testing.assert_close(found, torch.full((4,), 3.0, dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_copy_of_a_finite_set_has_dimension_zero():
    train = images(5, dtype=torch.float64)
    found = FLIPD(Empirical(train), 0.2, probes=None).dimension(train)
    torch.testing.assert_close(found, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-6)


def test_random_probes_are_unbiased_with_their_known_spread():
    """Var v^T J v = sum_{i < j} (J_ij + J_ji)^2 for Rademacher v: one probe for each of 1,000 images."""
    matrix = torch.randn(12, 12, generator=rng(), dtype=torch.float64)

    def linear(y, sigma):
        return (y.flatten(1) @ matrix.T).reshape(y.shape)

    x = images(1000, shape=(1, 3, 4), dtype=torch.float64)
    exact = FLIPD(linear, 0.5, probes=None).dimension(x)
    torch.testing.assert_close(exact, matrix.trace() + 4 * (linear(x, 0) - x).flatten(1).square().sum(dim=1))
    spread = (matrix + matrix.T).triu(1).square().sum().sqrt().item()
    error = FLIPD(linear, 0.5).dimension(x) - exact
    assert abs(error.mean().item()) < 4 * spread / 1000**0.5
    assert error.std().item() == pytest.approx(spread, rel=0.15)
    averaged = FLIPD(linear, 0.5, probes=25).dimension(x) - exact
    assert averaged.std().item() == pytest.approx(spread / 5, rel=0.15)
    assert not torch.equal(error, FLIPD(linear, 0.5, seed=1).dimension(x) - exact)


@pytest.mark.parametrize(
    "model",
    [EDM(awake(UNet(1, 8, 8))), EDM(awake(DiT(1, 8, 16, 2))), awake(ReLUDAE(64, 20)), awake(TimeDAE(64, 20))],
    ids=["UNet", "DiT", "ReLUDAE", "TimeDAE"],
)
def test_exact_trace_is_that_of_autograds_jacobian(model):
    model = model.double()
    x = images(3, dtype=torch.float64)
    whole = [jacobian(lambda y: model(y, 0.4), x[i : i + 1]).reshape(64, 64) for i in range(3)]
    residual = (model(x, 0.4) - x).detach().flatten(1)
    expected = torch.stack([j.trace() for j in whole]) + residual.square().sum(dim=1) / 0.4**2
    torch.testing.assert_close(FLIPD(model, 0.4, probes=None).dimension(x), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(FLIPD(model, 0.4, probes=None, batch=2).dimension(x), expected, rtol=1e-8, atol=1e-8)


# ---- the other readings of a model


def test_score_norm_is_that_of_the_score():
    mean, factor = gaussian()
    model, x = Wiener(mean, factor @ factor.T), images(5, shape=(1, 3, 4), dtype=torch.float64)
    expected = -0.7 * score(model, x, 0.7).flatten(1).norm(dim=1)
    torch.testing.assert_close(ScoreNorm(model, 0.7).score(x), expected)
    assert (expected < -0.1).all()


def test_denoising_error_of_copies_is_none_and_of_others_the_way_to_the_nearest():
    train, others = images(5, dtype=torch.float64), images(4, seed=1, dtype=torch.float64)
    baseline = DenoisingError(Empirical(train), 0.05, draws=2)
    torch.testing.assert_close(baseline.score(train), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    # nearest by the noisy image; at this noise it is the nearest by the image too
    way = torch.cdist(others.flatten(1), train.flatten(1)).amin(dim=1).square() / 64
    torch.testing.assert_close(baseline.score(others), -way)


def test_denoising_error_is_a_mean_over_draws_and_pixels():
    x = images(3)
    identity = DenoisingError(lambda y, sigma: y, 0.5, draws=3, seed=4)
    noise = torch.stack([noisy(x, 0.5, 4, draw) - x for draw in range(3)])
    torch.testing.assert_close(identity.score(x), -noise.double().square().mean(dim=(0, 2, 3, 4)), rtol=1e-5, atol=0)
    assert not torch.equal(identity.score(x), DenoisingError(lambda y, sigma: y, 0.5, draws=3).score(x))


def shifted(y, sigma, labels=None):
    """A denoiser that a label moves by that many gray levels, everywhere."""
    return y if labels is None else y + labels[:, None, None, None]


def test_conditional_hand_worked():
    labels = torch.tensor([0, 1, 3])
    found = Conditional(shifted, 0.5, draws=2).score(images(3, shape=(1, 2, 2)), labels)
    torch.testing.assert_close(found, torch.tensor([0.0, 4.0, 12.0], dtype=torch.float64))  # sqrt(4) label / sigma


def test_conditional_of_a_network_that_ignores_labels_is_zero():
    model = labelled()
    x, labels = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert (Conditional(model, 0.3).score(x, labels) > 1e-3).all()
    with torch.no_grad():
        model.network.embed.label.weight[:] = model.network.embed.label.weight[-1]
    assert (Conditional(model, 0.3).score(x, labels) == 0).all()


def test_density_hand_worked():
    generations = torch.tensor([0.0, 1.0, 3.0, 10.0]).reshape(4, 1, 1, 1)
    x = torch.tensor([0.0, 9.0]).reshape(2, 1, 1, 1)
    found = Density(generations=generations, k=3).score(x)
    torch.testing.assert_close(found, -torch.tensor([4 / 3, (1 + 6 + 8) / 3], dtype=torch.float64))


def test_density_draws_its_own_generations_once_and_far_from_others(monkeypatch):
    asked = []

    def sample(model, shape, seeds, steps, *, labels, batch):
        asked.append((shape, seeds, steps, labels))
        return torch.arange(len(seeds)).reshape(-1, 1, 1, 1).float()

    monkeypatch.setattr(scores, "sample", sample)
    baseline = Density(shifted, (1, 1, 1), count=7, k=1, seed=3, labels=range(3), steps=5)
    assert not asked
    assert baseline.score(torch.full((2, 1, 1, 1), 2.5)).tolist() == [-0.5, -0.5]
    baseline.score(torch.zeros(1, 1, 1, 1))
    ((shape, seeds, steps, labels),) = asked
    assert (shape, seeds, steps) == ((1, 1, 1), range(2_000_003_000_000, 2_000_003_000_007), 5)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_density_of_a_model_is_high_at_what_it_generates():
    train = images(3)
    baseline = Density(Empirical(train), (1, 8, 8), count=40, k=2)
    torch.testing.assert_close(baseline.score(train), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-2)
    assert (baseline.score(images(3, seed=1)) < -5).all()


@pytest.mark.parametrize("pool", ["mean", "all"])
def test_z_scores_are_those_of_scipy(pool):
    model, x, reference = labelled(), images(5), images(25, seed=1)
    found = UnitZScores(model, LAYER, 0.3, pool=pool, reference=reference, top=4, seed=2).score(x)
    h, others = (capture(model, LAYER, noisy(i, 0.3, 2), 0.3, pool).double().numpy() for i in (x, reference))
    z = torch.from_numpy(zmap(h, others)).abs()
    torch.testing.assert_close(found, z.sort(dim=1).values[:, -4:].mean(dim=1))


class Tail(nn.Module):
    """A model whose layer shows the first two pixels of the noisy image, and two that vary by rounding at most."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, y, sigma):
        flat = y.flatten(1)
        rounding = torch.where(flat[:, :1] > 0, 1.0, 1.0 + 2**-23)  # the next number
        return self.layer(torch.cat([flat[:, :2], torch.zeros(len(y), 1), rounding], dim=1))


def test_units_that_are_constant_on_the_reference_are_left_out():
    reference = images(20)
    baseline = UnitZScores(Tail(), "layer", 0.1, reference=reference, top=2)
    assert baseline.constant == 2
    both = [torch.from_numpy(noisy(i, 0.1).flatten(1)[:, :2].double().numpy()) for i in (images(3, seed=1), reference)]
    z = (both[0] - both[1].mean(dim=0)) / both[1].std(dim=0, correction=0)
    torch.testing.assert_close(baseline.score(images(3, seed=1)), z.abs().mean(dim=1))
    with pytest.raises(SpikinessError, match="of 4 units 2 are constant"):
        UnitZScores(Tail(), "layer", 0.1, reference=reference, top=3)


# ---- what knows nothing of the model


def test_pixels_hand_worked():
    x = torch.tensor([[[[0.0, 3.0], [0.0, 4.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    assert PixelNorm().score(x).tolist() == [5, 2]
    torch.testing.assert_close(PixelStd().score(x), torch.tensor([(25 / 4 - 49 / 16) ** 0.5, 0], dtype=torch.float64))
    assert TotalVariation().score(x).tolist() == [3 + 4 + 0 + 1, 0]
    assert TotalVariation().score(torch.cat([x, 2 * x], dim=1)).tolist() == [24, 0]  # channels are not neighbors


def test_nearest_training_image_hand_worked():
    train = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).reshape(2, 1, 1, 2)
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    assert NearestTraining(train).score(x).tolist() == [0, -2]


# ---- all of them


def test_a_score_belongs_to_its_image_not_to_its_batch():
    model, x, labels = labelled(), images(7, seed=3), torch.tensor([0, 1, 2, 0, 1, 2, 1])
    order = torch.randperm(7, generator=rng())
    for name, baseline in every(model).items():
        found = baseline.score(x, labels)
        assert found.shape == (7,), name
        assert found.dtype == torch.float64, name
        assert not found.requires_grad, name
        assert len(found.unique()) == 7, name
        torch.testing.assert_close(baseline.score(x[order], labels[order]), found[order], rtol=1e-4, atol=1e-4)
        baseline.batch = 2
        torch.testing.assert_close(baseline.score(x, labels), found, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(baseline.score(x[4:5], labels[4:5]), found[4:5], rtol=1e-4, atol=1e-4)


def test_the_registry_says_what_depends_on_the_noise_level():
    free = {name for name, method in BASELINES.items() if not method.per_sigma}
    assert free == {"density", "pixel norm", "pixel std", "total variation", "nearest training"}
    needs = {(), (MODEL,), (MODEL, LABELS), (MODEL, HELD_OUT), (TRAINING,)}
    assert {method.needs for method in BASELINES.values()} == needs
    assert set(CONTROLS) == {"pixel norm", "pixel std", "total variation"}
    assert [name for name, method in BASELINES.items() if method.per_layer] == ["unit z-scores"]
    for name, method in BASELINES.items():  # what a rival is made from is among what it says it needs
        assert (MODEL in method.needs) == ("model" in method.takes), name
        assert (HELD_OUT in method.needs) == ("reference" in method.takes), name
        assert (TRAINING in method.needs) == ("train" in method.takes), name
    assert BASELINES["FLIPD exact"].make(shifted, 0.3, probes=4).probes is None
    assert BASELINES["FLIPD"].make(shifted, 0.3, probes=4, train=images()).probes == 4
    own = Method("own", "here", "nothing", (MODEL,), "1", partial(DenoisingError, draws=2))
    assert own.make(shifted, 0.3, seed=5).seed == 5


# ---- what is refused

NAN = partial(torch.full_like, fill_value=float("nan"))


def broken(y, sigma, labels=None):
    """NaN wherever an image's first pixel is positive, as a function of y that has a gradient."""
    return torch.where(y[:, :1, :1, :1] > 0, float("nan"), 1.0) * y


@pytest.mark.parametrize(
    "make",
    [partial(FLIPD, probes=None), FLIPD, ScoreNorm, partial(DenoisingError, draws=2), partial(Conditional, draws=2)],
)
def test_outputs_that_are_not_finite_are_counted_over_all_batches(make):
    x = images(6)
    x[:, 0, 0, 0] = torch.tensor([10.0, -10, -10, 10, -10, 10])  # far from 0 against the noise
    with pytest.raises(SpikinessError, match=r"3 of 6 scores of .* are NaN or inf"):
        make(broken, 0.1, batch=2).score(x, torch.zeros(6, dtype=torch.int64))


def test_infinite_outputs_and_features_are_refused():
    with pytest.raises(SpikinessError, match="3 of 3 scores of ScoreNorm"):
        ScoreNorm(lambda y, sigma: y / 0, 0.1).score(images(3))
    model = Tail()
    baseline = UnitZScores(model, "layer", 0.1, reference=images(20), top=2)
    model.layer = nn.Threshold(-0.5, float("nan"))
    with pytest.raises(SpikinessError, match="of 30 features of images are NaN or inf"):
        baseline.score(images(30, seed=1))
    with pytest.raises(SpikinessError, match="of 20 features of reference images are NaN or inf"):
        UnitZScores(model, "layer", 0.1, reference=images(20), top=2)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make", [FLIPD, ScoreNorm, DenoisingError, Conditional, lambda m, s: UnitZScores(m, LAYER, s, reference=images(20))]
)
def test_a_noise_level_is_positive(make, sigma):
    with pytest.raises(SpikinessError, match="positive and finite"):
        make(shifted, sigma)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FLIPD(shifted, 0.1, probes=0), "probes must be a whole number of at least 1"),
        (lambda: DenoisingError(shifted, 0.1, draws=0), "draws must be"),
        (lambda: Conditional(shifted, 0.1, draws=1.5), "draws must be"),
        (lambda: ScoreNorm(shifted, 0.1, batch=0), "batch must be"),
        (lambda: ScoreNorm(shifted, torch.tensor([0.1, 0.2])), "sigma is a number"),
        (lambda: Conditional(EDM(UNet(1, 8, 8)), 0.1), "this model has no classes"),
        (lambda: Conditional(ReLUDAE(64, 5), 0.1), "this model has no classes"),
        (lambda: Conditional(Wiener(torch.zeros(3), torch.eye(3)), 0.1), "this model has no classes"),
        (lambda: Density(shifted), "needs a model and the shape"),
        (lambda: Density(shape=(1, 8, 8)), "needs a model and the shape"),
        (lambda: Density(shifted, (1, 8, 8), count=3, k=4), "3 generations for k = 4"),
        (lambda: Density(generations=images(3)), "3 generations for k = 10"),
        (lambda: Density(generations=images(3), k=0), "k must be"),
        (lambda: Density(shifted, (1, 8, 8), labels=[]), "labels"),
        (lambda: UnitZScores(Tail(), "layer", 0.1, reference=images(19)), "19 reference images; .* 20 or more"),
        (lambda: UnitZScores(Tail(), "layer", 0.1, reference=images(20), top=0), "top must be"),
        (lambda: UnitZScores(Tail(), "lager", 0.1, reference=images(20)), "no layer 'lager'"),
        (lambda: UnitZScores(Tail(), "layer", 0.1, reference=NAN(images(20))), "20 of 20 reference images hold NaN"),
        (lambda: BASELINES["nearest training"].make(None), "needs train"),
        (lambda: BASELINES["unit z-scores"].make(Tail(), 0.1, layer="layer"), "needs reference"),
        (lambda: BASELINES["FLIPD"].make(shifted), r"needs sigma: make\(model, sigma\)"),
        (lambda: BASELINES["unit z-scores"].make(Tail()), r"make\(model, sigma, layer=\.\.\., reference=\.\.\.\)"),
        (lambda: BASELINES["flipd"], "unknown baseline 'flipd': one of FLIPD, .*; did you mean 'FLIPD'"),
        (lambda: BASELINES["FLIPD"].make(shifted, 0.1, prob=3), "no baseline takes 'prob'; did you mean 'probes'"),
    ],
)
def test_what_cannot_be_made(make, message):
    with pytest.raises(SpikinessError, match=message):
        make()


@pytest.mark.parametrize(
    ("baseline", "given", "message"),
    [
        (PixelNorm(), (images(3), [0, 1]), r"labels have shape \[2\]; give one for each of 3"),
        (PixelNorm(), (NAN(images(3)),), "3 of 3 images hold NaN"),
        (PixelStd(), (images(3).int(),), "must be float"),
        (PixelNorm(), (images(3)[:0],), "N >= 1"),
        (Conditional(shifted, 0.1), (images(3),), "Conditional needs labels"),
        (TotalVariation(), (images(3).flatten(1),), r"needs \[N, C, H, W\]"),
        (NearestTraining(images(3)), (images(3, shape=(1, 4, 4)),), "must agree"),
        (NearestTraining(NAN(images(3))), (images(3),), "3 of 3 train hold NaN"),
        (ScoreNorm(lambda y, sigma: y.mean(dim=1), 0.1), (images(3),), "not a denoiser"),
        (FLIPD(lambda y, sigma: y.detach(), 0.1), (images(3),), "no derivative"),
    ],
)
def test_what_cannot_be_scored(baseline, given, message):
    with pytest.raises(SpikinessError, match=message):
        baseline.score(*given)
