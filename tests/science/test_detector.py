"""The detector: its choices, its scores against hand-worked features, and what it refuses."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from spikiness import detection, measures, representations
from spikiness.denoisers import EDM
from spikiness.detection import Detector, calibrate, grid_search, worst_of
from spikiness.detection.calibration import auroc, quantile, responsive_layers
from spikiness.detection.detector import default_layer, fingerprint, trained_range
from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.networks import DiT, ReLUDAE, UNet


class Bumps(nn.Module):
    """Features by hand: `spiky` answers the largest pixel alone, `flat` its mean everywhere, `dead` nothing."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.flat, self.spiky, self.dead, self.unused = nn.Tanh(), nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(16, 16)
        self.sign = sign

    def forward(self, y, sigma):
        flat = y.flatten(1)
        self.flat(flat.mean(dim=1, keepdim=True).expand(-1, 16))
        self.spiky(self.sign * (flat - 0.5))
        self.dead(-1 - flat.abs())
        return self.head(flat).reshape(y.shape)


def faint(n, seed=0):
    """Images [n, 1, 4, 4] with all pixels small."""
    return 0.2 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) - 0.1


def peaked(n, seed=1):
    """The same with one pixel near 1."""
    x = faint(n, seed)
    x.view(n, 16)[torch.arange(n), torch.arange(n) % 16] = 1.0
    return x


def awake(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator)
    return network


def digits(n, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def unet():
    return EDM(awake(UNet(1, 8, 8)))


# ---- scores


def test_a_score_is_the_measure_of_the_captured_features_of_the_noisy_image(unet):
    x = digits(5)
    detector = Detector(unet, "network.middle.act1", 0.3, "max", "kurtosis", direction=-1, seed=4)
    y = representations.noisy(x, 0.3, seed=4)
    h = representations.capture(unet, "network.middle.act1", y, 0.3, "max")
    assert torch.allclose(detector.score(x), -measures.kurtosis(h).double())


def test_draws_are_averaged_and_an_image_has_the_same_score_in_any_batch_and_place(unet):
    x = digits(7)
    one = Detector(unet, draws=3, batch=2).score(x)
    assert torch.allclose(one[[6, 2]], Detector(unet, draws=3).score(x[[6, 2]]), atol=1e-6)
    parts = [
        measures.std(representations.capture(unet, "network.up.0.act2", representations.noisy(x, 0.17, 0, k), 0.17))
        for k in range(3)
    ]
    assert torch.allclose(one, (sum(parts) / 3).double(), atol=1e-6)


def test_old_names_work_and_say_what_they_are_called_now(unet):
    detector = Detector(unet)
    with pytest.warns(DeprecationWarning, match=r"Detector\.choice is now Detector\.probe"):
        assert detector.choice == detector.probe
    with pytest.warns(DeprecationWarning, match=r"Detector\.allow is now Detector\.set_threshold"):
        threshold = detector.allow(digits(40), fpr=0.1).threshold
    assert threshold == Detector(unet).set_threshold(digits(40), fpr=0.1).threshold
    for old, new in {"Choice": "Probe", "survey": "grid_search", "seeing_layers": "responsive_layers"}.items():
        with pytest.warns(DeprecationWarning, match=rf"detection\.{old} is now detection\.{new}"):
            assert getattr(detection, old) is getattr(detection, new)
    with pytest.raises(AttributeError, match="no attribute 'chioce'"):
        _ = detection.chioce


def test_cases_that_are_no_list_of_triples(unet):
    x = digits(40)
    with pytest.raises(SpikinessError, match=r"one \(model, memorized, generalized\); give a list of them"):
        calibrate((unet, x[:20], x[20:]))
    with pytest.raises(SpikinessError, match="case 1 is a tuple; each is"):
        calibrate([(unet, x[:20], x[20:]), (unet, x)])
    with pytest.raises(SpikinessError, match=r"case 0 is a EDM; each is .*, the model a torch\.nn\.Module"):
        calibrate([unet, x[:20], x[20:]])
    with pytest.raises(SpikinessError, match="no cases"):
        calibrate([])


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_scikit_learns(ties):
    rng = np.random.default_rng(0)
    memorized, generalized = rng.normal(0.5, 1, 37), rng.normal(0, 1, 51)
    if ties:
        memorized, generalized = memorized.round(), generalized.round()
    truth = roc_auc_score([1] * 37 + [0] * 51, np.concatenate([memorized, generalized]))
    assert auroc(memorized, generalized) == pytest.approx(truth, abs=1e-12)
    assert np.isnan(auroc(np.ones(3), np.ones(4)))
    assert np.isnan(auroc(np.array([np.nan, 1.0]), generalized))


def test_flags_are_scores_strictly_above_the_threshold_and_allow_sets_it_from_images_known_not_to_be_memorized(unet):
    x = digits(200)
    detector = Detector(unet).set_threshold(x, fpr=0.05)
    assert int(detector.flag(x).sum()) == 10  # 5 % of 200
    assert torch.equal(detector.flag(x), detector.score(x) > detector.threshold)


def test_a_detector_without_a_threshold_says_how_to_get_one(unet):
    with pytest.raises(SpikinessError, match=r"no threshold.*calibrate.*set_threshold"):
        Detector(unet).flag(digits(3))


def test_the_explanation_names_the_unit_that_carries_the_energy():
    x = peaked(16)
    found = Detector(Bumps(), "spiky", 0.01, direction=1).explain(x, k=2)
    assert torch.equal(found.units[:, 0], torch.arange(16))
    assert (found.shares[:, 0] > 0.99).all()
    assert found.size == 16
    assert (found.active <= 2).all()
    assert torch.allclose(found.participation, torch.ones(16), atol=0.05)


# ---- defaults


def test_without_calibration_the_papers_choice_holds_and_the_detector_says_so(unet):
    detector = Detector(unet)
    assert detector.probe == detection.Probe("network.up.0.act2", 0.17, "all", "std", 1)
    assert not detector.calibrated
    assert "not calibrated" in repr(detector)


def test_the_default_layer_of_other_models():
    assert default_layer(ReLUDAE(64, 8)) == "encode"
    assert default_layer(EDM(DiT(1, 8, 16, depth=3))) == "network.blocks.1.act"
    named = nn.ModuleDict({"down_blocks": nn.ModuleList([nn.SiLU()]), "up_blocks": nn.ModuleList()})
    for _ in range(2):
        named["up_blocks"].append(nn.ModuleDict({"resnets": nn.ModuleList([nn.SiLU(), nn.SiLU()])}))
    assert default_layer(named) == "up_blocks.0.resnets.1"
    assert default_layer(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2))) == "1"
    with pytest.raises(SpikinessError, match="no modules inside"):
        default_layer(nn.Linear(2, 2))


