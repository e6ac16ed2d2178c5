"""Raw networks of diffusion models: shapes, conditioning, starting points, and what they refuse."""

import pytest
import torch
from torch import nn

from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness.networks import REGISTRY, DiT, Network, Preconditioned, TimeDAE, UNet, check_network
from spikiness.representations import layers
from spikiness.training import fit_diffusion


def awake(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():  # fresh networks end in zeros
        nn.init.normal_(weight, std=0.2, generator=generator)
    return network


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 12), (1, 28), (3, 32), (2, 20)])
@pytest.mark.parametrize("make", [UNet, DiT])
def test_any_channels_and_size(make, channels, size):
    network = make(channels, size, width=16)
    x = torch.randn(2, channels, size, size)
    assert torch.equal(network(x, torch.zeros(2)), torch.zeros_like(x))  # it starts as zero
    awake(network)
    out = network(x, torch.zeros(2))
    assert out.shape == x.shape
    assert out.std() > 0
    assert not torch.allclose(out, network(x, torch.ones(2)))  # it sees the noise level
    torch.testing.assert_close(network(x, torch.zeros(1)), out)  # one level for all
    torch.testing.assert_close(network(x[1:], torch.zeros(1)), out[1:], atol=1e-4, rtol=1e-4)  # no image sees another


@pytest.mark.parametrize("make", [UNet, DiT])
def test_the_whole_image_reaches_every_pixel(make):
    network = awake(make(1, 12, width=16))
    for name, module in list(network.named_modules()):  # a norm alone would join all pixels
        if isinstance(module, nn.GroupNorm):
            network.set_submodule(name, nn.Identity())
    x = torch.randn(1, 1, 12, 12, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x, torch.zeros(1))[0, 0, 0, 0], x)
    assert (slope != 0).all()


@pytest.mark.parametrize("make", [UNet, DiT])
def test_labels_and_the_null_label(make):
    network, x = awake(make(1, 8, width=16, classes=3)), torch.randn(4, 1, 8, 8)
    c = torch.zeros(4)
    null = network(x, c)
    torch.testing.assert_close(null, network(x, c, torch.full((4,), 3)))
    labelled = network(x, c, torch.tensor([0, 1, 2, 3]))
    assert not torch.allclose(labelled[:3], null[:3])
    torch.testing.assert_close(labelled[3], null[3])
    for labels, match in [
        (torch.tensor([0, 1, 2, 4]), "label 4 is not one of 0 .. 2, or 3 for none"),
        (torch.tensor([0, -1, 2, 0]), "label -1"),
        (torch.tensor([0, 1]), "one for each of 4 images"),
        (torch.zeros(4), "whole numbers"),
    ]:
        with pytest.raises(SpikinessError, match=match):
            network(x, c, labels)
    with pytest.raises(SpikinessError, match="without classes"):
        make(1, 8, width=16)(x, c, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("make", [UNet, DiT])
def test_weights_come_from_their_generator_alone(make):
    first, second = (make(1, 8, width=16, classes=2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = make(1, 8, width=16, classes=2, generator=torch.Generator().manual_seed(6))
    assert not torch.equal(first.stem.weight, other.stem.weight)


@pytest.mark.parametrize("make", [UNet, DiT])
def test_an_equal_network_is_made_from_its_arguments(make):
    network = awake(make(3, 16, width=16, classes=2))
    again = make(**network.arguments)
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(x, torch.zeros(2)), network(x, torch.zeros(2)))


def test_nonlinearities_have_names_of_their_own():
    names = layers(UNet(1, 28, 16), nonlinearities=True)
    assert [n for n in names if n.startswith("up")] == [f"up.{i}.act{k}" for i in range(3) for k in (1, 2)]
    assert [n for n in layers(DiT(1, 8, 16, depth=2), nonlinearities=True) if "blocks" in n] == [
        "blocks.0.act",
        "blocks.1.act",
    ]
    assert not [m for m in UNet(1, 8, 16).modules() if isinstance(m, nn.Dropout)]


def test_patches_move_the_network_to_a_coarser_grid():
    network = awake(UNet(3, 32, 16, patch=2))
    seen = []
    network.stem.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    assert network(torch.randn(2, 3, 32, 32), torch.zeros(2)).shape == (2, 3, 32, 32)
    assert seen == [(2, 16, 16, 16)]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: UNet(1, 9, 16), "size is 9; its scales need a multiple of 2: resize or pad to 8 or 10"),
        (lambda: UNet(1, 30, 16), "size is 30; its scales need a multiple of 4: resize or pad to 28 or 32"),
        (lambda: UNet(1, 8, 16, patch=3), "multiple of 6"),
        (lambda: DiT(1, 30, 16), "size is 30; patches need a multiple of 4: resize or pad to 28 or 32"),
        (lambda: DiT(1, 8, 20), "width is 20; 4 heads and a grid of sines need a multiple of 16"),
        (lambda: UNet(0, 8), "channels must be a whole number"),
        (lambda: UNet(1, 8, width=2.0), "width must be a whole number"),
        (lambda: UNet(1, 8, patch=0), "patch must be a whole number"),
        (lambda: DiT(1, 8, patch=0), "patch must be a whole number"),
        (lambda: UNet(1, 8, classes=0), "classes must be a whole number"),
        (lambda: TimeDAE(64, 0), "width must be a whole number"),
        (lambda: UNet(1, 8, 16)(torch.zeros(2, 3, 8, 8), torch.zeros(2)), r"made for \[N, 1, 8, 8\]"),
        (lambda: TimeDAE(64, 8)(torch.zeros(2, 63), 0.1), "made for d = 64"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(SpikinessError, match=match):
        make()


def test_the_time_conditioned_dae_by_hand():
    network = TimeDAE(3, 2, hidden=4)
    y, sigma = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]]), torch.tensor([0.1, 2.0])
    nn.init.normal_(network.gate2.weight, generator=torch.Generator().manual_seed(0))
    nn.init.constant_(network.skip, 0.25)
    w = network.w
    for i in range(2):
        hidden = network.gate1.weight[:, 0] * sigma[i].log() + network.gate1.bias
        gate = torch.exp(network.gate2.weight @ (hidden * torch.sigmoid(hidden)) + network.gate2.bias)
        wanted = w @ (torch.clamp(w.T @ y[i], min=0) * gate) + 0.25 * y[i]
        torch.testing.assert_close(network(y, sigma)[i], wanted)
    assert network.penalty().item() == pytest.approx(2 * w.square().sum().item())
    fresh = TimeDAE(3, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        fresh(y, 0.5), torch.relu(y @ fresh.w) @ fresh.w.T
    )  # the gate starts at one, the skip at zero


