"""Sweep files: the points they name, and one clear refusal of everything that names none."""

import itertools
import math
import time
from collections import Counter

import pytest
from sample_chapters import GOOD, working, write
from scipy import stats

from spikiness.errors import SpikinessError
from spikiness_book.engine import sweeps
from spikiness_book.engine.sweeps import grid

HEAD = "chapter: good\n"


@pytest.fixture(scope="module")
def chapters(tmp_path_factory):
    """`good` has neither seed nor seeds, `one` has seed, `several` has seeds, `both` has both."""
    folder = working(tmp_path_factory.mktemp("project") / "notebooks")
    write(folder, "both", GOOD, parameters="seed: int = 0\nseeds: list[int] = [0]\n")
    write(folder, "one", GOOD, parameters="n: int = 5\nseed: int = 0\n")
    return write(folder, "several", GOOD, parameters="n: int = 5\nseeds: list[int] = [0]\n")


@pytest.fixture
def read(tmp_path):
    """The sweep of a text."""

    def from_text(text, name="first.yaml"):
        (tmp_path / name).write_text(text)
        return grid.read(tmp_path / name)

    return from_text


@pytest.fixture
def planned(read, chapters):
    """The parameters of the runs of a text."""
    return lambda text: [task.parameters for task in sweeps.plan(read(text), chapters)]


# ---- which points


def test_a_grid_is_the_product_with_the_last_parameter_fastest(read):
    sizes, levels, flags = [1, 2, 3], [0.2, 1.0], [True, False]
    text = f"{HEAD}parameters: {{label: x}}\ngrid: {{n: {sizes}, lr: {levels}, tied: [true, false]}}\n"
    sweep = read(text)
    assert sweep.points == [
        {"label": "x", "n": n, "lr": lr, "tied": tied} for n in sizes for lr in levels for tied in flags
    ]
    assert len(sweep.points) == 12
    assert (sweep.name, sweep.chapter, sweep.profile) == ("first", "good", "demo")
    assert sweep.varied == ("n", "lr", "tied")
    assert sweep.resources == {"cpu": 1, "gpu": 0, "memory": 2000, "minutes": 60}


def test_a_list_is_just_its_points(read):
    sweep = read(HEAD + "profile: smoke\nlist: [{n: 2, lr: 0.5}, {n: 3}, {}]\nresources: {cpu: 2, minutes: 5}\n")
    assert sweep.points == [{"n": 2, "lr": 0.5}, {"n": 3}, {}]
    assert (sweep.profile, sweep.varied) == ("smoke", ("n", "lr"))
    assert sweep.resources == {"cpu": 2, "gpu": 0, "memory": 2000, "minutes": 5}


def test_parameters_alone_are_one_run(read):
    assert read(HEAD + "parameters: {n: 3}\n").points == [{"n": 3}]


def test_a_value_may_be_a_list(planned):
    runs = planned(HEAD + "grid: {sigmas: [[0.2], [0.2, 1.0]], n: [1, 2]}\n")
    assert [(run["sigmas"], run["n"]) for run in runs] == list(itertools.product([[0.2], [0.2, 1.0]], [1, 2]))


@pytest.mark.parametrize(
    ("chapter", "seeds", "name", "values"),
    [
        ("one", "[10, 11]", "seed", [10, 11]),
        ("several", "[10, 11]", "seeds", [[10], [11]]),
        ("several", "[[10, 11], [12, 13]]", "seeds", [[10, 11], [12, 13]]),
        ("several", "[[10, 11], 12]", "seeds", [[10, 11], [12]]),
    ],
)
def test_every_seed_is_a_run_of_every_point(planned, chapter, seeds, name, values):
    runs = planned(f"chapter: {chapter}\ngrid: {{n: [1, 2]}}\nseeds: {seeds}\n")
    assert runs == [{"n": n, name: value} for n in (1, 2) for value in values]
    alone = planned(f"chapter: {chapter}\nseeds: {seeds}\n")
    assert alone == [{"n": 5, name: value} for value in values]


def test_where_a_chapter_has_both_seeds_vary_seeds(planned):
    runs = planned("chapter: both\nparameters: {seed: 3}\nseeds: [10, 11]")
    assert runs == [{"seed": 3, "seeds": [10]}, {"seed": 3, "seeds": [11]}]


