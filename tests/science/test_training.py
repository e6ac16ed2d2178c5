"""Training against closed forms, against torch's own loop, and members of an ensemble against themselves alone."""

import copy
import math

import pytest
import torch

from spikiness import theory
from spikiness.errors import Diverged, SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.training import Batches, Member, default_lr, descend, fit_dae, fit_ensemble, gradient_norm, schedule


def data(n=40, d=8, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_one_image_is_stored_with_the_predicted_gain():
    """Cor 3.2 for n = 1 by hand: |x|^2 = 25, lambda 1, sigma .5 -> r^2 |x|^2 = (25 - 1)/(25 + .25) = .9505."""
    x = torch.zeros(1, 6)
    x[0, :2] = torch.tensor([3.0, 4.0])
    network = fit_dae(x, width=5, sigma=0.5, lam=1.0, batch=16, steps=3000)
    operator = network.w2 @ network.w1.T
    assert (x @ operator @ x.T).item() / 25 == pytest.approx(24 / 25.25, abs=0.005)
    assert (operator - operator[:2, :2].trace() * (x.T @ x) / 25).abs().max() < 0.02


def test_memorizes_separable_images_as_predicted():
    x = 4 * torch.eye(10)[:3] - 1.0  # pairwise negative cosines
    network = fit_dae(x, width=12, sigma=0.2, lam=0.5, batch=12, steps=4000)
    gains = theory.stored_gains(x, 0.2, 0.5)
    held = torch.stack([x[i] @ network.w2 @ network.w1.T @ x[i] / x[i].norm() ** 4 for i in range(3)])
    assert (held / gains - 1).abs().max() < 0.02


@pytest.mark.parametrize("tied", [True, False])
def test_loss_falls_to_what_torch_own_loop_reaches(tied):
    """The same objective through autograd, nn.Linear's layout and torch's Adam; compared at the losses they reach."""
    x, sigma, lam = data(), 0.3, 0.02
    network = fit_dae(x, 6, sigma, lam, steps=3000, batch=40, tied=tied)
    generator = torch.Generator().manual_seed(1)
    other = ReLUDAE(8, 6, tied, generator=generator)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.02)
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 3000)
        estimate = other(x + sigma * torch.randn(x.shape, generator=generator))
        loss = ((estimate - x) ** 2).sum(1).mean() + lam * (other.w1**2).sum() + lam * (other.w2**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mine, theirs = (theory.objective(n.w1, n.w2, x, sigma, lam, draws=200).value for n in (network, other))
    assert mine == pytest.approx(theirs, rel=0.05)  # two starts, two minima of like depth


def test_a_member_of_an_ensemble_is_the_network_trained_alone():
    x, other = data(), data(n=9, seed=5)
    members = [Member(x, 6, 0.2, 0.01, 3), Member(other, 4, 0.5, 0.1, 3), Member(x, 6, 0.2, 0.01, 4)]
    together = fit_ensemble(members, steps=60, batch=16)
    for member, network in zip(members, together, strict=True):
        alone = fit_dae(member.x, member.width, member.sigma, member.lam, member.seed, steps=60, batch=16)
        assert network.w1.shape == (8, member.width)
        torch.testing.assert_close(network.w1, alone.w1, rtol=0, atol=2e-5)
    assert not torch.allclose(together[0].w1, together[2].w1)  # another seed is another network


def test_same_seed_same_bits_and_dtype_kept():
    first, second = (fit_dae(data(dtype=torch.float64), 5, 0.2, 0.01, seed=7, steps=30) for _ in range(2))
    assert first.w1.dtype == torch.float64
    assert torch.equal(first.w1, second.w1)


def test_noise_is_gaussian_in_opposite_pairs_and_images_come_equally_often():
    x = torch.arange(5.0)[:, None].expand(5, 400).contiguous()
    draw = Batches([Member(x, 3, 0.7, 0.0, 0)], batch=20)
    clean, noisy = draw()
    noise = noisy - clean
    torch.testing.assert_close(noise[0::2], -noise[1::2], rtol=0, atol=1e-5)
    assert noise.std().item() == pytest.approx(0.7, rel=0.03)
    assert torch.bincount(clean[:, 0].long()).tolist() == [4, 4, 4, 4, 4]
    assert not torch.equal(noise, draw()[1] - clean)


def test_the_gradient_norm_is_that_of_the_expected_loss():
    """One unit in one dimension, active on all draws: E loss = (w^2 - 1)^2 x^2 + w^4 sigma^2 + 2 lambda w^2."""
    network, x, sigma, lam, w = ReLUDAE(1, 1), torch.tensor([[10.0]]), 0.5, 0.3, 0.8
    network.w1.data.fill_(w)
    expected = abs(4 * w * (w**2 - 1) * 100 + 4 * w**3 * sigma**2 + 4 * lam * w)
    assert gradient_norm(network, Member(x, 1, sigma, lam)) == pytest.approx(expected, rel=1e-3)


def test_record_tells_how_it_was_trained():
    network = fit_dae(data(), 5, 0.2, 0.01, seed=2, steps=400)
    assert network.record["lr"] == default_lr(8) == 0.1 / math.sqrt(8)
    assert network.record["steps"] == 400
    assert network.record["loss"][-1] < 0.5 * network.record["loss"][0]
    assert 0 <= network.record["stationarity"] < 0.05


def test_schedule_warms_up_holds_and_ends_near_zero():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100:500] == [1.0] * 400
    assert rates[-1] < 1e-4
    assert all(0 < schedule(0, steps) <= 1 for steps in (1, 2, 7))