def test_a_two_layer_network_is_measured_in_its_representation_at_the_level_it_was_trained_at():
    network = awake(ReLUDAE(64, 8))
    network.record = {"sigma": 0.4}
    x = digits(4)
    detector = Detector(network)
    assert (detector.probe.layer, detector.probe.sigma) == ("encode", 0.4)
    h = network.encode(representations.noisy(x, 0.4))
    assert torch.allclose(detector.score(x), measures.std(h).double())
    assert detector.cost(x) == pytest.approx(0.5)  # encoder and decoder are as large


def test_the_cost_of_a_layer_is_the_arithmetic_until_there():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 8))
    wrapped = WithSigma(model)
    y = torch.rand(3, 4)
    assert representations.cost(wrapped, "inner.1", y, 0.1) == pytest.approx(16 / 64)
    assert representations.cost(wrapped, "inner.3", y, 0.1) == pytest.approx(32 / 64)


class WithSigma(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, y, sigma):
        return self.inner(y)


# ---- calibration


def test_calibration_finds_the_layer_that_tells_and_which_way_and_the_cheapest_of_equals():
    detector = Detector(Bumps(), measure=None).calibrate(peaked(30), faint(40, 5), sigmas=[0.01, 0.02])
    assert detector.probe.layer == "spiky"
    assert detector.record["worst"] == 1.0
    assert detector.record["settings"] == len(detector.record["tried"])
    assert detector.calibrated
    assert "1 model" in repr(detector)
    both = detector.flag(torch.cat([peaked(20, 9), faint(50, 8)]))
    assert both[:20].all()
    assert not both[20:].any()


