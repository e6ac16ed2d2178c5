"""What the chapter on detection shows of its comparisons: counts, verdicts, label noise, tables to read."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from spikiness import detection
from spikiness.detection.calibration import auroc
from spikiness_book.chapters.detection.measure import (
    CONTROLS,
    FLIPD_MORE,
    ORACLE,
    PAPER,
    SPIKINESS,
    DetectionTask,
    MethodSetting,
    detector,
    score,
    setting_of,
)
from spikiness_book.zoo import MEMORIZED_BELOW

CUTS = (0.2, MEMORIZED_BELOW, 0.4, 0.5)  # of d1 / d2 where memorized ends and generalized begins, without a gap


def groups(table: pd.DataFrame) -> dict[str, list[str]]:
    """The methods of a table in the order of a figure's rows: ours, rivals that see the model, controls, the oracle."""
    order = {"ours": [SPIKINESS, PAPER], "rivals": [], "controls": list(CONTROLS), "oracle": [ORACLE]}
    named = {name for names in order.values() for name in names}
    rivals = [name for name in dict.fromkeys(table.method) if name not in named]
    order["rivals"] = sorted(rivals, key=lambda name: not name.startswith("FLIPD"))
    kept = {group: [name for name in names if name in set(table.method)] for group, names in order.items()}
    return {group: names for group, names in kept.items() if names}


def counts(found: Sequence[DetectionTask]) -> pd.DataFrame:
    """One row per case: samples drawn, memorized and generalized ones looked at, training images these copy."""
    rows = [
        {
            "kind": case.kind,
            "seed": case.seed,
            "drawn": 0 if case.drawn is None else len(case.drawn.x),
            "memorized": len(case.labels[0]),
            "generalized": len(case.labels[1]),
            "copied_images": len(np.unique(case.labels[0])),
            "stand_in": case.drawn is not None and case.drawn.stand_in,
        }
        for case in found
    ]
    return pd.DataFrame(rows)


def each_model(
    reported: Mapping[str, Sequence[DetectionTask]], settings: Mapping[str, Sequence[MethodSetting]]
) -> pd.DataFrame:
    """AUROC of each method on each reported case by itself."""
    rows = [
        {"kind": case.kind, "seed": case.seed, "method": setting.method, "auroc": auroc(*score(case, setting))}
        for kind, cases in reported.items()
        for case in cases
        for setting in settings[kind]
    ]
    return pd.DataFrame(rows)


def lowest(table: pd.DataFrame, method: str, rate: str) -> pd.Series:
    """The row of the kind where `rate`, "auroc" or "tpr", of a method is lowest."""
    rows = table[table.method == method]
    return rows.loc[rows[rate].idxmin()]


def loss(chosen: pd.DataFrame, each: pd.DataFrame, method: str = SPIKINESS) -> float:
    """The most that a calibrated choice loses, over kinds: AUROC in its worst calibration network less that in the
    worst network reported; below zero where it gains everywhere."""
    before = chosen[chosen.method == method].set_index("kind").worst
    after = each[each.method == method].groupby("kind").auroc.min()
    return float((before - after).max())


def against(table: pd.DataFrame) -> pd.DataFrame:
    """The rivals that may not see the training set, with a verdict on each: behind spikiness, level with it within the
    interval of the difference, or ahead."""
    rivals = table[~table.method.isin([SPIKINESS, PAPER, ORACLE])]
    verdict = np.where(rivals.difference_low > 0, "behind", np.where(rivals.difference_high < 0, "ahead", "level"))
    return rivals.assign(verdict=verdict)


def label_noise(reported: Sequence[DetectionTask], settings: Sequence[MethodSetting]) -> pd.DataFrame:
    """AUROC of spikiness, mean over cases, on all samples drawn: with the gap, and with one cut in place of it.

    `between` is the share of samples in the gap. Cuts that leave a sort empty are left out.
    """
    setting, found = setting_of(settings, SPIKINESS), []
    for case in reported:
        drawn = case.drawn
        scores = detector(case.model, setting).score(drawn.x).numpy() * setting.direction
        between = 1 - (drawn.memorized | drawn.generalized).mean()
        sorts = {("1/3 to 1/2", np.nan): (drawn.memorized, drawn.generalized)}
        sorts |= {("none", cut): (drawn.ratio < cut, drawn.ratio >= cut) for cut in CUTS}
        for (gap, cut), (memorized, generalized) in sorts.items():
            if memorized.any() and generalized.any():
                value = auroc(scores[memorized], scores[generalized])
                found.append({"gap": gap, "cut": cut, "seed": case.seed, "auroc": value, "between": between})
    table = pd.DataFrame(found)
    return table.groupby(["gap", "cut"], dropna=False)[["auroc", "between"]].mean().reset_index()


