"""The chapters on detection: what is audited, what methods choose, tables and verdicts."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from spikiness import detection, measures, representations
from spikiness.detection.baselines import HELD_OUT, LABELS
from spikiness.errors import Registry
from spikiness_book import zoo
from spikiness_book.chapters.detection import measure as experiment
from spikiness_book.chapters.detection import tables


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path_factory.getbasetemp() / "detection-home"))


class Peak(nn.Module):
    """A denoiser whose layer `act` passes bright pixels; it gives back images with a peak, and half of others."""

    def __init__(self):
        super().__init__()
        self.act, self.head = nn.ReLU(), nn.Linear(64, 64)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, y, sigma):
        flat = y.flatten(1)
        self.act(flat)
        peaked = (flat.amax(dim=1, keepdim=True) > 0.6).to(y)
        return (self.head(flat) * (0.5 + 0.5 * peaked)).reshape(y.shape)


def faint(n, seed):
    return 0.4 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.2


def peaked(n, seed):
    x = faint(n, seed)
    x.view(n, 64)[torch.arange(n), torch.arange(n) % 5] = 0.95
    return x


@pytest.fixture
def case():
    model = Peak()
    memorized = experiment.Asked(model, peaked(30, 1), None, np.arange(30) % 5)
    generalized = experiment.Asked(model, faint(40, 2), None, np.arange(40))
    x, number = torch.cat([memorized.x, generalized.x, faint(2, 9)]), np.arange(72)
    ratio = np.r_[np.full(30, 0.1), np.full(40, 0.9), 0.4, 0.45]  # the last two lie in the gap
    drawn = zoo.Samples(x, None, ratio, 0 * number, number < 30, (number >= 30) & (number < 70), False)
    given = {"held_out": faint(25, 3), "train": torch.cat([peaked(5, 1), faint(10, 4)]), "generations": peaked(50, 5)}
    return experiment.DetectionTask("unet:hand", 10, (memorized,), (generalized,), drawn=drawn, **given)


# ---- what is audited


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(tmp_path_factory.getbasetemp() / "detection-home"))
        return zoo.train("tiny-dit:digits", [10])[0]


# ---- scores, choices, comparisons


def test_scores_are_those_of_the_detector_and_of_the_rivals(case):
    m, g = experiment.score(case, experiment.MethodSetting(experiment.SPIKINESS, 0.05, "act", "all", "kurtosis", -1))
    truth = detection.Detector(case.model, "act", 0.05, "all", "kurtosis", direction=-1)
    assert np.allclose(m, truth.score(case.memorized[0].x))
    assert np.allclose(g, truth.score(case.generalized[0].x))
    m, _ = experiment.score(case, experiment.MethodSetting("score norm", 0.5, direction=-1))
    assert np.allclose(m, -detection.BASELINES["score norm"].make(case.model, 0.5).score(case.memorized[0].x))
    m, _ = experiment.score(case, experiment.MethodSetting(experiment.FLIPD_MORE, 0.5))
    assert np.allclose(m, detection.BASELINES["FLIPD"].make(case.model, 0.5, probes=16).score(case.memorized[0].x))


def test_methods_that_lack_what_they_need_are_left_out(case):
    found = experiment.methods(case)
    assert experiment.CONDITIONAL not in found  # no labels
    assert {experiment.SPIKINESS, experiment.PAPER, "FLIPD", experiment.DENSITY, "nearest training"} <= set(found)
    bare = replace(case, held_out=None, train=None, generations=None)
    assert not {"unit z-scores", experiment.DENSITY, "nearest training"} & set(experiment.methods(bare))


def test_a_new_rival_is_found_by_what_it_needs_wherever_it_stands(case, monkeypatch):
    before = experiment.methods(case)
    kind = detection.BASELINES["pixel norm"].kind
    new = {
        name: detection.Method(name, "here", "nothing", needs, "0", kind)
        for name, needs in (("first", ()), ("held", (HELD_OUT,)), ("by label", (LABELS,)))
    }
    table = Registry("baseline", {**new, **dict(reversed(detection.BASELINES.items()))})
    monkeypatch.setattr(detection, "BASELINES", table)
    assert set(experiment.methods(case)) - set(before) == {"first", "held"}  # no labels here
    assert set(before) <= set(experiment.methods(case))
    assert "held" not in experiment.methods(replace(case, held_out=None))


def test_every_choice_is_the_best_of_what_was_tried_in_its_direction(case):
    chosen = {s.method: s for s in experiment.choose([case, replace(case, seed=11)], [0.05, 0.2])}
    assert chosen[experiment.SPIKINESS].worst == 1.0
    assert chosen[experiment.SPIKINESS].layer == "act"
    assert (chosen[experiment.PAPER].layer, chosen[experiment.PAPER].tried) == (None, 1)
    assert chosen["denoising error"].tried == 2
    for name in ("denoising error", "score norm", "pixel norm"):
        values = []
        for sigma in [0.05, 0.2] if chosen[name].sigma else [None]:
            m, g = experiment.score(case, experiment.MethodSetting(name, sigma))
            value = (m[:, None] > g).mean() + (m[:, None] == g).mean() / 2
            values += [value, 1 - value]
        assert chosen[name].worst == pytest.approx(max(values))
        m, g = experiment.score(case, chosen[name])
        assert (m[:, None] > g).mean() + (m[:, None] == g).mean() / 2 == pytest.approx(chosen[name].worst)


def test_the_table_is_that_of_compare_and_the_exact_trace_is_taken_on_fewer(case):
    settings = [experiment.MethodSetting(experiment.SPIKINESS, 0.05, "act", "all", "std")]
    settings += [experiment.MethodSetting(experiment.FLIPD_MORE, 0.2), experiment.MethodSetting("pixel norm")]
    found = experiment.compare([case], settings, 30, exact=6).set_index("method")
    direct = detection.compare(
        {s.method: [experiment.score(case, s)] for s in settings}, [case.labels], experiment.SPIKINESS, draws=30
    ).set_index("score")
    assert found.auroc[:3].to_list() == direct.auroc.to_list()
    assert found.images.to_dict()[experiment.EXACT] == 6
    few = case.first(6)
    m, g = (
        detection.BASELINES["FLIPD exact"].make(case.model, 0.2).score(p[0].x) for p in (few.memorized, few.generalized)
    )
    assert found.auroc[experiment.EXACT] == pytest.approx(float((m[:, None] > g).double().mean()))


def test_two_layer_networks_are_asked_about_their_own_images():
    found = experiment.cases("relu-dae:digits", [10], 0, 50)[0]
    assert len(found.memorized) == experiment.DAE["networks"]
    assert (
        len(found.labels[0])
        == experiment.DAE["networks"] * experiment.DAE["n_small"]
        == len(np.unique(found.labels[0]))
    )
    assert found.generalized[0].x.shape == (50, 1, 8, 8)
    assert found.drawn is None
    chosen = experiment.choose([found], [0.1])
    assert next(s for s in chosen if s.method == experiment.SPIKINESS).layer == "encode"
    assert experiment.arithmetic(found, chosen[0]) == pytest.approx(0.5)


def test_suspected_training_images_are_those_repeated_most(tiny):
    found = experiment.trained_on(tiny, 50)
    assert torch.equal(found.memorized[0].x, tiny.x[3:6])  # 16 copies
    assert not any((found.generalized[0].x == x).flatten(1).all(1).any() for x in tiny.x)
    assert not any((found.generalized[0].x == x).flatten(1).all(1).any() for x in found.held_out)


# ---- cost


def test_arithmetic_counts_passes(case):
    assert experiment.arithmetic(case, experiment.MethodSetting("score norm", 0.2)) == pytest.approx(1.0)
    assert experiment.arithmetic(case, experiment.MethodSetting("FLIPD", 0.2)) == 2
    assert experiment.arithmetic(case, experiment.MethodSetting(experiment.EXACT, 0.2)) == 65
    assert experiment.arithmetic(case, experiment.MethodSetting("pixel norm")) == 0
    assert experiment.arithmetic(case, experiment.MethodSetting(experiment.SPIKINESS, 0.2, "act", "all", "std")) == 0


def test_timings_are_of_each_method_and_batch_and_of_one_pass(case):
    settings = [
        experiment.MethodSetting(experiment.SPIKINESS, 0.2, "act", "all", "std"),
        experiment.MethodSetting("FLIPD", 0.2),
    ]
    found = experiment.timings(case, settings, [1, 8], repeats=1)
    assert set(found.method) == {experiment.SPIKINESS, "FLIPD", "one full pass"}
    assert (found.ms > 0).all()
    assert experiment.exact_timing(case, 0.2, 8) > 0


# ---- tables


@pytest.fixture
def table():
    rows = [
        (experiment.SPIKINESS, 0.95, 0.0, 0.0, 0.0), (experiment.PAPER, 0.9, 0.05, -0.1, 0.2),
        ("FLIPD", 0.99, -0.04, -0.06, -0.02), ("pixel norm", 0.5, 0.45, 0.4, 0.5),
        ("unit z-scores", 0.94, 0.01, -0.02, 0.03), ("nearest training", 1.0, -0.05, -0.07, -0.03),
        ("FLIPD exact", 0.98, -0.03, -0.06, 0.01),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["method", "auroc", "difference", "difference_low", "difference_high"])
    for rate in ("auroc", "tpr"):
        found = found.assign(**{f"{rate}_low": found.auroc - 0.02, f"{rate}_high": found.auroc})
    return found.assign(tpr=found.auroc - 0.01, kind="unet:digits", images=30)


def test_verdicts_leave_out_ourselves_and_the_oracle(table):
    found = tables.against(table).set_index("method").verdict.to_dict()
    assert found == {"FLIPD": "ahead", "pixel norm": "behind", "unit z-scores": "level", "FLIPD exact": "level"}


def test_rows_come_in_groups_with_relatives_together(table):
    assert tables.groups(table) == {
        "ours": [experiment.SPIKINESS, experiment.PAPER],
        "rivals": ["FLIPD", "FLIPD exact", "unit z-scores"],
        "controls": ["pixel norm"],
        "oracle": ["nearest training"],
    }


def test_the_loss_of_a_choice_is_from_the_worst_chosen_on_to_the_worst_reported():
    chosen = pd.DataFrame({"method": experiment.SPIKINESS, "kind": ["a", "b"], "worst": [0.99, 0.9]})
    each = pd.DataFrame({"method": experiment.SPIKINESS, "kind": ["a", "a", "b"], "auroc": [0.98, 0.96, 0.95]})
    assert tables.loss(chosen, each) == pytest.approx(0.03)
    assert tables.loss(chosen[1:], each[2:]) == pytest.approx(-0.05)


def test_the_lowest_kind_is_named_with_its_interval(table):
    other = table.assign(kind="unet:mnist", auroc=table.auroc - 0.1, auroc_low=0.7)
    both = pd.concat([table, other], ignore_index=True)
    row = tables.lowest(both, experiment.SPIKINESS, "auroc")
    assert (row.kind, row.auroc_low, row.auroc_high) == ("unet:mnist", 0.7, 0.95)
    assert tables.lowest(both, experiment.SPIKINESS, "tpr").tpr == pytest.approx(0.94)
    assert tables.lowest(table, experiment.PAPER, "auroc").auroc == 0.9


def test_label_noise_puts_the_gap_on_either_side(case):
    settings = [experiment.MethodSetting(experiment.SPIKINESS, 0.05, "act", "all", "std")]
    found = tables.label_noise([case], settings).set_index("cut")
    with_gap = found[found.gap != "none"].iloc[0]
    assert with_gap["auroc"] == 1.0
    assert with_gap["between"] == pytest.approx(2 / 72)
    scores = detection.Detector(case.model, "act", 0.05, "all", "std").score(case.drawn.x).numpy()
    wins = (scores[np.r_[0:30, 70:72], None] > scores[30:70]).mean()  # the two of the gap count as memorized
    assert found.auroc[0.5] == pytest.approx(wins)
    assert wins < 1
    assert found.auroc[0.2] == 1.0


def test_the_loss_of_a_single_cut_is_the_largest_fall_over_kinds_and_leaves_out_cuts_through_the_copies():
    rows = [("a", "gap", np.nan, 0.99), ("a", "none", 0.2, 0.5), ("a", "none", 1 / 3, 0.97), ("a", "none", 0.5, 0.98)]
    rows += [("b", "gap", np.nan, 0.8), ("b", "none", 0.4, 0.75)]
    found = tables.label_loss(pd.DataFrame(rows, columns=["kind", "gap", "cut", "auroc"]))
    assert found == (pytest.approx(0.05), "b")


def test_tables_to_read_and_figures_hold_every_method(table, case):
    settings = experiment.choose([case], [0.2])
    chosen = pd.DataFrame(settings).assign(kind="unet:hand")
    assert len(tables.shown_choices(chosen)) == len(tables.shown_methods(chosen)) == len(settings)
    measured = pd.DataFrame({"kind": "unet:digits", "method": ["FLIPD", "FLIPD"], "batch": [1, 8], "ms": [2.0, 0.5]})
    shown = tables.shown_rates(table, measured)
    assert shown.loc["FLIPD", ["ms alone", "ms in 8", "rival is"]].to_list() == ["2", "0.5", "ahead"]
    assert list(shown.index) == [*itertools.chain(*tables.groups(table).values())]
    lines = tables.markdown(shown, "method").splitlines()
    assert lines[0].startswith("| method | AUROC |")
    assert len(lines) == 2 + len(shown)
    assert tables.shown_costs(pd.DataFrame({"kind": "a", "method": ["m"], "passes": [35000.0]})).iloc[0, 0] == "3.5e+04"
    counted = tables.counts([case]).iloc[0]
    assert (counted.drawn, counted.memorized, counted.copied_images) == (72, 30, 5)
    bins = experiment.histogram([case], settings[0])
    assert bins.groupby("regime").share.sum().to_list() == pytest.approx([1, 1])
    assert set(bins.data) == {"unet:hand"}


def test_the_typical_sample_has_the_median_score(case):
    setting = experiment.MethodSetting(experiment.SPIKINESS, 0.05, "act", "all", "std")
    found = experiment.typical(case, setting, units=3)
    assert set(found) == {"memorized sample", "generalized sample"}
    scores = experiment.score(case, setting)[0]
    middle = case.memorized[0].x[[int(np.argsort(scores)[15])]]
    y = representations.noisy(middle, 0.05)
    assert found["memorized sample"][0] == pytest.approx(float(y.relu().max()), abs=1e-6)
    assert measures.std(torch.relu(y.flatten(1))).item() == pytest.approx(scores[np.argsort(scores)[15]], abs=1e-6)