def test_a_reversed_layer_is_used_the_other_way_round():
    model = Bumps(sign=-1.0)  # relu(.5 - y): the peak is the one unit that does not fire
    detector = Detector(model, "spiky", 0.01, "all", "kurtosis").calibrate(faint(30), peaked(30))
    other = Detector(model, "spiky", 0.01, "all", "kurtosis").calibrate(peaked(30), faint(30))
    assert detector.probe.direction == -other.probe.direction
    assert detector.record["worst"] == other.record["worst"] == 1.0


def test_the_worst_model_decides():
    rows = []
    for model, aurocs in enumerate([(0.99, 0.9, 0.02), (0.3, 0.88, 0.05)]):
        for layer, value in zip("abc", aurocs, strict=True):
            rows.append({"layer": layer, "sigma": 0.1, "pool": "all", "measure": "std", "auroc": value, "cost": 0.5,
                         "model": model})  # fmt: skip
    import pandas as pd

    found = worst_of(pd.DataFrame(rows)).set_index("layer")
    assert found.worst.to_dict() == pytest.approx({"a": 0.3, "b": 0.88, "c": 0.95})
    assert found.direction.to_dict() == {"a": 1, "b": 1, "c": -1}
    assert worst_of(pd.DataFrame(rows), direction=1).set_index("layer").worst["c"] == pytest.approx(0.02)


def test_several_models_give_the_highest_of_their_thresholds(unet):
    others = [EDM(awake(UNet(1, 8, 8), seed)) for seed in (1, 2)]
    cases = [(model, digits(30, 1), 0.5 * digits(150, 2)) for model in others]
    detector = calibrate(cases, sigmas=[0.1], measures=["std"], pools=["all"])
    assert detector.model is others[0]
    assert detector.threshold == max(detector.record["thresholds"])
    for model, _, generalized in cases:
        mine = detector.for_model(model)
        assert float(mine.flag(generalized).float().mean()) <= 0.01
    assert detector.record["models"] == 2
    assert len(detector.record["aurocs"]) == 2
    first, second = (
        roc_auc_score([1] * 30 + [0] * 150, detector.for_model(m).score(torch.cat([a, b]))) for m, a, b in cases
    )
    assert sorted(detector.record["aurocs"]) == pytest.approx(sorted([first, second]))


def test_what_was_given_is_not_chosen_anew(unet):
    detector = Detector(unet, "network.down.0.act1", 0.2, measure="gini").calibrate(digits(20), 0.5 * digits(20, 3))
    assert detector.probe.layer == "network.down.0.act1"
    assert (detector.probe.sigma, detector.probe.measure) == (0.2, "gini")


def test_a_survey_agrees_with_scores_one_by_one(unet):
    a, b = digits(25), 0.4 * digits(30, 2)
    few = {"sigmas": [0.1, 0.5], "measures": ["std", "participation_ratio"]}
    table = grid_search(unet, a, b, layers="nonlinearities", **few)
    assert set(table.layer) == {n for n in representations.layers(unet, nonlinearities=True) if "embed" not in n}
    row = table[(table.layer == "network.up.1.act1") & (table.sigma == 0.5) & (table["pool"] == "mean")]
    row = row[row.measure == "participation_ratio"].iloc[0]
    detector = Detector(unet, "network.up.1.act1", 0.5, "mean", "participation_ratio", direction=1)
    truth = [1] * 25 + [0] * 30
    assert row.auroc == pytest.approx(roc_auc_score(truth, torch.cat([detector.score(a), detector.score(b)])))


def test_layers_that_do_not_see_the_image_or_are_not_reached_are_left_out():
    x = torch.cat([faint(2), peaked(2)])
    assert responsive_layers(Bumps(), x, "nonlinearities") == ["flat", "spiky"]
    assert responsive_layers(Bumps(), x) == ["flat", "spiky", "head"]
    with pytest.raises(SpikinessError, match=r"unknown layers 'nonlinearity'.*did you mean 'nonlinearities'"):
        responsive_layers(Bumps(), x, "nonlinearity")


