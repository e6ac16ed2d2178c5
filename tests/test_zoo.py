"""The zoo: one table of recipes, networks that it says and no others, images disjoint where it says so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spikiness import images, networks
from spikiness.errors import SpikinessError
from spikiness.images import Images
from spikiness.networks import DiT, UNet
from spikiness_book import zoo
from spikiness_book.engine import cache
from spikiness_book.engine.runs import findings
from spikiness_book.zoo import Recipe


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))


class Mixer(nn.Module):
    """A made-up network: one matrix over pixels, beside the noise level."""

    def __init__(self, channels, size, width=4, classes=None, *, generator=None):
        super().__init__()
        self.arguments = {"channels": channels, "size": size, "width": width, "classes": classes}
        self.record = {}
        d = channels * size**2
        self.w = nn.Parameter(0.01 * torch.randn(d, d, generator=generator))

    def forward(self, x, c_noise, labels=None):
        return (x.flatten(1) @ self.w).reshape(x.shape)


def some_digits(n=60, classes=10):
    pool = images.load("digits")
    keep = pool.y < classes
    return Images(pool.x[keep][:n], pool.y[keep][:n], "some-digits")


def tiny(network=UNet, labeled=False, **options):
    return Recipe("tiny", "", network, labeled, width=16, images_seen=640, options=options)


def rows(x):
    return {row.numpy().tobytes() for row in x}


# ---- the table


def test_every_recipe_trains_the_network_of_its_row(monkeypatch):
    """With training replaced by building, for all sorts of images: the class, and whether it is told labels."""
    asked = []
    monkeypatch.setattr(zoo, "cached", lambda fit, x, network, *rest, **more: asked.append((network, rest)) or [None])
    sizes = {"small": (1, 8), "gray": (1, 28), "color": (3, 32)}
    for recipe in zoo.RECIPES:
        channels, size = sizes[recipe.sort]
        x = torch.rand(recipe.n_large + 10, channels, size, size, generator=torch.Generator().manual_seed(0))
        pool = Images(x, torch.arange(len(x)) % 3, "noise")
        model = zoo.train_with_repeats(pool, recipe, [0], f"{recipe.name}:noise")[0]
        network, (_, labels, seen) = asked[-1]
        assert network.func is recipe.network
        assert network(generator=torch.Generator()).arguments["width"] == recipe.width
        assert (labels is not None) == recipe.labeled == (model.classes is not None)
        assert seen == recipe.images_seen
        assert model.n == recipe.n_large + sum((k - 1) * recipe.repeated for k in recipe.copies)
    assert {recipe.network for recipe in zoo.RECIPES if recipe.name in ("unet", "tiny-unet")} == {UNet}
    assert {recipe.network for recipe in zoo.RECIPES if recipe.name in ("dit", "tiny-dit")} == {DiT}


def test_a_new_row_with_another_network_trains_that_network(monkeypatch):
    monkeypatch.setattr(zoo, "RECIPES", [*zoo.RECIPES, Recipe("mixer", "small", Mixer, False, width=4, **zoo.TINY)])
    monkeypatch.setitem(networks.REGISTRY, "Mixer", Mixer)
    monkeypatch.setitem(cache.KEPT, "Mixer", Mixer)
    model = zoo.train("mixer:digits", [0])[0]
    assert isinstance(model.denoiser.network, Mixer)
    assert (model.network, model.data, model.labels, model.classes) == ("mixer", "digits", None, None)
    assert model.draw(3).shape == (3, 1, 8, 8)
    start = Mixer(1, 8, generator=torch.Generator().manual_seed(0)).w
    assert not torch.equal(model.denoiser.network.w, start)  # it learned
    assert zoo.reported("mixer:digits", [10], [13]) == [10]
    with pytest.raises(SpikinessError, match="no recipe of a mixer for gray images, take unet or dit"):
        zoo.recipe("mixer:mnist")


def test_a_kind_is_trained_on_its_data_with_repeats_and_kept():
    model = zoo.train("tiny-dit:digits", [10])[0]
    assert model.x.shape == (60, 1, 8, 8)
    assert model.copies.tolist() == [4] * 3 + [16] * 3 + [1] * 54
    assert model.denoiser.record["n"] == model.n == 3 * 4 + 3 * 16 + 54
    assert len(model.stages) == len(model.seen) == zoo.STAGES
    pool = images.load("digits")
    assert torch.equal(pool.y[model.chosen], model.labels)
    again = zoo.train("tiny-dit:digits", [10])[0]
    assert all(torch.equal(a, b) for a, b in zip(model.denoiser.parameters(), again.denoiser.parameters(), strict=True))


def test_another_width_learns_the_same_images():
    own, other = (zoo.train("tiny-unet:digits", [10], width)[0] for width in (None, 16))
    assert (own.width, other.width) == (8, 16)
    assert torch.equal(own.x, other.x)
    assert other.denoiser.network.arguments["width"] == 16


def test_chapters_share_the_networks_of_the_table(monkeypatch):
    """What a chapter asks for by its own parameters is, where these are the table's, the same call."""
    keys = []
    monkeypatch.setattr(zoo, "cached", lambda fit, *args, **more: keys.append(cache.key(fit, args, more)) or [None])
    zoo.train("unet:digits", [10])
    how = zoo.unet(16, 320_000, n_large=1400, copies=[4, 8, 16, 32, 64], repeated=10)
    pool = images.load("digits")
    zoo.train_with_repeats(pool, how, [10])
    zoo.train_with_repeats(pool, replace(how, width=8), [10])
    zoo.train_with_repeats(pool, how, [11])
    zoo.train_with_repeats(pool, zoo.unet(16, 320_000, 2, n_large=1400, copies=how.copies, repeated=10), [10])
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unnet:digits", "did you mean 'unet'"),
        ("unet", "network:data"),
        ("unet:digit", "digits"),
        ("tiny-dit:mnist", "no recipe of a tiny-dit for gray images, take unet or dit"),
    ],
)
def test_unknown_kinds_are_refused(kind, message):
    with pytest.raises(SpikinessError, match=message):
        zoo.train(kind, [0])


