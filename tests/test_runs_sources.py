"""Digests of code: any change that can change a number counts, and no other."""

import shutil
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import spikiness
from spikiness.errors import SpikinessError
from spikiness.runs import sources

SOURCE = '''"""Docs."""
import math
__version__ = "1"

def f(x):
    """More docs."""
    # a comment
    return f"{x:.2f}" + "a" if x else None

class A:
    "Docs."
    y: int = 1
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package to change."""
    root = tmp_path / "spikiness"
    shutil.copytree(Path(spikiness.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "__file__", str(root / "runs" / "sources.py"))
    return root


def digest(tmp_path, text):
    (tmp_path / "m.py").write_text(text)
    return sources.file_digest(tmp_path / "m.py")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Docs."""', '"""Other docs,\nlonger."""'),
        ('"""More docs."""', '"""x"""'),
        ("    # a comment\n", ""),
        ('return f"{x:.2f}"', "return  (\n        f'{x:.2f}'\n    )"),
        ('"Docs."', "'?'"),
        ('__version__ = "1"', '__version__ = "2"'),
    ],
)
def test_what_changes_no_number_does_not_count(tmp_path, old, new):
    assert old in SOURCE
    assert digest(tmp_path, SOURCE) == digest(tmp_path, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".2f", ".3f"),
        ('"a"', '"b"'),
        ("None", "False"),
        ("y: int = 1", "y: int = 1.0"),
        ("if x", "if not x"),
        ("def f(x)", "def f(x=1)"),
        ("import math", "import cmath"),
    ],
)
def test_what_may_change_a_number_counts(tmp_path, old, new):
    assert old in SOURCE
    assert digest(tmp_path, SOURCE) != digest(tmp_path, SOURCE.replace(old, new))


def test_imports_are_followed_through_the_package(package):
    (package / "one.py").write_text("def f():\n    from spikiness import two\n    return two.x\n")
    (package / "two.py").write_text("from .sub import three\n")
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "three.py").write_text("from .. import four\nfrom ..errors import suggest\nimport os\n")
    (package / "four.py").write_text("x = 1\n")
    expected = ["", ".errors", ".four", ".one", ".sub", ".sub.three", ".two"]
    assert sources.closure(["spikiness.one"]) == [f"spikiness{name}" for name in expected]
    before = sources.modules_digest(["spikiness.one"])
    (package / "four.py").write_text("x = 1  # one\n")
    assert sources.modules_digest(["spikiness.one"]) == before
    (package / "four.py").write_text("x = 2\n")
    assert sources.modules_digest(["spikiness.one"]) != before
    assert sources.modules_digest(["spikiness.two"]) != before


def test_the_runner_itself_does_not_count():
    assert not [
        name for name in sources.closure(["spikiness", "spikiness.errors", "spikiness.runs"]) if ".runs" in name
    ]


def test_code_that_cannot_be_read_is_a_clear_error(package):
    (package / "bad.py").write_text("def (\n")
    with pytest.raises(SpikinessError, match=r"bad\.py"):
        sources.modules_digest(["spikiness.bad"])


def chapter(*cells):
    parameters = new_code_cell("n: int = 5", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# prose"), parameters, *map(new_code_cell, cells)])


def test_prose_and_the_parameters_cell_are_no_code():
    book = chapter(
        "from spikiness import errors, __version__\nimport spikiness.runs.store as s", "errors.suggest('a', [])"
    )
    code, modules = sources.notebook_code(book)
    assert modules == {"spikiness", "spikiness.errors", "spikiness.runs.store"}
    book.cells[0].source = "# other prose"
    book.cells[1].source = "n: int = 6"
    book.cells[2].source += "  # a comment"
    assert sources.notebook_code(book)[0] == code
    book.cells[3].source = "errors.suggest('b', [])"
    assert sources.notebook_code(book)[0] != code


def test_ipython_commands_are_left_out_and_other_languages_count_whole():
    assert sources.notebook_code(chapter("%matplotlib inline\nx = 1")) == sources.notebook_code(chapter("x = 1"))
    assert sources.notebook_code(chapter("%%bash\nls -l")) != sources.notebook_code(chapter("%%bash\nls -a"))


def test_names_that_a_chapter_imports():
    book = chapter("import numpy as np, os.path\nfrom spikiness import runs as r", "%%bash\nimport x -y")
    assert sources.imported_names(book) == {"np", "os", "r"}


def test_kept_diffusion_models_depend_on_what_trains_them_and_nothing_else():
    """A new measure or chapter must not retrain them: each takes minutes to hours."""
    found = {name.removeprefix("spikiness.") for name in sources.closure(["spikiness.experiments.recipes"])}
    assert found == {
        "spikiness", "denoisers", "errors", "experiments.recipes", "files", "networks.dit", "networks.relu_dae",
        "networks.unet", "training.checkpoints", "training.dae", "training.diffusion", "training.loop",
    }  # fmt: skip
