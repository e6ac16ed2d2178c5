"""Every block of commands on a page does what it says: each carries a tag that says how far it is tried.

`<!-- test: run -->` before a block: it is executed as written, in a copy of the checkout. `slow`: the same, where
`-m slow` asks for it. `never, REASON`: it is not executed. What is not executed is read: names of commands,
parameters, files and imports are checked. `<!-- test: printed, within T -->` before a block of text: it is what the
commands above it print, numbers to a relative T. `<!-- test: file PATH -->`: it is the content of that file.
"""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from spikiness_book.cli import _joined, app
from spikiness_book.engine.runs import notebook, parameters
from spikiness_book.engine.sweeps import grid

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
WITH_COMMANDS = [page for page in PAGES if re.search(r"^```(bash|python)$", page.read_text(encoding="utf-8"), re.M)]
FENCE = re.compile(r"^(?:<!-- test: ([^\n]*?) -->\n)?^```([^\n`]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SHIMS = {  # the commands of the environment, by the interpreter that runs the tests
    "spikiness": "from spikiness.command import main; main()",
    "papermill": "from papermill.cli import papermill; papermill()",
}


class Block(NamedTuple):
    line: int
    tag: str  # what stands before the block, or ""
    language: str
    text: str

    @property
    def how(self) -> str:
        return self.tag.partition(",")[0].partition(" ")[0]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, those of MyST directives left out."""
    every = [
        Block(text.count("\n", 0, match.start(2)) + 1, match[1] or "", match[2], match[3])
        for match in FENCE.finditer(text)
    ]
    return [block for block in every if not block.language.startswith("{")]


def on(page: Path) -> list[Block]:
    return blocks(page.read_text(encoding="utf-8"))


# --- tags ------------------------------------------------------------------------------------------------------------


def wrong_tag(block: Block) -> str | None:
    """What is wrong with the tag of a block, or None."""
    if block.language in ("bash", "python"):
        if block.how == "never":
            return None if len(block.tag.partition(",")[2].split()) >= 2 else "`never` gives its reason after a comma"
        return None if block.tag in ("run", "slow") else "tag it run, slow or never with a reason"
    if block.language == "text":
        return None if re.fullmatch(r"printed, within [\d.]+", block.tag) else "tag it `printed, within T`"
    return None if block.how == "file" else f"a block of {block.language or 'no language'}: tag it `file PATH`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_tag(page):
    assert {f"{page.name}:{block.line}": wrong for block in on(page) if (wrong := wrong_tag(block))} == {}


def test_a_block_without_a_tag_is_found():
    text = "a\n```bash\nls\n```\n<!-- test: run -->\n```python\n1\n```\n\n"
    text += "<!-- test: never, why not -->\n```bash\nls\n```\n"
    text += "```{math}\nx\n```\n<!-- test: never -->\n```bash\nls\n```\n```text\nx\n```\n"
    found = blocks(text)
    assert [(block.line, block.language) for block in found] == [
        (2, "bash"),
        (6, "python"),
        (11, "bash"),
        (18, "bash"),
        (21, "text"),
    ]
    assert [wrong_tag(block) is None for block in found] == [False, True, True, False, False]
    assert {"README.md", "CONTRIBUTING.md", "batch.md", "reproduce.md"} <= {page.name for page in WITH_COMMANDS}


# --- read ------------------------------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a bash block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_spikiness(words: list[str]) -> None:
    """Parse a command as it would be, without doing it, and look at the chapters, parameters and files it names."""
    joined, group, context = _joined(words), typer.main.get_command(app), None
    while hasattr(group, "commands"):
        name, *joined = joined
        context, group = typer.Context(group, parent=context, info_name=name), group.commands[name]
    given = group.make_context(" ".join(words), list(joined), parent=context).params
    for chapter in given.get("chapters") or ():
        declared = parameters.read(notebook.read(chapter), chapter)
        pairs = [pair.partition("=")[::2] for pair in given.get("parameter") or ()]
        values = parameters.profile_values(notebook.folder(), chapter, given.get("profile") or "demo")
        parameters.validate(declared, {**values, **parameters.parse(declared, pairs, chapter)}, chapter)
    if "file" in given and str(given["file"]) != "FILE":
        grid.read(ROOT / given["file"])


def check_papermill(words: list[str]) -> None:
    source, _, *options = words
    chapter = Path(source).stem
    assert (ROOT / source).is_file()
    assert options[::3] == ["-p"] * (len(options) // 3)
    declared = parameters.read(notebook.read(chapter), chapter)
    pairs = zip(options[1::3], options[2::3], strict=True)
    parameters.validate(declared, parameters.parse(declared, pairs, chapter), chapter)


def check_make(words: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True, env=environment)


READ = {"spikiness": check_spikiness, "papermill": check_papermill, "make": check_make}
ELSEWHERE = {"git", "pip", "conda", "source", "pre-commit"}  # other people's commands


def check_python(block: Block) -> None:
    """A block of Python compiles, and what it imports of ours is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0].startswith("spikiness"):
            package = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(package, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands_name_what_there_is(page):
    for block in on(page):
        if block.language == "python":
            check_python(block)
        for words in commands(block) if block.language == "bash" else ():
            assert words[0] in READ.keys() | ELSEWHERE, f"{page.name}:{block.line}: {words[0]}"
            if words[0] in READ:
                READ[words[0]](words[1:])


@pytest.mark.parametrize(
    "line",
    [
        "spikiness runn memorization",
        "spikiness run memorisation",
        "spikiness run memorization -p nn 6",
        "spikiness run memorization -p n 0",
        "spikiness run memorization --profil smoke",
        "spikiness sweep plan workflow/sweeps/last.yaml",
        "papermill notebooks/memorization.ipynb out.ipynb -p n ten",
        "make boook",
    ],
)
def test_a_command_that_would_fail_is_found(line):
    program, *words = shlex.split(line)
    with pytest.raises(Exception, match=r"."):
        READ[program](words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_are_shown_as_they_are(page):
    for block in on(page):
        if block.how == "file":
            shown, stored = block.text, (ROOT / block.tag.split()[1]).read_text(encoding="utf-8")
            assert yaml.safe_load(shown) == yaml.safe_load(stored)


# --- executed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A checkout like this one, but with nothing made yet, and the environment's commands before all others."""
    place, shims = tmp_path / "checkout", tmp_path / "bin"
    place.mkdir()
    shims.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("build", ".git") and not path.name.endswith("_cache"):
            (place / path.name).symlink_to(path)
    for name, code in SHIMS.items():
        (shims / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' -P -c '{code}' \"$@\"\n")
        (shims / name).chmod(0o755)
    environment = {**os.environ, "SPIKINESS_HOME": str(place / "build"), "PYTHONPATH": str(ROOT / "src")}
    environment["PATH"] = f"{shims}{os.pathsep}{environment['PATH']}"
    return place, environment


def execute(block: Block, place: Path, environment: dict[str, str]) -> str:
    """What a block prints; a command of it that fails is an error."""
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run([*command, block.text], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"line {block.line}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")


def promised(shown: str, printed: str, within: float) -> bool:
    """Whether what was printed is what a page shows: the same words, and numbers to a relative difference."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    values = [[float(text.replace(",", "")) for text in pair] for pair in pairs]
    return all(abs(a - b) <= within * max(abs(a), abs(b)) for a, b in values)


def try_page(page: Path, tags: tuple[str, ...], place: Path, environment: dict[str, str]) -> None:
    printed, tried = "", False
    for block in on(page):
        if block.language in ("bash", "python"):
            tried = block.tag in tags
            printed = execute(block, place, environment) if tried else ""
        elif block.how == "printed" and tried:
            within = float(block.tag.rpartition(" ")[2])
            assert promised(block.text, printed, within), f"{page.name}:{block.line} shows other than\n{printed}"


def having(tag: str) -> list[Path]:
    return [page for page in WITH_COMMANDS if any(block.tag == tag for block in on(page))]


@pytest.mark.timeout(1200)  # a hundred seconds of one core
@pytest.mark.parametrize("page", having("run"), ids=lambda page: page.name)
def test_commands_do_what_the_page_says(page, checkout):
    try_page(page, ("run",), *checkout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", having("slow"), ids=lambda page: page.name)
def test_slow_commands_do_what_the_page_says(page, checkout):
    try_page(page, ("run", "slow"), *checkout)


def test_a_promise_that_is_not_kept_is_found():
    assert promised("1,400 digits (0.95, 0.98)\n", "1,390 digits (0.951, 0.981)\n", within=0.02)
    assert not promised("1,400 digits", "1,300 digits", within=0.02)
    assert not promised("1,400 digits", "1,400 images", within=0.02)
    assert not promised("1,400 digits", "1,400 digits\n1", within=0.02)
    with pytest.raises(AssertionError):
        execute(Block(1, "run", "bash", "false\ntrue\n"), ROOT, dict(os.environ))
    with pytest.raises(AssertionError):
        execute(Block(1, "run", "python", "1 / 0\n"), ROOT, dict(os.environ))
