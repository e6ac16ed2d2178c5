"""Training of diffusion models: the loss by hand, resumption to the bit, memorization in short runs, what may fail."""

import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from spikiness import denoisers, images, measures
from spikiness.denoisers import EDM
from spikiness.errors import Diverged, SpikinessError
from spikiness.networks import DiT, TimeDAE, UNet
from spikiness.sampling import sample
from spikiness.training import LOG_NORMAL, LOG_UNIFORM, Loop, checkpoints, diffusion, fit_diffusion


def digits(n=20, seed=0):
    return images.subset(images.load("digits").x, n, seed=seed)


def unet(width=8, seed=0, **options):
    return UNet(1, 8, width, generator=torch.Generator().manual_seed(seed), **options)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def loop(x=None, network=None, **options):
    x = digits() if x is None else x
    settings = {
        "seed": 0, "labels": None, "images_seen": 640, "batch": 32, "lr": 5e-3, "noise": LOG_NORMAL,
        "lam": 0.0, "clip": 1.0, "label_dropout": 0.1,
    }  # fmt: skip
    return Loop(x, diffusion._denoiser(network or unet(), x, None), **{**settings, **options})


# --- preconditioning and loss ---


def test_preconditioning_is_that_of_the_paper_table():
    """c_skip, c_in, c_out, c_noise of Karras et al. 2022, Table 1, written out for one sigma."""

    class Half(nn.Module):
        def forward(self, x, c_noise, labels=None):
            return 0.5 * x + c_noise

    y, sigma, sd = torch.full((2, 1, 4, 4), 3.0), 2.0, 0.5
    c_in, c_skip = 1 / math.sqrt(sigma**2 + sd**2), sd**2 / (sigma**2 + sd**2)
    c_out = sigma * sd / math.sqrt(sigma**2 + sd**2)
    wanted = c_skip * 3.0 + c_out * (0.5 * c_in * 3.0 + math.log(sigma) / 4)
    torch.testing.assert_close(EDM(Half(), sd)(y, sigma), torch.full_like(y, wanted))
    torch.testing.assert_close(EDM(Half(), sd).loss_weight(torch.tensor(sigma)).item(), 1 / c_out**2)


def test_an_untrained_network_is_the_best_denoiser_of_white_data_and_its_loss_is_one():
    """F = 0 leaves c_skip y, Wiener's estimate for N(0, sigma_data^2 I), whose weighted error is 1 at every level."""
    x = 0.7 * torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trained = loop(x, batch=4000, noise=("log-normal", -1.2, 1.2))
    assert trained._loss(*trained.draw()).item() == pytest.approx(1, abs=0.02)
    wiener = denoisers.Wiener(torch.zeros(64), 0.49 * torch.eye(64))
    denoiser = EDM(unet(), 0.7)
    y = x[:5] + 0.3
    torch.testing.assert_close(denoiser(y, 0.4), wiener(y.flatten(1), 0.4).reshape(y.shape), atol=1e-6, rtol=1e-5)


def test_noise_levels_follow_their_distribution():
    log = loop(batch=20000).draw()[2].log()
    assert (log.mean().item(), log.std().item()) == (pytest.approx(-1.2, abs=0.03), pytest.approx(1.2, abs=0.03))
    x, y, level, labels = loop(batch=20000, noise=LOG_UNIFORM).draw()
    assert labels is None
    assert (level.min() >= 0.02) & (level.max() <= 2)
    assert level.log().mean().item() == pytest.approx(math.log(0.2), abs=0.03)
    assert ((y - x) / level).std().item() == pytest.approx(1, abs=0.01)


def test_penalty_is_lambda_of_objective_6_over_d():
    x = digits().flatten(1)
    network = TimeDAE(64, 8)
    plain, penalized = (loop(x, network, lam=lam, batch=64, noise=LOG_UNIFORM) for lam in (0.0, 0.3))
    draw = plain.draw()
    wanted = 0.3 / 64 * 2 * network.w.square().sum()
    torch.testing.assert_close(penalized._loss(*draw) - plain._loss(*draw), wanted)


def test_labels_are_dropped_to_the_null_class_at_their_rate():
    x, labels = digits(200), torch.arange(200) % 10
    drawn = loop(x, unet(classes=10), labels=labels, batch=20000, label_dropout=0.25).draw()[3]
    assert (drawn == 10).double().mean().item() == pytest.approx(0.25, abs=0.015)
    assert set(drawn.tolist()) == set(range(11))


# --- what training leads to ---


