"""Trained networks kept by what made them, and never trusted without their checksum."""

import functools
import os
import pickle
import random
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spikiness import sampling
from spikiness.denoisers import EDM
from spikiness.errors import SpikinessError
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.networks.unet import UNet
from spikiness.training import checkpoints
from spikiness_book.engine import cache
from spikiness_book.engine.cache import cached, key
from spikiness_book.engine.runs import store

CALLS = []


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    CALLS.clear()
    return tmp_path


@dataclass(frozen=True)
class Member:
    """One of many things to train on."""

    x: torch.Tensor
    width: int


def fit(x, width=2, seed=0, dtype=torch.float32, progress=False):
    """A stand-in for training: weights that depend on its arguments."""
    CALLS.append(seed)
    model = ReLUDAE(x.shape[1], width, tied=False, generator=torch.Generator().manual_seed(seed)).to(dtype)
    model.record = {"losses": [0.1 + 0.2, float(x.sum())], "steps": 3}
    return model


def fit_many(x, seeds):
    return [fit(x, seed=seed) for seed in seeds]


def broken(x):
    raise ZeroDivisionError


def wrong(x):
    return torch.nn.Linear(2, 2)


def interrupted(x):
    raise KeyboardInterrupt


X = torch.arange(6.0).reshape(2, 3)


def same(a, b):
    return all(torch.equal(p, q) and p.dtype == q.dtype for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trained_once_and_read_back_bit_for_bit(dtype):
    first, again, fresh = cached(fit, X, dtype=dtype), cached(fit, X, 2, dtype=dtype), fit(X, dtype=dtype)
    assert CALLS == [0, 0]  # one by cached(), one by fit()
    assert same(first, fresh)
    assert same(again, fresh)
    assert again.w1.dtype == dtype
    assert again.arguments == {"dim": 3, "width": 2, "tied": False}
    assert first.record == again.record == fresh.record
    assert again.w1.requires_grad
    assert torch.equal(again(X.to(dtype)), fresh(X.to(dtype)))


def test_a_tied_network_stays_tied():
    def parameters(model):
        return len(list(model.parameters()))

    model = cached(tied, X)
    assert (parameters(model), model.w2 is model.w1) == (1, True)


def tied(x):
    return ReLUDAE(3, 2)


def test_lists_of_networks():
    first, again = cached(fit_many, X, [3, 4]), cached(fit_many, X, seeds=(3, 4))
    assert CALLS == [3, 4]
    assert isinstance(again, list)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(again[0], again[1])


def test_every_argument_counts_by_value():
    nearly = X.clone()
    nearly[1, 2] = torch.nextafter(nearly[1, 2], torch.tensor(9.0))
    keys = [
        key(fit, (X,)),
        key(fit, (nearly,)),
        key(fit, (X.double(),)),
        key(fit, (X.reshape(3, 2),)),
        key(fit, (X, 3)),
        key(fit, (X, 2, 1)),
        key(fit, (X, 2, True)),
        key(fit, (X, 2, "1")),
        key(fit, (X, 2, None)),
        key(fit, (X, 2, [1, 2])),
        key(fit, (X, 2, [[1], 2])),
        key(fit, (X, 2, {"a": 1})),
        key(fit, (X, 2, Member(X, 1))),
        key(fit, (X, 2, Member(nearly, 1))),
        key(fit, (X, 2, [Member(X, 2)])),
        key(fit, (X,), {"dtype": torch.float64}),
        key(fit_many, (X, [0])),
        key(fit_many, (X, np.array([0]))),
    ]
    assert len(set(keys)) == len(keys)


def test_the_same_call_written_differently_is_the_same():
    transposed = X.T.contiguous().T
    assert not transposed.is_contiguous()
    assert key(fit, (X,)) == key(fit, (X.clone(), 2), {"seed": 0}) == key(fit, (transposed,), {"progress": True})


def test_the_code_and_torch_count(monkeypatch):
    before = key(fit, (X,))
    monkeypatch.setattr(cache.digests, "file_digest", lambda path: "other code")
    assert key(fit, (X,)) != before
    monkeypatch.undo()
    monkeypatch.setattr(cache.metadata, "version", lambda name: "2.99")
    assert key(fit, (X,)) != before


def test_training_in_the_package_counts_by_what_it_uses(monkeypatch):
    from spikiness import images

    before = key(images.distinct, (X,))
    monkeypatch.setattr(cache.digests, "function_digest", lambda module, name: module + name)
    assert key(images.distinct, (X,)) != before


@pytest.mark.parametrize("argument", [torch.Generator(), np.random.default_rng(0), object(), fit, np.array([fit])])
def test_an_argument_without_a_value_is_refused(argument):
    with pytest.raises(SpikinessError, match="argument 'seed'"):
        cached(fit, X, seed=argument)


def test_functions_without_a_name_or_a_file_are_refused(monkeypatch):
    with pytest.raises(SpikinessError, match="defined at the top of a module"):
        cached(lambda x: x, X)
    monkeypatch.delattr(sys.modules[__name__], "__file__")
    with pytest.raises(SpikinessError, match="define it in a module, not a notebook"):
        cached(fit, X)


def test_what_fails_leaves_nothing(home):
    for function, error in ((broken, ZeroDivisionError), (interrupted, KeyboardInterrupt)):
        with pytest.raises(error):
            cached(function, X)
    with pytest.raises(SpikinessError, match=r"keeps networks of ReLUDAE, .*, EDM, got Linear"):
        cached(wrong, X)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing(home, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpikinessError, match="the disk is full"):
        cached(fit, X)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_another_process_that_was_first_is_no_error(home):
    model = fit(X)
    folder = home / "networks" / "0123"
    cache._save(folder, model, 1.5)
    cache._save(folder, model, 1.5)
    assert same(cache._load(folder), model)
    assert [path.name for path in folder.parent.iterdir()] == ["0123"]


@pytest.fixture
def folder(home):
    cached(fit, X)
    (folder,) = (home / "networks").iterdir()
    return folder


@pytest.mark.parametrize("name", ["weights.safetensors", "networks.json"])
def test_no_truncation_and_no_flip_passes(folder, name):
    whole, draw = (folder / name).read_bytes(), random.Random(0)
    changed = [whole[: draw.randrange(len(whole))] for _ in range(300)]
    for at, bit in [(draw.randrange(len(whole)), 1 << draw.randrange(8)) for _ in range(300)]:
        changed.append(bytes([*whole[:at], whole[at] ^ bit, *whole[at + 1 :]]))
    for data in changed:
        (folder / name).write_bytes(data)
        with pytest.raises(cache.CorruptArtifact, match=name):
            cache._load(folder)


def test_altered_networks_are_said_and_trained_again(folder, capsys):
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[:-4] + b"\0\0\0\0")
    assert same(cached(fit, X), fit(X))
    said = capsys.readouterr().err
    assert "weights.safetensors: expected sha256" in said
    assert "training them again" in said
    assert same(cached(fit, X), fit(X))
    assert CALLS == [0, 0, 0, 0]  # cached, cached again, and the two to compare with
    assert (folder / "weights.safetensors").read_bytes() == data


