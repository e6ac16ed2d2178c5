"""Figures of a value with its interval over a setting that grows by factors: training set size, noise level."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY, plain_log, plain_ticks

MARKERS = "osD^v"


def size_curves(
    panels: dict[str, pd.DataFrame],
    x: str,
    labels: dict[str, str],
    looks: dict[str, str],
    columns: int = 3,
    limits: dict[str, tuple[float, float]] | None = None,
    **scales: object,
) -> Figure:
    """Panels of `value` (with `low` and `high` where given) over `x`, log axis: a dot per row, a line through the means
    of each `kind`.

    `labels` names the axis x, and `value` or, where panels differ, each panel's own axis, whose ends `limits` may give.
    `looks` gives the color of a kind, "memorized", "generalized" or "theory", perhaps "dashed"; others take the next
    color of the style. At most `columns` panels stand side by side.
    """
    shared, across = "value" in labels, min(columns, len(panels))
    down = -(-len(panels) // across)
    fig, axes = plt.subplots(
        down, across, figsize=(3.7 * across + 1.6, 3.3 * down), sharey="all" if shared else False, squeeze=False
    )
    kinds = list(dict.fromkeys(kind for frame in panels.values() for kind in frame.kind))
    styles = _styles(kinds, looks)
    for axis, (name, frame) in zip(axes.flat, panels.items(), strict=False):
        for kind in [k for k in kinds if k in set(frame.kind)]:
            _curve(axis, frame[frame.kind == kind], x, kind, styles[kind])
        title = name if shared and len(panels) > 1 else ""
        axis.set(xscale="log", xlabel=labels.get(x, x), title=title, **scales)
        if not shared:
            axis.set(ylabel=labels.get(name, name), ylim=(limits or {}).get(name))
        plain_ticks(axis, _sparse(sorted(frame[x].unique())))
        plain_log(axis.yaxis)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    if shared:
        for axis in axes[:, 0]:
            axis.set_ylabel(labels["value"])
    handles = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside right center")
    return fig


def _styles(kinds: Sequence[str], looks: dict[str, str]) -> dict[str, dict[str, object]]:
    named = {"memorized": MEMORIZED, "generalized": GENERALIZED, "theory": THEORY}
    taken = {kind: named[word] for kind in kinds for word in looks.get(kind, "").split() if word in named}
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    free = iter([color for color in cycle if color.upper() not in taken.values()] * len(kinds))
    return {
        kind: {
            "color": taken.get(kind) or next(free),
            "marker": MARKERS[i % len(MARKERS)],
            "ls": "--" if "dashed" in looks.get(kind, "") else "-",
        }
        for i, kind in enumerate(kinds)
    }


def _curve(axis: plt.Axes, rows: pd.DataFrame, x: str, kind: str, style: dict[str, object]) -> None:
    mean = rows.groupby(x).value.mean()
    axis.plot(mean.index, mean, color=style["color"], ls=style["ls"], lw=1.4)
    spread = None
    if "low" in rows and rows.low.notna().all():
        spread = np.clip([rows.value - rows.low, rows.high - rows.value], 0, None)
    looks = {"fmt": style["marker"], "color": style["color"], "ms": 5, "alpha": 0.8, "capsize": 2.5, "elinewidth": 1}
    axis.errorbar(rows[x], rows.value, yerr=spread, label=kind, **looks)


def _sparse(at: Sequence[float], apart: float = 1.6) -> list[float]:
    """Those of ascending values that lie at least a factor apart, the last one among them: labels need room."""
    kept = [at[-1]]
    for value in reversed(at[:-1]):
        if kept[-1] / value >= apart:
            kept.append(value)
    return kept[::-1]