class Wrapped(nn.Module):
    """A block that hands on what its last part gives, a part that does nothing, one that all images share, a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(16, 8), nn.Tanh())
        self.still, self.level, self.pair = nn.Dropout(), nn.Linear(1, 8), Pair()

    def forward(self, y, sigma):
        h = self.still(self.block(y.flatten(1)))
        first, _ = self.pair(h + self.level(sigma[:1, None]))
        return torch.cat([first, first], dim=1).reshape(y.shape)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, h):
        return self.norm(h), h


def test_what_hands_on_the_features_of_another_or_has_none_is_left_out():
    found = responsive_layers(Wrapped(), torch.cat([faint(2), peaked(2)]))
    assert found == ["block.0", "block.1", "pair.norm"]


def test_a_wider_search_finds_what_no_nonlinearity_tells():
    """Memorized and new images differ before the norm only; the nonlinearity sees what is left."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act = nn.Linear(16, 16, bias=False), nn.Tanh()
            nn.init.orthogonal_(self.stem.weight, generator=torch.Generator().manual_seed(0))

        def forward(self, y, sigma):
            h = self.stem(y.flatten(1))
            return self.act(h / h.norm(dim=1, keepdim=True)).reshape(y.shape)

    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    cases, few = [(Normed(), 0.9 * x[:30], 0.3 * x[30:])], {"sigmas": [0.05], "pools": ["all"]}
    wide = calibrate(cases, measure="std", **few)
    narrow = calibrate(cases, measure="std", layers="nonlinearities", **few)
    assert wide.probe.layer == "stem"
    assert wide.record["worst"] == 1.0
    assert narrow.probe.layer == "act"
    assert narrow.record["worst"] < 0.8


