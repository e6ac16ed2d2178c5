"""The real chapters, end to end: run at the smoke profile with real kernels, built into a book, found again."""

import json
import re

import pytest

from spikiness_book import pages as book
from spikiness_book.engine import runs
from spikiness_book.engine.runs import notebook as notebooks
from spikiness_book.engine.runs import parameters
from spikiness_book.pages import claims

CHAPTERS = runs.chapters()
# Chapters that train diffusion models by the dozen take the small digits; the transition adds MNIST.
PAPER_DATA = {
    **dict.fromkeys(("transition", "dynamics", "duplicates", "phase"), "digits"),
    **dict.fromkeys(("memorization", "generalization", "representations", "hybrid"), "mnist"),
    **dict.fromkeys(("separability", "robustness", "sampling"), "mnist"),
    "cifar": "folder:cifar10-jpeg.zip",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which the whole book was made, as `make book PROFILE=smoke` does."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("home")
        patch.setenv("SPIKINESS_HOME", str(place))
        book.build(profile="smoke")
        yield place


@pytest.mark.timeout(1200)
def test_every_chapter_has_its_page_with_figures(home):
    for chapter in CHAPTERS:
        page = (home / "smoke" / "html" / "notebooks" / f"{chapter}.html").read_text()
        results = [runs.load(path.parent) for path in (home / "smoke" / "runs" / chapter).glob("*/result.json")]
        assert len(results) == 1
        figures = [name for name in results[0].artefacts if name.endswith(".png")]
        assert len(figures) >= 2
        assert len(re.findall(r"<figure", page)) == len(figures)
        assert {name.replace(".png", ".csv") for name in figures} <= set(results[0].artefacts)


def test_the_scorecard_has_a_verdict_for_every_claim_of_these_chapters(home):
    text = (home / "smoke" / "html" / "book" / "claims.html").read_text()
    badges = re.findall(r'class="sd-[^"]*sd-badge[^"]*"[^>]*>([^<]+)<', text)
    parts = claims.read(notebooks.folder().parent / "book" / "claims.yaml")
    listed = [claim for part in parts.values() for claim in part]
    assert len(badges) == len(listed)
    assert badges.count(claims.UNTESTED) == len([claim for claim in listed if claim.later or claim.profile])


def test_the_same_book_again_runs_no_chapter(home, monkeypatch):
    monkeypatch.setattr(runs.runner, "_make", lambda *_, **__: pytest.fail("a run"))
    assert book.build(profile="smoke").exists()


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("profile", runs.PROFILES)
def test_every_profile_of_every_chapter_is_valid(chapter, profile):
    declared = parameters.read(notebooks.read(chapter), chapter)
    folder = notebooks.folder()
    values = parameters.validate(declared, parameters.profile_values(folder, chapter, profile), chapter)
    assert values["seeds"]
    assert min(values["seeds"]) >= 10  # seeds below 10 are for choices, never reported
    if profile == "paper":
        if "kinds" in values:
            assert {kind.partition(":")[2] for kind in values["kinds"]} >= {
                "digits",
                "mnist",
                "folder:cifar10-jpeg.zip",
            }
        else:
            assert values["data"] == PAPER_DATA.get(chapter, values["data"])
        assert len(values["seeds"]) >= (1 if chapter == "cifar" else 3)  # photographs are slow without a GPU


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_published_results_are_whole_and_of_paper_scale(chapter):
    folder = notebooks.folder().parent / "published" / chapter
    if not folder.exists():
        pytest.skip(f"{chapter} is not published")
    result = runs.load(folder)  # checks every sha256
    assert result.profile == "paper"
    assert json.loads(result.notebook.read_text())["cells"]
