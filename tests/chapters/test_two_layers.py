"""What the chapters on two-layer networks share: problems, training side by side, mixtures, noise, tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import theory
from spikiness.training import fit_dae
from spikiness_book import two_layers
from spikiness_book.two_layers import GENERALIZED, MEMORIZED, Mixture, Problem

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def test_a_problem_knows_its_samples_its_blocks_and_its_start():
    problem = Problem((X[:5], X[5:]), 4, 0.2, 0.01, seed=3)
    assert torch.equal(problem.x, X)
    assert problem.n == 12
    assert problem.widths == theory.rank_directions([X[:5], X[5:]], 4, 0.2, 0.01)
    assert replace(problem, blocks=(1, 3)).theorem[1:] == ([1, 3], 0.2, 0.01)
    assert (problem.member(X).seed, replace(problem, start=7).member(X).seed) == (3, 7)
    assert replace(problem, clusters=(X,)).x is X  # one cluster is not copied


def test_training_keeps_the_order_shares_equal_networks_and_gives_what_each_alone_would_be(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path))
    few, many = (X[:4],), (X,)
    problems = [
        Problem(many, 5, 0.2, 0.1, 0, "many"),
        Problem(few, 3, 0.2, 0.1, 1, "few", tied=False),
        Problem(many, 5, 0.2, 0.1, 0, "the same, asked again"),
        Problem(many, 5, 0.3, 0.1, 0, "many", start=9),
    ]
    trained = two_layers.train(problems, lambda problem: 4 if problem.group == "few" else 8, steps=6)
    assert [problem.group for problem in trained] == [problem.group for problem in problems]
    assert trained[0].network is trained[2].network
    for problem, batch in zip(trained, (8, 4, 8, 8), strict=True):
        seed = problem.seed if problem.start is None else problem.start
        alone = fit_dae(
            problem.x, problem.width, problem.sigma, problem.lam, seed, tied=problem.tied, batch=batch, steps=6
        )
        torch.testing.assert_close(problem.network.w1, alone.w1)
        torch.testing.assert_close(problem.network.w2, alone.w2)


def test_noise_is_of_one_stream_or_belongs_to_the_sample():
    stream = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(two_layers.noisy(X[:3], 0.5, seed=5), X[:3] + 0.5 * stream)
    each = [torch.randn(2, 6, generator=torch.Generator().manual_seed((5 << 24) + i)) for i in range(3)]
    expected = torch.cat([x + 0.5 * noise for x, noise in zip(X[:3], each, strict=True)])
    torch.testing.assert_close(two_layers.noisy(X[:3], 0.5, seed=5, draws=2), expected)


def test_a_mixture_knows_its_moments_and_each_of_its_modes():
    mixture = two_layers.mixture_with_tail(seed=1, modes=4, dim=8)
    x, label = mixture.draw(40_000, seed=2)
    assert torch.bincount(label).tolist() == pytest.approx([10_000] * 4, rel=0.05)
    for k in range(4):
        sampled = (x[label == k].T @ x[label == k] / int((label == k).sum())).double()
        assert (sampled - mixture.moments[k]).norm() < 0.05 * mixture.moments[k].norm()
        torch.testing.assert_close(mixture.mode(k).moments[0], mixture.moments[k])
    first, second = mixture.halves(50, seed=3)
    assert [sum(map(len, half)) for half in (first, second)] == [50, 50]
    assert torch.cdist(torch.cat(first), torch.cat(second)).min() > 1e-4


def test_the_best_denoiser_of_a_mixture_of_one_gaussian_is_the_wiener_filter():
    one = Mixture(torch.tensor([[2.0, 0.0]]), torch.tensor([[[1.0], [0.0]]]))  # variance 1 along the first axis
    estimate = one.truth(torch.tensor([[4.0, 3.0]]), 0.5)
    torch.testing.assert_close(estimate, torch.tensor([[2 + 2 / 1.25, 0.0]]))


def test_histograms_of_two_groups_share_their_bins():
    rows = pd.DataFrame({"data": "a", "regime": [MEMORIZED] * 2 + [GENERALIZED] * 4, "std": [0.0, 1, 0, 0, 0, 4]})
    bins = two_layers.histogram(rows, ["std"], bins=4).set_index("regime")
    assert bins.share[MEMORIZED].tolist() == [0.5, 0.5, 0, 0]
    assert bins.share[GENERALIZED].tolist() == [0.75, 0, 0, 0.25]
    assert bins.left[MEMORIZED].tolist() == [0, 1, 2, 3]


def test_pictures_are_rows_of_vectors_beside_a_table_with_their_labels():
    rows = {"a\nb": torch.arange(8.0).reshape(2, 4), "none": torch.zeros(0, 4)}
    shown, frame = two_layers.pictures(rows, (2, 2), size={"a\nb": torch.tensor([1.0, 2.0]), "none": torch.zeros(0)})
    assert list(shown) == ["a\nb"]
    assert shown["a\nb"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert frame.row.tolist() == ["a b", "a b"]
    assert frame["size"].tolist() == [1, 2]
    assert np.array_equal(frame[[0, 1, 2, 3]], rows["a\nb"])
