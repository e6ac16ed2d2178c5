"""What the chapters *generalization* and *hybrid* record of tables whose answer is known by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from spikiness_book.chapters.generalization import record as generalization
from spikiness_book.chapters.hybrid import measure as hybrid_measure
from spikiness_book.chapters.hybrid import record as hybrid
from spikiness_book.engine.runs import findings
from spikiness_book.engine.runs.chapter import Run


@pytest.fixture
def run(tmp_path):
    return Run("test", tmp_path, {"profile": "smoke", "id": None, "parameters": {}, "inputs": {}})


@pytest.fixture
def finding(run):
    """Ends the run; gives the finding that a selector names."""

    def select(selector: str) -> dict:
        if not run._finished:
            run.finish()
        return findings.select(json.loads((run.folder / "result.json").read_text())["findings"], selector)

    return select


def test_halves_compares_the_smallest_and_the_largest_pairs(run, finding):
    table = pd.DataFrame({"seed": [1, 2] * 3, "n": [50, 50, 5, 5, 9, 9], "distance": [0.1, 0.3, 0.5, 0.7, 9, 9]})
    generalization.halves(run, table, "mixture")
    generalization.halves(run, table.assign(of_variation=2 * table.distance), "images")
    most = finding("halves_distance[data=mixture, samples=most]")
    assert most["value"] == pytest.approx(0.2)
    assert most["interval"] == pytest.approx([0.1, 0.3])
    assert (most["over"], most["n"], most["seeds"]) == ("pairs of networks", 2, [1, 2])
    assert finding("halves_distance[data=mixture, samples=fewest]")["value"] == pytest.approx(0.6)
    assert finding("halves_distance[data=images, relative_to=variation]")["value"] == pytest.approx(0.4)


def test_balance_tells_batches_and_lengths_of_training_apart(run, finding):
    rows = [("100 steps", 16, 0.1), ("100 steps", 64, 0.2), ("200 steps", 64, 0.3), ("100 steps", 128, 0.4)]
    rows += [("theory", batch, 0.9) for batch in (16, 64, 128)]
    table = pd.DataFrame(rows, columns=["steps", "batch", "participation"]).assign(seed=3)
    generalization.balance(run, table, steps=100)
    expected = {"smallest batches": 0.1, "middle batches": 0.2, "middle batches twice as long": 0.3}
    for network, value in {**expected, "block minimizer": 0.9}.items():
        assert finding(f"block_participation[network={network}]")["value"] == pytest.approx(value)


def test_operators_take_the_worst_of_each_setting_and_the_mean_of_the_main_one(run, finding):
    settings = list(generalization.OPERATOR_TOLERANCE)
    largest = pd.DataFrame({"setting": np.repeat(settings, 2), "seed": [1, 2] * 4, "shared_units": [1, 4] * 4})
    largest["operator_error"] = [0.1, 0.3, 0.2, 0.5, 0.6, 0.4, 0.7, 0.8]
    strong = pd.DataFrame(
        {"setting": settings, "seed": 1, "learned": [0.9, 0, 0, 0], "predicted": 1.0, "elsewhere": 0.5}
    )
    generalization.operators(run, largest, strong)
    worst = [finding(f"operator_error[setting={setting}, statistic=worst]")["value"] for setting in settings]
    assert worst == [0.3, 0.5, 0.6, 0.8]
    mean = finding("operator_error[setting=separable, statistic=mean]")
    assert (mean["value"], mean["interval"]) == (pytest.approx(0.2), pytest.approx([0.1, 0.3]))
    assert finding("gain_error")["value"] == pytest.approx(0.1)
    assert finding("shared_units")["value"] == 2.5


def test_copies_leave_out_samples_without_a_prediction_and_keep_settings_apart(run, finding):
    rows = {
        "seed": [1, 2, 2],
        "predicted": [10.0, 10.0, np.nan],
        "low": 20.0,
        "high": 20.0,
        "found": 20.0,
        "ratio": 2.0,
    }
    frames = [pd.DataFrame({**rows, "setting": setting, "open": [True, False, False]}) for setting in hybrid.SETTINGS]
    frames[1]["ratio"] = 4.0
    hybrid.copies(run, pd.concat(frames))
    known = finding("flip_ratio[setting=enough units]")
    assert (known["value"], known["n"]) == (pytest.approx(2), 2)
    assert finding("flip_ratio[setting=too few units]")["value"] == pytest.approx(4)
    share = finding("open_share[setting=too few units]")
    assert (share["value"], share["tolerance"], share["n"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3), 3)
    assert finding("copies_to_store[by=heuristic]")["value"] == 10
    assert finding("copies_to_store[by=training]")["value"] == 20


def test_modes_are_told_apart_by_repetition_and_penalty(run, finding):
    modes = pd.DataFrame({"seed": 1, "repeated": ["with", "with", "without"], "error": [0.1, 0.2, 0.3]})
    modes = modes.assign(alpha=[0.1, 0.2, 9], beta=[-0.3, -0.2, 9])
    hybrid.modes(run, modes, pd.DataFrame({"seed": [1], "repeated": ["with"], "error": [0.5]}))
    assert finding("mode_operator_error[repeated=with, penalty=small]")["value"] == 0.2
    assert finding("mode_operator_error[repeated=without]")["value"] == 0.3
    assert finding("mode_operator_error[penalty=large]")["value"] == 0.5
    assert (finding("alpha")["value"], finding("beta")["value"]) == (0.2, -0.2)


def test_representations_compare_repeated_samples_with_each_other_group(run, finding):
    groups = {"repeated": 2.0, "seen once": 1.0, "never seen": 3.0}
    rows = pd.DataFrame(
        [
            {"group": group, "model": model, "image": image, "std": std, "std_over_norm": -std, "norm": 1.0 + image}
            for group, std in groups.items()
            for model in (1, 2)
            for image in range(6)
        ]
    ).assign(participation_ratio=lambda rows: rows["std"] + 1)
    assert len(hybrid_measure.comparisons({"images": rows})) == 2 * 2 * 12
    hybrid.representations(run, {"images": rows}, resamples=20, seeds=[1, 2])
    assert finding("auroc[measure=std, against=seen once]")["value"] == 1
    assert finding("auroc[measure=std, against=never seen]")["value"] == 0
    assert finding("auroc[measure=std_over_norm, against=never seen]")["value"] == 1
    length = finding("auroc[measure=norm, against=seen once]")
    assert (length["value"], length["n"], length["over"]) == (0.5, 12, "networks and samples")
    assert finding("participation[group=never seen]")["value"] == 4
