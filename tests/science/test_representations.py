"""Layers by name and features of one, computed no further than it."""

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness.networks import DiT, ReLUDAE, TimeDAE, UNet
from spikiness.representations import POOLS, capture, capture_each, cost, costs, evaluating, layers, reached, represent
from spikiness.representations import noisy as noisy_images


def awake(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():  # fresh networks end in zeros
        nn.init.normal_(weight, std=0.2, generator=generator)
    return network


@pytest.fixture
def model():
    return EDM(awake(UNet(1, 8, 8)))


def noisy(n=5, seed=0):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_layers_are_named_in_order_and_nonlinearities_alone_on_request(model):
    names = layers(model, nonlinearities=True)
    assert "network.up.0.act1" in names
    assert "network.up.0.conv1" not in names
    assert names.index("network.down.0.act1") < names.index("network.middle.act1") < names.index("network.up.0.act1")
    assert {*names, "network.up.0.conv1"} <= set(layers(model))


@pytest.mark.parametrize("layer", ["network.up.0.act1", "network.down.1.conv2", "network.stem"])
def test_captured_features_are_those_of_the_whole_forward_pass(model, layer):
    seen = []
    hook = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: seen.append(o))
    model(noisy(), 0.3)
    hook.remove()
    torch.testing.assert_close(capture(model, layer, noisy(), 0.3), seen[0].flatten(1))
    torch.testing.assert_close(capture(model, layer, noisy(), 0.3, "mean"), seen[0].mean(dim=(2, 3)))
    torch.testing.assert_close(capture(model, layer, noisy(), 0.3, "max"), seen[0].amax(dim=(2, 3)))


def test_nothing_after_the_layer_is_computed_and_no_hook_is_left(model):
    calls = []
    for name in ("network.middle.conv1", "network.up.0.act1", "network.up.0.conv1", "network.head"):
        dict(model.named_modules())[name].register_forward_pre_hook(lambda m, i, name=name: calls.append(name))
    capture(model, "network.up.0.act1", noisy(), 0.3)
    assert calls == ["network.middle.conv1", "network.up.0.act1"]
    assert not model.network.up[0].act1._forward_hooks
    model(noisy(), 0.3)
    assert calls[-1] == "network.head"


def test_batches_and_levels_per_image_change_nothing(model):
    sigma = torch.linspace(0.1, 2, 5)
    whole = capture(model, "network.up.1.act2", noisy(), sigma)
    torch.testing.assert_close(capture(model, "network.up.1.act2", noisy(), sigma, batch=2), whole)
    torch.testing.assert_close(capture(model, "network.up.1.act2", noisy()[3:], sigma[3:]), whole[3:])


def test_tokens_and_flat_features_are_pooled_over_what_they_have():
    dit = EDM(awake(DiT(1, 8, width=16, depth=2, classes=3)))
    labels = torch.tensor([0, 1, 2, 0, 1])
    h = capture(dit, "network.blocks.1.act", noisy(), 0.3, labels=labels)
    assert h.shape == (5, 16 * 64)  # 16 tokens of 4 * width
    torch.testing.assert_close(
        capture(dit, "network.blocks.1.act", noisy(), 0.3, "mean", labels=labels), h.reshape(5, 16, 64).mean(dim=1)
    )
    dae = TimeDAE(64, 10)
    assert capture(dae, "gate2", noisy().flatten(1), torch.full((5,), 0.3), "max").shape == (5, 10)


@pytest.mark.parametrize(
    ("layer", "options", "match"),
    [
        ("network.up.0.act", {}, "no layer 'network.up.0.act'; did you mean 'network.up.0.act"),
        ("", {}, "no layer ''"),
        ("network.up.0.act1", {"pool": "men"}, "did you mean 'mean'"),
        ("network.up", {}, "does not reach"),
        ("network.up.0.act1", {"batch": 0}, "batch of at least 1"),
        ("network.up.0.act1", {"sigma": 0.0}, "positive and finite"),
        ("network.embed", {"sigma": torch.ones(4)}, "sigma"),
    ],
)
def test_bad_input(model, layer, options, match):
    sigma = options.pop("sigma", 0.3)
    with pytest.raises(SpikinessError, match=match):
        capture(model, layer, noisy(), sigma, **options)


def test_a_layer_without_a_row_per_image_is_refused(model):
    class OneLevel(nn.Module):  # one level for all images: the embedding has a single row
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, y, sigma):
            return self.inner(y, 0.3)

    with pytest.raises(SpikinessError, match="not one row each"):
        capture(OneLevel(), "inner.network.embed.linear1", noisy(), 0.3)


# ---- noise of an image's own, several layers at once, means over draws