def test_a_short_run_on_few_images_memorizes_and_the_average_does_not_hide_it():
    x = digits(4)
    trained = fit_diffusion(x, unet(16), 0, images_seen=24_000, batch=64)
    found = measures.memorization(sample(trained, (1, 8, 8), range(100)), x)
    assert found.fraction > 0.9
    y = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    near, start = (measures.distance(d, denoisers.Empirical(x), y, 0.3).rms for d in (trained, EDM(unet(16), 0.7)))
    assert near < 0.5 * start


def test_the_usual_average_would_hide_it(monkeypatch):
    """The independent check of the one above: with a decay of .9999, as in long runs, the random start stays."""
    x = digits(4)

    @torch.no_grad()
    def usual(self):
        torch._foreach_lerp_(list(self.average.module.parameters()), self.parameters, 1 - 0.9999)

    monkeypatch.setattr(Loop, "_average", usual)
    trained = fit_diffusion(x, unet(16), 0, images_seen=24_000, batch=64)
    assert measures.memorization(sample(trained, (1, 8, 8), range(100)), x).fraction < 0.1


@pytest.mark.parametrize("network", [DiT(1, 8, width=32, depth=1, classes=10, heads=2), unet(classes=10)])
def test_a_class_conditional_network_learns_to_use_its_labels(network):
    data = images.load("digits")
    keep = data.y < 2
    x, y = data.x[keep][:100], data.y[keep][:100]
    trained = fit_diffusion(x, network, 0, y, 64 * 150, batch=64)
    noise = 1.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    error = lambda labels: (trained(x + noise, 1.5, labels) - x).square().mean().item()  # noqa: E731
    assert error(y) < error(None) < error(1 - y)


def test_stages_are_the_run_as_it_was_then():
    x = digits()
    first, last = fit_diffusion(x, unet(), 3, images_seen=640, batch=32, stages=[320])
    whole = fit_diffusion(x, unet(), 3, images_seen=640, batch=32)
    assert same(last, whole)
    assert not same(first, last)
    assert [d.record["images_seen"] for d in (first, last)] == [320, 640]
    run = loop(x, seed=3)
    steps = iter(run)
    for _ in range(10):
        next(steps)
    assert same(first, run.averaged())
    assert not any(p.requires_grad for p in first.parameters())


def test_a_result_is_kept_and_rebuilt_by_the_cache(tmp_path, monkeypatch):
    from spikiness_book.engine import cache

    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    made = fit_diffusion(digits(), unet(classes=None), images_seen=64, batch=32, stages=[32])
    cache._save(tmp_path / "a", made, 0.0)
    again = cache._load(tmp_path / "a")
    assert [type(d) for d in again] == [EDM, EDM]
    assert all(
        same(a, b) and a.record == b.record and a.sigma_data == b.sigma_data for a, b in zip(made, again, strict=True)
    )
    y = digits() + 0.1
    torch.testing.assert_close(again[1](y, 0.2), made[1](y, 0.2))


# --- stop and go on ---


def cut(folder, after, monkeypatch, x=None, **options):
    """Train with a checkpoint at every step until `after` steps are done, then stop as a crash would."""

    class Crash(Exception):
        pass

    def watch(bar, state):
        if state.step == after:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "SAVE_SECONDS", -1.0)
        patch.setattr(diffusion, "_show", watch)
        with pytest.raises(Crash):
            fit_diffusion(digits() if x is None else x, unet(), checkpoint=folder, batch=32, images_seen=640, **options)


def test_a_run_cut_short_and_resumed_is_the_straight_run_to_the_bit(tmp_path, monkeypatch):
    straight = fit_diffusion(digits(), unet(), images_seen=640, batch=32, stages=[96, 320])
    for after in (5, 9, 17):  # each goes on from the one before
        cut(tmp_path, after, monkeypatch, stages=[96, 320])
    assert checkpoints.versions(tmp_path)[0].stem == "000000016"
    resumed = fit_diffusion(digits(), unet(), images_seen=640, batch=32, stages=[96, 320], checkpoint=tmp_path)
    assert all(same(a, b) and a.record == b.record for a, b in zip(straight, resumed, strict=True))