class Odd(nn.Module):
    """What real models hold beside features: the image in another order, indices, masks, spectra, levels, positions."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("shuffled", "indices", "masked", "spectrum", "sparse", "level_act"):
            self.add_module(name, nn.Identity())
        self.high, self.positions, self.lin = nn.Linear(16, 16), nn.Embedding(8, 16), nn.Linear(16, 16)
        self.scaled = nn.Identity()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch means to drop it; models that have it remain
            self.scripted = torch.jit.trace(nn.Linear(16, 16), torch.zeros(2, 16))

    def forward(self, y, sigma):
        flat = y.flatten(1)
        self.shuffled(-1.9 * flat.flip(1))
        self.indices(flat.argmax(dim=1, keepdim=True))
        self.masked(flat.masked_fill(flat < 0, float("-inf")))
        self.spectrum(torch.fft.rfft(flat))
        self.sparse(flat.to_sparse())
        self.level_act(self.positions(torch.arange(8))[:1])
        h = self.lin(flat)
        if sigma[0] > 0.5:
            h = h + self.high(flat)
        self.scaled(h * (1 + sigma.log()[:, None]))
        return self.level_act(self.scripted(h)).reshape(y.shape)


def test_modules_without_features_of_the_image_do_not_stop_a_search():
    torch.manual_seed(0)
    model, x = Odd(), torch.cat([peaked(30), faint(30)])
    assert responsive_layers(model, x) == ["lin", "scaled"]
    found = calibrate([(model, x[:30], x[30:])], measure="std")
    assert found.probe.layer in {"lin", "scaled"}
    assert Detector(model, "lin").calibrate(x[:30], x[30:]).probe.layer == "lin"


def test_pixels_are_no_representation(unet):
    """A U-Net begins by putting its pixels in another order: their spread is a control, not a choice."""
    assert "network.patch" in representations.layers(unet)
    assert "network.patch" not in responsive_layers(unet, digits(8))
    bright, dim = 0.9 * digits(30), 0.3 * digits(30, 3)
    assert Detector(unet).calibrate(bright, dim).probe.layer != "network.patch"


def test_a_layer_that_is_given_is_not_searched_for():
    same = faint(1).expand(30, -1, -1, -1)  # nothing differs: no layer sees the image
    with pytest.raises(SpikinessError, match="all images are one"):
        responsive_layers(Bumps(), same)
    with pytest.raises(SpikinessError, match="all scores are equal"):
        Detector(Bumps(), "spiky").calibrate(same, same)


def test_a_search_among_nothing_is_refused(unet):
    for name in ("layers", "sigmas", "pools", "measures"):
        with pytest.raises(SpikinessError, match=f"{name} is empty"):
            Detector(unet, measure=None).calibrate(digits(20), 0.5 * digits(20, 3), **{name: []})


def test_a_layer_that_one_of_the_models_lacks_is_no_choice():
    row = {"sigma": 0.1, "pool": "all", "measure": "std", "cost": 0.5}
    both = pd.DataFrame([{**row, "layer": "a", "auroc": 0.8, "model": m} for m in (0, 1)])
    alone = pd.DataFrame([{**row, "layer": "b", "auroc": 1.0, "model": 0}])
    assert worst_of(pd.concat([both, alone, alone])).layer.tolist() == ["a"]


def test_auroc_and_quantile_against_other_libraries():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 60).astype(float)
    assert auroc(a, b) == pytest.approx(roc_auc_score([1] * 40 + [0] * 60, np.concatenate([a, b])))
    assert np.isnan(auroc(np.ones(3), np.ones(4)))
    for fpr in (0.01, 0.05, 0.3):
        limit = quantile(b, fpr)
        assert (b > limit).mean() <= fpr
        assert limit == b.min() or (b >= limit).mean() > fpr
        assert limit == detection.evaluate(a, b, fpr=fpr, draws=1).threshold


# ---- carrying over, saving


def test_choices_carry_to_another_model(unet):
    other = EDM(awake(UNet(1, 8, 8), 5))
    mine = Detector(unet, "network.down.1.act1", 0.3, "mean", "gini", threshold=0.4, draws=2, seed=3)
    theirs = mine.for_model(other)
    assert (theirs.probe, theirs.threshold, theirs.draws, theirs.seed) == (mine.probe, 0.4, 2, 3)
    assert not torch.allclose(mine.score(digits(3)), theirs.score(digits(3)))
    with pytest.raises(SpikinessError, match="no layer"):
        mine.for_model(EDM(DiT(1, 8, 16)))


def test_a_saved_detector_comes_back_and_scores_alike(unet, tmp_path):
    mine = Detector(unet, measure=None).calibrate(digits(20), 0.5 * digits(20, 3), sigmas=[0.1], measures=["std"])
    mine.save(tmp_path / "detector.json")
    again = Detector.load(tmp_path / "detector.json", unet)
    assert (again.probe, again.threshold, again.record) == (mine.probe, mine.threshold, mine.record)
    assert torch.equal(again.score(digits(4)), mine.score(digits(4)))


def test_a_file_of_another_model_is_refused_unless_it_is_asked_to_carry_over(unet, tmp_path):
    path = tmp_path / "detector.json"
    Detector(unet, threshold=0.3).save(path)
    with pytest.raises(SpikinessError, match=r"other weights.*transfer=True"):
        Detector.load(path, EDM(awake(UNet(1, 8, 8), 5)))
    with pytest.raises(SpikinessError, match="another architecture"):
        Detector.load(path, EDM(awake(UNet(1, 8, 16))))
    assert Detector.load(path, EDM(awake(UNet(1, 8, 16))), transfer=True).threshold == 0.3
    with pytest.raises(SpikinessError, match="no layer"):
        Detector.load(path, EDM(DiT(1, 8, 16)), transfer=True)


@pytest.mark.parametrize(
    "damage", [lambda t: t.replace('"sigma": 0.17', '"sigma": 0.71'), lambda t: t[:40], lambda _: "[]"]
)
def test_an_altered_file_is_refused(unet, tmp_path, damage):
    path = tmp_path / "detector.json"
    Detector(unet).save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(CorruptArtifact):
        Detector.load(path, unet)
    with pytest.raises(SpikinessError, match="not there"):
        Detector.load(tmp_path / "absent.json", unet)


def test_the_file_is_plain_json_and_holds_what_was_tried(unet, tmp_path):
    mine = Detector(unet).calibrate(digits(20), 0.5 * digits(20, 3), sigmas=[0.1], pools=["all"])
    mine.save(tmp_path / "d.json")
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["model"] == fingerprint(unet)
    assert len(content["record"]["tried"]) == content["record"]["settings"]


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "network.up.0.act9"}, r"no layer 'network.up.0.act9'; did you mean 'network.up.0.act\d'"),
        ({"pool": "median"}, r"unknown pool 'median'.*did you mean 'mean'"),
        ({"measure": "sd"}, r"unknown measure 'sd'.*did you mean 'std'"),
        ({"sigma": -0.1}, "positive"),
        ({"direction": 2}, "1 where memorized is higher"),
        ({"draws": 0}, "at least 1"),
    ],
)
def test_impossible_choices_are_refused(unet, given, message):
    with pytest.raises(SpikinessError, match=message):
        Detector(unet, **given)


def test_a_model_that_is_not_a_module_is_refused():
    with pytest.raises(SpikinessError, match=r"torch\.nn\.Module"):
        Detector(lambda y, sigma: y)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (lambda: digits(2) * 100, "images lie in"),
        (lambda: (digits(2) + 1) / 2, r"looks like \[0, 1\]"),
        (lambda: digits(2).expand(-1, 3, -1, -1), "3 channel"),
        (lambda: torch.rand(2, 1, 16, 16) - 0.5, "16 x 16; 8 x 8 wanted"),
        (lambda: digits(2) / 0, "NaN or infinity"),
        (lambda: digits(2)[0], r"images are \[N, C, H, W\]"),
    ],
)
def test_bad_images_are_refused_before_any_pass(unet, x, message):
    with pytest.raises(SpikinessError, match=message):
        Detector(unet).score(x())


def test_images_that_are_all_bright_pass_when_that_is_said(unet):
    assert Detector(unet, allow_unit=True).score((digits(2) + 1) / 2).isfinite().all()


def test_images_of_another_dimension_are_refused_by_a_two_layer_network():
    with pytest.raises(SpikinessError, match="64 values each; this model was made for 100"):
        Detector(ReLUDAE(100, 8)).score(digits(2))


def test_a_layer_that_is_not_reached_is_refused():
    with pytest.raises(SpikinessError, match="does not reach layer 'unused'"):
        Detector(Bumps(), "unused").score(faint(2))


def test_features_that_are_not_finite_never_rank_as_not_memorized(unet):
    broken = EDM(awake(UNet(1, 8, 8)))
    with torch.no_grad():
        broken.network.middle.conv1.weight[0] = float("nan")
    x = digits(30)
    with pytest.raises(SpikinessError, match=r"NaN or infinite for 30 of 30 images"):
        Detector(broken).score(x)
    with pytest.raises(SpikinessError, match="NaN or infinite"):
        calibrate([(broken, x, 0.5 * x)], sigmas=[0.1])
    with pytest.raises(SpikinessError, match="NaN or infinite"):
        Detector(broken).explain(x)


def test_too_few_images_and_dead_representations_cannot_calibrate():
    with pytest.raises(SpikinessError, match="model 0 has 19 memorized images"):
        calibrate([(Bumps(), peaked(19), faint(30))])
    with pytest.raises(SpikinessError, match="model 0 has 3 generalized images"):
        Detector(Bumps()).calibrate(peaked(30), faint(3))
    with pytest.raises(SpikinessError, match="all scores are equal"):
        calibrate([(Bumps(), peaked(30), faint(30))], layers=["dead"])
    with pytest.raises(SpikinessError, match="no cases"):
        calibrate([])


def test_models_without_a_common_layer_are_refused(unet):
    with pytest.raises(SpikinessError, match="no layer name in common"):
        calibrate(
            [(m, digits(20), 0.5 * digits(20, 3)) for m in (unet, EDM(awake(DiT(1, 8, 16))))], layers="nonlinearities"
        )


def test_a_noise_level_outside_those_of_training_warns(unet):
    model = EDM(awake(UNet(1, 8, 8)))
    model.record = {"noise": ["log-normal", -1.2, 1.2]}
    assert trained_range(model) == pytest.approx((np.exp(-4.8), np.exp(2.4)))
    with pytest.warns(UserWarning, match=r"sigma 50 lies outside.*0\.00823 to 11"):
        Detector(model, sigma=50.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Detector(model)
        Detector(unet, sigma=50.0)  # nothing is known of its training
    uniform = EDM(awake(UNet(1, 8, 8)))
    uniform.record = {"noise": ["log-uniform", 0.02, 2.0]}
    assert trained_range(uniform) == (0.02, 2.0)
    dae = ReLUDAE(64, 8)
    dae.record = {"sigma": 0.2}
    assert trained_range(dae) == (0.1, 0.4)


# ---- models in any mode and type


class Moody(nn.Module):
    """Dropout, moving statistics, and a residual added in place."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(1)
        self.conv, self.act, self.late = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.ReLU()

    def forward(self, y, sigma):
        h = self.act(self.conv(self.norm(self.drop(y)))) * (1 + sigma.reshape(-1, 1, 1, 1))  # asks for a tensor
        h += 5 * y
        return self.late(h).mean(dim=1, keepdim=True)


