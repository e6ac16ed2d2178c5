"""The chapter on audits: thresholds, rates and signs worked out by hand, and a choice that must be the detector's."""

from dataclasses import replace
from itertools import count

import numpy as np
import pandas as pd
import pytest
import torch

from spikiness import detection
from spikiness.denoisers import EDM
from spikiness.detection.calibration import values
from spikiness.errors import SpikinessError
from spikiness.networks.unet import UNet
from spikiness_book import zoo
from spikiness_book.chapters.audit import measure as audit
from spikiness_book.chapters.audit import record, stages, units
from spikiness_book.engine.runs import findings


def network(seed=0):
    return EDM(UNet(1, 4, 8, generator=torch.Generator().manual_seed(seed)), 1.0)


def images(n, seed=0):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def case(ratio, nearest=None, copies=None, seed=10, held=8):
    """A model that learned nothing, and samples whose distances are made up."""
    ratio = np.asarray(ratio, dtype=float)
    x, distinct = images(len(ratio)), images(6, seed=5)
    nearest = np.arange(len(ratio)) % 6 if nearest is None else np.asarray(nearest)
    copies = torch.tensor([4, 4, 1, 1, 1, 1]) if copies is None else torch.tensor(copies)
    model = zoo.Trained("unet:digits", seed, 8, distinct, copies, [320_000], [network(seed)])
    samples = zoo.Samples(x, None, ratio, nearest, ratio < 1 / 3, ratio > 1 / 2, False)
    return audit.AuditedModel(model, samples, images(held, seed=9))


CHOICE = detection.Probe("network.up.0.act2", 0.2, "all", "std", 1)


def test_pick_makes_the_choice_of_the_detector():
    cases = [case(np.repeat([0.1, 0.9], 24), seed=seed) for seed in (0, 1)]
    surveys = audit.survey(cases, 24)
    parts = [c.parts(24) for c in cases]
    detector = detection.calibrate(parts)
    assert audit.pick(surveys) == detector.probe
    assert audit.pick(surveys, "std_over_norm") == detection.calibrate(parts, measure="std_over_norm").probe
    best = audit.flag_rules(cases, surveys, 24)
    assert best[audit.WORST].threshold == pytest.approx(detector.threshold)
    assert {"calibrated on model 0 alone", "calibrated on model 1 alone"} <= set(best)
    assert best[f"{audit.DEFAULT}, own {audit.HELD}"].threshold is None


def test_a_model_that_copies_everything_is_refused_with_what_is_missing(monkeypatch):
    """Of digits that it saw, and of nothing else: before, the empty set of new samples ended in an IndexError."""
    model = case([0.1]).model
    monkeypatch.setattr(zoo, "train", lambda kind, seeds: [model])
    monkeypatch.setattr(zoo, "held_out", lambda kind, most: images(4, seed=9))
    monkeypatch.setattr(zoo, "told_apart", lambda model, count: zoo.tell_apart(model.x.repeat(5, 1, 1, 1), model.x))
    with pytest.raises(SpikinessError, match=r"unet:digits, seed 10: 0 of 30 samples are new .*draw more samples"):
        audit.cases("unet:digits", [10], 30, 4)


def test_known_samples_are_the_last_new_ones_and_at_most_half():
    one = case([0.1, 0.9, 0.4, 0.8, 0.7, 0.6])
    apart, rest = audit.known(one, 1)
    assert np.flatnonzero(apart).tolist() == [5]
    assert np.flatnonzero(audit.known(one, 100)[0]).tolist() == [4, 5]
    assert (apart ^ rest).all()
    assert one.sort.tolist() == [audit.COPY, audit.NEW, audit.BETWEEN, *[audit.NEW] * 3]