def test_resuming_does_need_the_generator_and_the_moments(tmp_path, monkeypatch):
    """The independent check of the one above: without either the result is another one."""
    straight = fit_diffusion(digits(), unet(), images_seen=640, batch=32)
    for lost in ("generator", "optimizer."):
        folder = tmp_path / lost
        cut(folder, 9, monkeypatch)
        with monkeypatch.context() as patch:
            fresh = loop().state()
            original = Loop.restore

            def forget(self, tensors, step, losses, lost=lost, fresh=fresh, original=original):
                kept = {k: v for k, v in tensors.items() if not k.startswith(lost)}
                original(self, kept | {"generator": fresh["generator"]} if lost == "generator" else kept, step, losses)

            patch.setattr(Loop, "restore", forget)
            assert not same(straight, fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=folder))


def test_two_versions_are_kept_and_a_damaged_newest_falls_back_to_the_one_before(tmp_path, monkeypatch, capsys):
    straight = fit_diffusion(digits(), unet(), images_seen=640, batch=32)
    cut(tmp_path, 9, monkeypatch)
    newest, before = checkpoints.versions(tmp_path)
    weights = newest.with_suffix(".safetensors")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    resumed = fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=tmp_path)
    assert same(straight, resumed)
    said = capsys.readouterr().err
    assert weights.name in said
    assert "expected sha256" in said
    before.write_text("{")
    newest.with_suffix(".safetensors").unlink()
    assert same(straight, fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=tmp_path))
    assert "starts anew" in capsys.readouterr().err


def test_after_damage_new_versions_are_kept_whatever_their_number(tmp_path, monkeypatch):
    cut(tmp_path, 15, monkeypatch)
    for path in checkpoints.versions(tmp_path):
        path.with_suffix(".safetensors").write_bytes(b"")
    cut(tmp_path, 5, monkeypatch)  # starts anew, and its versions have smaller numbers
    assert [path.stem for path in checkpoints.versions(tmp_path)] == ["000000004", "000000003"]
    straight = fit_diffusion(digits(), unet(), images_seen=640, batch=32)
    assert same(straight, fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=tmp_path))


def test_weights_without_their_json_are_no_version_and_are_swept_away(tmp_path):
    (tmp_path / "000000007.safetensors").write_bytes(b"cut short")
    assert checkpoints.load(tmp_path, {}) is None
    checkpoints.save(tmp_path, 1, {"w": torch.arange(3.0)}, {"settings": {}, "step": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000001.json", "000000001.safetensors"]


def test_moments_come_back_in_the_layout_of_their_weights():
    """A GPU trains convolutions in channels_last and refuses moments laid out otherwise."""
    trained = loop()
    trained.denoiser.to(memory_format=torch.channels_last)
    for _ in zip(range(2), trained, strict=False):
        pass
    state = {name: tensor.contiguous() for name, tensor in trained.state().items()}
    trained.restore(state, 2, [1.0, 1.0])
    for weight in trained.parameters:
        assert trained.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert any(not weight.is_contiguous() for weight in trained.parameters)


def test_a_signal_in_the_last_step_is_heard(tmp_path, monkeypatch):
    def last(bar, state):
        if state.step == state.steps:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "_show", last)
        with pytest.raises(SystemExit):
            fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=tmp_path)
    straight = fit_diffusion(digits(), unet(), images_seen=640, batch=32)
    assert same(straight, fit_diffusion(digits(), unet(), images_seen=640, batch=32, checkpoint=tmp_path))


