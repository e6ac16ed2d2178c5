"""The memorization chapter's measures on networks whose weights are planted, so that every number is known."""

import numpy as np
import pytest
import torch

from spikiness import images, theory
from spikiness.networks.relu_dae import ReLUDAE
from spikiness_book import two_layers
from spikiness_book.chapters.memorization import measure as experiment
from spikiness_book.two_layers import Problem

SIGMA, LAM = 0.2, 0.1


@pytest.fixture
def planted():
    """Three orthogonal images of length 3, 4 and 5, stored exactly as Cor 3.2 says, in five units."""
    x = torch.diag(torch.tensor([3.0, 4.0, 5.0, 1.0]))[:3]
    network = ReLUDAE(4, 5)
    network.record = {"stationarity": 0.0}
    network.w1.data.zero_()
    network.w1.data[:, [4, 0, 2]] = (theory.stored_gains(x, SIGMA, LAM).sqrt()[:, None] * x).T
    return Problem(two_layers.each_alone(x), 5, SIGMA, LAM, 0, "separable", network=network)


def test_planted_columns_are_found_with_their_gains(planted):
    rows = experiment.stored(planted)
    hand = (25 - 3 * LAM) / (25**2 + SIGMA**2 * 25)  # Cor 3.2 for the image of length 5
    assert rows.learned[2] == pytest.approx(hand, rel=1e-6)
    assert rows.predicted[2] == pytest.approx(hand, rel=1e-6)
    assert rows["columns"].tolist() == [1, 1, 1]
    assert rows.cosine.tolist() == pytest.approx([1, 1, 1])


def test_summary_of_planted_network(planted):
    row = experiment.summary(planted)
    assert row["gain_error"] < 1e-6
    assert row["stray"] == 0
    assert row["active"] == 3
    assert row["participation"] == pytest.approx(1)
    assert row["beta"] == 0
    # Orthogonal images, by hand: noise alone turns each of the two other units on half of the time, which adds
    # sigma^2 m_j^2 / 2 with m_j = r_j^2 |x_j|^2; on average over the three images, sigma^2 / 3 times the sum of m_j^2.
    m = [(square - 3 * LAM) / (square + SIGMA**2) for square in (9, 16, 25)]
    crosstalk = SIGMA**2 / 3 * sum(value**2 for value in m)
    assert row["loss"] == pytest.approx(row["predicted_loss"] + crosstalk, rel=0.03)


def test_a_split_column_counts_twice_and_its_gain_once(planted):
    w = planted.network.w1.data
    w[:, 1] = w[:, 4] * 0.6
    w[:, 4] *= 0.8
    rows = experiment.stored(planted)
    assert rows["columns"].tolist() == [2, 1, 1]
    assert rows.learned[0] == pytest.approx(rows.predicted[0], rel=1e-6)


def test_a_strange_column_is_stray(planted):
    planted.network.w1.data[:, 1] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    total = planted.network.w1.detach().square().sum().item()
    assert experiment.summary(planted)["stray"] == pytest.approx(1 / total, rel=1e-5)


def test_representation_has_one_unit_per_image_in_the_order_of_images(planted):
    heights = experiment.representation(planted, seed=1).pivot(index="image", columns="unit", values="h").to_numpy()
    assert heights.argmax(axis=1).tolist() == sorted(heights.argmax(axis=1).tolist())
    expected = (theory.stored_gains(planted.x, SIGMA, LAM).sqrt() * planted.x.norm(dim=1) ** 2).numpy()
    assert np.abs(heights.max(axis=1) / expected - 1).max() < 0.2  # one noise draw
    assert experiment.top_share(planted).min() > 0.9


def test_pictures_show_images_above_their_columns(planted):
    rows, captions, frame = experiment.columns_as_images(planted, (2, 2))
    assert [pictures.shape for pictures in rows.values()] == [(3, 2, 2), (3, 2, 2), (2, 2, 2)]
    cosines = (rows["images"] * rows["their columns"]).sum((1, 2))
    cosines /= np.linalg.norm(rows["images"], axis=(1, 2)) * np.linalg.norm(rows["their columns"], axis=(1, 2))
    assert cosines == pytest.approx([1, 1, 1])
    assert captions["images"] == captions["their columns"]
    assert len(frame) == 8


def test_plan_covers_the_settings_and_chooses_separable_images():
    pool = images.load("digits").x
    cases = experiment.plan(pool, 4, 50, [0, 1], 0.2, [0.2, 1.0], 1.0, [0.1, 1.0])
    assert len(cases) == 2 * (3 + 2)  # sigma .2 and 1 at lambda 1, lambda .1 at sigma .2; random; untied
    separable = next(case for case in cases if case.group == "separable")
    assert theory.separability(separable.clusters)[1] < 0
    assert separable.x.shape == (4, 64)


def test_training_fills_in_every_case_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    pool = images.load("digits").x
    cases = experiment.train(experiment.plan(pool, 3, 4, [0], 0.2, [0.2], 1.0, [1.0]), steps=5)
    assert [case.tied for case in cases] == [True, True, False]
    assert all(case.network.record["sigma"] == case.sigma and case.network.tied == case.tied for case in cases)