def test_rates_by_hand():
    #        memorized        new, judged           between  new, known
    ratio = [0.1, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9, 0.4, 0.9, 0.9]
    score = np.array([5.0, 1.0, 7.0, 6.0, 0.0, 1.0, 2.0, 9.0, 3.0, 2.5])
    one = case(ratio, nearest=[0, 0, 1, 1, 2, 3, 0, 0, 4, 5])
    ways = {"carried": audit.FlagRule(CHOICE, 4.0), "own": audit.FlagRule(CHOICE, None, audit.GENERATED)}
    held = np.array([0.0, 0.5])
    ways["held"] = audit.FlagRule(CHOICE, None, audit.HELD)
    scored = {CHOICE: (score, held)}
    assert audit.threshold(one, ways["own"], scored, 2) == 3
    assert audit.threshold(one, ways["held"], scored, 2) == 0.5
    found = audit.rates(one, ways, scored, 2).set_index("way")
    assert found.tpr.tolist() == pytest.approx([2 / 3, 2 / 3, 1])
    assert found.fpr.tolist() == pytest.approx([1 / 4, 1 / 4, 3 / 4])
    assert found.between.tolist() == [1, 1, 1]
    assert found.auroc["carried"] == pytest.approx((3 + 1.5 + 4) / 12)  # pairs won, ties half
    assert found.loc["held", ["alarms", "alarms_repeated", "quiet", "quiet_repeated"]].tolist() == [3, 2, 1, 0]
    assert (found.fpr_low <= found.fpr).all()
    share, (low, high) = record.repeated_share(found.loc[["held"]], "alarms")
    assert share == pytest.approx(2 / 3)
    assert low < share < high


def test_false_alarms_of_images_like_those_known_are_as_expected():
    one = case(np.repeat([0.1, 0.9], [2, 4002]), held=4)
    rng = np.random.default_rng(0)
    score = rng.normal(size=4004)
    ways = {audit.DEFAULT: audit.FlagRule(CHOICE, None)}
    scored = {CHOICE: (score, rng.normal(3, 1, size=400))}  # held-out images all score higher: no false alarms
    found = audit.by_known(one, ways, scored, [20, 100], 4000).set_index(["images", "known"])
    for k in (20, 100):
        assert found.fpr[audit.GENERATED, k] == pytest.approx(audit.expected_fpr(k), rel=0.3)
        assert found.fpr[audit.HELD, k] < 0.002
        assert found.low[audit.GENERATED, k] <= found.fpr[audit.GENERATED, k] <= found.high[audit.GENERATED, k]
    assert audit.expected_fpr(20) == pytest.approx(1 / 21)
    assert audit.expected_fpr(100) == pytest.approx(2 / 101)


def test_grid_sorts_cases_and_shows_different_images_first():
    ratio = [0.1, 0.1, 0.1, 0.9, 0.9, 0.4]
    score = np.array([9.0, 8.0, 1.0, 7.0, 0.0, 0.0])
    one = case(ratio, nearest=[0, 0, 1, 2, 3, 4])
    pictures, captions, table = audit.grid(one, score, 5.0, most=1)
    assert list(pictures) == ["hits", "false alarms", "misses", "between, not flagged"]
    assert table["sample"].tolist() == [0, 3, 2, 5]
    assert captions["hits"] == ["9.00, 0.10"]
    hit = pictures["hits"][0]
    assert np.array_equal(hit[:, :4], one.samples.x[0, 0].numpy())
    assert np.isnan(hit[:, 4]).all()
    assert np.array_equal(hit[:, 5:], one.model.x[0, 0].numpy())
    both = audit.grid(one, score, 5.0, most=2)[2]
    assert both[both.row == "hits"]["sample"].tolist() == [0, 1]
    colored = audit.beside(np.zeros((2, 4, 8, 3)), np.zeros((2, 4, 8, 3)))
    assert colored.shape == (2, 4, 17, 3)
    assert (colored[:, :, 8] == 1).all()


def test_one_draw_is_the_detectors_score_and_several_are_a_mean():
    one = case(np.repeat([0.1, 0.9], 12))
    found = audit.draws(one, CHOICE, [1, 2], 12).set_index(["draws", "what"])
    x = one.samples.x
    first, second = (values(one.model.denoiser, CHOICE, x, seed=seed).numpy() for seed in (0, 1))
    for k, score in ((1, first), (2, (first + second) / 2)):
        wins = (score[:12, None] > score[None, 12:]).mean()
        assert found.share[k, audit.AUROC] == pytest.approx(wins)
    assert len(found) == 4


def test_timings_are_the_best_call_per_image():
    ticks = count()
    taken = iter([5.0, 3.0, 4.0, 8.0, 6.0, 7.0])
    state = {"now": 0.0}

    def clock():
        if next(ticks) % 2:
            state["now"] += next(taken)
        return state["now"]

    found = audit.timings(case([0.1, 0.9]), CHOICE, [4], repeats=3, clock=clock)
    assert found.score[0] == pytest.approx(3000 / 4)
    assert found["full pass"][0] == pytest.approx(6000 / 4)


