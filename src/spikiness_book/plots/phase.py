"""Figures of a phase diagram: maps over n and p, panels for the other settings."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spikiness_book.plots.style import GENERALIZED, MEMORIZED, THEORY

WIDEST = 8.8  # inches of a figure: more would be shrunk on the page, letters and all
LINES = ("-", "--", ":", "-.")


def share_maps(
    table: pd.DataFrame, x: str, y: str, row: str, column: str, label: str, labels: dict[str, str], lines: pd.DataFrame
) -> Figure:
    """`value`, from 0 to 1, as shades: a cell per `x` and `y`, a panel per `row` and `column` of the table.

    `lines` holds points (`x`, `y`) of named lines, `kind`, by panel; cells are evenly spaced, and lines are placed
    between them by the logarithm of their points.
    """
    fig, axes = _panels(table, x, y, row, column, labels)
    for (r, c), axis in axes.items():
        mine = table[(table[row] == r) & (table[column] == c)]
        values = mine.pivot_table(index=y, columns=x, values="value")
        picture = axis.imshow(values, vmin=0, vmax=1, cmap="Oranges", origin="lower", aspect="auto")
        _lines(axis, lines[(lines[row] == r) & (lines[column] == c)], x, y, list(values.columns), list(values.index))
    fig.colorbar(picture, ax=list(axes.values()), label=label, shrink=0.85, pad=0.02)
    kinds = list(dict.fromkeys(lines.kind))
    if kinds:
        handles = [Line2D([], [], color=THEORY, ls=style) for style, _ in zip(LINES, kinds, strict=False)]
        fig.legend(handles, kinds, loc="outside upper center", ncols=len(kinds))
    return fig


def phase_maps(
    table: pd.DataFrame, x: str, y: str, row: str, column: str, phases: Sequence[str], labels: dict[str, str]
) -> Figure:
    """The measured `phase` of each cell as its color, and a dot in the color of the `theory` where that differs.

    `phases` are two phases, in orange and blue, and a third in gray.
    """
    colors = dict(zip(phases, (MEMORIZED, GENERALIZED, "#D9D9D9"), strict=True))
    fig, axes = _panels(table, x, y, row, column, labels)
    for (r, c), axis in axes.items():
        mine = table[(table[row] == r) & (table[column] == c)]
        number = mine.assign(value=mine.phase.map(list(phases).index))
        values = number.pivot_table(index=y, columns=x, values="value")
        axis.imshow(values, vmin=0, vmax=2, cmap=ListedColormap(list(colors.values())), origin="lower", aspect="auto")
        for cell in mine[mine.phase != mine.theory].itertuples():
            at = list(values.columns).index(getattr(cell, x)), list(values.index).index(getattr(cell, y))
            axis.plot(*at, "o", ms=4.5, color=colors[cell.theory], mec="white", mew=0.8)
    handles = [Patch(color=color) for color in colors.values()]
    handles.append(Line2D([], [], ls="", marker="o", ms=5, color=THEORY, mec="white"))
    names = [*phases, "the theory's phase, where it differs"]
    fig.legend(handles, names, loc="outside upper center", ncols=len(names), columnspacing=1.2)
    return fig


def _panels(
    table: pd.DataFrame, x: str, y: str, row: str, column: str, labels: dict[str, str]
) -> tuple[Figure, dict[tuple, plt.Axes]]:
    """Axes by (row, column), with titles, and with ticks at the cells."""
    rows, columns = sorted(table[row].unique()), sorted(table[column].unique())
    xs, ys = sorted(table[x].unique()), sorted(table[y].unique())
    width = min(max(0.36 * len(xs) + 0.5, 2.2) * len(columns) + 1.4, WIDEST)
    size = (width, (max(0.3 - 0.03 * len(rows), 0.18) * len(ys) + 0.6) * len(rows) + 0.9)
    every = [2 if len(at) > 8 else 1 for at in (xs, ys)]  # more labels than these would touch
    fig, grid = plt.subplots(len(rows), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False)
    found = {(r, c): grid[i, j] for i, r in enumerate(rows) for j, c in enumerate(columns)}
    for (r, c), axis in found.items():
        name = f"{labels.get(row, row)} = {r:g}, {labels.get(column, column)} = {c:g}"
        axis.set_title(name, fontsize=9.5)
        axis.grid(False)
        axis.set_xticks(range(0, len(xs), every[0]), [f"{v:g}" for v in xs[:: every[0]]], rotation=60, fontsize=8.5)
        axis.set_yticks(range(0, len(ys), every[1]), [f"{v:g}" for v in ys[:: every[1]]], fontsize=8.5)
    for axis in grid[-1]:
        axis.set_xlabel(labels.get(x, x))
    for axis in grid[:, 0]:
        axis.set_ylabel(labels.get(y, y))
    return fig, found


def _lines(axis: plt.Axes, lines: pd.DataFrame, x: str, y: str, xs: Sequence[float], ys: Sequence[float]) -> None:
    for style, (_, line) in zip(LINES, lines.groupby("kind", sort=False), strict=False):
        low, high = line[[x, y]].min(), line[[x, y]].max()
        steps = np.linspace(0, 1, 50)  # a straight line over logarithms bends between evenly spaced cells
        a, b = (low[name] * (high[name] / low[name]) ** steps for name in (x, y))
        places = [np.interp(np.log(v), np.log(at), range(len(at))) for v, at in ((a, xs), (b, ys))]
        if line[y].nunique() > 1 and line[x].nunique() == 1:
            places[1] = np.linspace(-0.5, len(ys) - 0.5, 50)
        axis.plot(*places, color=THEORY, lw=1.4, ls=style)
    axis.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