def test_a_model_left_in_training_mode_answers_as_in_evaluation_and_keeps_its_mode_and_statistics():
    model, x = Moody().train(), digits(30)
    model.drop.eval()
    moving = model.norm.running_mean.clone()
    detector = Detector(model, "act")
    first = detector.score(x)
    assert torch.equal(first, detector.score(x))
    assert torch.equal(model.norm.running_mean, moving)
    assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
    calibrate([(model, x, 0.5 * digits(30, 2))], sigmas=[0.1])
    assert 0 < detector.cost(x) <= 1
    assert torch.equal(
        detection.BASELINES["score norm"].make(model, 0.1).score(x[:3]),
        detection.BASELINES["score norm"].make(model.eval(), 0.1).score(x[:3]),
    )


def test_features_are_those_that_leave_the_layer_whatever_is_later_done_in_place():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.late = nn.ReLU(), nn.ReLU()

        def forward(self, y, sigma):
            h = self.act(y)
            h += 5
            return self.late(h)

    y = digits(3)
    found = representations.capture_each(Adds(), ["act", "late"], y, 0.1, lambda _, h: h.flatten(1))
    assert torch.equal(found["act"], y.relu().flatten(1))


def test_images_come_in_the_type_of_the_model(unet):
    x = digits(4)
    assert torch.allclose(Detector(unet).score(x.double()), Detector(unet).score(x))
    double = EDM(awake(UNet(1, 8, 8))).double()
    assert torch.allclose(Detector(double).score(x), Detector(unet).score(x), atol=1e-5)