def test_in_a_run_the_log_says_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPIKINESS_LOG", str(tmp_path / "log.txt"))
    (folder / "networks.json").unlink()
    cached(fit, X)
    assert "networks.json is missing" in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().err == ""


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_place_of_weights_is_never_opened(folder, tmp_path):
    """Even where its checksum was put right."""
    content = store.read_json(folder / "networks.json")
    data = pickle.dumps(Touch(tmp_path / "ran"))
    (folder / "weights.safetensors").write_bytes(data)
    store.write_json(folder / "networks.json", {**content, "weights": store.sha256(data)})
    with pytest.raises(cache.CorruptArtifact, match="does not hold the networks"):
        cache._load(folder)
    assert not (tmp_path / "ran").exists()


def test_no_other_class_is_made_than_those_listed(folder):
    content = store.read_json(folder / "networks.json")
    content["networks"][0]["class"] = "os.system"
    store.write_json(folder / "networks.json", content)
    with pytest.raises(SpikinessError, match=r"unknown network 'os\.system'"):
        cache._load(folder)


def test_weights_of_another_shape_are_refused(folder):
    content = store.read_json(folder / "networks.json")
    content["networks"][0]["arguments"]["width"] = 7
    store.write_json(folder / "networks.json", content)
    with pytest.raises(cache.CorruptArtifact, match="does not hold the networks"):
        cache._load(folder)


def test_weights_are_plain_safetensors(folder):
    assert set(load_file(folder / "weights.safetensors")) == {"0.w1", "0._w2"}