# ---- at random


def drawn(read, spans, count, seed=0):
    text = f"{HEAD}random: {{count: {count}, seed: {seed}, parameters: {spans}}}\n"
    return read(text).points


SPANS = "{lr: {low: 0.01, high: 100.0, scale: log}, x: {low: -2.0, high: 3.0}, label: {choices: [a, b]}}"


def test_the_same_seed_gives_the_same_points_and_another_seed_others(read):
    assert drawn(read, SPANS, 50) == drawn(read, SPANS, 50)
    assert drawn(read, SPANS, 10) == drawn(read, SPANS, 50)[:10]
    first, other = ([point["lr"] for point in drawn(read, SPANS, 50, seed)] for seed in (0, 1))
    assert not set(first) & set(other)


def test_draws_are_even_between_their_bounds(read):
    points = drawn(read, SPANS, 3000)
    logarithms = [math.log10(point["lr"]) for point in points]
    assert stats.kstest(logarithms, stats.uniform(-2, 4).cdf).pvalue > 0.01
    assert stats.kstest([point["lr"] for point in points], stats.uniform(0.01, 99.99).cdf).pvalue < 1e-9
    assert stats.kstest([point["x"] for point in points], stats.uniform(-2, 5).cdf).pvalue > 0.01
    counts = Counter(point["label"] for point in points)
    assert stats.binomtest(counts["a"], 3000).pvalue > 0.01
    assert set(counts) == {"a", "b"}
    assert stats.pearsonr(logarithms, [point["x"] for point in points]).pvalue > 0.01


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_whole_bounds_give_whole_numbers_the_ends_too(read, scale):
    spans = f"{{n: {{low: 1, high: 4, scale: {scale}}}, other: {{low: 0.0, high: 1.0}}}}"
    points = drawn(read, spans, 4000)
    assert {type(point["n"]) for point in points} == {int}
    counts = Counter(point["n"] for point in points)
    assert sorted(counts) == [1, 2, 3, 4]
    shares = [1 / 4] * 4 if scale == "linear" else [math.log(1 + 1 / n, 5) for n in (1, 2, 3, 4)]
    assert stats.chisquare([counts[n] for n in (1, 2, 3, 4)], [4000 * share for share in shares]).pvalue > 0.01


def test_rounding_never_leaves_the_bounds(read):
    low, high = 0.12345641, 0.12345649  # six digits of either are outside
    assert {low, high} >= {p["lr"] for p in drawn(read, f"{{lr: {{low: {low}, high: {high}}}}}", 1)}
    spans = "{x: {low: 1, high: 2.5}, lr: {low: 1.0, high: 5}}"
    for point in drawn(read, spans, 300):
        assert type(point["x"]) is type(point["lr"]) is float
        assert 1 <= point["x"] <= 2.5
        assert 1 <= point["lr"] <= 5


def test_no_point_is_drawn_twice(read):
    points = drawn(read, "{n: {low: 1, high: 10}, label: {choices: [a, b]}}", 20)  # all there are
    assert sorted((p["n"], p["label"]) for p in points) == list(itertools.product(range(1, 11), "ab"))
    with pytest.raises(SpikinessError, match=r"random: count is 21, and there are only 20 different points: lower it"):
        drawn(read, "{n: {low: 1, high: 10}, label: {choices: [a, b]}}", 21)


# ---- what is refused, in one line: the file, the key, the value, and what is allowed

