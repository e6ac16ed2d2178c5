"""What the chapter *phase* records: how much is stored where, which description holds, and how large the loss is."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spikiness.statistics import Interval
from spikiness_book import copying
from spikiness_book.chapters.phase import maps, measure


def networks(run: Any, table: pd.DataFrame, seeds: Sequence[int]) -> None:
    """How many networks there are, how many came to rest, and what counts as stored and as equal."""
    run.table("networks", table)
    rest = (table.stationarity <= measure.STATIONARY).sum()
    run.metric("networks_trained", len(table), seeds=seeds)
    run.metric("stationary", rest, n=len(table), seeds=seeds, tolerance=0)
    run.metric("stationary_criterion", measure.STATIONARY)
    run.metric("stationarity_worst", table.stationarity.max(), n=len(table), seeds=seeds, tolerance=0.02)
    run.metric("modes", measure.MODES)
    run.metric("error_tolerance", measure.TOLERANCE)
    run.metric("stored_cosine", measure.STORED)


def stored(run: Any, parts: Mapping[str, pd.DataFrame], halves: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The share of samples that are stored where the theory says so, and where half of them are."""
    for cells in ("separable", "crowded"):
        if cells in parts:
            value, interval = maps.mean_over_cells(parts[cells], "stored")
            run.metric("stored", value, interval, n=len(parts[cells]), seeds=seeds, cells=cells)
    run.table("halves", halves)
    turned = halves.dropna()
    run.metric("half_tried", len(halves), seeds=seeds)
    run.metric("half_found", len(turned), n=len(halves), seeds=seeds, tolerance=2)
    wide, narrow = turned[turned.width > measure.MODES], turned[turned.width < measure.MODES]
    for widths, rows in {"all": turned, "narrow": narrow, "wide": wide}.items():
        if not len(rows):
            continue
        given = {"n": len(rows), "seeds": seeds, "widths": widths}
        run.metric("half_ratio", *maps.geometric_mean(rows, "ratio"), **given)
        if widths != "all":
            run.metric("half_n", *maps.geometric_mean(rows, "turning"), unit="samples", **given)


def agreement(run: Any, table: pd.DataFrame, parts: Mapping[str, pd.DataFrame], seeds: Sequence[int]) -> None:
    """How often the measured phase is the theory's, over all networks and by what the theory says."""
    memorizing = table[table.theory == measure.MEMORIZING]
    for cells, rows in {"all": table, **parts, "memorizing": memorizing}.items():
        run.metric("agreement", *maps.agreement(rows), n=len(rows), seeds=seeds, cells=cells)


def settings(run: Any, generalizing: pd.DataFrame, seeds: Sequence[int]) -> None:
    """The noise level and penalty at which the theory's generalizing is right most and least often."""
    by_setting = maps.by_setting(generalizing)
    run.table("generalizing", by_setting)
    for setting, row in {"worst": by_setting.iloc[0], "best": by_setting.iloc[-1]}.items():
        given = {"n": int(row.networks), "seeds": seeds, "tolerance": 0.15}
        run.metric("agreement_by_setting", row.agree, **given, setting=setting)
        run.metric("sigma_of", row.sigma, setting=setting)
        run.metric("lam_of", row.lam, setting=setting)


def loss(run: Any, tested: pd.DataFrame, seeds: Sequence[int]) -> None:
    """Test loss over the predicted one, where the theory says generalizing (everywhere, if it does so nowhere)."""
    generalizing = tested[tested.theory == measure.GENERALIZING]
    rows = generalizing if len(generalizing) else tested
    run.metric("loss_ratio", *maps.geometric_mean(rows, "loss_ratio"), n=len(rows), seeds=seeds)


def spread(run: Any, table: pd.DataFrame) -> None:
    """Std over the norm by measured phase: the median network, and the central 95 % of networks."""
    for phase in (measure.MEMORIZING, measure.GENERALIZING):
        values = table[table.phase == phase].std_norm
        if len(values):
            central = Interval(*values.quantile([0.025, 0.975]), level=None, over="the central 95 % of networks")
            run.metric("std_over_norm", values.median(), central, n=len(values), phase=phase)


def unets(run: Any, fractions: pd.DataFrame, samples: int, seeds: Sequence[int]) -> None:
    """The memorized fraction of the U-Nets of fewest and of most images, and where it crosses one half."""
    run.metric("unets", len(fractions), seeds=seeds)
    for images, n in {"fewest": fractions.n.min(), "most": fractions.n.max()}.items():
        rows = fractions[fractions.n == n]
        run.metric("unet_memorized", *copying.over_networks(rows), n=samples, seeds=seeds, images=images)
        run.metric("unet_size", n, images=images)
    for channels, turns in copying.turning(fractions).groupby("width"):
        if (point := copying.turning_point(turns)) is not None:
            run.metric("unet_turn", *point, unit="images", n=len(turns), seeds=seeds, channels=channels)
