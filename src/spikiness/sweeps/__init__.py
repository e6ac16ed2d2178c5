"""Sweeps: a chapter over a grid of parameters; every run made, verified and put into one table. Snakemake schedules."""

from spikiness.sweeps.driver import drive
from spikiness.sweeps.grid import Sweep, read
from spikiness.sweeps.planning import Task, plan, status
from spikiness.sweeps.table import collect, verify

__all__ = ["Sweep", "Task", "collect", "drive", "plan", "read", "status", "verify"]
