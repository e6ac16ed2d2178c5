"""The chapter on where spikiness separates: planted representations whose parts and sides are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from spikiness import detection, measures, representations
from spikiness.denoisers import EDM
from spikiness.detection import calibration
from spikiness.errors import SpikinessError
from spikiness.networks.dit import DiT
from spikiness.networks.unet import UNet
from spikiness_book import zoo
from spikiness_book.chapters.where import carries as carry
from spikiness_book.chapters.where import measure as where


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Places(nn.Module):
    """Memorized images have one bright pixel, others are flat of the same mean; one channel is all the same."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, y, sigma):
        return self.act(torch.cat([y, -y], dim=1))


def planted(n=30, seed=10, width=8, kind="tiny-unet:digits"):
    spread = 0.7 + 0.1 * numbers(2 * n, 1, 1, 1, seed=seed).clamp(-3, 3)
    images = torch.zeros(2 * n, 1, 4, 4) + spread / 15
    images[:n] = 0
    images[:n, :, 1, 2] = spread[:n, :, 0, 0]
    images[:, :, 0, 0] = -0.05
    near = np.arange(n) % 5, np.arange(n) % 7
    return where.ProbedNetwork(kind, seed, width, Places(), images[:n], images[n:], near, False)


def row(seed, measure, auroc, layer="a", pool="all", cost=0.5, kind="tiny-unet:digits", width=8):
    setting = {"layer": layer, "sigma": 0.1, "pool": pool, "measure": measure}
    spikier = auroc if measures.MEASURES[measure].spikier > 0 else 1 - auroc
    return {"kind": kind, "seed": seed, "width": width, **setting, "auroc": auroc, "cost": cost, "spikier": spikier}


def rows_of(cases, seeds):
    """A row per layer and seed; cases: layer -> AUROC in each network."""
    pairs = [(layer, seed, value) for layer, both in cases.items() for seed, value in zip(seeds, both, strict=True)]
    return [row(seed, "std", value, layer) for layer, seed, value in pairs]


# ---- parts of a representation


