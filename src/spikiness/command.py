"""The `spikiness` command as the science alone installs it; the book adds its commands where its packages are there.

Nothing of the book is imported before one of its commands is asked for, so that `--help` and `--version` answer on any
installation, and at once.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from spikiness import __version__
from spikiness.errors import suggest

# The book's commands: the extras that bring what each needs, and what it does.
BOOK: dict[str, tuple[str, str]] = {
    "run": ("run", "Run chapters, one after another, and show what they measured."),
    "list": ("run", "List the chapters, and the state of their runs in each profile."),
    "show": ("run", "Show a chapter's parameters and runs, or what one run measured."),
    "compare": ("run", "Compare a rerun with the published result, or with another run."),
    "unlock": ("run", "Remove the lock of a run whose owner is gone."),
    "sweep": ("run,batch", "A chapter over a grid of parameters: every run made, verified, and put into one table."),
    "book": ("book,batch", "Run the chapters that have no result yet, and build the book."),
    "site": ("book", "Build the online book from published/, running nothing."),
    "publish": ("book,batch", "Put the results of the paper-scale runs into published/."),
}
# One package of each extra that no other extra brings: where it is missing, so is the extra.
MARKS = {"run": "typer", "book": "jupyter_book", "batch": "snakemake"}
COMPLETION = ("--install-completion", "--show-completion")  # typer's own, for every command


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Answer `--help` and `--version`, or hand the words over to the command that they name.

    The exit status is that of the command; 2 where there is no such command, or where it needs packages that are not
    installed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "_SPIKINESS_COMPLETE" in os.environ:  # the shell asks what could come next
        _book("run", words)
    first = words[0] if words else "--help"
    if first == "--version":
        sys.stdout.write(f"spikiness {__version__}\n")
    elif first in ("--help", "-h"):
        sys.stdout.write(usage())
    elif first in BOOK or first.partition("=")[0] in COMPLETION:
        _book(first, words)
    else:
        sys.stderr.write(f"spikiness: no command {first!r}{suggest(first, BOOK)} (there are {', '.join(BOOK)})\n")
        sys.exit(2)
    sys.exit(0)


def usage() -> str:
    """What `spikiness --help` prints."""
    lines = [
        "Usage: spikiness [OPTIONS] COMMAND [ARGS]...",
        "",
        "  Experiments on when diffusion models memorize and when they generalize.",
        "",
        "Options:",
        "  --version             Print the version and stop.",
        "  --install-completion  Install completion for the current shell.",
        "  --show-completion     Print that completion, to look at it or to copy it.",
        "  --help                Show this message and exit.",
        "",
        "Commands of the book (spikiness COMMAND --help says more):",
        *(f"  {name:<9} {does}" for name, (_, does) in BOOK.items()),
    ]
    return "\n".join(lines) + "\n"


def _book(command: str, words: Sequence[str]) -> NoReturn:
    """Run a command of the book; where a package that it needs is missing, say in one line how to install it.

    The extras are looked for first: a book that cannot be built is refused before its chapters run.
    """
    extras = BOOK[command][0] if command in BOOK else "run"
    missing = [MARKS[extra] for extra in extras.split(",") if importlib.util.find_spec(MARKS[extra]) is None]
    if not missing:
        try:
            importlib.import_module("spikiness_book.cli").main(words)
        except ModuleNotFoundError as error:
            absent = error.name or "spikiness"
            if absent.startswith("spikiness"):  # no package is missing: a fault of ours
                raise
            missing = [absent]
    sys.stderr.write(f"spikiness {command} needs {missing[0]}: pip install 'spikiness[{extras}]'\n")
    sys.exit(2)
