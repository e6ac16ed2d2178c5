"""The book: verdicts, numbers in prose, staging, pages built with warnings as errors, the scan, and publishing.

Chapters here are tiny notebooks whose outputs are made by hand; results are recorded by the real `Run`, so that files,
checksums and ids are the real ones. Prose, configuration and style are the book's own.
"""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from spikiness.errors import CorruptArtifact, RunFailed, SpikinessError
from spikiness_book.engine.runs import digests, findings, parameters, store
from spikiness_book.engine.runs import notebook as notebooks
from spikiness_book.engine.runs.chapter import Run
from spikiness_book.engine.sweeps import planning
from spikiness_book.pages import blocks as pages
from spikiness_book.pages import claims, docstrings, make, numbers, scan, stage

ROOT = Path(__file__).parents[2]
PIXEL = (  # a PNG of one white pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAGwYYFgAAAABJRU5ErkJggg=="
)


# ---- a book made by hand


def template(name: str) -> nbformat.NotebookNode:
    """A chapter as it is committed: title, parameters, one figure, the result; no outputs."""
    figure = {"mystnb": {"figure": {"name": f"fig-{name}", "caption": "A line."}, "image": {"alt": f"A line, {name}"}}}
    cells = [
        new_markdown_cell(f"# The {name} chapter\n\nExpected: {{eq}}`eq-gain` of {{prf:ref}}`thm-block`.", id="title"),
        new_code_cell(
            "n: int = 5  # training images\nseed: int = 0  # random seed", id="p", metadata={"tags": ["parameters"]}
        ),
        new_code_cell(f'from spikiness_book.engine import runs\n\nrun = runs.begin("{name}", globals())', id="begin"),
        new_code_cell('run.figure(fig, "line", data=line)', id="figure", metadata=figure),
        new_code_cell("run.finish()", id="finish"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def executed(name: str, outputs: list | None = None) -> nbformat.NotebookNode:
    notebook = template(name)
    notebook.cells[3].outputs = outputs or [new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})]
    table = "<table class='dataframe'><tr><td>1</td></tr></table>"
    said = "Off by **1 %** of $\\sigma^2$, {eq}`eq-test-loss`."
    notebook.cells[4].outputs = [
        new_output("display_data", {"text/markdown": said, "text/plain": "<Markdown>"}),
        new_output("execute_result", {"text/html": table, "text/plain": "1"}),
    ]
    return notebook


def write_chapters(root: Path) -> None:
    """A template for every chapter of the book, and profiles that change nothing."""
    (root / "notebooks").mkdir()
    for name in stage.toc(root):
        nbformat.write(template(name), root / "notebooks" / f"{name}.ipynb")
    profiles = {name: {"smoke": {}, "paper": {}} for name in stage.toc(root)}
    (root / "notebooks" / "profiles.yaml").write_text(json.dumps(profiles))


def wanted_metrics(root: Path, chapter: str) -> dict[str, float]:
    """Every metric that prose or claims name, with a value at the edge of its rule."""
    parts = claims.read(root / "book" / "claims.yaml")
    found = {}
    for claim in (claim for rows in parts.values() for claim in rows if claim.chapter == chapter):
        for metric, rule in claim.measured.items():
            sign, bound = claims.parse(rule.held)[0]
            found[metric] = bound if "=" in sign else bound * 0.9 if sign == "<" else bound * 1.1
    for page in (root / "book").glob("*.md"):
        for owner, metric, _, _ in numbers.REFERENCE.findall(page.read_text(encoding="utf-8")):
            if owner == chapter and metric:
                found.setdefault(metric, 0.5)
    return found


def record(
    root: Path,
    chapter: str,
    profile: str = "demo",
    outputs: list | None = None,
    picture: Figure | None = None,
    **changed: float,
) -> Path:
    """A complete, verified run of a chapter in the run store, made without a kernel."""
    source = notebooks.read(chapter, root / "notebooks")
    code, modules = digests.notebook_code(source)
    declared = parameters.read(source, chapter)
    values = parameters.validate(declared, parameters.profile_values(root / "notebooks", chapter, profile), chapter)
    inputs = {"source": code, "modules": digests.code_digest(modules), "data": None, "torch": "2", "device": "cpu"}
    folder = store.run_folder(profile, chapter, store.sha256(f"{profile} {chapter}".encode())[:16])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = Run(chapter, folder, {"profile": profile, "id": folder.name, "parameters": values, "inputs": inputs})
    for name, value in {**wanted_metrics(root, chapter), **changed}.items():
        named, labels = findings.parse(name)
        run.metric(named, value, (value, value), over="images", n=400, seeds=[0, 1, 2], **labels)
    run.table("line", {"x": [0.0, 1.0]})
    if picture is not None:
        run.figure(picture, "teaser", {"x": [0.0]})
    run.finish()
    return keep_notebook(folder, executed(chapter, outputs))