def test_variance_falls_into_places_and_channels():
    h = numbers(6, 5, 3, 4)
    parts = dict(zip(where.INGREDIENTS, where.ingredients(h).T, strict=True))
    torch.testing.assert_close(parts["Std"], measures.std(h.flatten(1)).double() ** 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(parts["Std"], parts["over space"] + parts["between channels"])
    torch.testing.assert_close(parts["Std"], parts["size"] ** 2 - parts["mean"] ** 2)
    means = representations.POOLS["mean"](h)
    torch.testing.assert_close(parts["between channels"], measures.std(means).double() ** 2, rtol=1e-5, atol=0)


def test_ingredients_of_hand_worked_representations():
    one_place = torch.zeros(1, 2, 2, 2)
    one_place[0, :, 0, 1] = 4.0  # both channels on in one of four places: mean 1 each
    one_channel = torch.zeros(1, 2, 2, 2)
    one_channel[0, 1] = 2.0  # one channel on everywhere
    got = where.ingredients(torch.cat([one_place, one_channel]))
    found = pd.DataFrame(got, columns=list(where.INGREDIENTS))
    assert found["over space"].tolist() == pytest.approx([3, 0])
    assert found["between channels"].tolist() == [0, 1]
    assert found["size"].tolist() == pytest.approx([2, 2**0.5])
    assert found["mean"].tolist() == [1, 1]
    assert found["units near zero"].tolist() == [0.75, 0.5]
    assert found["units that take part"].tolist() == pytest.approx([0.25, 0.5])
    assert found["places that take part"].tolist() == pytest.approx([0.25, 1])
    assert found["channels that take part"].tolist() == pytest.approx([1, 0.5])


def test_tokens_are_places_and_features_without_space_have_none():
    h = numbers(4, 3, 2, 5)
    torch.testing.assert_close(where.ingredients(h.flatten(2).mT), where.ingredients(h))
    flat = where.ingredients(numbers(4, 7))
    assert flat[:, 1].tolist() == [0] * 4
    torch.testing.assert_close(flat[:, 0], flat[:, 2])


def test_modules_are_told_by_kind_and_blocks_come_after_their_parts():
    unet = EDM(UNet(1, 8, 8, generator=torch.Generator().manual_seed(0)), 1.0)
    for block in (unet.network.down[0], unet.network.middle):
        nn.init.normal_(block.conv2.weight, generator=torch.Generator().manual_seed(1))
    kinds = where.module_kinds(unet, numbers(3, 1, 8, 8))
    order = list(kinds)
    assert kinds["network.down.0.norm1"] == where.NORM
    assert kinds["network.middle.act2"] == where.NONLINEARITY
    assert kinds["network.stem"] == where.LINEAR
    assert kinds["network.middle"] == where.BLOCK
    assert order.index("network.middle") > order.index("network.middle.conv2")
    assert order.index("network.middle") < order.index("network.up.0.norm1")
    assert not [name for name in kinds if "embed" in name or "modulate" in name or name == "network"]
    dit = where.module_kinds(EDM(DiT(1, 8, 16, depth=1, classes=10), 1.0), numbers(3, 1, 8, 8))
    assert dit["network.blocks.0.act"] == where.NONLINEARITY
    assert dit["network.blocks.0"] == where.BLOCK
    assert dit["network.norm"] == where.NORM


def test_a_bright_pixel_is_seen_over_space_and_not_in_channel_means():
    moves = where.what_moves([planted()], 1e-6)
    found = moves[moves.layer == "act"].set_index("ingredient").auroc
    assert found["Std"] == found["over space"] == 1
    assert abs(found["between channels"] - 0.5) < 0.25  # the same means in both groups
    assert found["places that take part"] == 0
    assert moves[moves.layer == where.IMAGES].module.unique() == [where.IMAGES]
    layers = where.wide(moves)
    assert layers.layer.tolist() == ["act"]
    assert where.share_of_rows(layers, layers["over space"] > 0.7)[0] == 1


def test_normed_features_trade_one_part_for_the_other():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(1, 2)

        def forward(self, y, sigma):
            return self.norm(torch.cat([y, torch.zeros_like(y)], dim=1))

    a, b = numbers(30, 1, 4, 4), numbers(30, 1, 4, 4, seed=1)
    network = replace(planted(), denoiser=Normed(), memorized=a, generalized=b)
    found = where.wide(where.what_moves([network], 0.1))
    assert found.coupling.tolist() == pytest.approx([-1], abs=0.02)


# ---- sides


def test_sides_need_all_networks_of_a_kind():
    cases = {"both": (0.9, 0.8), "none": (0.9, 0.6), "down": (0.1, 0.2), "fight": (0.9, 0.1), "dead": (np.nan, np.nan)}
    rows = rows_of(cases, (10, 11))
    rows += [row(seed, "participation_ratio", 0.1, "both") for seed in (10, 11)]
    found = where.sides(pd.DataFrame(rows))
    sides = {(r.layer, r.measure): r.side for r in found.itertuples()}
    assert [sides[name, "std"] for name in cases] == [
        where.SPIKIER, where.NEITHER, where.REVERSED, where.DISAGREE, where.NEITHER,
    ]  # fmt: skip
    assert sides["both", "participation_ratio"] == where.SPIKIER  # low is spiky
    shares = where.side_shares(found, ["measure"]).set_index(["measure", "side"])
    assert shares.share["std", where.SPIKIER] == pytest.approx(1 / 5)
    assert shares.share["std"].sum() == pytest.approx(1)
    assert (shares.low <= shares.share).all()


def test_survey_agrees_with_the_parts():
    network = planted()
    table = where.survey([network], [1e-6])
    std = table[(table.measure == "std") & (table["pool"] == "all")].auroc.item()
    assert std == 1
    low = table[(table.measure == "participation_ratio") & (table["pool"] == "all")]
    assert low.auroc.item() == 0
    assert low.spikier.item() == 1
    mapped = where.mean_map(table, 1e-6)
    assert mapped[mapped.what == "all, participation ratio"].spikier.item() == 1
    with pytest.raises(SpikinessError, match="not among those tried"):
        where.mean_map(table, 0.3)


# ---- transfers


def test_pairs_go_from_calibration_to_others():
    kinds = "tiny-unet:digits", "unet:digits", "tiny-dit:digits"
    made = {kind: zoo.recipe(kind)[0].width for kind in kinds}
    found = [planted(4, seed, made[kind], kind) for kind in kinds for seed in (0, 10)]
    found.append(planted(4, 10, 99, kinds[0]))
    chosen = carry.pairs(found, [0])
    assert chosen[chosen.relation == carry.SEED][["a", "b"]].to_numpy().tolist() == [[0, 1], [2, 3], [4, 5]]
    assert chosen[chosen.relation == carry.WIDTH][["a", "b"]].to_numpy().tolist() == [[1, 6]]
    assert chosen[chosen.relation == carry.DATA].empty  # tiny-unet and unet are not one architecture


def test_flips_ranks_and_regret_by_hand():
    one, two = planted(4, 0), planted(4, 10)
    aurocs = {"best of a": (0.95, 0.8), "best of b": (0.9, 0.05), "flips": (0.2, 0.9), "vague": (0.6, 0.1)}
    rows = rows_of({**aurocs, "gone": (0.9, np.nan)}, (0, 10))
    both = carry.beside(pd.DataFrame(rows), one, two)
    assert both.layer.tolist() == ["best of a", "best of b", "flips", "vague"]
    assert both.flip.tolist() == [False, True, True, False]
    assert both.agree.tolist() == [True, False, False, False]
    found = carry.carries(both)
    assert found["flip"] == 0.5
    assert found["carried"] == pytest.approx(0.8)
    assert found["best"] == pytest.approx(0.95)  # of layer "best of b", with its direction in b
    assert found["regret"] == pytest.approx(0.15)
    assert found["ranks"] == pytest.approx(np.corrcoef([4, 3, 1, 2], [3, 1, 4, 2])[0, 1])


def test_a_best_setting_that_turns_around_costs_more_than_chance():
    rows = [row(0, "std", 0.99), row(10, "std", 0.02), row(0, "std", 0.6, "b"), row(10, "std", 0.9, "b")]
    one, two = planted(4, 0), planted(4, 10)
    table = pd.DataFrame(rows)
    chosen = carry.pairs([one, two], [0])
    carried, points = carry.transfers(table, [one, two], chosen)
    assert carried.regret.item() == pytest.approx(0.48 + 0.48)
    summary = carry.by_relation(carried, points)
    assert summary.flip.item() == 0.5
    assert summary.regret_largest.item() == carried.regret.item()


# ---- one measure alone


def test_choices_follow_the_worst_network_and_then_the_cost():
    rows = [row(0, "gini", 0.97, "late", cost=0.9), row(1, "gini", 0.95, "late", cost=0.9)]
    rows += [row(0, "gini", 0.96, "early", cost=0.2), row(1, "gini", 0.945, "early", cost=0.2)]
    rows += [row(0, "gini", 0.999, "fickle", cost=0.1), row(1, "gini", 0.5, "fickle", cost=0.1)]
    rows += [row(seed, "gini", 0.01, "down", cost=0.3) for seed in (0, 1)]
    rows += [row(seed, "participation_ratio", 0.06, "early", cost=0.2) for seed in (0, 1)]
    table = pd.DataFrame(rows)
    assert carry.choose(table, "gini") == calibration.Probe("down", 0.1, "all", "gini", -1)
    assert carry.choose(table, "gini", carry.THEORY) == calibration.Probe("early", 0.1, "all", "gini", 1)
    low = calibration.Probe("early", 0.1, "all", "participation_ratio", -1)
    assert carry.choose(table, "participation_ratio", carry.THEORY) == low


def test_choice_is_that_of_calibrate():
    cases = [planted(30, 0), planted(30, 1)]
    table = where.survey(cases, calibration.SIGMAS)
    detector = detection.calibrate([(n.denoiser, n.memorized, n.generalized) for n in cases])
    assert carry.choose(table) == detector.probe
    assert carry.threshold(cases, detector.probe) == detector.threshold


def test_rates_above_a_carried_threshold():
    first, fresh = planted(30, 0), planted(30, 10)
    table = where.survey([first, fresh], [1e-6])
    rows, samples = carry.alone(table, [first], [fresh])
    std = rows[(rows["alone"] == "std") & (rows.way == carry.OPEN)].iloc[0]
    assert std.auroc == std.tpr == 1
    limit = carry.threshold([first], carry.choose(table[table.seed == 0], "std"))
    scores = calibration.values(fresh.denoiser, carry.choose(table[table.seed == 0], "std"), fresh.generalized)
    assert carry.elsewhere(carry.choose(table, "std"), [fresh]).auroc.item() == 1
    assert std.fpr == float((scores > limit).double().mean())
    summary = carry.by_measure(rows, samples)
    assert len(summary) == 2 * (len(calibration.TRIED) + 1)
    assert summary.fpr_low.le(summary.fpr).all()


def test_better_than_std_needs_all_three():
    base = {"way": carry.OPEN, "worst": 0.9, "fpr": 0.03, "tpr": 0.5}
    rows = [{**base, "alone": "std"}, {**base, "alone": "gini", "worst": 0.95, "fpr": 0.015, "tpr": 0.5}]
    rows += [
        {**base, "alone": "hoyer", "worst": 0.95, "fpr": 0.0, "tpr": 0.4},
        {**base, "alone": "kurtosis", "fpr": 0.01},
    ]
    assert carry.better_than(pd.DataFrame(rows)) == ["gini"]


# ---- figures


def test_searches_use_one_choice_on_all_and_agree_with_calibrate():
    calibrated, fresh = [planted(seed=0), planted(seed=1)], [planted(seed=10), planted(seed=13)]
    table = where.survey(calibrated, [0.1])
    found = carry.searches(table, calibrated, fresh)
    assert list(zip(found.searched, found.seed, strict=True)) == [
        (searched, seed) for searched in ("nonlinearities", "modules") for seed in (10, 13)
    ]
    cases = [(n.denoiser, n.memorized, n.generalized) for n in calibrated]
    chosen = detection.calibrate(cases, sigmas=[0.1])
    mine = found[found.searched == "modules"].iloc[0]
    assert (mine.layer, mine["pool"], mine.measure) == (chosen.probe.layer, chosen.probe.pool, chosen.probe.measure)
    assert mine.worst == pytest.approx(chosen.record["worst"])
    assert mine.settings == chosen.record["settings"]
    other = fresh[1]
    scores = chosen.for_model(other.denoiser).score(torch.cat([other.memorized, other.generalized]))
    truth = [1] * len(other.memorized) + [0] * len(other.generalized)
    assert found.auroc.iloc[-1] == pytest.approx(roc_auc_score(truth, scores))


def test_unseen_networks_are_none_that_were_used_and_of_kinds_that_are_there():
    found = carry.unseen(["unet:digits", "dit:digits"], ["dit:digits"], [10, 13], [0, 10])
    assert found == {"unet:digits": [], "dit:digits": [13]}
    with pytest.raises(SpikinessError, match=r"'dit:mnist' is not among the kinds"):
        carry.unseen(["unet:digits"], ["dit:mnist"], [13], [])
