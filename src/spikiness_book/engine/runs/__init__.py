"""Runs: parameters in, verified result out. A notebook calls `begin`; everything else is for who runs notebooks."""

from spikiness_book.engine.runs.chapter import Run, begin
from spikiness_book.engine.runs.compare import agreement, differences
from spikiness_book.engine.runs.notebook import chapters, describe, find, page
from spikiness_book.engine.runs.runner import run
from spikiness_book.engine.runs.store import PROFILES, Result, State, home, load

__all__ = [
    "PROFILES",
    "Result",
    "Run",
    "State",
    "agreement",
    "begin",
    "chapters",
    "describe",
    "differences",
    "find",
    "home",
    "load",
    "page",
    "run",
]
