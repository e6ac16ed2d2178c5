"""What ruff does not look at: notebooks stored without outputs, no leftovers, no paths or tokens of somebody's machine.

`python tools/lint.py [ROOT]` prints each complaint and exits with 1 if there is one; `--strip` mends the notebooks.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from spikiness_book.pages import scan

PROSE_AND_CODE = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".cff", ""}  # vendored scripts keep their own words
LEFTOVER = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b")
STUB = re.compile(r"\bNotImplemented(?:Error)\b")
NOTEBOOK_META = ("kernelspec", "language_info", "mystnb")  # what else there is, an editor happened to write
CELL_META = ("tags", "mystnb")
EXAMPLES = Path("tests", "pages", "test_book.py")  # holds what the scan must find


def project_files(root: Path) -> list[Path]:
    """Files of the project: what git tracks or would track, or everything where there is no repository."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True) if (root / ".git").exists() else None
    if listing is not None and listing.returncode == 0:
        return sorted(path for name in set(listing.stdout.split("\0")) if name and (path := root / name).is_file())
    made = re.compile(r"\.venv|\.git|build|__pycache__|\.\w+_cache|\.hypothesis|.*\.egg-info")
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(root / path for path in files if not any(map(made.fullmatch, path.parts)))


def complaints(root: Path) -> Iterator[str]:
    """One line for each thing that must not be stored."""
    for path in project_files(root):
        content, name = path.read_bytes(), path.relative_to(root)
        if path.suffix == ".ipynb":
            for what in scan.notebook(path, stored_allowed=name.parts[0] == "published"):
                yield f"{name}: {what}; make format strips outputs"
        elif b"\0" not in content and name != EXAMPLES:  # nor a picture, an array, a font
            yield from _lines(name, content.decode("utf-8", errors="replace"))


def _lines(name: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        for what in scan.leaks(line):
            if not (name.parts[0] == "tests" and "'/tmp/" in what):  # tests make up folders
                yield f"{name}:{number}: {what}"
        if name.suffix in PROSE_AND_CODE and LEFTOVER.search(line):
            yield f"{name}:{number}: a leftover"
        if name.suffix == ".py" and name.parts[0] == "src" and STUB.search(line):
            yield f"{name}:{number}: a stub"


def strip(path: Path) -> None:
    """Store a notebook without outputs, counts, and metadata of an editor or of a run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in CELL_META}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in NOTEBOOK_META}
    notebook.metadata.get("language_info", {}).pop("version", None)  # of the Python that ran last
    nbformat.write(notebook, path)


def main() -> int:
    """Complain, or strip the notebooks in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--strip", action="store_true", help="rewrite the chapters' notebooks without outputs")
    options = parser.parse_args()
    if options.strip:
        for path in sorted((options.root / "notebooks").glob("*.ipynb")):
            strip(path)
        return 0
    found = list(complaints(options.root))
    print("\n".join(found) if found else "nothing left over")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