def test_shares_of_the_first_samples():
    one = case([0.1, 0.9, 0.1, 0.4])
    found = audit.first_shares(one, np.array([True, True, False, False]), [2, 50]).set_index(["samples", "what"])
    assert found.share.to_dict() == {(2, "flagged"): 1, (2, audit.TRUE): 0.5, (4, "flagged"): 0.5, (4, audit.TRUE): 0.5}
    assert found.low[2, "flagged"] < 1


def test_samples_needed_grow_as_copies_become_rare():
    assert audit.needed(1.0, 0.0, 1.0) == 1  # Wilson's lower end of 1 of 1 is .21
    sizes = [audit.needed(share, 0.01, 0.9) for share in (0.2, 0.05, 0.01, 0.005)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 100 * sizes[0]
    assert audit.needed(0.0, 0.01, 0.9) is None  # no copies: the flags are what false alarms explain


def curve(low, name, what="what"):
    frame = pd.DataFrame({"images_seen": [10.0, 20, 40, 80], "low": low, "high": np.array(low) + 0.2})
    return frame.assign(kind="a", seed=10, **{what: name})


def test_a_sign_counts_from_where_it_stays():
    assert stages.above_from(curve([0.9, 0, 0.1, 0.2], "x"), 0.01) == 40
    assert stages.above_from(curve([0.1, 0.1, 0.1, 0.2], "x"), 0.01) == 10
    assert np.isnan(stages.above_from(curve([0.9, 0.9, 0.9, 0], "x"), 0.01))


def test_first_signs_and_their_lead():
    copies = curve([0, 0, 0.02, 0.2], audit.TRUE)
    fixed = curve([0.9, 0, 0, 0.1], stages.FLAGGED)
    anew = curve([0, 0, 0, 0.005], stages.ANEW)
    held = curve([0.0, 0, 0, 0], audit.HELD, "images")  # up to .2
    repeated = curve([0.1, 0.3, 0.4, 0.5], stages.REPEATED, "images")
    signs = stages.first_signs(pd.concat([copies, fixed, anew]), pd.concat([held, repeated]))
    found = signs.set_index("sign").images_seen
    assert found[[audit.TRUE, stages.FLAGGED, stages.REPEATED]].tolist() == [40, 80, 20]
    assert stages.lead(signs, stages.FLAGGED)["after"] == 1
    assert stages.lead(signs, stages.REPEATED)["before"] == 1
    assert stages.lead(signs, stages.ANEW) == {"before": 0, "same": 0, "after": 0, "alone": 0, "missed": 1}


def test_along_counts_scores_from_the_threshold(monkeypatch):
    one = case(np.repeat([0.1, 0.9], 20))
    network_at = one.model.stages[0]
    model = replace(one.model, seen=[160_000, 320_000], stages=[network_at, network_at])
    staged = audit.AuditedModel(model, one.samples, one.held)
    monkeypatch.setattr(zoo, "told_apart", lambda model, n, k: zoo.tell_apart(one.samples.x[:n], model.x))
    held = values(network_at, CHOICE, one.held).numpy()
    shares, means = stages.along(staged, audit.FlagRule(CHOICE, 0.05), 20)
    last = means[(means.images == audit.HELD)].iloc[-1]
    assert means.images_seen.unique().tolist() == [160_000, 320_000]
    assert last.score == pytest.approx((held.mean() - 0.05) / held.std())
    score = values(network_at, CHOICE, one.samples.x[:20]).numpy()
    fixed = shares[shares.what == stages.FLAGGED].share
    assert fixed.tolist() == pytest.approx([(score > 0.05).mean()] * 2)


def test_units_have_the_names_of_channels_and_places():
    x, net = images(2), network()
    y = detection.detector.representations.noisy(x[:1], CHOICE.sigma)
    h = detection.detector.representations.capture_each(
        net, [CHOICE.layer], y, CHOICE.sigma, lambda _, features: features
    )[CHOICE.layer]
    c, i, j = 2, 1, 0
    flat = int((h.flatten(1)[0] == h[0, c, i, j]).nonzero()[0])
    assert units.unit_names(net, CHOICE, x, [flat]) == [f"{c} ({i}, {j})"]
    pooled = detection.Probe(CHOICE.layer, 0.2, "mean", "std", 1)
    assert units.unit_names(net, pooled, x, [3]) == ["3"]


def test_explained_shows_the_highest_copy_and_the_middle_new_sample():
    one = case([0.1, 0.1, 0.9, 0.9, 0.9])
    found = units.explained(one, audit.FlagRule(CHOICE, 0.0), np.array([1.0, 2.0, 5.0, 3.0, 9.0]), k=4)
    assert found.groupby("sort")["sample"].first().to_dict() == {audit.COPY: 1, audit.NEW: 2}
    h = detection.detector.representations.represent(one.model.denoiser, CHOICE.layer, one.samples.x[1:2], 0.2)[0]
    energy = (h.double() ** 2 / (h.double() ** 2).sum()).sort(descending=True).values[:4]
    assert found[found["sort"] == audit.COPY].share.tolist() == pytest.approx(energy.tolist())


def test_overlap_counts_common_units_within_and_between_images():
    indices = torch.tensor([[0, 1], [1, 2], [5, 6]])
    found = detection.Explanation(indices, torch.ones(3, 2), torch.ones(3), torch.ones(3), 8)
    same, other = units.overlap(found, np.array([7, 7, 3]))
    assert (same, other) == (pytest.approx(0.5), 0.0)
    assert np.isnan(units.overlap(found, np.array([1, 2, 3]))[0])


def test_worst_and_mean_rates():
    rows = pd.DataFrame({"fpr": [0.1, 0.3], "fpr_low": [0.05, 0.2], "fpr_high": [0.2, 0.4]})
    assert record.worst(rows, "fpr", highest=True)[:2] == (0.3, (0.2, 0.4))
    assert record.worst(rows, "fpr", highest=False)[0] == 0.1
    mean, spread = record.mean_rate(rows, "fpr")
    assert (mean, spread) == (pytest.approx(0.2), (0.05, 0.4))
    assert (spread.level, spread.over) == (None, "models")  # the hull of intervals is no interval of 95 %


# ---- what is recorded


class Recorder:
    """Takes what a run takes, and keeps the findings by name and labels."""

    def __init__(self):
        self.findings = []

    def metric(self, name, value, interval=None, **given):
        finding = dict.fromkeys(("level", "over", "unit", "n", "seeds", "tolerance"))
        labels = {key: given[key] for key in given if key not in finding}
        known = {key: given[key] for key in given if key in finding}
        self.findings.append(findings.make(name, value, interval, labels=labels, **known))

    def table(self, name, data):
        pass

    def of(self, name, **labels):
        """The findings of a name that have these labels."""
        return [f for f in self.findings if f["name"] == name and labels.items() <= f["labels"].items()]

    def values(self, name, **labels):
        return [finding["value"] for finding in self.of(name, **labels)]


def rates_of(way=audit.WORST, **columns):
    """Rates of three models of two kinds, as `rates` makes them; `columns` say what is not as here."""
    rows = pd.DataFrame({"kind": ["a", "a", "b"], "seed": [10, 11, 13], "way": way})
    for rate, shares in {"fpr": [0.1, 0.3, 0.2], "tpr": [0.9, 0.7, 0.8], "between": [0.5, np.nan, np.nan]}.items():
        ends = {f"{rate}_low": np.array(shares) - 0.05, f"{rate}_high": np.array(shares) + 0.05}
        rows = rows.assign(**{rate: shares, f"{rate}_n": [20, 10, 30], **ends})
    rows = rows.assign(alarms=[2, 3, 0], alarms_repeated=[1, 1, 0], quiet=[18, 7, 30], quiet_repeated=[0, 11, 0])
    return rows.assign(**columns)


def test_rates_are_means_by_kind_and_the_worst_of_all_models():
    run = Recorder()
    record.rates(run, pd.concat([rates_of(way) for way in record.RULES]), 400)
    carried = {"probe": "calibrated", "threshold": "carried"}
    mean, other = run.of("fpr", **carried)
    assert (mean["labels"]["kind"], mean["value"], mean["n"], mean["seeds"]) == ("a", pytest.approx(0.2), 30, [10, 11])
    assert (mean["interval"], mean["level"]) == (pytest.approx([0.05, 0.35]), None)
    assert other["value"] == 0.2
    (highest,), (lowest,) = run.of("worst_fpr", **carried), run.of("worst_tpr", **carried)
    assert (highest["value"], highest["n"], lowest["value"]) == (0.3, 10, 0.7)
    assert (highest["over"], highest["level"]) == ("nearest training images", 0.95)
    assert run.values("models") == [3]
    assert len(run.of("worst_fpr")) == 7


def test_shares_of_alarms_are_recorded_only_where_there_are_some():
    run = Recorder()
    record.alarms(run, rates_of())
    assert run.values("false_alarms") == [5]
    assert run.values("repeated_share", flagged=True) == [2 / 5]
    assert run.values("repeated_share", flagged=False) == [11 / 55]
    run = Recorder()
    record.alarms(run, rates_of(alarms=0, between_n=0))
    assert [f["labels"].get("flagged") for f in run.findings] == [None, False]
    assert run.of("flagged_between") == []


def test_the_sign_that_comes_alone_is_no_early_one():
    run, start = Recorder(), pd.DataFrame({"share": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.0, 0.6]})
    seen = {stages.FLAGGED: [20, 20], stages.ANEW: [80, np.nan], stages.REPEATED: [10, 10], audit.TRUE: [40, np.nan]}
    rows = [("a", seed, sign, seen[sign][i]) for i, seed in enumerate((10, 11)) for sign in seen]
    record.signs(run, pd.DataFrame(rows, columns=["kind", "seed", "sign", "images_seen"]), start)
    assert run.values("trainings", sign="fixed") == [1, 0, 0, 1, 0]  # before, same, after, alone, missed
    assert run.values("trainings", sign="anew", order="after") == [1]
    assert run.values("early_share") == [1, 0, 1]
    assert run.of("flagged_at_start")[0]["interval"] == [0.4, 1.0]


