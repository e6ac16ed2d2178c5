"""The classifier that measures quality: it classifies, comes back the same, and refuses what it cannot use."""

import json

import pytest
import torch

from spikiness import images, measures
from spikiness.errors import Diverged, SpikinessError
from spikiness.networks.classifier import Classifier
from spikiness.training import fit_classifier
from spikiness_book.engine.cache import cached


@pytest.fixture(scope="module")
def digits():
    return images.load("digits"), images.load("digits", split="test")


@pytest.fixture(scope="module")
def trained(digits):
    return cached(fit_classifier, digits[0].x, digits[0].y)


def accuracy(network, data):
    return (network(data.x).argmax(dim=1) == data.y).double().mean().item()


def test_digits_held_out(digits, trained):
    train, test = digits
    assert accuracy(trained, test) > 0.97
    assert trained.record["accuracy"] == accuracy(trained, train) > 0.99
    logits = trained(train.x)
    assert trained.record["final_loss"] == pytest.approx(-logits.log_softmax(1)[range(1400), train.y].mean().item())
    assert len(trained.record["loss"]) == trained.record["epochs"] == 36
    assert trained.record["loss"][0] > 10 * trained.record["loss"][-1]
    json.dumps(trained.record, allow_nan=False)


def test_features_tell_digits_from_blends_of_digits(digits, trained):
    (x, _), test = (digits[0].x, digits[0].y), digits[1].x
    real, split = x[:397], x[397:794]
    blends = (test + test.roll(1, 0)) / 2
    found = measures.quality(blends, real, split, trained.features, draws=50)
    same = measures.quality(test, real, split, trained.features, draws=50)
    assert found.precision < 0.6 < same.precision
    assert found.kernel_distance > found.kernel_distance_interval[0] > same.kernel_distance_interval[1]


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 12), (1, 28), (3, 32)])
def test_shapes(channels, size):
    network = Classifier(channels, size, classes=7, width=8)
    x = torch.rand(5, channels, size, size)
    features = network.features(x)
    assert features.shape == (5, 32)
    assert (features >= 0).all()
    assert network(x).shape == (5, 7)
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]))
    again = Classifier(**network.arguments)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


def test_starts_as_torch_layers_do_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    network = Classifier(1, 12, width=16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(1), expected)
    for layer in network.children():
        fresh = type(layer)(*layer.weight.shape[1::-1], *layer.weight.shape[2:3])
        assert layer.weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.15)
        assert layer.weight.abs().max() <= layer.weight[0].numel() ** -0.5


def test_the_seed_alone_decides(digits):
    x, y = digits[0].x[:128], digits[0].y[:128]
    first = fit_classifier(x, y, seed=3, epochs=2, width=8)
    torch.rand(7)
    second, third = (fit_classifier(x, y, seed=seed, epochs=2, width=8) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.record == second.record
    assert not torch.equal(first.hidden.weight, third.hidden.weight)


def test_float64_and_number_of_classes(digits):
    x, y = digits[0].x[:64].double(), digits[0].y[:64] % 3
    network = fit_classifier(x, y.int(), epochs=1, width=4)
    assert network(x).dtype == torch.float64
    assert network.arguments == {"channels": 1, "size": 8, "classes": 3, "width": 4}
    assert fit_classifier(x, y, classes=10, epochs=1, width=4)(x).shape == (64, 10)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (None, {}, "labels are missing"),
        ([0, 1, 2], {}, "one whole number for each of the 4 images"),
        ([0.0, 1, 2, 3], {}, "labels are torch.float32"),
        ([0, -1, 2, -1], {}, "2 labels lie outside 0 to 2: they span -1 to 2"),
        ([0, 1, 2, 10], {"classes": 10}, "1 labels lie outside 0 to 9"),
        ([0, 1, 2, 3], {"epochs": 0}, "epochs must be"),
        ([0, 1, 2, 3], {"batch": 2.5}, "batch must be"),
        ([0, 1, 2, 3], {"lr": -1.0}, "lr must be"),
        ([0, 1, 2, 3], {"width": 0}, "width must be"),
    ],
)
def test_bad_options_are_refused(labels, options, message):
    with pytest.raises(SpikinessError, match=message):
        fit_classifier(torch.zeros(4, 1, 8, 8), labels, **options)


def test_bad_images_are_refused():
    labels = torch.tensor([0, 1])
    for x in (torch.zeros(2, 64), torch.zeros(2, 1, 8, 12), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(SpikinessError, match="x must be float images"):
            fit_classifier(x, labels)
    with pytest.raises(SpikinessError, match="64 values that are not finite"):
        fit_classifier(torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), torch.nan)]), labels)
    with pytest.raises(SpikinessError, match="multiple of 4, got 10; pad the images to 12"):
        fit_classifier(torch.zeros(2, 1, 10, 10), labels)
    with pytest.raises(SpikinessError, match=r"made for images \[N, 1, 8, 8\], got shape \(2, 3, 8, 8\)"):
        Classifier(1, 8)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(SpikinessError, match="classes must be a whole number of at least 2, got 1"):
        Classifier(1, 8, classes=1)
    with pytest.raises(Diverged, match="at step 0 of seed 5"):
        fit_classifier(torch.full((2, 1, 8, 8), 3e38), labels, seed=5)