def test_what_was_said_about_range_and_what_was_left_open_go_along(unet, tmp_path):
    bright = (digits(30) + 1) / 2
    mine = Detector(unet, measure=None, allow_unit=True)
    assert torch.equal(mine.for_model(unet).score(bright), mine.score(bright))
    mine.save(tmp_path / "d.json")
    again = Detector.load(tmp_path / "d.json", unet)
    assert torch.equal(again.score(bright), mine.score(bright))
    assert again.calibrate(bright, bright**2, sigmas=[0.1]).record["settings"] > 100  # still open


def test_a_model_of_another_scale_is_another_model(unet, tmp_path):
    Detector(unet).save(tmp_path / "d.json")
    with pytest.raises(SpikinessError, match="another architecture"):
        Detector.load(tmp_path / "d.json", EDM(unet.network, 0.1))


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ({"sigmas": []}, "sigmas is empty"), ({"pools": []}, "pools is empty"), ({"margin": -1}, "margin is -1"),
        ({"measures": ["stdd"]}, "did you mean 'std'"), ({"sigmas": [-1.0]}, "positive"), ({"fpr": 2}, "fpr is 2"),
    ],
)  # fmt: skip
def test_impossible_searches_are_refused(unet, among, message):
    with pytest.raises(SpikinessError, match=message):
        calibrate([(unet, digits(20), 0.5 * digits(20, 3))], **{"sigmas": [0.1], **among})


def test_impossible_thresholds_are_refused(unet):
    with pytest.raises(SpikinessError, match="finite number"):
        Detector(unet, threshold=float("nan"))
    with pytest.raises(SpikinessError, match="5 images set no threshold"):
        Detector(unet).set_threshold(digits(5))


def test_scores_that_are_all_equal_are_pointed_out_since_the_layer_may_be_dead():
    dead = Detector(Bumps(), "dead", threshold=0.5)
    with pytest.warns(UserWarning, match=r"all 30 images have the score 0 in 'dead'.*memorized"):
        assert not dead.flag(faint(30)).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dead.score(faint(1).expand(3, -1, -1, -1))  # one image, thrice: nothing is wrong
        Detector(Bumps(), "spiky").score(torch.cat([faint(3), peaked(3)]))


def test_a_search_that_does_not_exist_is_refused_with_the_nearest(unet):
    with pytest.raises(SpikinessError, match=r"calibrate takes no 'sigma'.*did you mean 'sigmas'"):
        Detector(unet).calibrate(digits(20), 0.5 * digits(20, 3), sigma=0.1)
