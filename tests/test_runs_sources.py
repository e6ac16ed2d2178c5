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
    (package / "two.py").write_text("from .sub.three import x\n")
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "three.py").write_text("from .. import four\nx = four.x\n")
    (package / "four.py").write_text("x = 1\n")
    one = [("spikiness.one", "f")]
    assert sources.modules(one) == ["spikiness.four", "spikiness.one", "spikiness.sub.three"]
    before = sources.code_digest(one)
    (package / "four.py").write_text("x = 1  # one\n")
    assert sources.code_digest(one) == before
    (package / "four.py").write_text("x = 2\n")
    assert sources.code_digest(one) != before
    assert sources.function_digest("spikiness.one", "f") == sources.code_digest(one)


USED = """import math as m
from spikiness import other, effects
from spikiness.errors import suggest as near
TABLE = {"a": other.used}
def f(x): return _helper(x) + TABLE["a"](x)
def _helper(x): return m.floor(x)
def unused(x): return near(x, [])
class Kept:
    def method(self): return other.also
"""
OTHER = """LIMIT = 3
def used(x): return x + LIMIT
def unused(x): return x
also = 5
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("main", "m.floor(x)", "m.ceil(x)", True),
        ("main", "import math as m", "import cmath as m", True),
        ("main", 'TABLE = {"a"', 'TABLE = {"b"', True),
        ("main", "near(x, [])", "near(x, [1])", False),
        ("main", "errors import suggest", "errors import Diverged", False),
        ("main", "other.also", "other.unused", False),
        ("main", "class Kept", "TABLE.clear()\nclass Kept", True),  # runs with the import
        ("other", "LIMIT = 3", "LIMIT = 4", True),
        ("other", "return x\n", "return -x\n", False),
        ("other", "also = 5", "also = 6", False),
        ("other", "also = 5", "LIMIT += 1", True),
        ("other", "also = 5", "if LIMIT:\n    LIMIT = 9", True),
        ("other", "also = 5", "also, LIMIT = 5, 6", True),
    ],
)
def test_what_a_function_uses_counts_and_its_neighbours_do_not(package, file, old, new, counts):
    texts = {"main": USED, "other": OTHER, "effects": ""}
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    before = sources.function_digest("spikiness.main", "f")
    assert old in texts[file]
    (package / f"{file}.py").write_text(texts[file].replace(old, new))
    assert (sources.function_digest("spikiness.main", "f") != before) is counts


@pytest.mark.parametrize("use", ["getattr(other, name)(1)", "vars(other)", "other.made_somehow", "(o := other).used"])
def test_a_module_used_as_a_thing_counts_whole(package, use):
    (package / "main.py").write_text(f"from spikiness import other\ndef f(name): return {use}\n")
    (package / "other.py").write_text(OTHER)
    before = sources.function_digest("spikiness.main", "f")
    (package / "other.py").write_text(OTHER.replace("also = 5", "also = 6"))
    assert sources.function_digest("spikiness.main", "f") != before


def test_a_name_is_followed_to_where_it_is_defined(package):
    (package / "main.py").write_text("from spikiness import box\ndef f(): return box.g() + box.inner.h()\n")
    (package / "box").mkdir()
    (package / "box" / "__init__.py").write_text(
        "from spikiness.box.inner import _g as g\nfrom spikiness.box import off\n"
    )
    (package / "box" / "inner.py").write_text("def _g(): return 1\ndef h(): return 2\ndef other(): return 3\n")
    (package / "box" / "off.py").write_text("x = 1\n")
    reached = sources.reach([("spikiness.main", "f")])
    assert [name for name in reached if name[1]] == [
        ("spikiness.box.inner", "_g"), ("spikiness.box.inner", "h"), ("spikiness.main", "f"),
    ]  # fmt: skip


def test_neither_the_runner_nor_the_cache_count():
    reached = sources.modules([("spikiness.experiments.models", "model"), ("spikiness.runs", "*"), ("spikiness", "*")])
    assert "spikiness.experiments.recipes" in reached
    assert not [name for name in reached if ".runs" in name or ".cache" in name]


def test_code_that_cannot_be_read_is_a_clear_error(package):
    (package / "bad.py").write_text("def (\n")
    with pytest.raises(SpikinessError, match=r"bad\.py"):
        sources.function_digest("spikiness.bad", "f")


def chapter(*cells):
    parameters = new_code_cell("n: int = 5", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# prose"), parameters, *map(new_code_cell, cells)])


def test_prose_and_the_parameters_cell_are_no_code():
    book = chapter(
        "from spikiness import errors, __version__\nimport spikiness.runs.store as s", "errors.suggest('a', [])"
    )
    code, uses = sources.notebook_code(book)
    assert uses == {("spikiness.errors", "suggest")}
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
    found = {name.removeprefix("spikiness.") for name in sources.modules([("spikiness.experiments.recipes", "fit")])}
    assert found == {
        "denoisers", "errors", "experiments.recipes", "files", "networks.dit", "networks.unet", "training.checkpoints",
        "training.dae", "training.diffusion", "training.loop",
    }  # fmt: skip
    names = {name for module, name in sources.reach([("spikiness.experiments.recipes", "fit")]) if "dae" in module}
    assert "schedule" in names
    assert "fit_ensemble" not in names