def keep_notebook(folder: Path, notebook: nbformat.NotebookNode) -> Path:
    """Put an executed notebook into a run, with its checksum, as the runner does."""
    nbformat.write(notebook, folder / "executed.ipynb")
    seen = store.read_json(folder / "environment.json")
    store.write_json(
        folder / "environment.json", {**seen, "files": {"executed.ipynb": store.sha256(folder / "executed.ipynb")}}
    )
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with the real prose and tiny chapters, and a run store of its own."""
    place = tmp_path / "a book, 100 % ünïcode"
    shutil.copytree(ROOT / "book", place / "book", ignore=shutil.ignore_patterns("mathjax"))
    shutil.copy(ROOT / "_config.yml", place)
    write_chapters(place)
    monkeypatch.setenv("SPIKINESS_HOME", str(tmp_path / "home"))
    return place


@pytest.fixture
def chapters(root):
    """All chapters of the fixture, run."""
    return {name: stage.Chapter(store.load(record(root, name))) for name in stage.toc(root)}


@pytest.fixture
def no_sphinx(monkeypatch):
    """Pages come at once: one file that says what was staged."""

    def sphinx(tree: Path, place: Path) -> Path:
        html = place / "_build" / "html"
        shutil.rmtree(html, ignore_errors=True)
        html.mkdir(parents=True)
        (html / "index.html").write_text("<article>built</article>")
        return html

    monkeypatch.setattr(make, "_sphinx", sphinx)


# ---- verdicts


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [
        (0.995, (0.991, 0.998), claims.HELD),
        (0.995, None, claims.HELD),
        (0.99, (0.99, 0.99), claims.HELD),  # the bound belongs to >=
        (0.995, (0.98, 0.999), claims.PARTLY),  # the value, not the interval
        (0.95, (0.94, 0.96), claims.PARTLY),  # the weaker rule
        (0.89, (0.85, 0.999), claims.FAILED),
    ],
)
def test_judge_uses_value_and_interval(value, interval, verdict):
    rule = claims.Rule(held=">= 0.99", partly=">= 0.9")
    assert claims.judge(rule, {"value": value, "interval": interval}) == verdict


def test_a_strict_and_a_double_rule():
    assert claims.judge(claims.Rule(held="< 1"), {"value": 1.0, "interval": None}) == claims.FAILED
    between = claims.Rule(held=">= 0.5 and <= 2")
    assert [claims.judge(between, {"value": v, "interval": None}) for v in (0.4, 0.5, 2, 2.1)] == [
        claims.FAILED,
        claims.HELD,
        claims.HELD,
        claims.FAILED,
    ]


@pytest.mark.parametrize("rule", ["0.99", "=> 1", ">= ", "about 1", ">= 1 or <= 2", ">= nan"])
def test_a_rule_that_is_none_is_refused(rule):
    with pytest.raises(ValueError, match="write a comparison and a number"):
        claims.parse(rule)


def one_claim(tmp_path: Path, **fields) -> Path:
    row = {"id": "a", "claim": "It stores.", "where": "Cor 3.2", "chapter": "memorization", "measured": {}, **fields}
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"Part": [row]}))  # JSON is YAML
    return path


def result(chapter="memorization", **metrics: float) -> store.Result:
    rows = [findings.make(name, value, n=7, seeds=[0, 1]) for name, value in metrics.items()]
    environment = {"device": "cpu", "threads": 2, "commit": "0123456789abcdef-dirty", "seconds": 12.3}
    environment |= {"python": "3.11.2", "platform": "Linux x86_64", "packages": {"torch": "2.14.1"}}
    values = {"n": 5, "seeds": [0, 1], "data": "digits"}
    return store.Result(chapter, "demo", "ab12", values, {}, rows, {}, environment, Path())


def test_a_claim_with_two_measures_gets_the_worse_verdict(tmp_path):
    measured = {"cosine": {"held": ">= 0.9"}, "error": {"held": "<= 0.1", "partly": "<= 0.5"}}
    parts = claims.read(one_claim(tmp_path, measured=measured))
    for error, expected in ((0.1, claims.HELD), (0.3, claims.PARTLY), (0.7, claims.FAILED)):
        verdicts = claims.evaluate(parts, {"memorization": result(cosine=0.95, error=error)})
        assert verdicts["Part"][0].verdict == expected


def test_the_scorecard_shows_statement_place_value_rule_and_verdict(tmp_path):
    parts = claims.read(one_claim(tmp_path, measured={"gain_error": {"held": "<= 0.01", "partly": "<= 0.05"}}))
    found = {"memorization": result(gain_error=0.02)}
    table = claims.table(claims.evaluate(parts, found), found)
    for text in (
        "It stores.",
        "Cor 3.2",
        "gain error: **0.02**",
        "n = 7",
        "seeds: 2",
        "Held if ≤ 0.01",
        "held partly",
    ):
        assert text in table
    assert claims.summary(claims.evaluate(parts, found)).startswith("Of 1 claims, 1 are tested so far: 0 held, 1 held")


def test_a_later_claim_is_not_yet_tested(tmp_path):
    parts = claims.read(one_claim(tmp_path, chapter=None, later="Detection"))
    verdicts = claims.evaluate(parts, {})
    assert verdicts["Part"][0].verdict == claims.UNTESTED
    assert "Detection" in claims.listing(verdicts, claims.UNTESTED)
    assert claims.listing(verdicts, claims.HELD) == "None."


def test_a_claim_of_another_profile_is_not_tested_by_this_one(tmp_path):
    parts = claims.read(one_claim(tmp_path, profile="paper", measured={"cosine": {"held": ">= 0.9"}}))
    demo = result()  # it lacks the metric, and is not asked for it
    assert claims.evaluate(parts, {"memorization": demo})["Part"][0].verdict == claims.UNTESTED
    paper = replace(result(cosine=0.95), profile="paper")
    assert claims.evaluate(parts, {"memorization": paper})["Part"][0].verdict == claims.HELD
    assert "by runs of the paper profile" in claims.listing(
        claims.evaluate(parts, {"memorization": demo}), claims.UNTESTED
    )


def test_a_missing_metric_names_claim_chapter_metric_and_the_nearest(tmp_path):
    parts = claims.read(one_claim(tmp_path, measured={"gain_error": {"held": "<= 1"}}))
    with pytest.raises(SpikinessError, match=r"claim 'a': chapter 'memorization': no metric 'gain_error'; did you mea"):
        claims.evaluate(parts, {"memorization": result(gain_eror=0.1)})
    with pytest.raises(SpikinessError, match="no result of chapter 'memorization'"):
        claims.evaluate(parts, {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chapter": None}, "give a chapter with what is measured, or `later`"),
        ({"measured": {"x": {"held": "<= 1"}}, "later": "Detection"}, "or `later`"),
        ({"measured": {"x": {"held": "near 1"}}}, "write a comparison and a number"),
        ({"measured": {"x": {"hold": "<= 1"}}}, "measured x hold"),
        ({"measured": {"x": {"held": "<= 1"}}, "chaptr": "y"}, "chaptr"),
    ],
)
def test_a_wrong_line_of_claims_names_the_claim_and_the_field(tmp_path, fields, message):
    with pytest.raises(SpikinessError, match=r"claims\.yaml: claim 'a'") as error:
        claims.read(one_claim(tmp_path, **fields))
    assert message in str(error.value)


def test_the_books_own_claims_are_whole():
    parts = claims.read(ROOT / "book" / "claims.yaml")
    rows = [claim for rows in parts.values() for claim in rows]
    assert {claim.chapter for claim in rows if claim.chapter} == set(stage.toc(ROOT))
    assert sum(bool(claim.later) for claim in rows) > 5
    assert not [claim.id for claim in rows if not claim.claim.rstrip(")").endswith(".")]


def test_every_notebook_is_in_the_book():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(stage.toc(ROOT))


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123456, "0.0123"),
        (0.99874, "0.9987"),
        (21.345, "21.3"),
        (-0.5, "-0.5"),
        (12345.6, "12,346"),
        (3.21e-7, "3.21 × 10⁻⁷"),
        (4.5e9, "4.50 × 10⁹"),
        (999.6, "1,000"),
        (-999.4, "-999"),
    ],
)
def test_numbers_read_well(value, text):
    assert numbers.number(value) == text


def test_a_reference_becomes_the_value_with_its_interval():
    found = result(gain=0.0123)
    found.findings[0] |= {"interval": [0.01, 0.02], "level": 0.95, "over": "images", "unit": "dB"}
    found.findings.append({**found.findings[0], "name": "rate", "labels": {"kind": "unet:digits"}, "level": None})
    fill = {
        "{{ memorization.gain }}": "0.0123 dB (95 % interval 0.01 to 0.02 dB)",
        "{{memorization.gain.value}}": "0.0123 dB",
        "{{ memorization.gain.interval }}": "0.01 to 0.02 dB",
        "{{ memorization.gain.percent }}": "1.23 % (95 % interval 1 to 2 %)",
        "{{ memorization.gain.n }}/{{ memorization.gain.seeds }}": "7/2",
        "{{ memorization.gain? }}": "0.0123 dB (95 % interval 0.01 to 0.02 dB)",
        "{{ memorization.gain.percent? }}": "1.23 % (95 % interval 1 to 2 %)",
        "{{ memorization.other? }}": "(not in this run)",
        "{{ memorization.rate[kind=unet:digits] }}": "0.0123 dB (range 0.01 to 0.02 dB)",
        "{{ memorization.rate[kind=unet:digits].value? }}": "0.0123 dB",
        "{{ memorization.rate[kind=dit:digits]? }}": "(not in this run)",
        "{{ block }}": "text",
        r"$\frac{{a}}{{b}}$ {{ x + 1 }}": None,  # not references: Sphinx complains about what it does not know
    }
    for source, expected in list(fill.items())[:-1]:
        assert numbers.substitute(source, "page", {"memorization": found}, {"block": "text"}) == expected


def test_missing_numbers_are_listed_with_page_chapter_and_metric():
    text = "{{ memorization.gian }} {{ hybrid.flips }} {{ memorization.gain.valeu }} {{ blok }}"
    with pytest.raises(SpikinessError) as error:
        numbers.substitute(text, "book/page.md", {"memorization": result(gain=1)}, {"block": ""})
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("book/page.md: {{") for line in lines)
    assert "chapter 'memorization': no metric 'gian'; did you mean 'gain'?" in lines[0]
    assert "no result of chapter 'hybrid'" in lines[1]
    assert "no field 'valeu'; did you mean 'value'?" in lines[2]
    assert "no block 'blok'; did you mean 'block'?" in lines[3]


def test_numbers_that_a_run_may_lack_are_in_the_published_one():
    """A misspelt name with a question mark would never be missed."""
    named = 0
    for page in (ROOT / "book").glob("*.md"):
        for chapter, selector, _, optional in numbers.REFERENCE.findall(page.read_text(encoding="utf-8")):
            if optional:
                store.load(ROOT / "published" / chapter).finding(selector)
                named += 1
    assert named


def test_information_names_profile_data_device_seeds_commit_and_seconds():
    line = pages.information(stage.Chapter(result()))
    for text in ("profile **demo**", "data digits", "CPU, 2 threads", "seeds 0, 1", "`01234567` with changes", "12 s"):
        assert text in line
    row = pages.statistics({"memorization": result()})
    assert "| {doc}`/notebooks/memorization` | demo | digits | CPU, 2 threads | 0, 1 | 12 s |" in row
    assert "2.14.1" in pages.versions({"memorization": result()})


def test_the_scorecard_says_what_is_no_interval_of_95_percent(tmp_path):
    found = result(cosine=0.95)
    found.findings[0] |= {"interval": [0.9, 1.0], "level": None, "over": "networks"}
    parts = claims.read(one_claim(tmp_path, measured={"cosine": {"held": ">= 0.9"}}))
    results = {"memorization": found}
    assert "(range 0.9 to 1)" in claims.table(claims.evaluate(parts, results), results)
    found.findings[0]["level"] = 0.95
    assert "(0.9 to 1)" in claims.table(claims.evaluate(parts, results), results)


def test_a_page_names_all_seeds_of_its_run():
    found = result()
    found.parameters.update(seeds=[10, 11], calibration_seeds=[0], seeds_dit=[13])
    assert pages.seeds(found) == "10, 11 (calibration 0; dit 13)"
    found.parameters.clear()
    assert pages.seeds(found) == "fixed"
    found.parameters["seed"] = 3
    assert pages.seeds(found) == "3"


def test_docstrings_become_safe_markup():
    line = "Std/|h| of `h [N, p]`, *any* W_ and a_b, `x`s"
    assert docstrings.plain(line) == r"Std/\|h\| of ``h [N, p]``, \*any\* W\_ and a_b, ``x``\ s"


# ---- staging


def staged(root, tmp_path, chapters, skipped=()):
    stage.lay(root, tmp_path / "stage", chapters, skipped)
    return tmp_path / "stage"


def test_prose_comes_from_today_and_outputs_from_the_run(root, tmp_path, chapters):
    path = root / "notebooks" / "hybrid.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = notebook.cells[0].source.replace("Expected", "We now expect")
    nbformat.write(notebook, path)
    page = nbformat.read(staged(root, tmp_path, chapters) / "notebooks" / "hybrid.ipynb", as_version=4)
    title, parameters, begin, figure, _ = page.cells
    assert title.source.startswith("# The hybrid chapter\n\n:::{div} run-info\nprofile **demo**")
    assert "We now expect" in title.source
    assert parameters.metadata.tags == ["parameters"]
    assert begin.metadata.tags == ["hide-input"]
    assert figure.outputs[0].data["image/png"].strip() == PIXEL


def test_a_changed_parameter_is_shown_under_the_first_ones(root, tmp_path, chapters):
    notebook = executed("hybrid")
    cell = new_code_cell("# This run's parameters\nn = 3", id="i", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(2, cell)
    chapters["hybrid"] = stage.Chapter(store.load(keep_notebook(record(root, "hybrid"), notebook)))
    page = nbformat.read(staged(root, tmp_path, chapters) / "notebooks" / "hybrid.ipynb", as_version=4)
    assert page.cells[2].source.endswith("n = 3")
    assert page.cells[2].metadata.tags == ["injected-parameters"]


def test_a_deleted_result_or_metric_stops_the_book(root, tmp_path, chapters):
    result = chapters["hybrid"].result
    result.findings[:] = [finding for finding in result.findings if finding["name"] != "flip_ratio"]
    with pytest.raises(SpikinessError, match="claim 'hybrid-flip': chapter 'hybrid': no metric 'flip_ratio'"):
        staged(root, tmp_path, chapters)
    (root / "book" / "claims.yaml").write_text("{}")
    with pytest.raises(
        SpikinessError,
        match=r"book/discussion.md: \{\{ hybrid.flip_ratio\[setting=enough units\] \}\}: chapter 'hybrid': no metric",
    ):
        staged(root, tmp_path, chapters)
    del chapters["hybrid"]
    with pytest.raises(SpikinessError, match=r"book/discussion.md: .* no result of chapter 'hybrid'"):
        staged(root, tmp_path, chapters)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (new_output("stream", name="stderr", text="UserWarning: slow"), "cell 4 wrote to stderr: UserWarning: slow"),
        (new_output("error", ename="KeyError", evalue="x", traceback=[]), "cell 4 ended with KeyError"),
        (new_output("display_data", {"text/html": "<b><SCRIPT>x()</SCRIPT></b>"}), "cell 4 shows a script"),
        (new_output("display_data", {"application/javascript": "x()"}), "cell 4 shows a script"),
    ],
)
def test_bad_outputs_stop_the_book(root, tmp_path, chapters, output, message):
    chapters["hybrid"] = stage.Chapter(store.load(record(root, "hybrid", outputs=[output])))
    with pytest.raises(SpikinessError, match=re.escape(f"notebooks/hybrid.ipynb: {message}")):
        staged(root, tmp_path, chapters)


def test_a_chapter_needs_a_title(root, tmp_path, chapters):
    path = root / "notebooks" / "hybrid.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "No title"
    nbformat.write(notebook, path)
    with pytest.raises(SpikinessError, match=r"notebooks/hybrid.ipynb: the first cell must be Markdown"):
        staged(root, tmp_path, chapters)


def test_the_digest_sees_prose_numbers_and_pictures(root, tmp_path, chapters):
    first = stage.digest(staged(root, tmp_path, chapters))
    assert stage.digest(staged(root, tmp_path, chapters)) == first
    chapters["hybrid"] = stage.Chapter(
        store.load(record(root, "hybrid", outputs=[], **{"flip_ratio[setting=enough units]": 1.7}))
    )
    second = stage.digest(staged(root, tmp_path, chapters))
    (root / "book" / "_static" / "custom.css").write_text("p {color: red}")
    assert len({first, second, stage.digest(staged(root, tmp_path, chapters))}) == 3


# ---- build, site, publish


def fake_runs(monkeypatch, root, failing=()):
    """The sweep of a book without kernels; the runs that it was asked for."""
    calls, made = [], {}

    def resolve(chapter, parameters, profile, notebooks):
        return SimpleNamespace(id=chapter, chapter=chapter, profile=profile, parameters={}, inputs={})

    def drive(tasks, name, cores, **options):
        assert options["resources"]["cpu"] == 1  # of paper chapters too, where OMP_NUM_THREADS says so (conftest)
        calls.extend((task.chapter, task.profile) for task in tasks)
        return [stand(task) for task in tasks]

    def stand(task):
        if task.chapter in failing:
            return planning.Status(task, "failed", "kernel died", root)
        if (task.chapter, task.profile) not in made:  # a second call finds the first run, as the store does
            made[task.chapter, task.profile] = record(root, task.chapter, task.profile)
        return planning.Status(task, "complete", "", made[task.chapter, task.profile])

    monkeypatch.setattr(make, "resolve", resolve)
    monkeypatch.setattr(make, "drive", drive)
    return calls


def one_run(monkeypatch, folder):
    """The sweep of a book that gives one run, whatever it is asked for."""
    monkeypatch.setattr(make, "drive", lambda tasks, *_, **__: [planning.Status(tasks[0], "complete", "", folder)])


def test_build_runs_all_in_reading_order_and_skips_sphinx_the_second_time(root, monkeypatch, no_sphinx, capfd):
    calls = fake_runs(monkeypatch, root)
    index = make.build(root=root)
    assert index == store.home() / "demo" / "html" / "index.html"
    assert calls == [(name, "demo") for name in stage.toc(root)]
    said = capfd.readouterr().err
    assert said.rstrip().endswith(str(index))
    monkeypatch.setattr(make, "_sphinx", lambda *_: pytest.fail("built again"))
    assert make.build(root=root) == index
    assert "nothing changed" in capfd.readouterr().err


def test_the_demo_book_shows_the_published_run_where_profiles_say_so(root, monkeypatch, no_sphinx):
    path = root / "notebooks" / "profiles.yaml"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "hybrid": {**content["hybrid"], "demo": "published"}}))
    calls = fake_runs(monkeypatch, root)
    make.build(root=root)
    assert [name for name, _ in calls] == [name for name in stage.toc(root) if name != "hybrid"]
    assert "was left out" in (store.home() / "demo" / "stage" / "notebooks" / "hybrid.md").read_text()
    calls.clear()
    make.build(root=root, chapters=["hybrid"])  # asked for by name it is run
    assert calls == [("hybrid", "demo")]
    make.publish(["hybrid"], root=root)
    calls.clear()
    make.build(root=root)
    assert "hybrid" not in [name for name, _ in calls]
    assert "published run" in (store.home() / "demo" / "stage" / "notebooks" / "hybrid.ipynb").read_text()
    calls.clear()
    make.build("smoke", root=root)
    assert "hybrid" in [name for name, _ in calls]


def test_home_is_for_this_book_only(root, tmp_path, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    before = store.home()
    assert make.build(home=tmp_path / "elsewhere", root=root).is_relative_to(tmp_path / "elsewhere" / "demo")
    assert store.home() == before


def test_build_goes_on_after_a_failure_and_gives_every_reason(root, monkeypatch, no_sphinx):
    calls = fake_runs(monkeypatch, root, failing=("memorization", "hybrid"))
    with pytest.raises(
        RunFailed,
        match=r"2 of \d+ chapters failed:\nmemorization: .*: kernel died\nhybrid: .*: kernel died",
    ):
        make.build(root=root)
    assert len(calls) == len(stage.toc(root))
    assert not (store.home() / "demo" / "html").exists()


def test_build_refuses_an_unknown_chapter_and_profile(root, no_sphinx):
    with pytest.raises(SpikinessError, match="no chapter 'memorisation'; did you mean 'memorization'"):
        make.build(chapters=["memorisation"], root=root)
    with pytest.raises(SpikinessError, match="unknown profile 'dmo'"):
        make.build(profile="dmo", root=root)


def test_a_part_of_the_book_says_what_it_leaves_out(root, monkeypatch, no_sphinx):
    calls = fake_runs(monkeypatch, root)
    make.build(chapters=["hybrid"], root=root)
    assert calls == [("hybrid", "demo")]
    tree = store.home() / "demo" / "stage"
    assert "left out of this book" in (tree / "notebooks" / "memorization.md").read_text()
    assert "(not run here)" in (tree / "book" / "discussion.md").read_text()
    assert "not run for this book" in (tree / "book" / "claims.md").read_text()


def test_a_page_that_must_not_be_shown_leaves_the_old_book(root, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    index = make.build(root=root)
    old = index.read_text()
    monkeypatch.setattr(scan, "html", lambda folder: ["index.html: <script> in an output"])
    (root / "book" / "index.md").write_text("# Changed\n")
    with pytest.raises(SpikinessError, match=r"must not be shown:\nindex\.html: <script> in an output"):
        make.build(root=root)
    assert index.read_text() == old


def test_publish_then_site_needs_no_run(root, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    with pytest.raises(SpikinessError, match="no published run of memorization, "):
        make.site(root=root)
    folders = make.publish(root=root)
    assert [folder.name for folder in folders] == stage.toc(root)
    assert sorted(path.name for path in folders[0].iterdir()) == [
        "environment.json",
        "executed.ipynb",
        "line.csv",
        "result.json",
    ]
    monkeypatch.setattr(make, "drive", lambda *_, **__: pytest.fail("a run"))
    assert make.site(root=root) == store.home() / "site" / "html" / "index.html"
    page = (store.home() / "site" / "stage" / "notebooks" / "hybrid.ipynb").read_text()
    assert "profile **paper**, published run" in page
    assert "Stale" not in page
    assert "Small scale" not in page


def test_the_front_page_figure_is_published_with_the_chapter_that_draws_it(root, monkeypatch, no_sphinx):
    folder = record(root, "generalization", "paper", picture=Figure())
    one_run(monkeypatch, folder)
    make.publish(["generalization"], root=root)
    picture = (root / "book" / "_static" / "teaser.png").read_bytes()
    assert picture == (folder / "teaser.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_an_altered_published_file_is_refused(root, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    make.publish(root=root)
    (root / "published" / "hybrid" / "line.csv").write_text("x\n9\n")
    with pytest.raises(CorruptArtifact, match=r"hybrid.line.csv: expected sha256"):
        make.site(root=root)


def test_a_page_older_than_its_code_is_stale_and_keeps_its_own_code(root, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    make.publish(root=root)
    path = root / "notebooks" / "hybrid.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(3, new_code_cell("extra = 1", id="extra"))
    nbformat.write(notebook, path)
    make.site(root=root)
    tree = store.home() / "site" / "stage" / "notebooks"
    page = nbformat.read(tree / "hybrid.ipynb", as_version=4)
    assert "Stale" in page.cells[0].source
    assert "the code of the chapter changed since" in page.cells[0].source
    assert len(page.cells) == 5
    assert "Stale" not in (tree / "memorization.ipynb").read_text()


def test_changes_in_the_package_and_in_parameters_are_noticed_and_prose_is_not(root, monkeypatch):
    published = store.load(record(root, "hybrid", "paper"))
    assert stage.changed(published, root) == ()
    path = root / "notebooks" / "hybrid.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += " More prose."
    nbformat.write(notebook, path)
    assert stage.changed(published, root) == ()
    (root / "notebooks" / "profiles.yaml").write_text("hybrid: {smoke: {}, paper: {n: 7}}")
    assert stage.changed(published, root) == ("its parameters",)
    monkeypatch.setattr(digests, "code_digest", lambda names: "another")
    monkeypatch.setattr(digests, "content_digest", lambda: "another")  # what is kept of the planning before
    assert stage.changed(published, root) == ("the code of the package that it uses", "its parameters")


def test_publish_keeps_what_is_better_and_what_is_there(root, monkeypatch, no_sphinx):
    fake_runs(monkeypatch, root)
    make.publish(["hybrid"], root=root, profile="demo")
    folder = root / "published" / "hybrid"
    assert store.load(folder).profile == "demo"
    make.publish(["hybrid"], root=root)
    assert store.load(folder).profile == "paper"
    with pytest.raises(SpikinessError, match="published/hybrid is a paper-scale run"):
        make.publish(["hybrid"], root=root, profile="demo")
    before = store.load(folder)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(shutil, "copy", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(SpikinessError, match=r"cannot write .*hybrid: No space left on device"):
        make.publish(["hybrid"], root=root)
    assert store.load(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["hybrid"]


def test_publish_refuses_a_notebook_that_gives_away_a_path(root, monkeypatch, no_sphinx):
    leak = new_output("stream", name="stdout", text="saved to /home/ada/figures")
    one_run(monkeypatch, record(root, "hybrid", "paper", outputs=[leak]))
    with pytest.raises(SpikinessError, match="hybrid cannot be published: an absolute path, '/home/ada'"):
        make.publish(["hybrid"], root=root)
    assert not (root / "published" / "hybrid").exists()


# ---- the scan


CLEAN = """<html><head><script src="../_static/a.js"></script><script>let theme = 1;</script></head><body>
<img src="../_static/logo.png"><article><p>See <a href="https://arxiv.org/abs/2512.20963">it</a>, notebooks/data/x.</p>
<img src="../_images/1f.png" alt="A line going up"><div class="cell_output docutils container">
<table><tr><td style="x">1</td></tr></table></div></article></body></html>"""


def scanned(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    return scan.html(tmp_path)


def test_a_clean_page_passes(tmp_path):
    assert scanned(tmp_path, CLEAN) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<table>", "<script>steal()</script><table>", "<script> in an output"),
        ("<table>", "<iframe></iframe><table>", "<iframe> in an output"),
        ("<table>", '<table onclick="x()">', "<table> with an event handler in an output"),
        ("<table>", '<a href=" JavaScript:x()">y</a><table>', "a javascript: link in an output"),
        ("<table>", '<div class="output stderr">warning</div><table>', "a warning or an error in an output"),
        ("../_static/a.js", "https://cdn.example.org/a.js", "<script> loads https://cdn.example.org/a.js"),
        ("../_images/1f.png", "//cdn.example.org/1f.png", "<img> loads //cdn.example.org/1f.png"),
        ('alt="A line going up"', 'alt="../_images/1f.png"', "image 1f.png has no alt text"),
        ('alt="A line going up"', "", "image 1f.png has no alt text"),
        ("See", "See /home/ada/x", "an absolute path, '/home/ada'"),
        ("See", r"See C:\Users\ada", r"an absolute path, 'C:\\Users\\ada'"),
        ("See", "(/root/.cache)", "an absolute path, '/root/.cache'"),
        ("See", "ghp_" + "a1B2" * 9, "a GitHub token"),
        ("See", "hf_" + "a1B2" * 9, "a Hugging Face token"),
        ("See", "-----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
def test_what_must_not_be_shown_is_found(tmp_path, old, new, message):
    found = scanned(tmp_path, CLEAN.replace(old, new, 1))
    assert [line for line in found if line.startswith(f"page.html: {message}")], found


def test_a_user_name_is_found_in_outputs_unless_it_is_a_word_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "adalove")
    told = CLEAN.replace("<table>", "<p>by adalove</p><table>")
    assert scanned(tmp_path, told) == ["page.html: the user name 'adalove' in an output"]
    assert scanned(tmp_path, told.replace("See", "adalove, see")) == []
    assert scanned(tmp_path, CLEAN.replace("See", "adalove, see")) == []


def test_downloads_are_scanned_and_pictures_in_them_are_not(tmp_path):
    (tmp_path / "_sources").mkdir()
    (tmp_path / "_sources" / "a.ipynb").write_text(json.dumps({"png": "A+/tmp/abc" * 40, "text": "saved"}))
    assert scanned(tmp_path, CLEAN) == []
    (tmp_path / "_sources" / "a.ipynb").write_text(json.dumps({"text": "saved to /tmp/abc"}))
    assert scanned(tmp_path, CLEAN) == ["_sources/a.ipynb: an absolute path, '/tmp/abc'"]


def test_committed_notebooks_are_clean(tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(template("a"), path)
    assert scan.notebook(path, stored_allowed=False) == []
    nbformat.write(executed("a"), path)
    assert scan.notebook(path, stored_allowed=True) == []
    assert scan.notebook(path, stored_allowed=False)[0] == "cell 4 is stored with outputs"
    for folder, allowed in (("notebooks", False), ("published", True)):
        for committed in sorted((ROOT / folder).rglob("*.ipynb")):
            assert scan.notebook(committed, stored_allowed=allowed) == [], committed


# ---- the real pages


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The book's own pages, built once with warnings as errors, from tiny chapters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKINESS_HOME", str(tmp_path_factory.mktemp("home")))
        place = tmp_path_factory.mktemp("a book, 100 % ünïcode")
        shutil.copytree(ROOT / "book", place / "book", ignore=shutil.ignore_patterns("mathjax"))
        shutil.copy(ROOT / "_config.yml", place)
        (place / "book" / "_static" / "teaser.png").touch()
        write_chapters(place)
        fake_runs(patch, place)
        yield make.build(root=place).parent


def test_every_page_is_there_and_the_first_one_leads_on(real):
    assert 'url=book/index.html"' in (real / "index.html").read_text()
    for page in (
        "theory",
        "notation",
        "claims",
        "discussion",
        "reproduce",
        "statistics",
        "api",
        "glossary",
        "bibliography",
    ):
        assert (real / "book" / f"{page}.html").is_file()
    assert (real / "notebooks" / "hybrid.html").is_file()


def test_a_chapter_page_has_its_line_its_figure_and_folded_code(real):
    page = (real / "notebooks" / "hybrid.html").read_text()
    assert re.search(r'class="run-info docutils"', page)
    assert 'alt="A line, hybrid"' in page
    assert page.count("tag_hide-input") == 3
    assert re.search(r"Off by <strong>1 %</strong> of <span class=\"math[^>]*>\\\(\\sigma\^2\\\)</span>", page)
    assert re.search(r'href="\.\./book/theory.html#equation-eq-test-loss"', page)
    assert re.search(r'href="\.\./book/theory.html#equation-eq-gain"', page)
    assert re.search(r'href="\.\./book/theory.html#thm-block"', page)


def test_theory_has_the_labels_that_chapters_use(real):
    page = (real / "book" / "theory.html").read_text()
    equations = ["objective", "gain", "stored-gain", "memorization-loss", "generalization", "test-loss"]
    equations += ["separability", "std-identity"]
    for label in equations:
        assert f'id="equation-eq-{label}"' in page
    for label in ("thm-block", "cor-memorization", "cor-generalization", "cor-hybrid", "def-separability"):
        assert f'id="{label}"' in page


def test_formulas_are_drawn_by_our_own_copy_of_mathjax(real):
    page = (real / "book" / "theory.html").read_text()
    assert re.search(r'<script defer="defer" src="\.\./_static/mathjax/tex-chtml-full.js', page)
    for kept in ("tex-chtml-full.js", "LICENSE", "output/chtml/fonts/woff-v2/MathJax_Main-Regular.woff"):
        assert (ROOT / "book" / "_static" / "mathjax" / kept).is_file()


def test_the_api_page_documents_the_package(real):
    page = (real / "book" / "api.html").read_text()
    for name in ("spikiness.theory.separability", "spikiness.denoisers.Empirical", "spikiness.measures.std"):
        assert f'id="{name}"' in page


def test_sphinx_warnings_stop_the_book_and_name_the_page(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# A page\n\nSee {eq}`eq-nowhere`.\n")
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (tmp_path / "_config.yml").write_text("title: x\nonly_build_toc_files: true\n")
    with pytest.raises(SpikinessError, match=r"the pages were not built:\nbook/index.md:\d+: WARNING: .*eq-nowhere"):
        make._sphinx(tmp_path, tmp_path / "out")
