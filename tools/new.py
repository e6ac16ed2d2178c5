"""`make new CHAPTER=name`: write the skeleton of a chapter, which runs, is tested and has its page, to be filled.

It writes the notebook, what the chapter measures and draws in `src/spikiness_book/chapters/NAME/` with a test, and its
lines in the table of contents and in the profiles. Nothing that is there already is changed.
"""

import argparse
import keyword
import re
import sys
from pathlib import Path
from string import Template

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from spikiness.errors import SpikinessError

CODE = "src/spikiness_book/chapters/{name}/measure.py"
DRAWN = "src/spikiness_book/chapters/{name}/figures.py"
INIT = "src/spikiness_book/chapters/{name}/__init__.py"
TEST = "tests/chapters/test_measure_{name}.py"
NOTEBOOK = "notebooks/{name}.ipynb"

MEASURE = '''\
"""What the chapter *$name* trains and measures. As a start: how many units share an image, over n."""

from collections.abc import Sequence

from torch import Tensor

from spikiness import images, measures
from spikiness.networks import ReLUDAE
from spikiness.training import Member, fit_ensemble
from spikiness_book.engine.cache import cached


def plan(x: Tensor, sizes: Sequence[int], width: int, sigma: float, lam: float, seeds: Sequence[int]) -> list[Member]:
    """One network for each size and seed, on n images of x [N, d] that the seed picks."""
    return [Member(images.subset(x, n, seed), width, sigma, lam, seed) for n in sizes for seed in seeds]


def train(members: Sequence[Member], steps: int) -> list[ReLUDAE]:
    """The networks of a plan, trained side by side, or from the cache where they were trained before."""
    return cached(fit_ensemble, members, steps=steps)


def summary(member: Member, network: ReLUDAE) -> dict[str, float]:
    """One row per network: the units that share a training image, and how much like images its columns are."""
    return {
        "n": len(member.x),
        "seed": member.seed,
        "units": float(measures.participation_ratio(network.encode(member.x).detach()).mean()),
        "cosine": measures.stored_columns(network.w1, member.x).weighted_cosine,
    }
'''

FIGURES = '''\
"""Figures of the chapter *$name*: data in, figure out. What several chapters draw is in `spikiness_book.plots`."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from spikiness_book import plots


def dots(table: pd.DataFrame, y: str, label: str) -> Figure:
    """A dot per network and a line through the medians, over n."""
    fig, axis = plt.subplots(figsize=(4.6, 3.2))
    sns.lineplot(table, x="n", y=y, estimator="median", errorbar=None, color=plots.MEMORIZED, ax=axis)
    sns.scatterplot(table, x="n", y=y, alpha=0.75, color=plots.MEMORIZED, ax=axis)
    axis.set(xlabel="training images n", ylabel=label, xscale="log")
    return fig
'''

TESTS = '''\
"""The chapter *$name*: its measures where the answer is known, from planted weights."""

import pytest
import torch

from spikiness.networks import ReLUDAE
from spikiness.training import Member
from spikiness_book.chapters.$name import measure


def test_a_network_that_stores_its_images_has_one_unit_for_each():
    x = torch.diag(torch.tensor([3.0, 4.0, 5.0, 1.0]))[:3]  # orthogonal images
    network = ReLUDAE(4, 5)
    network.w1.data.zero_()
    network.w1.data[:, [4, 0, 2]] = 0.5 * x.T  # each in a column of its own
    row = measure.summary(Member(x, 5, 0.2, 0.1, 10), network)
    assert (row["n"], row["seed"]) == (3, 10)
    assert row["units"] == pytest.approx(1)
    assert row["cosine"] == pytest.approx(1)


def test_a_plan_has_each_size_with_each_seed():
    members = measure.plan(torch.randn(20, 4), [2, 5], 8, 0.2, 0.1, [10, 11])
    assert [(len(member.x), member.seed) for member in members] == [(2, 10), (2, 11), (5, 10), (5, 11)]
'''

HEAD = """\
# $title

**Question.** What this chapter asks, in a sentence or two.

**Expectation.** What theory or the paper lets us expect, with its equation.

**Cost.** How long it takes on two CPU cores, and whether a GPU is of use."""

PARAMETERS = """\
data: str = "digits"  # images to learn: digits (embedded), mnist, fashion-mnist, cifar10, npz:PATH, folder:PATH
sizes: list[int] = [5, 50, 500]  # numbers of training images n
width: int = 32  # hidden units p of each network
sigma: float = 0.2  # noise level in data units
lam: float = 0.1  # lambda of objective (6)
steps: int = 3000  # optimizer steps of each network
seeds: list[int] = [10, 11, 12]  # one choice of images and one start per seed"""