def test_models_told_are_those_whose_interval_is_above_the_false_alarms():
    run, rows = Recorder(), []
    for seed, low in ((10, 0.005), (11, 0.02)):
        for samples in (50, 2000):
            rows.append({"kind": "a", "seed": seed, "samples": samples, "what": "flagged", "low": low})
            rows.append({"kind": "a", "seed": seed, "samples": samples, "what": audit.TRUE, "low": 0.5})
    record.shares(run, pd.DataFrame(rows).assign(share=0.6, high=0.7), 2000)
    assert run.values("models_told") == [1, 1]
    assert run.values("first_looked_at") == [50]
    assert [f["interval"] for f in run.of("final_share")] == [[0.005, 0.7], [0.5, 0.7]]


def test_units_in_common_are_left_out_where_no_two_samples_are_near_one_image():
    run = Recorder()
    row = {"kind": "a", "seed": 10, "participation": 0.1, "low": 0.1, "high": 0.2, "energy": 0.6, "energy_low": 0.5}
    table = pd.DataFrame([row | {"sort": sort, "energy_high": 0.7} for sort in (audit.COPY, audit.NEW)])
    record.energy(run, table.assign(same=[0.9, np.nan], other=[0.1, 0.2]))
    assert run.values("shared_units", sort=audit.COPY) == [0.9, 0.1]
    assert run.values("shared_units", pair="same") == [0.9]
    assert run.values("top_energy") == [0.6, 0.6]