# ---- refused before training


def write(path, x, y, test=True):
    parts = {"train_images": x, "train_labels": y[:, None]}
    if test:
        parts |= {"test_images": x[:4], "test_labels": y[:4, None]}
    np.savez(path, **parts)
    return f"npz:{path}"


def test_two_files_whose_names_begin_alike_are_two_kinds(tmp_path):
    x, y = np.zeros((8, 8, 8), dtype=np.uint8), np.arange(8) % 2
    x[:, 0, 0] = np.arange(8) * 20
    one, two = (write(tmp_path / name, x, y) for name in ("chest_v1.npz", "chest-xray.npz"))
    kinds = [f"tiny-unet:{one}", f"tiny-unet:{two}"]
    zoo.check(kinds)
    assert len({zoo.label(kind) for kind in kinds}) == 2
    assert [findings.make("x", 1, labels={"kind": kind})["labels"]["kind"] for kind in kinds] == kinds


def test_data_without_a_test_split_are_refused_where_held_out_images_will_be_needed(tmp_path):
    x, y = np.zeros((8, 8, 8), dtype=np.uint8), np.arange(8) % 2
    kind = f"tiny-unet:{write(tmp_path / 'bare.npz', x, y, test=False)}"
    zoo.check([kind])
    with pytest.raises(SpikinessError, match="test"):
        zoo.check([kind], held_out=True)


def test_kinds_that_no_recipe_makes_are_refused_unless_named():
    zoo.check(["relu-dae:digits", "tiny-dit:digits"], held_out=True, others=["relu-dae"])
    with pytest.raises(SpikinessError, match="unknown kind 'relu-dae:digits'"):
        zoo.check(["relu-dae:digits"])


# ---- classes


def test_a_set_of_two_classes_is_sampled_from_these_alone():
    pool = some_digits(classes=2)
    model = zoo.train_each_once(pool, tiny(DiT, labeled=True, depth=1, patch=2), [(20, 16, 0, 3)])[0]
    assert model.denoiser.network.arguments["classes"] == 2
    assert model.classes_in_turn(5).tolist() == [0, 1, 0, 1, 0]
    assert zoo.told_apart(model, 5).labels.tolist() == [0, 1, 0, 1, 0]
    odd = Images(pool.x, pool.y * 5, "zeros-and-fives")  # labels 0 and 5: the embeddings between learn nothing
    model = zoo.train_each_once(odd, tiny(DiT, labeled=True, depth=1, patch=2), [(20, 16, 0, 3)])[0]
    assert model.classes_in_turn(5).tolist() == [0, 5, 0, 5, 0]


def test_dits_are_reported_on_seeds_of_their_own():
    assert zoo.reported("unet:digits", [10, 11], [13]) == [10, 11]
    assert zoo.reported("dit:mnist", [10, 11], [13]) == [13]
    assert zoo.reported("tiny-dit:digits", [10, 11], [13]) == [13]
    assert zoo.reported("relu-dae:mnist", [10], [13]) == [10]


# ---- which images


def test_seeds_far_apart_see_disjoint_images(monkeypatch):
    monkeypatch.setattr(zoo, "cached", lambda *_, **__: [None])
    pool = images.load("digits")
    plan = zoo.plan_each_once([100, 400], [16], [10, 12, 14])
    models = zoo.train_each_once(pool, zoo.unet(16, 64), plan, disjoint=True)
    assert [(m.n, m.seed) for m in models] == [(n, seed) for n in (100, 400) for seed in (10, 12, 14)]
    for three in (models[:3], models[3:]):
        assert len(rows(torch.cat([m.x for m in three]))) == 3 * three[0].n
    assert all(torch.equal(m.x, pool.x[m.chosen]) for m in models)