RANDOM = "random: {count: 2, parameters: "
REFUSED = [
    ("", ["chapter is missing", "chapter: memorization"]),
    ("grid: {n: [1]}", ["chapter is missing"]),
    ("chapter: 3\ngrid: {n: [1]}", ["chapter is missing"]),
    (HEAD, ["nothing to vary", "grid, list, random"]),
    (HEAD + "gird: {n: [1]}", ["unknown key 'gird'; did you mean 'grid'", "chapter, profile, parameters"]),
    (HEAD + "3: 4", ["unknown key 3"]),
    (HEAD + "profile: dem\ngrid: {n: [1]}", ["unknown profile 'dem'", "smoke, demo, paper", "did you mean 'demo'"]),
    (HEAD + "profile:\ngrid: {n: [1]}", ["unknown profile None"]),
    (HEAD + "profile: [demo]\ngrid: {n: [1]}", ["unknown profile ['demo']"]),
    (HEAD + "grid:", ["grid must be a map, not empty, got None"]),
    (HEAD + "grid: {}", ["grid must be a map, not empty, got {}"]),
    (HEAD + "grid: [1, 2]", ["grid must be a map", "got [1, 2]"]),
    (HEAD + "grid: {n: []}", ["grid: n must be a list of values, not empty, got []"]),
    (HEAD + "grid: {n: 3}", ["grid: n must be a list of values", "got 3"]),
    (HEAD + "grid: {n: {low: 1, high: 2}}", ["grid: n must be a list", "got {'low': 1, 'high': 2}"]),
    (HEAD + "grid: {n: [1, 2, 1]}", ["runs 1 and 3 are the same, n 1: leave one"]),
    (HEAD + "list: [{n: 1, lr: 0.5}, {lr: 0.5, n: 1}]", ["runs 1 and 2 are the same, lr 0.5, n 1"]),
    (HEAD + "list: []", ["list must be a list of maps, not empty, got []"]),
    (HEAD + "list: {n: 1}", ["list must be a list of maps", "got {'n': 1}"]),
    (HEAD + "list: [{n: 1}, 3]", ["list, entry 2 must be a map, got 3"]),
    (HEAD + "grid: {n: [1]}\nlist: [{n: 2}]", ["grid and list together: choose one of grid, list, random"]),
    (HEAD + "parameters: {n: 1}\ngrid: {n: [1, 2]}", ["n is both fixed under parameters and varied: leave one"]),
    (HEAD + "parameters: 3\ngrid: {n: [1]}", ["parameters must be a map, got 3"]),
    ("chapter: several\nparameters: {seeds: [3]}\nseeds: [1, 2]", ["seeds is both fixed", "and varied: leave one"]),
    ("chapter: several\nlist: [{seeds: [3]}]\nseeds: [1, 2]", ["seeds of the sweep and of its points: leave one"]),
    ("chapter: one\nseeds: [1, 1]", ["runs 1 and 2 are the same, seeds [1]"]),
    ("chapter: one\nseeds: 3", ["seeds must be a list of whole numbers of at least 0", "got 3"]),
    ("chapter: one\nseeds: []", ["seeds must be a list", "got []"]),
    ("chapter: one\nseeds: [[]]", ["seeds must be a list", "got [[]]"]),
    ("chapter: one\nseeds: [-1]", ["of at least 0", "got [-1]"]),
    ("chapter: one\nseeds: [true]", ["whole numbers", "got [True]"]),
    ("chapter: one\nseeds: [1.0]", ["whole numbers", "got [1.0]"]),
    (HEAD + "random: 3", ["random must be a map, not empty, got 3"]),
    (HEAD + "random: {parameters: {n: {choices: [1]}}}", ["random: count must be a whole number", "got None"]),
    (HEAD + "random: {count: 0, parameters: {n: {choices: [1]}}}", ["count must be", "at least 1, got 0"]),
    (HEAD + "random: {count: true, parameters: {n: {choices: [1]}}}", ["count must be", "got True"]),
    (HEAD + "random: {count: 2, seed: -1, parameters: {n: {choices: [1]}}}", ["random: seed", "got -1"]),
    (HEAD + "random: {count: 2, sed: 1}", ["random: unknown key 'sed'; did you mean 'seed'"]),
    (HEAD + "random: {count: 2}", ["random: parameters must be a map, not empty, got None"]),
    (HEAD + RANDOM + "{n: 3}}", ["random: n must be a map, not empty, got 3"]),
    (HEAD + RANDOM + "{n: {lo: 3, high: 4}}}", ["random: n: unknown key 'lo'; did you mean 'low'"]),
    (HEAD + RANDOM + "{n: {choices: []}}}", ["random: n: choices must be a list, not empty and alone"]),
    (HEAD + RANDOM + "{n: {choices: [1], low: 2}}}", ["choices must be", "alone, got {'choices': [1], 'low': 2}"]),
    (HEAD + RANDOM + "{n: {low: 3}}}", ["random: n: give {low: 0.1, high: 5.0, scale: log}", "got {'low': 3}"]),
    (HEAD + RANDOM + "{n: {low: 3, high: 3}}}", ["with low below high"]),
    (HEAD + RANDOM + "{lr: {low: 0, high: 3, scale: log}}}", ["above 0 for log"]),
    (HEAD + RANDOM + "{lr: {low: 1, high: 3, scale: logarithmic}}}", ["(or linear)", "'logarithmic'"]),
    (HEAD + RANDOM + "{lr: {low: .nan, high: 3}}}", ["with low below high"]),
    (HEAD + RANDOM + "{lr: {low: 1, high: .inf}}}", ["with low below high"]),
    (HEAD + RANDOM + f"{{n: {{low: 1, high: 1{'0' * 400}}}}}}}", ["with low below high"]),
    (HEAD + RANDOM + "{lr: {low: 1e-3, high: 1.0}}}", ["with low below high", "got {'low': '1e-3'"]),
    (HEAD + "grid: {n: [1]}\nresources: 3", ["resources must be a map, got 3"]),
    (HEAD + "grid: {n: [1]}\nresources: {cpus: 3}", ["resources: unknown key 'cpus'; did you mean 'cpu'"]),
    (HEAD + "grid: {n: [1]}\nresources: {cpu: 0}", ["resources: cpu must be a whole number of at least 1, got 0"]),
    (HEAD + "grid: {n: [1]}\nresources: {gpu: -1}", ["gpu must be a whole number of at least 0, got -1"]),
    (HEAD + "grid: {n: [1]}\nresources: {memory: 2 GB}", ["memory must be", "got '2 GB'"]),
    (HEAD + "grid: {n: [1]}\nresources: {minutes: 1.5}", ["minutes must be", "got 1.5"]),
    # slips of the keyboard that would fill the memory
    (HEAD + "random: {count: 1000000000, parameters: {lr: {low: 1.0, high: 2.0}}}", ["1,000,000,000 runs: at most"]),
    (HEAD + "grid: {" + ", ".join(f"p{i}: [1, 2, 3, 4]" for i in range(20)) + "}", ["1,099,511,627,776 runs"]),
    (
        HEAD + "random: {count: 100000, parameters: {n: {choices: [1, 2, 3]}}}",
        ["count is 100000, and there are only 3"],
    ),
    (HEAD + RANDOM.replace("2", "99999") + "{lr: {low: 0.1234561, high: 0.1234569}}}", ["different points were drawn"]),
    (HEAD + "grid: {n: " + "[" * 100_000 + "]" * 100_000 + "}", ["nested deeper than 20 levels"]),
    (HEAD + "grid: {n: [" + "{a: " * 30 + "1" + "}" * 30 + "]}", ["nested deeper than 20 levels"]),
    (HEAD + "x: &a [1, 2]\ngrid: {n: *a}", ["an alias (*) is not read here"]),
    (
        "a: &a [x, x]\n"
        + "".join(f"{c}: &{c} [{', '.join(['*' + b] * 9)}]\n" for b, c in itertools.pairwise("abcdefghi")),
        ["an alias (*) is not read here"],
    ),
    # what YAML makes of plain words
    (HEAD + "grid: {n: [1], n: [2]}", ["n is given twice"]),
    (HEAD + "grid: {tied: [on, off]}", ["'on' would be read as true or false"]),
    (HEAD + "on: 3", ["'on' would be read as true or false"]),
    (HEAD + "grid: {n: [010]}", ["'010' would be read in another base"]),
    (HEAD + "grid: {n: [1:30]}", ["'1:30' would be read in another base"]),
    (HEAD + "grid: {n: [2026-13-45]}", ["cannot be read"]),
    (HEAD + "grid: {n: [1", ["expected"]),
    ("- 3", ["must be a map"]),
]