# ---- tables


def test_expected_rates_stand_beside_those_counted_once_for_each_size():
    counted = pd.DataFrame(
        {"kind": "a", "seed": [10, 10, 11], "images": audit.HELD, "known": [20, 100, 20], "fpr": 0.5}
    )
    like = audit.with_expected(counted)[3:]
    assert like.known.tolist() == [20, 100]
    assert like.fpr.tolist() == pytest.approx([1 / 21, 2 / 101])
    assert set(like.images) == {audit.LIKE}


def test_a_plan_takes_more_samples_where_more_new_ones_are_flagged():
    table = audit.plan(fpr=0.03, tpr=0.9)
    promised, realized = table["samples, rates as promised"], table["samples, rates as realized"]
    assert table["true share"].tolist() == ["0.5%", "1.0%", "2.0%", "5.0%", "10.0%", "20.0%"]
    assert promised.iloc[-1] == audit.needed(0.2, 0.01, 0.9)
    assert (realized > promised)[:5].all()  # whole flags: of 20 % copies five samples tell, or six
    assert audit.powers_of_two(16) == [1, 2, 4, 8, 16]
    assert audit.powers_of_two(3) == [1, 2]


def test_units_in_common_by_kind_are_means_over_models():
    energy = pd.DataFrame({"kind": "a", "sort": [audit.COPY, audit.NEW] * 2, "same": [0.8, 0.5, 1.0, 0.7]})
    row = units.shared(energy.assign(other=[0.1, 0.2, 0.3, 0.4])).loc["a"]
    assert row.tolist() == pytest.approx([0.9, 0.2, 0.6])
