"""The two-layer network and its hand-written gradients, against torch's own layers and autograd."""

import pytest
import torch
from torch import nn

from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE, loss_and_gradients


def make(seed=0, **changes):
    arguments = {"dim": 12, "width": 7, "tied": True} | changes
    return ReLUDAE(**arguments, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_forward_is_two_linear_layers(tied):
    network = make(tied=tied)
    encode, decode = nn.Linear(12, 7, bias=False), nn.Linear(7, 12, bias=False)
    encode.weight.data, decode.weight.data = network.w1.data.T, network.w2.data
    y = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    expected = decode(torch.relu(encode(y.flatten(1))))
    torch.testing.assert_close(network(y, 0.2), expected.reshape(5, 3, 2, 2))
    torch.testing.assert_close(network.encode(y), torch.relu(encode(y.flatten(1))))


def test_tied_weights_are_one_parameter():
    assert len(list(make().parameters())) == 1
    assert len(list(make(tied=False).parameters())) == 2


def test_weights_start_as_torch_linear_does():
    w = make(dim=400, width=300).w1
    assert w.abs().max() <= 1 / 20
    assert w.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.01)
    assert make(tied=False, dim=400, width=25).w2.abs().max() > 0.19  # fan-in of the decoder is p


@pytest.mark.parametrize("changes", [{"width": 0}, {"width": 2.5}, {"dim": -1}, {"width": True}])
def test_refuses_impossible_sizes(changes):
    with pytest.raises(SpikinessError, match="at least 1, got"):
        make(**changes)


def test_refuses_inputs_of_another_size():
    with pytest.raises(SpikinessError, match=r"d = 12.*d = 9.*ReLUDAE\(dim=9"):
        make()(torch.zeros(2, 9))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("members", [None, 3])
def test_gradients_are_those_of_autograd(tied, members):
    """Objective (6) written out with one call of autograd, in float64."""
    generator = torch.Generator().manual_seed(2)
    lead = () if members is None else (members,)
    w1 = torch.randn(*lead, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    w2 = w1 if tied else torch.randn(*lead, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(*lead, 5, 6, generator=generator, dtype=torch.float64)
    y = x + 0.3 * torch.randn(*lead, 5, 6, generator=generator, dtype=torch.float64)
    lam = torch.tensor(0.7) if members is None else torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    with torch.no_grad():
        loss, *gradients = loss_and_gradients(w1, w2, x, y, lam)
    estimate = torch.relu(y @ w1) @ w2.transpose(-2, -1)
    expected = ((estimate - x) ** 2).sum(-1).mean(-1) + lam * ((w1**2).sum((-2, -1)) + (w2**2).sum((-2, -1)))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, weight in zip(gradients, [w1] if tied else [w1, w2], strict=True):
        (want,) = torch.autograd.grad(expected.sum(), weight, retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