def autograd_steps(network, member, optimizer, lr, steps, batch):
    """Objective (6) through autograd, on the very batches that `descend` draws, for one of torch's own optimizers."""
    draw = Batches([member], batch)
    for step in range(steps):
        x, y = draw()
        loss = (network(y) - x).square().sum(1).mean()
        loss = loss + member.lam * (network.w1.square().sum() + network.w2.square().sum())
        optimizer.param_groups[0]["lr"] = lr * schedule(step, steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "decay", "make"),
    [
        ("adam", 0.0, lambda w: torch.optim.Adam(w)),
        ("rmsprop", 0.0, lambda w: torch.optim.RMSprop(w)),
        ("adamw", 0.5, lambda w: torch.optim.AdamW(w, weight_decay=0.5)),
        ("sgd", 0.0, lambda w: torch.optim.SGD(w, lr=1.0, momentum=0.9)),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_each_optimizer_takes_torch_own_steps(name, decay, make, tied):
    member = Member(data(dtype=torch.float64), 5, 0.3, 0.05, 2)
    start = ReLUDAE(8, 5, tied, generator=torch.Generator().manual_seed(3)).double()
    mine, theirs = copy.deepcopy(start), copy.deepcopy(start)
    list(descend([mine], [member], optimizer=name, lr=0.01, decay=decay, batch=16, steps=40))
    autograd_steps(theirs, member, make(theirs.parameters()), 0.01, 40, 16)
    assert (mine.w1 - start.w1).abs().max() > 0.05
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_decoupled_decay_shrinks_by_the_rate_alone_and_zero_decay_is_adam():
    """Without data and penalty the gradient is zero, and W is multiplied by 1 - lr * schedule * decay each step."""
    nothing = torch.zeros(2, 4, dtype=torch.float64)
    network = ReLUDAE(4, 3, generator=torch.Generator().manual_seed(0)).double()
    before = network.w1.detach().clone()
    list(descend([network], [Member(nothing, 3, 1e-30, 0.0)], optimizer="adamw", lr=0.1, decay=0.5, batch=4, steps=20))
    expected = math.prod(1 - 0.1 * schedule(step, 20) * 0.5 for step in range(20))
    torch.testing.assert_close(network.w1.detach(), before * expected, rtol=1e-6, atol=0)
    adam, adamw = (fit_dae(data(), 5, 0.2, 0.01, steps=40, batch=16, optimizer=name) for name in ("adam", "adamw"))
    assert torch.equal(adam.w1, adamw.w1)


def test_closing_the_loop_leaves_the_weights_it_reached():
    network, member = ReLUDAE(8, 5), Member(data(), 5, 0.2, 0.01)
    start = network.w1.detach().clone()
    loop = descend([network], [member], steps=100)
    first = next(loop)
    loop.close()
    assert first.images_seen == 256
    assert first.loss.shape == (1,)
    assert not torch.equal(network.w1, start)


def test_divergence_stops_at_the_first_bad_loss_and_says_what_to_do():
    with pytest.raises(Diverged, match=r"not finite at step \d+ with adam, lr .*seed 6.*try lr="):
        fit_dae(1e3 * data(), 5, 0.2, 0.0, seed=6, lr=1e12, steps=200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number above 0, got 0.0"),
        ({"sigma": float("nan")}, "sigma .* got nan"),
        ({"lam": -1.0}, "lam must be .* at least 0, got -1.0"),
        ({"lam": "1e-3"}, "lam must be .* got '1e-3'"),
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"steps": 0}, "steps must be"),
        ({"batch": 7}, "batch must be even.*use 8"),
        ({"lr": -1.0}, "lr must be"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'.*did you mean 'adam'"),
        ({"optimizer": "adamw", "decay": -0.1}, "decay must be a finite number of at least 0, got -0.1"),
        ({"optimizer": "adamw", "decay": float("nan")}, "decay must be .* got nan"),
        ({"optimizer": "sgd", "decay": 0.1}, "decoupled, which adamw is and sgd is not.*lam"),
        ({"decay": 0.1}, "decoupled, which adamw is and adam is not"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"x": torch.zeros(0, 8)}, "at least one image"),
        ({"x": torch.zeros(3, 8, dtype=torch.uint8)}, "must be float"),
        ({"x": torch.full((3, 8), float("nan"))}, "24 values that are not finite"),
        ({"x": torch.zeros(8)}, "shape \\(8,\\)"),
    ],
)
def test_refuses_what_cannot_be_trained(changes, message):
    arguments = {"x": data(), "width": 5, "sigma": 0.2, "lam": 0.01, "steps": 4} | changes
    with pytest.raises(SpikinessError, match=message):
        fit_dae(**arguments)


def test_an_ensemble_needs_members_of_one_size():
    with pytest.raises(SpikinessError, match="at least one member"):
        fit_ensemble([])
    with pytest.raises(SpikinessError, match=r"member 1 .*d = 3.*d = 8"):
        fit_ensemble([Member(data(), 4, 0.2, 0.1), Member(data(d=3), 4, 0.2, 0.1)])
