"""Parameters: what the notebook's own cell declares, and nothing else, before anything starts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_chapters import notebook, working

from spikiness.errors import SpikinessError
from spikiness_book.engine import runs
from spikiness_book.engine.runs import notebook as chapter
from spikiness_book.engine.runs import parameters
from spikiness_book.engine.runs.parameters import (
    Parameter,
    demo_is_published,
    parse,
    profile_values,
    read,
    read_yaml,
    validate,
    vocabulary,
)

DECLARED = [
    Parameter("n", "int", 5, ""),
    Parameter("lr", "float", 0.01, ""),
    Parameter("sigmas", "list[float]", [0.2, 1.0], ""),
    Parameter("seeds", "list[int]", [0], ""),
    Parameter("label", "str", "plain", ""),
    Parameter("tied", "bool", True, ""),
]


def cell(text):
    return read(notebook("x", [], parameters=text), "x")


def test_the_cell_is_read_with_types_defaults_and_help():
    rows = read(notebook("x", []), "x")
    assert [tuple(row) for row in rows] == [
        ("n", "int", 5, "training images"),
        ("lr", "float", 0.01, "step size"),
        ("sigmas", "list[float]", [0.2, 1.0], "noise levels"),
        ("label", "str", "plain", "a word"),
        ("tied", "bool", True, "one matrix or two"),
    ]


def test_describe_gives_rows(tmp_path):
    assert runs.describe("good", working(tmp_path))[0] == {
        "name": "n",
        "type": "int",
        "default": 5,
        "help": "training images",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n = 5", "`n = 5`"),
        ("n: int", "`n: int`"),
        ("import os", "`import os`"),
        ("n: int = 2 + int('3')", "must be a literal"),
        ("n: int = 5  # where n = 5", "no '=' in its comment"),
        ("n: dict = {}", "'n' is a dict; use one of int, float"),
        ("n: float = 5.0", "'n' is declared float; in every chapter it is int"),
        ("list: int = 5", "'list' cannot be a parameter"),
        ("runs: int = 5", "'runs' cannot be a parameter"),
        ("_n: int = 5", "'_n' cannot be a parameter"),
        ("copy: int = 5", "'copy' cannot be a parameter"),
        ("n: int = (", "not Python"),
    ],
)
def test_a_parameters_cell_that_cannot_be_trusted_is_refused(text, says):
    with pytest.raises(SpikinessError) as error:
        cell(text)
    assert says in str(error.value)


def test_exactly_one_parameters_cell():
    book = notebook("x", [])
    book.cells[2].metadata["tags"] = []
    with pytest.raises(SpikinessError, match="found 0"):
        read(book, "x")


def test_defaults_are_held_to_the_same_limits():
    with pytest.raises(SpikinessError, match="n must be a whole number of at least 1, got 0"):
        validate(cell("n: int = 0"), {}, "x")


def test_values_replace_defaults_and_whole_numbers_become_floats():
    values = validate(DECLARED, {"n": 10, "lr": 1, "tied": False}, "x")
    assert values == {"n": 10, "lr": 1.0, "sigmas": [0.2, 1.0], "seeds": [0], "label": "plain", "tied": False}
    assert type(values["lr"]) is float
    assert type(values["n"]) is int


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("n", "abc", "n must be a whole number of at least 1, got 'abc'"),
        ("n", -5, "got -5"),
        ("n", 0, "got 0"),
        ("n", 5.0, "got 5.0 (write 5)"),
        ("n", "10", "got '10' (a number in quotes: write it without)"),
        ("n", True, "got True"),
        ("n", None, "got None"),
        ("n", [5], "got [5]"),
        ("lr", "1e-3", "(YAML reads 1e-3 as text: write 1.0e-3)"),
        ("lr", "2.5e3", "(YAML reads 2.5e3 as text: write 2.5e+3)"),
        ("lr", "abc", "lr must be a finite number above 0, got 'abc'"),
        ("lr", float("nan"), "got nan"),
        ("lr", float("inf"), "got inf"),
        ("lr", 0.0, "got 0.0"),
        ("lr", False, "got False"),
        ("sigmas", [], "a list, not empty, of finite numbers above 0, got []"),
        ("sigmas", [0.2, -1.0], "got [0.2, -1.0]"),
        ("sigmas", [0.2, float("nan")], "got [0.2, nan]"),
        ("sigmas", 0.2, "(write [0.2])"),
        ("seeds", [0, 0], "none twice, got [0, 0]"),
        ("seeds", [-1], "got [-1]"),
        ("seeds", [True], "got [True]"),
        ("label", 5, "label must be text, got 5"),
        ("label", "a\nb", "got 'a\\nb'"),
        ("label", "a\x00b", "got 'a\\x00b'"),
        ("tied", "true", "(text: write true without quotes)"),
        ("tied", 1, "tied must be true or false, got 1"),
    ],
)
def test_wrong_types_and_impossible_values_name_the_field(name, value, says):
    with pytest.raises(SpikinessError) as error:
        validate(DECLARED, {name: value}, "x")
    assert says in str(error.value)
    assert str(error.value).startswith("x: " + name)


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(SpikinessError, match=r"n must be.*lr must be"):
        validate(DECLARED, {"n": 0, "lr": -1.0}, "x")


@pytest.mark.parametrize("name", sorted(vocabulary()))
def test_the_vocabulary_refuses_one_step_outside_its_limits(name):
    meaning = vocabulary()[name]
    one = {"int": 0, "float": 0.0}.get(meaning.type.removeprefix("list[").rstrip("]"))
    if one is None:
        return  # tied and data have a type only
    edge = meaning.limits.get("ge", meaning.limits.get("gt"))
    outside = type(one)(edge) - (1 if "ge" in meaning.limits else 0)
    inside = type(one)(edge) + (1 if "gt" in meaning.limits else 0)
    wrap = (lambda x: [x]) if meaning.type.startswith("list") else (lambda x: x)
    declared = [Parameter(name, meaning.type, wrap(inside), "")]
    assert validate(declared, {}, "x") == {name: wrap(inside)}
    with pytest.raises(SpikinessError, match=f"x: {name} must be"):
        validate(declared, {name: wrap(outside)}, "x")


def test_the_vocabulary_says_its_limits_in_words():
    words = {
        "n": "a whole number of at least 1",
        "sigmas": "a list, not empty, of finite numbers above 0",
        "cosines": "a list, not empty, of finite numbers from -1 to below 1, none twice",
        "calibration_seeds": "a list, not empty, of whole numbers from 0 to 9, none twice",
        "seeds": "a list, not empty, of whole numbers of at least 0, none twice",
        "kinds": "a list, not empty, of texts network:data, none twice",
        "data": "text",
        "tied": "true or false",
    }
    for name, expected in words.items():
        assert parameters.wanted(Parameter(name, vocabulary()[name].type, None, "")) == expected


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{type: int, atleast: 1, meaning: x}", "'atleast'; did you mean 'at_least'?"),
        ("{type: number, meaning: x}", "x needs a type (one of int, float"),
        ("{type: int, at_least: 1}", "and a meaning"),
        ("5", "needs a type"),
        ("{type: str, above: 0, meaning: x}", "only numbers have limits"),
        ("{type: int, above: many, meaning: x}", "limits are numbers"),
    ],
)
def test_an_entry_that_is_no_meaning_is_refused(tmp_path, monkeypatch, entry, says):
    monkeypatch.chdir(checkout_with(tmp_path, f"x: {entry}\n"))
    with pytest.raises(SpikinessError) as error:
        vocabulary()
    assert says in str(error.value)
    assert "parameters.yaml: x" in str(error.value)


def test_a_new_name_is_a_line_in_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(checkout_with(tmp_path, "tempo: {type: float, above: 1, below: 2, meaning: x}\n"))
    assert "n" not in vocabulary()
    with pytest.raises(SpikinessError, match=r"tempo must be a finite number from 1 to below 2, got 2.0"):
        validate([Parameter("tempo", "float", 1.5, "")], {"tempo": 2.0}, "x")


def checkout_with(folder, text):
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "parameters.yaml").write_text(text)
    (folder / "pyproject.toml").write_text('[project]\nname = "spikiness"\n')
    return folder


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sigmaz", "did you mean 'sigmas'?"),
        ("zzzzzz", "unknown parameter 'zzzzzz' (it has n, lr, sigmas, seeds, label, tied)"),
        (True, "YAML reads on, off, yes and no"),
        (3, "3 is not"),
        ("__builtins__", "a reserved name"),
        ("lambda", "not a name"),
        ("print", "something the notebook uses"),
        ("n = 1; import os; os.system('touch here')", "not a name"),
        ("\u217c\u0072", "not a name"),  # NFKC makes this one lr
        ("", "not a name"),
    ],
)
def test_unknown_names_and_names_that_are_code_are_refused(name, says):
    with pytest.raises(SpikinessError) as error:
        validate(DECLARED, {name: 1}, "x")
    assert says.replace("3 is not", "'3' cannot be") in str(error.value)


@given(st.text(max_size=30), st.one_of(st.integers(), st.text(), st.none(), st.lists(st.floats())))
def test_no_name_or_value_passes_but_a_declared_one(name, value):
    if name in {p.name for p in DECLARED}:
        return
    with pytest.raises(SpikinessError):
        validate(DECLARED, {name: value}, "x")


@given(st.one_of(st.text(max_size=5), st.floats(), st.none(), st.booleans(), st.integers(max_value=0)))
def test_nothing_but_a_positive_int_is_an_n(value):
    with pytest.raises(SpikinessError, match="n must be"):
        validate(DECLARED, {"n": value}, "x")


# ---- the command line


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "10", 10),
        ("lr", "1e-3", 1e-3),
        ("lr", "2", 2.0),
        ("lr", ".5", 0.5),
        ("sigmas", "0.2,1", [0.2, 1.0]),
        ("sigmas", "[0.2, 1]", [0.2, 1.0]),
        ("sigmas", "5", [5.0]),
        ("seeds", "0, 1,2", [0, 1, 2]),
        ("tied", "false", False),
        ("tied", "True", True),
        ("label", "true", "true"),
        ("label", 'a"; import os', 'a"; import os'),
    ],
)
def test_text_is_read_by_the_declared_type(name, text, value):
    values = validate(DECLARED, parse(DECLARED, [(name, text)], "x"), "x")
    assert values[name] == value
    assert type(values[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n", "abc"),
        ("n", "5.0"),
        ("n", "010"),
        ("n", "1_0"),
        ("n", "1:30"),
        ("n", ""),
        ("n", "nan"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("lr", "1e-3x"),
        ("tied", "yes"),
        ("tied", "1"),
        ("sigmas", "0.2,,1"),
        ("sigmas", "[0.2"),
        ("sigmas", "[NaN]"),
        ("sigmas", "nan"),
        ("seeds", "[0, 0.5]"),
        ("seeds", '{"a": 1}'),
    ],
)
def test_text_that_is_no_such_value_is_refused_by_name(name, text):
    with pytest.raises(SpikinessError, match=f"x: {name} must be"):
        validate(DECLARED, parse(DECLARED, [(name, text)], "x"), "x")


def test_a_name_given_twice_is_refused():
    with pytest.raises(SpikinessError, match="n is given twice"):
        parse(DECLARED, [("n", "1"), ("n", "2")], "x")


# ---- profiles.yaml


def yaml_file(tmp_path, text):
    (tmp_path / "profiles.yaml").write_text(text)
    return tmp_path


def test_profiles_replace_values_and_demo_is_the_notebook(tmp_path):
    folder = yaml_file(tmp_path, "good:\n  smoke: {n: 2}\n  paper: {lr: 1.0e-3}\n")
    assert profile_values(folder, "good", "smoke") == {"n": 2}
    assert profile_values(folder, "good", "paper") == {"lr": 1e-3}
    assert profile_values(tmp_path / "nowhere", "good", "demo") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("good:\n  smoke: {n: 010}\n", "'010' would be read in another base"),
        ("good:\n  smoke: {n: 1:30}\n", "'1:30' would be read in another base"),
        ("good:\n  smoke: {n: 0x10}\n", "'0x10' would be read in another base"),
        ("good:\n  smoke: {on: off}\n", "would be read as true or false"),
        ("good:\n  smoke: {tied: yes}\n", "'yes' would be read as true or false"),
        ("good:\n  smoke: {n: 1, n: 2}\n", "n is given twice"),
        ("good: {demo: {n: 3}}\n", "demo of good is the notebook's own cell"),
        ("good: {paper: {n: 3}}\n", "no smoke values for 'good': add `good: {smoke: {}}`"),
        ("good: {smoke: 3}\n", "no smoke values"),
        ("good: [1]\n", "must map smoke and paper"),
        ("[1]\n", "must be a map"),
        ("good: {smoke: !!python/object/apply:os.system [touch here]}\n", "could not determine a constructor"),
        ("good: {", "profiles.yaml"),
    ],
)
def test_yaml_traps_are_errors(tmp_path, text, says):
    with pytest.raises(SpikinessError) as error:
        profile_values(yaml_file(tmp_path, text), "good", "smoke")
    assert says in str(error.value)
    assert not (tmp_path / "here").exists()


def test_yaml_text_where_a_number_is_declared_names_the_fix(tmp_path):
    folder = working(tmp_path)
    (folder / "profiles.yaml").write_text("good: {smoke: {lr: 1e-3}}\n")
    with pytest.raises(SpikinessError, match=r"good \(smoke profile\): lr must be .* write 1.0e-3"):
        runs.find("good", profile="smoke", notebooks=folder)


def test_demo_can_be_the_published_run_and_nothing_else(tmp_path):
    folder = yaml_file(tmp_path, "good: {smoke: {n: 2}, demo: published}\nother: {smoke: {}}\n")
    assert demo_is_published(folder, "good")
    assert not demo_is_published(folder, "other")
    assert not demo_is_published(folder, "absent")
    assert profile_values(folder, "good", "smoke") == {"n": 2}
    assert profile_values(folder, "good", "demo") == {}
    with pytest.raises(SpikinessError, match="only `demo: published` can stand here"):
        profile_values(yaml_file(tmp_path, "good: {smoke: {}, demo: 3}\n"), "good", "smoke")


def test_an_empty_file_is_an_empty_map(tmp_path):
    assert read_yaml(yaml_file(tmp_path, "# nothing yet\n") / "profiles.yaml") == {}


def test_a_missing_file_and_an_unknown_profile(tmp_path):
    with pytest.raises(SpikinessError, match="is missing"):
        read_yaml(tmp_path / "profiles.yaml")
    with pytest.raises(SpikinessError, match=r"unknown profile 'papr'.*did you mean 'paper'"):
        profile_values(tmp_path, "good", "papr")


def test_the_words_for_lists_of_text():
    assert parameters.wanted(Parameter("names", "list[str]", [], "")) == "a list, not empty, of texts"


def test_every_chapter_reads_all_of_its_parameters():
    for name in runs.chapters():
        book = chapter.read(name)
        assert parameters.unread(book, read(book, name)) == [], name


@pytest.mark.parametrize("text", ["print(n)", "f'{n}'", "run.say('at {n:.2f}')", "frame.query('size == @n')",
                                  "run.parameters['n']", "%%bash\necho n", "def f():\n    return n"])  # fmt: skip
def test_what_counts_as_reading_a_parameter(text):
    book = notebook("x", [text], parameters="n: int = 1\n")
    for cell in book.cells:
        cell.source = cell.source.replace("\n_ = [n]", "")
    assert parameters.unread(book, [parameters.Parameter("n", "int", 1, "")]) == []
    book.cells = [cell for cell in book.cells if cell.source != text]
    assert parameters.unread(book, [parameters.Parameter("n", "int", 1, "")]) == ["n"]
