"""The process that executes one notebook: `python -m spikiness_book.engine.runs.execute WORK SOCKETS`, of runner.run.

It is a process of its own so that a run can be stopped as a whole, and works the same under Jupyter's event loop.
It decides nothing: it leaves `executed.ipynb`, and `failed.json` with the reason where it saw one.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from spikiness_book.engine.runs import processes, store


def main() -> None:
    """Execute `source.ipynb` of the work folder given first, with sockets in the second; write why, where it fails."""
    work, sockets = sys.argv[1:]
    here = os.getcwd()  # the kernel stands where the command was typed, so that relative data paths mean the same
    failed = Path(work).absolute() / "failed.json"  # papermill may leave us elsewhere where `work` is taken away
    os.chdir(work)  # papermill formats paths: a relative one has no braces in it
    from jupyter_client.manager import AsyncKernelManager

    # Sockets are files: kernels that start together race for TCP ports
    manager = AsyncKernelManager(
        kernel_name="python3", transport="ipc", ip=f"{sockets}/k", connection_file=f"{sockets}/k.json"
    )
    processes.follow_parent(lambda: shutil.rmtree(sockets, ignore_errors=True))
    reason = _execute(manager, here)
    if reason:
        store.write_json(failed, {"reason": reason})
    processes.end_family(0)  # the kernel has nothing left to say, and its sockets are not waited for


def _execute(manager: Any, here: str) -> str:
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    try:
        execute_notebook(
            "source.ipynb",
            "executed.ipynb",
            km=manager,
            kernel_name="python3",
            language="python",
            cwd=here,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        return f"cell [{error.exec_count}] raised {_line(f'{error.ename}: {error.evalue}')}"
    except DeadKernelError:
        return f"kernel died ({_last_words(manager)})"
    except Exception as error:  # whatever it is, the run failed and says why
        return _line(f"{type(error).__name__}: {error}")
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())[:500].rstrip(": ")


def _last_words(manager: Any) -> str:
    code = manager.provisioner.process.poll() if manager.provisioner and manager.provisioner.process else None
    if code == -signal.SIGKILL:
        return "signal 9, likely out of memory"
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


if __name__ == "__main__":
    main()