def test_the_network_given_and_the_global_generator_are_left_as_they_were():
    network, before = unet(), unet()
    state = torch.random.get_rng_state()
    fit_diffusion(digits(), network, images_seen=64, batch=32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(network, before)


def test_truncated_checkpoints_are_never_read(tmp_path):
    checkpoints.save(tmp_path, 1, {"w": torch.arange(50.0)}, {"settings": {}, "step": 1})
    (path,) = checkpoints.versions(tmp_path)
    for file in (path, path.with_suffix(".safetensors")):
        whole = file.read_bytes()
        for length in range(0, len(whole), 7):
            file.write_bytes(whole[:length])
            assert checkpoints.load(tmp_path, {}) is None
        file.write_bytes(whole)
    assert checkpoints.load(tmp_path, {})[1]["step"] == 1


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(tmp_path, monkeypatch):
    cut(tmp_path, 5, monkeypatch)
    before = sorted(p.name for p in tmp_path.iterdir())
    for change, match in [
        ({"lr": 0.5}, "lr was 0.005, now 0.5"),
        ({"seed": 4}, "seed was 0, now 4"),
        ({"images_seen": 320}, "images_seen"),
        ({"stages": [64]}, r"stages was \[640\], now \[64, 640\]"),
    ]:
        with pytest.raises(SpikinessError, match=match):
            fit_diffusion(digits(), unet(), **{"images_seen": 640, "batch": 32, "checkpoint": tmp_path, **change})
    with pytest.raises(SpikinessError, match="start was"):
        fit_diffusion(digits(), unet(seed=7), images_seen=640, batch=32, checkpoint=tmp_path)
    with pytest.raises(SpikinessError, match="data was"):
        fit_diffusion(
            digits(seed=1),
            unet(),
            images_seen=640,
            batch=32,
            checkpoint=tmp_path,
            sigma_data=loop().denoiser.sigma_data,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == before


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background would hand down "ignored"
from pathlib import Path
from spikiness import images
from spikiness.networks import UNet
from spikiness.training import diffusion, fit_diffusion
diffusion.SAVE_SECONDS = 0.2
fit_diffusion(images.load("digits").x[:20], UNet(1, 8, 8), images_seen=50_000_000, checkpoint=Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_ends_as_its_kind_does(tmp_path, number):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not checkpoints.versions(tmp_path) and time.monotonic() < limit:
        time.sleep(0.1)
    before = checkpoints.versions(tmp_path)[0]
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 if number == signal.SIGTERM else said.endswith("KeyboardInterrupt\n")
    assert "goes on from the checkpoint" in said
    newest = checkpoints.versions(tmp_path)[0]
    assert json.loads(newest.read_text())["step"] == int(newest.stem) > int(before.stem)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint_named(tmp_path, monkeypatch):
    x = digits()
    folder = tmp_path / "a"
    cut(folder, 5, monkeypatch, x=x)
    original = Loop._loss
    calls = iter(range(100))

    def bad(self, *draw):
        return original(self, *draw) * (math.nan if next(calls) == 3 else 1)

    monkeypatch.setattr(Loop, "_loss", bad)
    with pytest.raises(
        Diverged, match=r"not finite at step 7 .*lr 0.005, seed 0.*last good checkpoint: .*000000004.json"
    ):
        fit_diffusion(x, unet(), images_seen=640, batch=32, checkpoint=folder)
    calls = iter(range(100))
    with pytest.raises(Diverged, match="last good checkpoint: none"):
        fit_diffusion(x, unet(), images_seen=640, batch=32)


def test_a_diverging_learning_rate_is_stopped():
    with pytest.raises(Diverged, match="try lr="):
        fit_diffusion(digits(), unet(), images_seen=64_000, batch=32, lr=1e25, clip=1e30)


def test_infinite_weights_are_neither_kept_nor_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "SAVE_SECONDS", -1.0)
    settings = {"batch": 32, "lr": 1e39, "checkpoint": tmp_path}
    for images_seen in (32, 64):  # after the last step, and before a save
        with pytest.raises(Diverged, match=r"a weight is not finite at step 0 .*last good checkpoint: none"):
            fit_diffusion(digits(), unet(), images_seen=images_seen, **settings)
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_not_finite_stops_before_it_spreads(monkeypatch):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *a, **k: torch.tensor(torch.inf))
    with pytest.raises(Diverged, match="gradient is not finite at step 0"):
        fit_diffusion(digits(), unet(), images_seen=640, batch=32)


# --- bad input ---


def test_out_of_memory_is_one_clear_error(monkeypatch):
    def full(self, *draw):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "_loss", full)
    with pytest.raises(SpikinessError, match=r"out of memory with batches of 32: use a smaller batch \(try 16\)"):
        fit_diffusion(digits(), unet(), images_seen=640, batch=32)
    monkeypatch.undo()
    with pytest.raises(SpikinessError, match="out of memory"):  # a CPU's own words, for 64 TB
        fit_diffusion(digits(), unet(), images_seen=640, batch=2**38)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused_and_auto_falls_back():
    with pytest.raises(SpikinessError, match=r"device 'cuda' is not on this machine: choose one of auto, cpu"):
        fit_diffusion(digits(), unet(), device="cuda")
    assert diffusion.find_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"images_seen": 0}, "images_seen must be a whole number"),
        ({"batch": 2.5}, "batch must be a whole number"),
        ({"lr": math.nan}, "lr must be a finite number above 0"),
        ({"lam": -1.0}, "lam must be"),
        ({"lam": 1.0}, "networks with a penalty"),
        ({"noise": ("log-uniform", 2.0, 1.0)}, "noise is"),
        ({"noise": ("normal", 2.0, 1.0)}, "noise is"),
        ({"stages": [0, 10]}, "stages"),
        ({"stages": [10**9]}, "stages"),
        ({"labels": torch.zeros(20, dtype=torch.long)}, "labels but no classes"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"device": "cpu:x"}, "device 'cpu:x' is not on this machine"),
    ],
)
def test_bad_settings(options, match):
    with pytest.raises(SpikinessError, match=match):
        fit_diffusion(digits(), unet(), **options)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (None, "10 classes but no labels"),
        (torch.full((20,), 10), "go from 10 to 10; this network has classes 0 .. 9"),
        (torch.full((20,), -1), "go from -1"),
        (torch.zeros(19, dtype=torch.long), "give 20 whole numbers"),
        (torch.zeros(20), "whole numbers"),
    ],
)
def test_bad_labels(labels, match):
    with pytest.raises(SpikinessError, match=match):
        fit_diffusion(digits(), unet(classes=10), 0, labels)