MEASURED = """\
import pandas as pd

from spikiness import images
from spikiness_book.chapters.$name import figures, measure
from spikiness_book.engine import runs

run = runs.begin("$name", globals())
x = images.load(data).x.flatten(1)  # [N, d]
x = x - x.mean(dim=0)
members = measure.plan(x, sizes, width, sigma, lam, seeds)
trained = measure.train(members, steps)
table = pd.DataFrame([measure.summary(*pair) for pair in zip(members, trained, strict=True)])"""

RECORDED = """\
for n, rows in table.groupby("n"):
    run.metric("units", rows.units.median(), unit="units", n=len(rows), seeds=seeds, tolerance=1.0, size=n)
run.say("With {size} images, {units:.1f} units share one.", size=min(sizes))"""

BY_HAND = """\
from spikiness import images, measures, training

x = images.load("digits").x.flatten(1)  # 1,400 digits [N, d]
x = x - x.mean(dim=0)
for n in (5, 500):
    few = images.subset(x, n)
    network = training.fit_dae(few, width=32, sigma=0.2, lam=0.1, steps=1000)
    units = measures.participation_ratio(network.encode(few)).mean().item()
    print(f"{n} images: {units:.1f} units share one")"""

CLOSE = "**What this does not show.** The limits of the experiment, in a few sentences."

PROFILES = """
$name:
  smoke: {sizes: [3, 30], width: 8, steps: 100, seeds: [10, 11]}
  paper: {data: mnist, sizes: [5, 50, 500, 5000], width: 100, seeds: [10, 11, 12]}
"""


def figure(name: str, y: str, label: str, caption: str, alt: str) -> nbformat.NotebookNode:
    """A cell with one figure, which a page shows under a label, with its caption and its text for who cannot see it."""
    shown = {"figure": {"name": f"fig-{name}-{y}", "caption": caption}, "image": {"alt": alt}}
    source = f'run.figure(figures.dots(table, "{y}", "{label}"), "{y}", table)'
    return new_code_cell(source, metadata={"mystnb": shown})


def notebook(name: str) -> nbformat.NotebookNode:
    """The chapter's notebook, stored without outputs."""
    names = {"name": name, "title": name.capitalize().replace("_", " ")}
    hidden = {"tags": ["remove-input"]}
    cells = [
        new_markdown_cell(Template(HEAD).substitute(names)),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(Template(MEASURED).substitute(names)),
        new_markdown_cell("## What is seen"),
        figure(name, "units", "units per image", "Units that share an image, a dot per network.", "Dots over n"),
        new_code_cell(RECORDED, metadata=hidden),
        figure(name, "cosine", "cosine", "How much like an image the columns are.", "Dots over n"),
        new_markdown_cell("## Do it yourself"),
        new_code_cell(BY_HAND, metadata={"tags": ["do-it-yourself"]}),
        new_code_cell("run.finish()", metadata=hidden),
        new_markdown_cell(CLOSE),
    ]
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def with_entry(toc: str, name: str) -> str:
    """The table of contents with the chapter after the last one there is."""
    last = list(re.finditer(r"^( *)- file: notebooks/\w+\n", toc, flags=re.MULTILINE))[-1]
    return f"{toc[: last.end()]}{last[1]}- file: notebooks/{name}\n{toc[last.end() :]}"


def write(root: Path, name: str) -> list[Path]:
    """Write the chapter into a checkout; the files written or changed.

    Raises `SpikinessError` for a name that cannot be a module's, and where there is a file of that name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) or keyword.iskeyword(name):
        raise SpikinessError(f"CHAPTER={name!r}: use a-z, 0-9 and _, starting with a letter: make new CHAPTER=name")
    new = {
        INIT: f'"""The chapter *{name}*."""\n',
        CODE: Template(MEASURE).substitute(name=name),
        DRAWN: Template(FIGURES).substitute(name=name),
        TEST: Template(TESTS).substitute(name=name),
        NOTEBOOK: nbformat.writes(notebook(name)) + "\n",
    }
    texts = {root / path.format(name=name): text for path, text in new.items()}
    for path in texts:
        if path.exists():
            raise SpikinessError(f"{path} is there already")
    toc, profiles = root / "book" / "_toc.yml", root / "notebooks" / "profiles.yaml"
    texts[toc] = with_entry(toc.read_text(encoding="utf-8"), name)
    texts[profiles] = profiles.read_text(encoding="utf-8") + Template(PROFILES).substitute(name=name)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main() -> int:
    """Write, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    options = parser.parse_args()
    try:
        paths = write(options.root, options.name)
    except SpikinessError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    print("\n".join(str(path.relative_to(options.root)) for path in paths))
    print(f"\nIt runs as it is: spikiness run {options.name} --profile smoke. CONTRIBUTING.md says what comes next.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
