"""Runs: parameters in, verified result out. A notebook calls `begin`; everything else is for who runs notebooks."""

from spikiness.runs.chapter import Run, begin
from spikiness.runs.compare import agreement, differences
from spikiness.runs.notebook import chapters, describe, find, page
from spikiness.runs.runner import run
from spikiness.runs.store import PROFILES, Result, State, home, load

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