def one_line(error, *parts):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text, text
    return text


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_what_is_refused_when_read(read, tmp_path, text, says):
    start = time.process_time()
    with pytest.raises(SpikinessError) as error:
        read(text)
    assert time.process_time() - start < 1
    assert one_line(error, *says).startswith(f"{tmp_path / 'first.yaml'}")


WHEN_PLANNED = [
    ("chapter: one\nparameters: {seed: 3}\nseeds: [1, 2]", ["seed 3, seeds [1]: seed is what seeds vary: leave one"]),
    ("chapter: one\ngrid: {seed: [3, 4]}\nseeds: [1, 2]", ["seed is what seeds vary: leave one"]),
    ("chapter: godo\ngrid: {n: [1]}", ["unknown chapter 'godo'; did you mean 'good'"]),
    ("chapter: ../good\ngrid: {n: [1]}", ["unknown chapter '../good'"]),
    (HEAD + "grid: {sigmaz: [[1.0]]}", ["unknown parameter 'sigmaz'; did you mean 'sigmas'? (it has n, lr, sigmas"]),
    (HEAD + "grid: {3: [1]}", ["'3' cannot be a parameter: not a name"]),
    (HEAD + "list: [{n: 1, 3: 4}]", ["'3' cannot be a parameter: not a name"]),
    (HEAD + "grid: {n: [1, 0]}", ["n must be a whole number of at least 1, got 0"]),
    (HEAD + "grid: {n: [1, two]}", ["n must be a whole number", "got 'two'"]),
    (HEAD + "grid: {n: [2026-01-02]}", ["n must be a whole number", "got datetime.date(2026, 1, 2)"]),
    (
        HEAD + "grid: {lr: [1e-3]}",
        ["lr must be a finite number above 0", "'1e-3' (YAML reads 1e-3 as text: write 1.0e"],
    ),
    (HEAD + "grid: {lr: [.nan, .inf]}", ["lr must be a finite number", "got nan"]),
    (HEAD + "grid: {sigmas: [0.2, 1.0]}", ["sigmas must be a list", "got 0.2 (write [0.2])"]),
    (HEAD + "grid: {n: [1.0]}", ["n must be a whole number", "got 1.0 (write 1)"]),
    (HEAD + "list: [{n: 5}, {}]", ["two points are the same run of good", "leave one"]),
    (HEAD + "grid: {lr: [1, 1.0]}", ["two points are the same run of good: lr 1.0"]),
    (HEAD + "seeds: [1, 2]", ["good has no parameter seed or seeds: leave seeds out"]),
    ("chapter: one\nseeds: [[1, 2]]", ["one takes one seed a run, got [1, 2]: write seeds: [10, 11, 12]"]),
    ("chapter: one\nparameters: {seeds: 5}", ["one takes one seed a run, got 5"]),
    ("chapter: one\nparameters: {seeds: []}", ["one takes one seed a run, got []"]),
    ("chapter: several\nseeds: [[1, 1]]", ["seeds must be", "none twice, got [1, 1]"]),
]