def test_a_denoiser_has_its_own_sigma_data():
    with pytest.raises(SpikinessError, match="leave it out"):
        fit_diffusion(digits(), EDM(unet()), sigma_data=0.9)


def test_numbers_of_other_types_are_taken_as_what_they_are():
    plain = fit_diffusion(digits(), unet(classes=10), 3, torch.arange(20) % 10, images_seen=64, batch=32)
    labels = (torch.arange(20) % 10).to(torch.uint8)
    other = fit_diffusion(digits().double(), unet(classes=10), np.int64(3), labels, images_seen=64, batch=32)
    # the standard deviation of the images, in float64, rounds otherwise
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
    with pytest.raises(SpikinessError, match="whole numbers"):
        fit_diffusion(digits(), unet(classes=10), 3, torch.ones(20, dtype=torch.bool), images_seen=64)


def test_bad_data():
    x = digits()
    bad = x.clone()
    bad[[3, 5], 0, 0, 0] = torch.nan
    with pytest.raises(SpikinessError, match="2 of 20 images hold NaN"):
        fit_diffusion(bad, unet())
    with pytest.raises(SpikinessError, match="at least one image"):
        fit_diffusion(x[:0], unet(), sigma_data=0.5)
    with pytest.raises(SpikinessError, match="made for"):
        fit_diffusion(torch.zeros(3, 1, 12, 12), unet(), images_seen=32, sigma_data=0.5)


# --- a network built under the seed ---


def test_a_factory_is_built_under_the_seed_so_that_one_number_fixes_everything():
    """Three calls, whatever torch's global generator was; and the same as a network built by hand with this seed."""
    x, factory = digits(), functools.partial(UNet, 1, 8, width=8)
    made = []
    for global_seed in (0, 1, 2):
        torch.manual_seed(global_seed)
        made.append(fit_diffusion(x, factory, 5, images_seen=320, batch=32))
    assert same(made[0], made[1])
    assert same(made[1], made[2])
    assert same(made[0], fit_diffusion(x, unet(seed=5), 5, images_seen=320, batch=32))
    assert not same(made[0], fit_diffusion(x, factory, 6, images_seen=320, batch=32))


def test_a_factory_of_a_denoiser_is_not_wrapped_again():
    x = digits().flatten(1)
    trained = fit_diffusion(x, functools.partial(TimeDAE, 64, 4), 5, images_seen=320, batch=32, noise=LOG_UNIFORM)
    ready = TimeDAE(64, 4, generator=torch.Generator().manual_seed(5))
    assert isinstance(trained, TimeDAE)
    assert same(trained, fit_diffusion(x, ready, 5, images_seen=320, batch=32, noise=LOG_UNIFORM))


@pytest.mark.parametrize("network", ["unet", lambda generator: "unet"])
def test_what_builds_no_network_is_refused(network):
    with pytest.raises(SpikinessError, match="must be a torch module, or a callable that takes generator="):
        fit_diffusion(digits(), network, images_seen=64)


def test_seconds_of_all_parts_are_kept_with_the_checkpoint(tmp_path, monkeypatch):
    """By a clock that moves one second whenever it is read: twice cut short, the second part counts from the first."""
    ticks = itertools.count()
    monkeypatch.setattr(diffusion.time, "monotonic", lambda: float(next(ticks)))
    assert checkpoints.seconds(tmp_path) == 0
    cut(tmp_path, 5, monkeypatch)
    first, start = checkpoints.seconds(tmp_path), next(ticks)
    cut(tmp_path, 9, monkeypatch)
    both = checkpoints.seconds(tmp_path)
    assert 0 < first < start
    assert first < both <= first + next(ticks) - start
