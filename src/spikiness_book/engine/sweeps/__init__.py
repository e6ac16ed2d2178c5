"""Sweeps: a chapter over a grid of parameters; every run made, verified and put into one table. Snakemake schedules."""

from spikiness_book.engine.sweeps.driver import drive
from spikiness_book.engine.sweeps.grid import Sweep, read
from spikiness_book.engine.sweeps.planning import Task, plan, status
from spikiness_book.engine.sweeps.table import collect, verify

__all__ = ["Sweep", "Task", "collect", "drive", "plan", "read", "status", "verify"]
