"""The chapter on photographs: its tables on denoisers whose answer is known, its networks on tiny sets."""

import numpy as np
import pytest
import torch
from torch import nn

from spikiness import images
from spikiness.denoisers import Empirical
from spikiness.errors import SpikinessError
from spikiness.images import Images
from spikiness_book import zoo
from spikiness_book.chapters.cifar import measure as cifar


class Known(nn.Module):
    """A closed form where a network is expected; it takes labels and does not read them."""

    def __init__(self, denoiser, images_seen=100):
        super().__init__()
        self.denoiser, self.record = denoiser, {"images_seen": images_seen}

    def forward(self, y, sigma, labels=None):
        return self.denoiser(y, sigma)


def photographs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 4, 4, generator=generator) * 2 - 1


def case(network="unet", n=6, stages=1):
    x = photographs(n)
    flat = Known(lambda y, sigma: torch.zeros_like(y), 50)
    return model(network, x, [flat] * (stages - 1) + [Known(Empirical(x))])


def model(network, x, stages):
    once, classes = torch.ones(len(x), dtype=torch.int64), torch.arange(10) if network == "dit" else None
    return zoo.Trained(f"{network}:noise", 10, 8, x, once, [100] * len(stages), stages, classes=classes)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_what_returns_training_images_is_all_memorized_and_what_returns_gray_is_not(network):
    rows = cifar.memorized([case(network, stages=2)], 12, 0)
    assert rows.images_seen.tolist() == [50, 100]
    assert rows.share.tolist() == [0.0, 1.0]
    assert rows.high[0] > 0
    assert rows.low[1] < 1
    assert cifar.final(rows).share.tolist() == [1.0]


def test_guidance_is_for_the_dit_alone_and_moves_nothing_where_labels_do_not_matter():
    rows = cifar.guided([case("unet"), case("dit")], [1.0, 3.0], 8, 0)
    assert rows.guidance.tolist() == [1.0, 3.0]
    assert rows.share.tolist() == [1.0, 1.0]


def test_distance_to_f_emp_is_zero_for_f_emp_and_one_for_gray():
    mine = case()
    gray = model("dit", mine.x, [Known(lambda y, sigma: torch.zeros_like(y))])
    rows = cifar.distances([mine, gray], [0.1, 1.0], 0).set_index(["network", "sigma"]).distance
    assert rows["unet"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert rows["dit"].tolist() == pytest.approx([1, 1])


def test_losses_of_a_denoiser_that_knows_its_images():
    mine, held_out = case(), photographs(40, seed=1)
    rows = cifar.losses([mine], held_out, 0.1, 0).set_index("images").error
    nearest = [
        (held_out[i] - mine.x[(held_out[i] - mine.x).flatten(1).norm(dim=1).argmin()]).square().mean()
        for i in range(40)
    ]
    assert rows["training"] == pytest.approx(0, abs=1e-4)
    assert rows["held out"] == pytest.approx(float(np.mean(nearest)), rel=0.1)  # it answers with the nearest one


def test_pictures_are_shown_in_their_colors_beside_the_nearest_image():
    rows, captions, frame = cifar.pictures(case(), 5, 0)
    assert rows["samples"].shape == (5, 4, 4, 3)
    np.testing.assert_allclose(rows["samples"], rows["nearest"], atol=1e-3)
    assert 0 <= rows["samples"].min() <= rows["samples"].max() <= 1
    assert captions["samples"] == ["0.00"] * 5
    assert len(frame) == 10


def test_networks_of_both_kinds_are_trained_once_on_disjoint_images(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    data = images.load("digits")
    pool = Images(data.x[:60], data.y[:60], "some digits")
    settings = ([6], [10, 11], 640, (8, 1), (16, 1, 2))
    cases = cifar.train(pool, *settings)
    assert [(c.network, c.seed) for c in cases] == [("unet", 10), ("dit", 10), ("unet", 11), ("dit", 11)]
    known = {row.numpy().tobytes() for row in cases[0].x}
    assert not known & {row.numpy().tobytes() for row in cases[2].x}
    assert [d.record["images_seen"] for d in cases[0].stages][-1] == 640
    assert len(cases[0].stages) == zoo.STAGES
    assert cases[1].denoiser.network.arguments["classes"] == 10
    assert len(list((tmp_path / "networks").iterdir())) == 4
    with pytest.raises(SpikinessError, match="not 11 times 6 different ones"):
        cifar.train(pool, [6], range(11), *settings[2:])
    assert len(list((tmp_path / "networks").iterdir())) == 4


def test_quality_stands_beside_that_of_real_images_and_the_judge_is_judged():
    class Pixels(nn.Module):
        def features(self, x):
            return x.flatten(1)

        def forward(self, x):
            return torch.stack([-x[:, 0, 0, 0], x[:, 0, 0, 0]], dim=1)

    x = photographs(60, seed=2)
    held_out = Images(x, (x[:, 0, 0, 0] > 0).long(), "noise")
    (row,) = cifar.quality([case()], Pixels(), held_out, 30, 0).itertuples()
    assert row.recall < row.real_recall  # six images do not cover thirty
    assert row.real_precision > 0.5
    assert cifar.accuracy(Pixels(), held_out) == 1.0
    assert cifar.accuracy(Pixels(), Images(x, 1 - held_out.y, "noise")) == 0.0
