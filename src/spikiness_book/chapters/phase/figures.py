"""Figures of a phase diagram: maps over n and p, panels for the other settings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spikiness_book import plots
from spikiness_book.plots import GENERALIZED, MEMORIZED, THEORY

LINES = ("-", "--", ":", "-.")
CELLS = {"origin": "lower", "aspect": "auto"}


def share_maps(table: pd.DataFrame, lines: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """The share stored, `value`, as shades: a cell per `n` and `width`, a panel per `lam` and `sigma` of the table.

    `lines` holds points (`n`, `width`) of named lines, `kind`, by panel; cells are evenly spaced, and lines are placed
    between them by the logarithm of their points.
    """
    fig, facets = _maps(table, labels)
    for (lam, sigma), axis, rows in facets:
        values = rows.pivot_table(index="width", columns="n", values="value")
        picture = axis.imshow(values, vmin=0, vmax=1, cmap="Oranges", **CELLS)
        inside = lines[(lines.lam == lam) & (lines.sigma == sigma)]
        for style, (_, line) in zip(LINES, inside.groupby("kind", sort=False), strict=False):
            axis.plot(*_places(line, values), color=THEORY, lw=1.4, ls=style)
        axis.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(-0.5, values.shape[0] - 0.5))
    fig.colorbar(picture, ax=fig.axes, label="share stored", shrink=0.85, pad=0.02)
    kinds = lines.kind.unique()
    if len(kinds):
        handles = [Line2D([], [], color=THEORY, ls=style) for style, _ in zip(LINES, kinds, strict=False)]
        fig.legend(handles, kinds, loc="outside upper center", ncols=len(kinds))
    return fig


def phase_maps(table: pd.DataFrame, phases: Sequence[str], labels: dict[str, str]) -> Figure:
    """The measured `phase` of each cell as its color, and a dot in the color of the `theory` where that differs.

    `phases` are two phases, in orange and blue, and a third in gray.
    """
    colors = dict(zip(phases, (MEMORIZED, GENERALIZED, "#D9D9D9"), strict=True))
    fig, facets = _maps(table, labels)
    for _, axis, rows in facets:
        number = rows.assign(value=rows.phase.map(list(phases).index))
        values = number.pivot_table(index="width", columns="n", values="value")
        axis.imshow(values, vmin=0, vmax=2, cmap=ListedColormap(list(colors.values())), **CELLS)
        for cell in rows[rows.phase != rows.theory].itertuples():
            at = values.columns.get_loc(cell.n), values.index.get_loc(cell.width)
            axis.plot(*at, "o", ms=4.5, color=colors[cell.theory], mec="white", mew=0.8)
    handles = [Patch(color=color) for color in colors.values()]
    handles.append(Line2D([], [], ls="", marker="o", ms=5, color=THEORY, mec="white"))
    names = [*phases, "the theory's phase, where it differs"]
    fig.legend(handles, names, loc="outside upper center", ncols=len(names), columnspacing=1.2)
    return fig


def _maps(table: pd.DataFrame, labels: dict[str, str]) -> tuple[Figure, list[plots.Facet]]:
    """A panel per `lam` and `sigma`, with its title, and with ticks at the cells."""
    lams, sigmas, xs, ys = (sorted(table[name].unique()) for name in ("lam", "sigma", "n", "width"))
    width = min(max(0.36 * len(xs) + 0.5, 2.2) * len(sigmas) + 1.4, plots.WIDEST)
    each = (width / len(sigmas), max(0.3 - 0.03 * len(lams), 0.18) * len(ys) + 0.6)
    table = table.sort_values(["lam", "sigma"])
    fig, facets = plots.facets(table, ("lam", "sigma"), each, (0, 0.9), sharex=True, sharey=True)
    step_x, step_y = (2 if len(cells) > 8 else 1 for cells in (xs, ys))  # more labels than these would touch
    for (lam, sigma), axis, _ in facets:
        axis.set_title(f"{labels['lam']} = {lam:g}, {labels['sigma']} = {sigma:g}", fontsize=9.5)
        axis.grid(False)
        axis.set_xticks(range(0, len(xs), step_x), [f"{v:g}" for v in xs[::step_x]], rotation=60, fontsize=8.5)
        axis.set_yticks(range(0, len(ys), step_y), [f"{v:g}" for v in ys[::step_y]], fontsize=8.5)
    plots.outer_labels(fig, labels["n"], labels["width"])
    return fig, facets


def _places(line: pd.DataFrame, cells: pd.DataFrame) -> list[np.ndarray]:
    """Where a line between two points runs over evenly spaced `cells` (rows: width, columns: n)."""
    low, high = line[["n", "width"]].min(), line[["n", "width"]].max()
    steps = np.linspace(0, 1, 50)  # a straight line over logarithms bends between the cells
    places = []
    for name, at in (("n", cells.columns), ("width", cells.index)):
        points = low[name] * (high[name] / low[name]) ** steps
        places.append(np.interp(np.log(points), np.log(at), range(len(at))))
    if line.width.nunique() > 1 and line.n.nunique() == 1:
        places[1] = np.linspace(-0.5, len(cells) - 0.5, 50)
    return places