@pytest.mark.parametrize(("text", "says"), WHEN_PLANNED)
def test_what_the_chapter_refuses_when_planned(planned, tmp_path, text, says):
    with pytest.raises(SpikinessError) as error:
        planned(text)
    assert one_line(error, *says).startswith(f"{tmp_path / 'first.yaml'}: ")


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "first.yaml").write_text(HEAD)
    with pytest.raises(SpikinessError) as error:
        grid.read(tmp_path / "frist.yaml")
    one_line(error, "no sweep file", tmp_path / "frist.yaml", "did you mean 'first.yaml'?")
    with pytest.raises(SpikinessError, match="no sweep file"):
        grid.read(tmp_path / "nowhere" / "first.yaml")
    with pytest.raises(SpikinessError, match="no sweep file"):
        grid.read(tmp_path)


@pytest.mark.parametrize("name", ["My sweep", "Ä", "con", ".hidden", "records"])
def test_a_file_name_must_be_safe_as_a_folder(read, tmp_path, name):
    with pytest.raises(SpikinessError) as error:
        read(HEAD + "grid: {n: [1]}\n", f"{name}.yaml")
    one_line(error, tmp_path / f"{name}.yaml", "sweep file name", repr(name))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "first.yaml").write_bytes(b"chapter: \xff\xfe\x00")
    with pytest.raises(SpikinessError) as error:
        grid.read(tmp_path / "first.yaml")
    one_line(error, tmp_path / "first.yaml", "cannot be read")
