"""What only a GPU can show; skipped, with that reason, where there is none."""

import pytest
import torch

from spikiness import images, measures
from spikiness.denoisers import Empirical
from spikiness.networks import DiT, UNet
from spikiness.sampling import sample
from spikiness.training import diffusion, fit_diffusion

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


def digits(n=20):
    return images.subset(images.load("digits").x, n, seed=0)


def test_a_gpu_memorizes_what_a_cpu_memorizes_and_the_result_is_on_the_cpu():
    x = digits(4)
    trained = fit_diffusion(x, UNet(1, 8, 16), images_seen=24_000, device="cuda")
    assert {weight.device.type for weight in trained.parameters()} == {"cpu"}
    assert {weight.dtype for weight in trained.parameters()} == {torch.float32}
    assert measures.memorization(sample(trained, (1, 8, 8), range(100)), x).fraction > 0.9


def test_samples_of_one_seed_agree_between_devices():
    x = digits(4)
    trained = fit_diffusion(x, UNet(1, 8, 16), images_seen=6_400, device="cpu")
    on_cpu = sample(trained, (1, 8, 8), range(20))
    on_gpu = sample(trained.cuda(), (1, 8, 8), range(20)).cpu()
    assert (on_cpu - on_gpu).abs().median() < 1e-2  # chaos may part a few of them
    y = x + 0.3
    torch.testing.assert_close(trained(y.cuda(), 0.3).cpu(), trained.cpu()(y, 0.3), atol=1e-3, rtol=1e-3)
    assert measures.distance(trained, Empirical(x), y, 0.3).rms > 0


@pytest.mark.parametrize("network", [UNet, DiT])
def test_resuming_on_a_gpu_gives_the_straight_run(network, tmp_path, monkeypatch):
    def fresh():
        return network(1, 8, 16, generator=torch.Generator().manual_seed(0))

    settings = {"images_seen": 12_800, "device": "cuda"}
    straight = fit_diffusion(digits(), fresh(), **settings)

    class Crash(Exception):
        pass

    def stop(bar, loop):
        if loop.step == 101:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "SAVE_SECONDS", -1.0)
        patch.setattr(diffusion, "_show", stop)
        with pytest.raises(Crash):
            fit_diffusion(digits(), fresh(), checkpoint=tmp_path, **settings)
    resumed = fit_diffusion(digits(), fresh(), checkpoint=tmp_path, **settings)
    pairs = zip(straight.parameters(), resumed.parameters(), strict=True)
    assert max((a - b).abs().max() for a, b in pairs) < 1e-3  # kernels of a GPU may add in another order