def test_images_that_cannot_be_disjoint_are_refused_before_training(monkeypatch):
    monkeypatch.setattr(zoo, "cached", lambda *_, **__: pytest.fail("trained"))
    plan = zoo.plan_each_once([100, 700], [16], [10, 12, 14])
    with pytest.raises(SpikinessError, match="1400 images, not 3 times 700 different ones"):
        zoo.train_each_once(images.load("digits"), zoo.unet(16, 64), plan, disjoint=True)


def test_a_plan_has_one_network_per_seed_and_a_partner_where_there_is_one_seed():
    assert zoo.plan_each_once([20, 7], [16], [10], [7]) == [(7, 16, 0, 10), (7, 16, 1, 11), (20, 16, 0, 10)]
    assert zoo.plan_each_once([7], [8, 16], [10, 12], [7]) == [
        (7, w, i, seed) for w in (8, 16) for i, seed in ((0, 10), (1, 12))
    ]


def test_a_repeated_set_repeats_the_first_images_of_a_seeded_order():
    chosen, copies = zoo.repeated_set(12, 10, [2, 5], 2, 3)
    assert copies.tolist() == [2, 2, 5, 5, 1, 1, 1, 1, 1, 1]
    assert chosen.tolist() == torch.randperm(12, generator=torch.Generator().manual_seed(3))[:10].tolist()
    assert len(zoo.repeated_set(8, 10, [2], 2, 3)[0]) == 8
    with pytest.raises(SpikinessError, match="lower repeated"):
        zoo.repeated_set(12, 10, [2, 5], 6, 3)


def test_chunks_of_one_size_are_disjoint_and_wrap_around():
    x = torch.arange(10)
    chunks = [zoo.chunk(x, 3, index) for index in range(4)]
    assert sorted(torch.cat(chunks[:3]).tolist()) == sorted(set(torch.cat(chunks[:3]).tolist()))
    assert torch.equal(chunks[3], chunks[0])
    with pytest.raises(SpikinessError, match="ask for 1 to 10"):
        zoo.chunk(x, 11, 0)


# ---- samples


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))
        return zoo.train("tiny-dit:digits", [10])[0]


def test_samples_are_the_same_each_time_and_a_first_part_of_more(dit):
    first = dit.draw(6)
    assert torch.equal(dit.draw(6), first)
    torch.testing.assert_close(dit.draw(3), first[:3])
    for other in ({"seed": 11}, {"stage": 0}, {"guidance": 3.0}):
        assert (dit.draw(3, **other) - first[:3]).abs().max() > 0.01


def test_samples_come_with_labels_and_lie_in_the_range_of_images(dit):
    samples = zoo.told_apart(dit, 25)
    assert samples.labels.tolist() == [i % 10 for i in range(25)]
    assert samples.x.abs().max() <= 1
    assert torch.equal(samples.x, dit.draw(25).clamp(-1, 1))
    x, labels, nearest = samples.part(samples.generalized, 3)
    first = np.flatnonzero(samples.generalized)[:3]
    assert torch.equal(x, samples.x[first])
    assert torch.equal(labels, samples.labels[first])
    assert np.array_equal(nearest, samples.nearest[first])


def test_the_rule_has_a_third_a_half_and_nothing_between():
    rng = np.random.default_rng(0)
    train = torch.from_numpy(rng.normal(size=(50, 1, 2, 8))).float()
    copies = torch.cat([train[:30] + 0.01, train[:1] * 0.6 + train[1:2] * 0.4, torch.zeros(20, 1, 2, 8)])
    samples = zoo.tell_apart(copies, train)
    assert samples.memorized[:30].all()
    assert not samples.memorized[30:].any()
    assert (samples.generalized == (samples.ratio > 0.5)).all()
    assert not samples.stand_in
    assert np.array_equal(samples.nearest[:30], np.arange(30))


def test_where_too_few_are_memorized_the_closest_stand_in_and_it_is_said():
    train = torch.randn(50, 1, 4, 4)
    samples = zoo.tell_apart(torch.randn(60, 1, 4, 4), train)
    assert samples.stand_in
    assert samples.memorized.sum() == zoo.FEWEST_MEMORIZED
    assert samples.ratio[samples.memorized].max() <= samples.ratio[~samples.memorized].min()
    assert not (samples.memorized & samples.generalized).any()


def test_a_model_that_copies_everything_is_refused_where_new_samples_are_needed(dit, monkeypatch):
    monkeypatch.setattr(zoo, "sampled", lambda *_: dit.x[torch.arange(30) % 10])
    assert zoo.told_apart(dit, 30).memorized.all()
    with pytest.raises(SpikinessError, match=r"tiny-dit:digits, seed 10: 0 of 30 samples are new"):
        zoo.two_sorts(dit, 30)


# ---- names


def test_labels_drop_folder_and_ending():
    assert zoo.label("unet:folder:some/cifar10-jpeg.zip") == "U-Net, CIFAR-10 (JPEG)"
    assert zoo.label("dit:digits") == "DiT, digits"
