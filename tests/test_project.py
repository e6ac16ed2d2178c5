"""The project as a whole: imports point down, pins agree, commands named exist, nothing stray is stored."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import spikiness

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OURS = {"spikiness", "spikiness_book"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def imported(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Absolute dotted names that a module imports anywhere, down to the attributes used: images.load, not images.

    `package` is where the module lies, for relative imports.
    """
    bound, used = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound += [(alias.asname or alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (*(package[: len(package) - node.level + 1] if node.level else ()), *filter(None, [node.module]))
            bound += [(alias.asname or alias.name, ".".join((*base, alias.name))) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add((node.value.id, node.attr))
    names = set()
    for local, dotted in bound:
        names |= {f"{dotted}.{attribute}" for name, attribute in used if name == local} or {dotted}
    return names


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names that one of our modules imports."""
    return imported(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(SOURCE).parent.parts)


def code_of(path: Path) -> ast.Module:
    """All code of a notebook."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ast.parse("\n".join(cells))


def distributions(names: set[str]) -> set[str]:
    """Canonical names of the third-party packages behind imported names."""
    providers = packages_distributions()
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OURS
    unknown = tops - providers.keys()
    assert not unknown, f"imported but not installed: {sorted(unknown)}"
    return {canonicalize_name(providers[top][0]) for top in tops}


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements of pyproject.toml by canonical name: the package's own, and those of the extras and of their own."""
    name, wanted = PROJECT["project"]["name"], list(map(Requirement, PROJECT["project"]["dependencies"]))
    for extra in extras:
        lines = map(Requirement, PROJECT["project"]["optional-dependencies"][extra])
        for requirement in lines:
            wanted += declared(*requirement.extras).values() if requirement.name == name else [requirement]
    return {canonicalize_name(requirement.name): requirement for requirement in wanted}


def locked() -> dict[str, set[str]]:
    """Versions of each package in the lock; more than one where they depend on the Python version."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", LOCK, flags=re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


# --- imports -----------------------------------------------------------------------------------------------------


def contracts(root: Path) -> subprocess.CompletedProcess:
    """import-linter, by the contracts of pyproject.toml, over the packages of a tree."""
    command = [sys.executable, "-P", "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_imports_keep_their_contracts():
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("spikiness/sampling.py", "from spikiness_book.engine import cache", "The science knows nothing of the book"),
        ("spikiness/measures/quality.py", "from spikiness import training", "The science is built in layers"),
        ("spikiness/extra.py", "", "The science is built in layers"),  # a new module must have a place
        ("spikiness_book/plots.py", "from spikiness_book import cli", "The book is built in layers"),
        (
            "spikiness_book/engine/cache.py",
            "from spikiness_book import plots",
            "The engine knows no page, chapter, network or figure",
        ),
        (
            "spikiness_book/chapters/memorization/measure.py",
            "from spikiness_book.chapters import separability",
            "Chapters do not import each other",
        ),
        ("spikiness_book/plots.py", "from spikiness import measures", "Figures never import torch"),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(tmp_path, module, line, contract):
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / module).open("a") as file:
        file.write(f"\n\ndef late():\n    {line or 'pass'}\n")
    done = contracts(tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"{contract} BROKEN" in done.stdout


def test_names_used_of_an_import_are_found():
    source = "def late():\n    from ..runs import store\n    import torch.nn as nn\n    return nn.Linear, store"
    assert imported(ast.parse(source), ("spikiness_book", "engine", "networks")) == {
        "spikiness_book.engine.runs.store",
        "torch.nn.Linear",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_use_public_names_only(path):
    shared = ("engine.runs", "engine.cache", "plots", "zoo", "two_layers", "copying")
    own = tuple(f"spikiness_book.{name}" for name in shared)
    allowed = ("spikiness", *own, f"spikiness_book.chapters.{path.stem}")
    used = {name for name in imported(code_of(path), ()) if name.partition(".")[0] in OURS}
    assert "spikiness_book.engine.runs.begin" in used
    assert [name for name in used if not f"{name}.".startswith(tuple(f"{start}." for start in allowed))] == []
    assert [name for name in used if "._" in name] == []


def test_the_science_installs_without_the_book_engine():
    names = set().union(*(imports_of(path) for path in MODULES if path.is_relative_to(SOURCE / "spikiness")))
    assert distributions(names) <= declared().keys()


def test_everything_imported_is_declared():
    names = set().union(*map(imports_of, MODULES))
    assert distributions(names) <= declared("book", "batch").keys()
    runs = [path for path in MODULES if not path.is_relative_to(SOURCE / "spikiness_book" / "pages")]
    assert distributions(set().union(*map(imports_of, runs))) <= declared("run", "batch").keys()
    for path in NOTEBOOKS:
        assert distributions(imported(code_of(path), ())) <= declared("run").keys(), path.name
    tests = sorted((ROOT / "tests").rglob("*.py"))
    beside = {path.stem for path in tests}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in tests]
    names = {name for tree in trees for name in imported(tree, ()) if name.partition(".")[0] not in beside}
    assert distributions(names) <= declared("book", "batch", "test").keys() | {"setuptools"}


def test_modules_stay_short():
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


# --- nothing stored is executed when it is read --------------------------------------------------------------------


def unsafe(source: str) -> list[str]:
    """Ways of reading a file that would run what is in it, or say that they could."""
    tree, found = ast.parse(source), []
    # A subclass that decides itself what may be built is the one safe use of pickle.
    guarded = {
        base
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "find_class" in {getattr(part, "name", "") for part in node.body}
        for base in node.bases
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "joblib"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("pickle.", "joblib.")):
            found += [] if node in guarded else [ast.unparse(node)]
        elif isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True":
                found.append(ast.unparse(node))
            if options.get("weights_only", "True") != "True" or options.get("allow_pickle", "False") != "False":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_read_is_unpickled(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=flag)",
        "import pickle\npickle.load(file)",
        "import pickle\nclass Open(pickle.Unpickler): pass",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_an_unsafe_reader_is_found(line):
    assert unsafe(line)


# --- pins ----------------------------------------------------------------------------------------------------------


def test_the_lock_has_every_dependency_at_an_allowed_version():
    build = {need.name: need for need in map(Requirement, PROJECT["dependency-groups"]["build"])}
    for name, requirement in (declared("book", "test") | build).items():
        assert locked().get(name), f"{name} is not in requirements.lock: make lock"
        assert all(map(requirement.specifier.contains, locked()[name])), f"{requirement}: {locked()[name]}"
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert all(map(requirement.specifier.contains, locked()[requirement.name]))


def test_every_pin_has_a_hash_and_names_no_machine():
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert [block.splitlines()[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block)] == []
    assert not re.search(r"://|--(index|extra-index|find-links)|^-", LOCK, flags=re.MULTILINE)


def test_environment_yml_agrees_with_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert environment["name"] == PROJECT["project"]["name"]
    assert pip == ["-r requirements.lock"]  # every version is the lock's own
    pins = dict(item.partition("=")[::2] for item in conda)
    assert pins.pop("python") in re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text())[1]
    assert not pins.keys() & locked().keys(), "a package that the lock brings must not come from conda too"


def test_the_oldest_python_is_the_same_everywhere():
    oldest = re.fullmatch(r">=(3\.\d+)", PROJECT["project"]["requires-python"])[1]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"--python-version {oldest} " in makefile
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in makefile
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def cpu_lock(option: str) -> str:
    command = [sys.executable, "tools/cpu_lock.py", option, "requirements.lock"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_cpu_route_leaves_out_torch_and_cuda_only():
    whole = locked()
    assert cpu_lock("--torch").split() == [f"{name}=={min(whole[name])}" for name in ("torch", "torchvision")]
    rest = cpu_lock("--rest")
    kept = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", rest, flags=re.MULTILINE)}
    dropped = whole.keys() - kept
    assert {"torch", "torchvision"} <= dropped
    # What is left must resolve by itself: pip refuses a dependency without a hash.
    for name in kept & {canonicalize_name(name) for names in packages_distributions().values() for name in names}:
        needs = (Requirement(line) for line in requires(name) or [])
        active = {
            canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
        }
        assert not active & dropped, f"{name} needs {active & dropped}"
    # And nothing but torch's own needs was dropped: the science and the book keep theirs.
    assert dropped & declared("book", "batch", "test").keys() == {"torch", "torchvision"}
    assert all(block.strip() in LOCK for block in re.split(r"^(?=[A-Za-z0-9])", rest, flags=re.MULTILINE))


# --- commands and files that the pages name --------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def make_calls(text: str) -> set[str]:
    """Targets of the `make ...` commands in code: at the start of a line or of a code span, or after `run:` or `&&`."""
    calls = re.findall(r"(?:^\s*|`|\$ |run: |&& )make((?: +[\w./=${}\"'-]+)+)", text, flags=re.MULTILINE)
    words = {word for call in calls for word in re.sub(r"[A-Z]+=(\"[^\"]*\"|\S+)", "", call).split()}
    return {word.strip("`\"'") for word in words if word.replace("-", "").isalpha()}


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / ".ci" / "run",
        *WORKFLOWS,
        *sorted((ROOT / "book").glob("*.md")),
    ],
    ids=lambda path: path.name,
)
def test_named_make_targets_exist(path):
    text = path.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)) if path.suffix == ".md" else text
    assert make_calls(code) - make_targets() == set()


def test_the_errands_name_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^## A (.+)$", text, flags=re.MULTILINE) == [
        "chapter", "network", "rival of the detector", "measure", "data set",
    ]  # fmt: skip
    named = set(re.findall(r"\b(?:src|tests|book|notebooks)/[\w/]+\.\w+", text))
    made = {name for name in named if "moss" in name or "mixer" in name}  # what the errand itself makes
    assert len(named - made) > 15
    assert {name for name in named - made if not (ROOT / name).is_file()} == set()


def test_the_readme_names_the_two_commands():
    assert {"book", "test"} <= make_calls((ROOT / "README.md").read_text(encoding="utf-8"))
    assert make_calls('`make TORCH=cpu wrong`\n$ make CHAPTERS="a b" bad\nrun: make worse') == {"wrong", "bad", "worse"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("torch", ["locked", "cpu"])
def test_make_sets_up_before_it_builds(torch):
    def dry(*arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", "--dry-run", "--always-make", f"TORCH={torch}", *arguments]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        return run.stdout.splitlines()

    lines = dry("book", "PROFILE=smoke", "CHAPTERS=hybrid memorization")
    assert lines[-1] == '.venv/bin/spikiness book --profile "smoke" hybrid memorization'
    hashed = [line for line in lines if "--require-hashes" in line]
    assert [line.split()[-1] for line in hashed] == [".venv/cpu.lock" if torch == "cpu" else "requirements.lock"]
    assert sum("--index-url https://download.pytorch.org/whl/cpu" in line for line in lines) == (torch == "cpu")
    for target in make_targets() - {"clean", "clean-networks", "distclean"}:
        assert dry(target)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_clean_keeps_trained_networks(tmp_path):
    def make(target):
        for name in ("networks", "samples", "demo", "sweeps"):
            (tmp_path / "build" / name / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv").mkdir(exist_ok=True)
        subprocess.run(["make", "-f", str(ROOT / "Makefile"), target], cwd=tmp_path, check=True, capture_output=True)
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("build/*")), (
            tmp_path / ".venv"
        ).is_dir()

    assert make("clean") == (["build/networks", "build/samples"], True)
    assert make("clean-networks") == (["build/demo", "build/sweeps"], True)
    assert make("distclean") == ([], False)


def test_workflows_watch_main_and_parse():
    assert [path.name for path in WORKFLOWS] == ["pages.yml", "test.yml"]
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow[True]["push"]["branches"] == ["main"]  # YAML reads the key `on` as true


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    local = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_citation_names_paper_and_software():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert [person["name"] for person in citation["authors"]] == [
        person["name"] for person in PROJECT["project"]["authors"]
    ]
    assert citation["version"] == PROJECT["project"]["version"] == spikiness.__version__
    (paper,) = citation["references"]
    assert paper["url"].endswith("arxiv.org/abs/2512.20963")
    assert [person["family-names"] for person in paper["authors"]] == ["Zhang", "Li", "Li", "Shi", "Wu", "Tao", "Qu"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    assert newest == citation["version"]


# --- before a commit ---


def hooks() -> dict[str, dict]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}


def test_the_hooks_call_tools_of_the_environment():
    assert hooks().keys() == {"ruff", "format", "notebooks", "secrets"}
    for hook in hooks().values():
        assert hook["language"] == "system"  # the lock's versions, and no network
        program, *rest = hook["entry"].split()
        script = rest[0] if rest[0].endswith(".py") else None
        assert (Path(sys.executable).parent / Path(program).name).exists(), program
        assert program.startswith(".venv/bin/")
        assert script is None or (ROOT / script).exists()


def test_the_hook_for_secrets_finds_one_and_knows_digests(tmp_path):
    program, *options = hooks()["secrets"]["entry"].split()
    secret = "aws_key = " + repr("AKIA" + "QWERTYUIOPASDFGH")
    for text, status in ((secret, 1), (f"digest = '{'0f' * 32}'", 0)):
        (tmp_path / "a.py").write_text(text)
        command = [str(Path(sys.executable).parent / Path(program).name), *options, str(tmp_path / "a.py")]
        assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode == status


# --- nothing stray ---------------------------------------------------------------------------------------------------


def lint(root: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "lint.py"), *options, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_stray_is_stored():
    run = lint(ROOT)
    assert run.returncode == 0, run.stdout


def test_what_is_stray_is_found_and_outputs_are_stripped(tmp_path):
    cell = nbformat.v4.new_code_cell("n = 5", metadata={"tags": ["parameters"], "collapsed": True}, execution_count=3)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="5")]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11"}})
    for folder in ("notebooks", "src"):
        (tmp_path / folder).mkdir()
    stored = tmp_path / "notebooks" / "a.ipynb"
    nbformat.write(notebook, stored)
    (tmp_path / "src" / "a.py").write_text("raise NotImplemented" + "Error\n# TO" + "DO\n")
    (tmp_path / "a.md").write_text("see /" + "home/somebody/a or ./a, not https://a.example/home/c\n")
    run = lint(tmp_path)
    assert run.returncode == 1, run.stderr
    found = ["a.md:1", "notebooks/a.ipynb", "src/a.py:1", "src/a.py:2"]
    assert [line.partition(": ")[0] for line in run.stdout.splitlines()] == found
    assert lint(tmp_path, "--strip").returncode == 0
    after = nbformat.read(stored, as_version=4)
    assert after.metadata == {"language_info": {"name": "python"}}
    (left,) = after.cells
    assert (left.source, left.metadata, left.outputs, left.execution_count) == (
        "n = 5",
        {"tags": ["parameters"]},
        [],
        None,
    )
    assert "a.ipynb" not in lint(tmp_path).stdout
