"""Weights from a GPU, half precision, torch.compile, parallel or averaged training, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from spikiness.denoisers import EDM
from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.networks import UNet, load_weights


def unet(seed=0, width=8):
    network = UNet(1, 8, width, generator=torch.Generator().manual_seed(seed))
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    return network


def same(a, b, tolerance=0.0):
    return all(
        torch.allclose(x, y, atol=tolerance, rtol=0) for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_compiled_and_parallel_training(prefix, tmp_path):
    trained, fresh = unet(1), unet(2)
    state = {prefix + name: weight for name, weight in trained.state_dict().items()}
    assert same(load_weights(fresh, state), trained)
    save_file(state, tmp_path / "w.safetensors")
    assert same(load_weights(unet(3), tmp_path / "w.safetensors"), trained)


def test_real_wrappers():
    trained = unet(1)
    assert same(load_weights(unet(2), nn.DataParallel(trained).state_dict()), trained)
    assert same(load_weights(unet(2), AveragedModel(trained).state_dict()), trained)
    assert same(load_weights(unet(2), torch.compile(trained).state_dict()), trained)
    assert same(load_weights(EDM(unet(2)), EDM(trained).state_dict()), EDM(trained))


def test_half_precision_becomes_the_type_of_the_network():
    trained, fresh = unet(1), unet(2)
    load_weights(fresh, {name: weight.bfloat16() for name, weight in trained.state_dict().items()})
    assert all(weight.dtype == torch.float32 for weight in fresh.parameters())
    assert same(fresh, trained, tolerance=2e-3)


def test_another_network_is_refused_and_nothing_is_changed():
    fresh, before = unet(2), unet(2)
    wider = unet(1, width=16).state_dict()
    with pytest.raises(SpikinessError, match=r"of another network: .* is \[.*\], not \[.*\].* and \d+ more"):
        load_weights(fresh, wider)
    state = dict(unet(1).state_dict())
    state["head.wight"] = state.pop("head.weight")
    with pytest.raises(SpikinessError, match=r"head.weight is missing; head.wight is not a weight of this network"):
        load_weights(fresh, state)
    assert same(fresh, before)


def test_pickles_are_refused_without_being_opened(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    for name in ("w.pt", "w.ckpt", "w.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm()))
        with pytest.raises(SpikinessError, match="can run code"):
            load_weights(unet(), tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def test_damaged_and_missing_files(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(SpikinessError, match="is not there"):
        load_weights(unet(), path)
    save_file(unet(1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        load_weights(unet(), path)