def test_seconds_of_training_are_kept_with_the_networks_and_counted_once_by_each_run(home, monkeypatch):
    monkeypatch.setattr(cache.chapter, "_training_seconds", {})
    for name, seconds in (("x", 12.5), ("y", 2.25)):
        cache._save(home / "networks" / name, ReLUDAE(3, 2), seconds)
    for name in ("x", "y", "x", "x"):
        cache._load(home / "networks" / name)
    assert cache.chapter.environment(1.0)["training_seconds"] == 14.75


def test_a_training_that_goes_on_counts_the_parts_before_it(home, monkeypatch):
    """The first part takes 7 seconds up to its last checkpoint, the second 3, by a clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cache.chapter, "_training_seconds", {})

    def part(x, checkpoint=None):
        if not checkpoints.versions(checkpoint):
            checkpoints.save(checkpoint, 1, {"w": x}, {"settings": {}, "seconds": 7.0})
            now[0] += 9.0  # two more that were lost
            raise KeyboardInterrupt
        now[0] += 3.0
        return fit(x)

    part.__qualname__, part.__module__ = "fit_with_checkpoint", __name__
    with pytest.raises(KeyboardInterrupt):
        cached(part, X)
    cached(part, X)
    assert cache.chapter.environment(1.0)["training_seconds"] == 10.0


def test_a_class_of_network_counts_by_its_code_and_a_factory_by_its_arguments_too():
    made = [
        UNet,
        ReLUDAE,
        functools.partial(UNet, 1, 8),
        functools.partial(UNet, 1, 8, width=8),
        functools.partial(UNet, 1, 4),
        functools.partial(ReLUDAE, 1, 8),
    ]
    keys = [key(fit, (X,), {"width": network}) for network in made]
    assert len(set(keys)) == len(keys)
    assert key(fit, (X,), {"width": functools.partial(UNet, 1, 8, width=8)}) == keys[3]
    with pytest.raises(SpikinessError, match="argument 'width'"):
        key(fit, (X,), {"width": functools.partial(fit, X)})


def test_a_checkpoint_folder_that_the_caller_named_is_left_alone(home, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    seen = []
    monkey = lambda x, checkpoint=None: seen.append(checkpoint) or fit(x)  # noqa: E731
    monkey.__qualname__, monkey.__module__ = "fit_with_checkpoint", __name__
    cached(monkey, X, checkpoint=mine)
    assert seen == [mine]
    assert (mine / "notes.txt").read_text() == "precious"
    cached(monkey, X + 1)
    assert seen[1].parent == home / "networks"
    assert not seen[1].exists()


# ---- samples


def small(seed=0):
    model = EDM(UNet(1, 4, 8, generator=torch.Generator().manual_seed(seed)), 0.5)
    with torch.no_grad():
        model.network.head.weight.fill_(0.01)
    return model


def test_samples_are_drawn_once_and_are_those_of_the_sampler(home, monkeypatch):
    model, seeds = small(), range(5, 9)
    first = cache.sampled(model, (1, 4, 4), seeds)
    assert torch.equal(first, sampling.sample(model, (1, 4, 4), seeds))
    monkeypatch.setattr(sampling, "sample", lambda *_, **__: pytest.fail("drawn again"))
    assert torch.equal(cache.sampled(model, (1, 4, 4), seeds), first)
    for other in ((small(1), seeds), (model, range(5, 8))):
        with pytest.raises(pytest.fail.Exception):
            cache.sampled(other[0], (1, 4, 4), other[1])


def test_samples_altered_on_disk_are_drawn_again(home):
    model = small()
    first = cache.sampled(model, (1, 4, 4), range(3))
    (path,) = (home / "samples").glob("*.npz")
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    assert torch.equal(cache.sampled(model, (1, 4, 4), range(3)), first)
    assert np.array_equal(np.load(path)["values"], first.numpy())


def test_samples_depend_on_labels(home):
    model = EDM(UNet(1, 4, 8, classes=3, generator=torch.Generator().manual_seed(0)), 0.5)
    with torch.no_grad():
        model.network.head.weight.fill_(0.05)
        for block in model.network.up:
            block.conv2.weight.fill_(0.05)
    one, two = (cache.sampled(model, (1, 4, 4), range(2), labels=torch.tensor([k, k])) for k in (0, 1))
    assert not torch.equal(one, two)
    assert len(list((home / "samples").glob("*.npz"))) == 2
