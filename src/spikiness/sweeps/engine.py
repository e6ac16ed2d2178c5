"""Snakemake in a process that does not outlive who started it: `python -m spikiness.sweeps.engine ARGUMENTS`.

Its stdin stays open as long as the driver lives. When the driver is gone, whatever way, the engine ends and so do the
jobs that it started on this machine; the runs are then interrupted, and the next start makes them.
"""

import os
import sys
import threading

from spikiness.runs import processes


def main() -> None:
    """Run Snakemake with this process's arguments."""
    threading.Thread(target=_follow_driver, daemon=True).start()
    from snakemake.cli import main as snakemake

    snakemake(sys.argv[1:])


def _follow_driver() -> None:
    while os.read(0, 1024):  # not sys.stdin: its buffer would be locked when the engine ends
        pass
    processes.kill(os.environ[processes.MARK])
    os._exit(1)


if __name__ == "__main__":
    main()