def test_noise_is_the_images_own_whatever_batch_and_order_it_comes_in():
    x = torch.rand(20, 1, 5, 5) - 0.5  # 25 numbers: no multiple of 16
    y = noisy_images(x, 0.3, seed=2)
    order = torch.randperm(20)
    assert torch.equal(noisy_images(x[order], 0.3, seed=2), y[order])
    assert torch.equal(noisy_images(x[3:4], 0.3, seed=2), y[3:4])
    assert torch.allclose(noisy_images(x.double(), 0.3, seed=2)[7].float(), y[7], atol=1e-6)
    assert not torch.equal(noisy_images(x, 0.3, seed=3), y)
    assert not torch.equal(noisy_images(x, 0.3, seed=2, draw=1), y)


def test_noise_is_standard_normal_times_sigma_and_independent_between_images_seeds_and_draws():
    x = torch.linspace(-1, 1, 4000).reshape(1000, 4)
    z = torch.stack([(noisy_images(x, 0.5, seed, draw) - x) / 0.5 for seed in (0, 1) for draw in (0, 1)])  # [4, N, 4]
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert z.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.06
    assert (z[0, :-1] * z[0, 1:]).mean().abs() < 0.06


def test_several_layers_from_one_pass_are_those_captured_one_by_one(model):
    names, y = ["network.up.1.act1", "network.down.0.act2", "network.middle.act1"], noisy(7)
    passes = []
    hook = model.network.stem.register_forward_hook(lambda *_: passes.append(1))
    after = model.network.head.register_forward_hook(lambda *_: passes.append(2))
    found = capture_each(model, names, y, 0.3, lambda name, h: POOLS["mean"](h), batch=4)
    hook.remove(), after.remove()
    assert passes == [1, 1]  # once for each batch, and never past the last layer
    for name in names:
        assert torch.equal(found[name], capture(model, name, y, 0.3, "mean", batch=4))


def test_a_representation_of_several_draws_is_their_mean(model):
    x = noisy(3)
    one, two = (capture(model, "network.middle.act2", noisy_images(x, 0.2, 5, k), 0.2) for k in range(2))
    assert torch.allclose(represent(model, "network.middle.act2", x, 0.2, draws=2, seed=5), (one + two) / 2)
    with pytest.raises(SpikinessError, match="at least 1 draw"):
        represent(model, "network.middle.act2", x, 0.2, draws=0)


@pytest.mark.parametrize("network", [ReLUDAE(64, 12), TimeDAE(64, 12)])
def test_two_layer_networks_have_a_layer_for_their_encode(network):
    y = noisy(4)
    assert layers(network)[0] == "encode"
    expected = network.encode(y) if isinstance(network, ReLUDAE) else network.encode(y, torch.full((4,), 0.3))
    assert torch.equal(capture(network, "encode", y, 0.3), expected)


def test_layers_that_a_pass_reaches(model):
    assert "network.up.0.act1" in reached(model, layers(model, nonlinearities=True), noisy(2), 0.3)
    model.network.spare = nn.SiLU()
    assert "network.spare" not in reached(model, layers(model, nonlinearities=True), noisy(2), 0.3)


def test_what_gives_no_row_for_each_image_is_not_there_to_be_captured():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.shared, self.flat, self.rows = (nn.Identity() for _ in range(4))

        def forward(self, y, sigma):
            self.pair((y, y))
            self.shared(y[:1])
            self.flat(y.flatten())
            return self.rows(y)

    model = Odd()
    assert reached(model, layers(model), noisy(2), 0.3) == ["rows"]


def test_costs_of_all_layers_from_one_pass_are_the_flops_of_a_pass_that_ends_there():
    for model in (EDM(UNet(1, 8, 8)), EDM(DiT(1, 8, 16, depth=2)), ReLUDAE(64, 8)):
        names, y = reached(model, layers(model), noisy(2), 0.3), noisy(2)
        with FlopCounterMode(display=False) as whole, torch.no_grad():
            model(y, torch.full((2,), 0.3))
        found = costs(model, names, y, 0.3)
        for name in names:
            with FlopCounterMode(display=False) as part:
                capture(model, name, y, 0.3)
            assert found[name] == part.get_total_flops() / whole.get_total_flops()
            assert cost(model, name, y, 0.3) == found[name]
    with pytest.raises(SpikinessError, match="no layer 'nowhere'"):
        costs(model, ["nowhere"], y, 0.3)


def test_a_model_that_keeps_its_mode_elsewhere_is_told_of_it():
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.fixed, self.noisy = nn.Linear(2, 2), nn.Linear(2, 2), True

        def train(self, mode=True):
            self.noisy = mode
            return super().train(mode)

    model = Apart()
    model.fixed.eval()
    with evaluating(model):
        assert not model.noisy
        assert not any(module.training for module in model.modules())
    assert model.noisy
    assert [module.training for module in (model, model.inside, model.fixed)] == [True, True, False]