# ---- the contract


class Affine(nn.Module):
    """The smallest network of the contract."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.arguments, self.record = {"scale": scale}, {}
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x, c_noise, labels=None):
        return self.scale * x


def test_our_networks_keep_the_contract():
    for network in (UNet(1, 8, 8), DiT(1, 8, 16, 1), Affine()):
        assert isinstance(network, Network)
        assert not isinstance(network, Preconditioned)
        check_network(network)
    for denoiser in (EDM(Affine()), TimeDAE(64, 8)):
        assert isinstance(denoiser, Preconditioned)
        check_network(denoiser)
    for name, kind in REGISTRY.items():  # the cache finds a class by its name
        assert kind.__name__ == name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda n: delattr(n, "arguments"), "Affine lacks `arguments`, a dict of what .*: networks.Network says"),
        (lambda n: delattr(n, "record"), "lacks `record`, an empty dict"),
        (lambda n: setattr(n, "forward", lambda x: x), r"lacks `forward\(x, c_noise, labels\)`"),
        (
            lambda n: setattr(n, "precondition", n.forward),
            r"lacks `loss_weight\(level\)`: networks.Preconditioned says",
        ),
    ],
)
def test_what_lacks_a_part_of_the_contract_is_told_which(change, match):
    network = Affine()
    change(network)
    with pytest.raises(SpikinessError, match=match):
        check_network(network)


def test_training_names_the_missing_parts():
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(SpikinessError, match=r"Sequential lacks `arguments`.* and `record`.* and `forward\(x, c_noise"):
        fit_diffusion(x, nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), images_seen=8)
    with pytest.raises(SpikinessError, match=r"network must be a torch module, or a callable.*it gave 'unet'"):
        fit_diffusion(x, "unet", images_seen=8)
    assert fit_diffusion(x, Affine(), images_seen=64, batch=8, device="cpu").record["images_seen"] == 64


def test_an_unknown_network_is_refused_with_the_nearest():
    with pytest.raises(SpikinessError, match=r"unknown network 'Unet': one of .*; did you mean 'UNet'"):
        REGISTRY["Unet"]
