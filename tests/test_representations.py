"""Layers by name and features of one, computed no further than it."""

import pytest
import torch
from torch import nn

from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness.networks import DiT, TimeDAE, UNet
from spikiness.representations import capture, layers


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
