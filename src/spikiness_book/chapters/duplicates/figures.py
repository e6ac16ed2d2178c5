"""Figures of the chapter on repeated images: how often each is sampled, and copying over presentations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spikiness_book import plots
from spikiness_book.plots import GENERALIZED, MARKERS, MEMORIZED, SKY, THEORY

LABELS = {
    "images_seen": "images seen",
    "presentations": "presentations of the image",
    "share": "memorized fraction",
    "copies": "copies",
}


def sampled_frequencies(data: pd.DataFrame, each: pd.DataFrame) -> Figure:
    """The `frequency` of images among samples with its interval, against the `expected` one, on log axes; the diagonal
    as theory; a faint dot for each image of `each`.

    The number of `copies` of a row of `data` stands beside it; at frequency 0 only the upper end is known: an arrow.
    """
    fig, axis = plt.subplots(figsize=(5.4, 4.0))
    some, none = data[data.frequency > 0], data[data.frequency == 0]
    floor = 0.5 * min([data.expected.min(), *some.frequency, *none.high])
    dots = each[each.frequency > 0]
    axis.scatter(dots.expected, dots.frequency, s=14, color="0.6", alpha=0.6, lw=0, zorder=1)
    bars = plots.spread(some.assign(low=some.low.clip(lower=floor / 2)), "frequency")
    axis.errorbar(some.expected, some.frequency, yerr=bars, fmt="o", color=MEMORIZED, capsize=3)
    axis.errorbar(none.expected, none.high, yerr=0.5 * none.high, uplims=True, fmt="_", color=MEMORIZED)
    for row in data.itertuples():
        at = row.expected, row.frequency or row.high
        axis.annotate(f"{row.copies:g}", at, (7, -11), textcoords="offset points", fontsize=9)
    ends = [floor, 2 * max(data.expected.max(), data.high.max())]
    axis.plot(ends, ends, color=THEORY, lw=1, zorder=0, label="in proportion")
    axis.set(xscale="log", xlabel="share of the training set, per image")
    axis.set(yscale="log", ylabel="share of samples copying it, per image")
    axis.set_ylim(floor / 2, ends[1])
    axis.set_xlim(0.6 * data.expected.min(), 1.8 * data.expected.max())
    axis.legend(loc="upper left")
    return fig


def copying(groups: dict[str, pd.DataFrame]) -> Figure:
    """The `share` of copies over the `presentations` of an image (log) for up to three named groups of rows, with
    intervals and a line through the means; each `text` stands beside the highest of its rows."""
    fig, axis = plt.subplots(figsize=(6.6, 3.6))
    colors, turns = (MEMORIZED, GENERALIZED, SKY), (0, 90, 90)
    for (name, rows), color, marker, turn in zip(groups.items(), colors, MARKERS, turns, strict=False):
        looks = {"fmt": marker, "ms": 6, "color": color, "capsize": 2, "lw": 1, "label": name}
        axis.errorbar(rows.presentations, rows.share, yerr=plots.spread(rows, "share"), **looks)
        mean = rows.groupby("presentations").share.mean()
        axis.plot(mean.index, mean, color=color, lw=1.2, alpha=0.7)
        for row in rows.sort_values("share", ascending=False).drop_duplicates("text").itertuples():
            at, shift = (row.presentations, row.share), (-4, 8) if turn else (6, -3)
            axis.annotate(row.text, at, shift, textcoords="offset points", fontsize=8.5, color=color, rotation=turn)
    axis.axhline(0.5, color=THEORY, lw=1, ls=":", zorder=0)
    axis.set(xscale="log", xlabel="presentations of an image in training")
    axis.set(ylim=(-0.03, 1.22), ylabel="memorized fraction")
    plots.sparse_log(axis)
    axis.set_yticks(np.linspace(0, 1, 6))
    plots.legend_beside(axis)
    return fig