def label_loss(cuts: pd.DataFrame) -> tuple[float, str]:
    """The most that AUROC falls, over kinds, when a cut from a third to a half takes the place of the gap; the kind."""
    with_gap = cuts[cuts.gap != "none"].set_index("kind").auroc
    single = cuts[(cuts.gap == "none") & (cuts.cut >= MEMORIZED_BELOW)].groupby("kind").auroc.min()
    fall = (with_gap - single).dropna()
    return float(fall.max()), str(fall.idxmax())


# ---- tables to read, in Markdown, whose cells wrap


def markdown(frame: pd.DataFrame, first: str, title: str = "") -> str:
    """A table of text under a title, with its index as the column `first`."""
    rows = [[first, *map(str, frame.columns)], ["---"] * (1 + len(frame.columns))]
    rows += [[str(name), *map(str, row)] for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"**{title}**\n\n{table}" if title else table


def shown_methods(found: pd.DataFrame) -> pd.DataFrame:
    """Source, assumption, needs and cost of each method of a table."""
    spiky = "memorized images have a spiky representation"
    ours = {
        SPIKINESS: ("this book, after Algorithm 1", spiky, "the model, calibration samples", "a part of 1"),
        PAPER: ("Algorithm 1", spiky, "the model", "a part of 1"),
    }
    rows = []
    for name in dict.fromkeys(found.method):
        if name in ours:
            row = ours[name]
        else:
            known = detection.BASELINES[name.partition(",")[0]]
            cost = "1 and 16 Jacobian products" if name == FLIPD_MORE else known.cost
            row = known.source, known.assumes, ", ".join(known.needs) or "nothing", cost
        rows.append([name, *row])
    columns = ["method", "source", "assumes that", "needs", "evaluations per image"]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def shown_choices(chosen: pd.DataFrame) -> pd.DataFrame:
    """What each method chose for one kind of network, a row per method."""
    layers = chosen.layer.str.removeprefix("network.").fillna("")
    pairs = zip(chosen["pool"].fillna(""), chosen.measure.fillna(""), strict=True)
    names = [", ".join(filter(None, pair)) for pair in pairs]
    found = chosen.assign(layer=layers, **{"pool, measure": names, "noise level": chosen.sigma.map(_plain)})
    found["worst"] = found.worst.map("{:.3f}".format)
    return found.set_index("method")[["noise level", "layer", "pool, measure", "direction", "tried", "worst"]]


def shown_rates(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """AUROC and TPR with intervals, verdicts on rivals, milliseconds per image at each size of batch, for one kind."""
    text = {
        "AUROC": [_interval(r.auroc, r.auroc_low, r.auroc_high) for r in table.itertuples()],
        "TPR at 1 % FPR": [_interval(r.tpr, r.tpr_low, r.tpr_high, 2) for r in table.itertuples()],
        "spikiness ahead by": [
            _interval(r.difference, r.difference_low, r.difference_high) for r in table.itertuples()
        ],
    }
    found = table.assign(**text).set_index("method")[list(text)]
    found["rival is"] = against(table).set_index("method").verdict.reindex(found.index).fillna("")
    found.loc[SPIKINESS, "spikiness ahead by"] = ""
    times = measured.pivot(index="method", columns="batch", values="ms").map("{:.2g}".format)
    for batch in times.columns:
        found["ms alone" if batch == 1 else f"ms in {batch}"] = times[batch].reindex(found.index).fillna("")
    order = [name for names in groups(table).values() for name in names]
    return found.loc[order]


def shown_costs(arithmetic: pd.DataFrame) -> pd.DataFrame:
    """Arithmetic of each method in passes through the model, a column per kind."""
    table = arithmetic.pivot(index="method", columns="kind", values="passes")
    return table.loc[list(dict.fromkeys(arithmetic.method))].map(lambda v: "" if np.isnan(v) else f"{v:,.3g}")


def shown_cuts(cuts: pd.DataFrame) -> pd.DataFrame:
    """AUROC of spikiness, a row per kind, a column per way to label."""
    names = [
        f"cut at {_plain(c)}" if gap == "none" else f"gap {gap}" for gap, c in zip(cuts.gap, cuts.cut, strict=True)
    ]
    table = cuts.assign(label=names).pivot(index="kind", columns="label", values="auroc")
    return table[list(dict.fromkeys(names))].map(lambda v: "" if np.isnan(v) else f"{v:.3f}")


def _plain(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _interval(value: float, low: float, high: float, digits: int = 3) -> str:
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
