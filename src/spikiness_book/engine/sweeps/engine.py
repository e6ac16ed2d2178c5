"""Snakemake under a watcher that does not outlive who started it: `python -m ...sweeps.engine ARGUMENTS`.

The watcher's stdin stays open as long as the driver lives. When the driver is gone, whatever way, Snakemake ends first,
so that it starts nothing more, and then the jobs that it started on this machine; their runs are interrupted, and the
next start makes them.
"""

import os
import signal
import subprocess
import sys
import threading

from spikiness_book.engine.runs import processes


def main() -> None:
    """Run Snakemake with this process's arguments, pass signals on to it, and exit with its status."""
    snakemake = subprocess.Popen([sys.executable, "-P", "-m", "snakemake", *sys.argv[1:]], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: snakemake.send_signal(number))
    alone = threading.Event()
    watching = threading.Thread(target=_follow_driver, args=(snakemake, alone), daemon=True)
    watching.start()
    status = snakemake.wait()
    if alone.is_set():
        watching.join()  # it has jobs to end, and ends this process after them
    sys.exit(status)


def _follow_driver(snakemake: subprocess.Popen[bytes], alone: threading.Event) -> None:
    while os.read(0, 1024):  # not sys.stdin: its buffer would be locked when this process ends
        pass
    alone.set()
    snakemake.kill()
    processes.kill(os.environ[processes.MARK])
    os._exit(1)


if __name__ == "__main__":
    main()
