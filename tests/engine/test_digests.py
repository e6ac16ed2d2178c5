"""Digests of code: any change that can change a number counts, and no other."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from spikiness.errors import SpikinessError
from spikiness_book.engine.runs import digests

ROOT = Path(__file__).parents[2]

SOURCE = '''"""Docs."""
import math
__version__ = "1"

def f(x):
    """More docs."""
    # a comment
    return f"{x:.2f}" + "a" if x else None

def g(x):
    return math.sqrt(x)

class A:
    "Docs."
    y: int = 1
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package to change."""
    for name in digests.PACKAGES:
        shutil.copytree(digests.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    return tmp_path / "spikiness"


def digest(tmp_path, text):
    (tmp_path / "m.py").write_text(text)
    return digests.file_digest(tmp_path / "m.py")


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
    assert digests.modules(one) == ["spikiness.four", "spikiness.one", "spikiness.sub.three"]
    before = digests.code_digest(one)
    (package / "four.py").write_text("x = 1  # one\n")
    assert digests.code_digest(one) == before
    (package / "four.py").write_text("x = 2\n")
    assert digests.code_digest(one) != before
    assert digests.function_digest("spikiness.one", "f") == digests.code_digest(one)


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
    before = digests.function_digest("spikiness.main", "f")
    assert old in texts[file]
    (package / f"{file}.py").write_text(texts[file].replace(old, new))
    assert (digests.function_digest("spikiness.main", "f") != before) is counts


@pytest.mark.parametrize("use", ["getattr(other, name)(1)", "vars(other)", "other.made_somehow", "(o := other).used"])
def test_a_module_used_as_a_thing_counts_whole(package, use):
    (package / "main.py").write_text(f"from spikiness import other\ndef f(name): return {use}\n")
    (package / "other.py").write_text(OTHER)
    before = digests.function_digest("spikiness.main", "f")
    (package / "other.py").write_text(OTHER.replace("also = 5", "also = 6"))
    assert digests.function_digest("spikiness.main", "f") != before


def test_a_name_is_followed_to_where_it_is_defined(package):
    (package / "main.py").write_text("from spikiness import box\ndef f(): return box.g() + box.inner.h()\n")
    (package / "box").mkdir()
    (package / "box" / "__init__.py").write_text(
        "from spikiness.box.inner import _g as g\nfrom spikiness.box import off\n"
    )
    (package / "box" / "inner.py").write_text("def _g(): return 1\ndef h(): return 2\ndef other(): return 3\n")
    (package / "box" / "off.py").write_text("x = 1\n")
    reached = digests.reach([("spikiness.main", "f")])
    assert [name for name in reached if name[1]] == [
        ("spikiness.box.inner", "_g"), ("spikiness.box.inner", "h"), ("spikiness.main", "f"),
    ]  # fmt: skip


def test_neither_the_runner_nor_the_cache_count():
    reached = digests.modules(
        [("spikiness_book.zoo", "train"), ("spikiness_book.engine.runs", "*"), ("spikiness", "*")]
    )
    assert "spikiness.training.diffusion" in reached
    assert not [name for name in reached if ".runs" in name or ".cache" in name]


def digest_of(package, texts, of=("spikiness.main", "f")):
    """The digest of a function of the package with these modules, written anew."""
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    return digests.function_digest(*of)


HERE = {
    "main": "from spikiness.other import used\nLIMIT = 3\ndef f(x):\n    y = used(x)\n    return y + LIMIT\n",
    "other": "import torch\ndef used(x): return torch.relu(x)\n",
}


@pytest.mark.parametrize(
    ("texts", "of"),
    [
        ({"main": HERE["main"].replace("y", "why"), "other": HERE["other"]}, "f"),  # a local variable
        ({"main": HERE["main"].replace("LIMIT", "MOST"), "other": HERE["other"]}, "f"),
        ({"main": HERE["main"].replace("f(x)", "f(x: float) -> int"), "other": HERE["other"]}, "f"),
        ({"main": HERE["main"].replace("f(x)", "g(x)"), "other": HERE["other"]}, "g"),
        ({"main": HERE["main"].replace("used", "busy"), "other": HERE["other"].replace("used", "busy")}, "f"),
        ({"main": HERE["main"].replace("other", "moved"), "moved": HERE["other"]}, "f"),
        ({"main": HERE["main"].replace("other", "way"), "way": "from spikiness.other import used\n"}, "f"),
        ({"main": HERE["main"].replace("from spikiness.other import used", "from spikiness import other as o")
          .replace("used(", "o.used("), "other": HERE["other"]}, "f"),
        ({"main": "import torch\ndef used(x): return torch.relu(x)\n" + HERE["main"].partition("\n")[2]}, "f"),
        ({"main": HERE["main"], "other": "from torch import relu as r\ndef used(x): return r(x)\n"}, "f"),
        ({"main": HERE["main"], "other": "def used(x):\n    import torch as t\n    return t.relu(x)\n"}, "f"),
    ],
)  # fmt: skip
def test_a_move_or_another_name_changes_nothing(package, texts, of):
    assert digest_of(package, HERE) == digest_of(package, texts, ("spikiness.main", of))


CIRCLE = """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def f(n): return even(n)
def self(n): return n and self(n - 1)
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("n == 0", "n == 1", True),
        ("n != 0", "n != 1", True),
        ("even", "straight", False),
        ("return even(n)\n", "return odd(n)\n", True),
        ("self(n - 1)", "self(n - 2)", False),
    ],
)
def test_functions_that_call_each_other_are_one_group(package, old, new, counts):
    before = digest_of(package, {"main": CIRCLE})
    assert (digest_of(package, {"main": CIRCLE.replace(old, new)}) != before) is counts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f(a, b): return a - b", "def f(b, a): return a - b"),
        ("def f(a, b): return a - b", "def f(b, a): return b - a"),  # callers may name them
        ("def f(x):\n    y = 1\n    return y", "def f(x):\n    y = 1\n    return x"),
        ("def f(x):\n    y, z = x\n    return y - z", "def f(x):\n    y, z = x\n    return z - y"),
        ("def f(x):\n    y = x\n    def g(): return y\n    y = 2\n    return g",
         "def f(x):\n    y = x\n    def g(y=y): return y\n    y = 2\n    return g"),
        ("def f(x): return [y for y in x for z in y]", "def f(x): return [z for y in x for z in y]"),
        ("def f(x):\n    low = 1\n    return x.query('a > @low')",
         "def f(x):\n    high = 1\n    return x.query('a > @low')"),
        ("def f(x):\n    low = 1\n    return eval(x)", "def f(x):\n    high = 1\n    return eval(x)"),
        ("class f:\n    low = 1\n    def high(self): return 2", "class f:\n    high = 1\n    def low(self): return 2"),
        ("LOW = 1\ndef f():\n    def g(): return LOW\n    return g",
         "LOW = 1\ndef f():\n    def g():\n        LOW = 2\n        return LOW\n    return g"),
        ("LOW = 1\ndef f():\n    global LOW\n    LOW = 2", "LOW = 1\ndef f():\n    LOW = 2"),
        ("def f(x):\n    len = max\n    return len(x)", "def f(x):\n    y = max\n    return len(x)"),
        ("def f(x):\n    try: return x\n    except ValueError as e: return e",
         "def f(x, e=1):\n    try: return x\n    except ValueError: return e"),
    ],
)  # fmt: skip
def test_names_are_told_apart_as_python_does(package, old, new):
    assert digest_of(package, {"main": old}) != digest_of(package, {"main": new})


def test_it_counts_which_of_two_functions_a_chapter_calls_when(package):
    (package / "one.py").write_text("def f(x): return x\ndef g(x): return -x\n")
    seen = set()
    for second in ("f", "g"):
        code, uses = digests.notebook_code(
            chapter("from spikiness import one", "one.f(1)", f"one.{second}(2)", "one.g(1)")
        )
        seen.add((code, digests.code_digest(uses)))
    assert len(seen) == 2


def test_a_function_moved_between_modules_leaves_every_published_page_as_it_was(package):
    """Every reference of every chapter, before and after what intervals are made of moves to another module."""
    notebooks = [nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    before = [(code, digests.code_digest(uses)) for code, uses in map(digests.notebook_code, notebooks)]
    assert len(set(before)) == len(notebooks) > 10
    source = package / "measures" / "intervals.py"
    (package / "measures" / "elsewhere.py").write_text(source.read_text())
    source.write_text("from spikiness.measures.elsewhere import *\nfrom spikiness.measures import elsewhere\n")
    for path in package.parent.rglob("*.py"):
        text = path.read_text()
        if "measures.intervals" in text:
            path.write_text(text.replace("measures.intervals", "measures.elsewhere"))
    after = [(code, digests.code_digest(uses)) for code, uses in map(digests.notebook_code, notebooks)]
    assert after == before
    changed = package / "measures" / "elsewhere.py"
    changed.write_text(changed.read_text().replace("z2 = ", "z2 = 1 * "))
    assert [(code, digests.code_digest(uses)) for code, uses in map(digests.notebook_code, notebooks)] != before


def test_code_that_cannot_be_read_is_a_clear_error(package):
    (package / "bad.py").write_text("def (\n")
    with pytest.raises(SpikinessError, match=r"bad\.py"):
        digests.function_digest("spikiness.bad", "f")


def chapter(*cells):
    parameters = new_code_cell("n: int = 5", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell("# prose"), parameters, *map(new_code_cell, cells)])


def test_prose_and_the_parameters_cell_are_no_code():
    book = chapter(
        "from spikiness import errors, __version__\nimport spikiness_book.engine.runs.store as s",
        "errors.suggest('a', [])",
    )
    code, uses = digests.notebook_code(book)
    assert uses == [("spikiness.errors", "suggest")]
    book.cells[0].source = "# other prose"
    book.cells[1].source = "n: int = 6"
    book.cells[2].source += "  # a comment"
    assert digests.notebook_code(book)[0] == code
    book.cells[3].source = "errors.suggest('b', [])"
    assert digests.notebook_code(book)[0] != code


def test_ipython_commands_are_left_out_and_other_languages_count_whole():
    assert digests.notebook_code(chapter("%matplotlib inline\nx = 1")) == digests.notebook_code(chapter("x = 1"))
    assert digests.notebook_code(chapter("%%bash\nls -l")) != digests.notebook_code(chapter("%%bash\nls -a"))


def test_names_that_a_chapter_imports():
    book = chapter("import numpy as np, os.path\nfrom spikiness_book.engine import runs as r", "%%bash\nimport x -y")
    assert digests.imported_names(book) == {"np", "os", "r"}


def test_kept_diffusion_models_depend_on_what_trains_them_and_nothing_else():
    """A new measure, chapter or network must not retrain them: each takes minutes to hours."""
    trained = [("spikiness.training.diffusion", "fit_diffusion"), ("spikiness.networks.unet", "UNet")]
    modules = {name.removeprefix("spikiness.") for name in digests.modules(trained)}
    assert modules == {
        "denoisers", "errors", "files", "networks.contract", "networks.unet", "training.checkpoints", "training.dae",
        "training.diffusion", "training.loop",
    }  # fmt: skip
    names = {name for module, name in digests.reach(trained) if "dae" in module}
    assert "schedule" in names
    assert "fit_ensemble" not in names
