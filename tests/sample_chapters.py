"""Small chapters that the tests of the runner share: one that works, and one for each way to fail."""

import re
import signal
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """\
n: int = 5  # training images
lr: float = 1e-2  # step size
sigmas: list[float] = [0.2, 1.0]  # noise levels
label: str = "plain"  # a word
tied: bool = True  # one matrix or two
"""

GOOD = [
    "import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\nimport numpy as np",
    'run.metric("twice", 2 * n, tolerance=1)\n'
    'run.metric("level", np.float32(0.25), (0.2, 0.3), over="draws", unit="dB", n=n, seeds=[0, 1])',
    "fig, ax = plt.subplots()\nax.plot(sigmas)\nrun.figure(fig, 'levels', data={'sigma': sigmas})\nplt.close(fig)",
    'run.array("grid", np.arange(6.0).reshape(2, 3))',
    'run.say("Twice {n} is {twice}, at {level.low:.1f} to {level.high:.1f}.")',
    "import os\nprint(os.getcwd(), os.environ['OMP_WAIT_POLICY'], label, sep='|')",
]
# A cell that starts a process in a session of its own, and leaves the numbers of both where `label` says
SPAWN = (
    "import os, signal, subprocess, time\n"
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "with open(label + '.tmp', 'w') as file:\n"
    "    file.write(f'{os.getpid()} {child.pid}')\n"
    "os.replace(label + '.tmp', label)\n"
)


def notebook(name: str, cells: list[str], parameters: str = PARAMETERS, finish: bool = True):
    """A chapter that imports, declares, begins, does what `cells` say and finishes."""
    read = ", ".join(re.findall(r"^(\w+):", parameters, re.MULTILINE))  # a parameter that no cell reads is refused
    begin = f'run = runs.begin("{name}", globals())\n_ = [{read}]'
    code = ["from spikiness_book.engine import runs", None, begin, *cells]
    code += ["run.finish()"] if finish else []
    made = [new_markdown_cell(f"# {name}")]
    for source in code:
        made.append(new_code_cell(source if source is not None else parameters))
        if source is None:
            made[-1].metadata["tags"] = ["parameters"]
    for index, cell in enumerate(made):
        cell["id"] = f"cell-{index}"
    return new_notebook(
        cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "3", "language": "python"}}
    )


def write(folder: Path, name: str, cells: list[str], **options) -> Path:
    """Write one chapter into a folder of chapters."""
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(name, cells, **options), folder / f"{name}.ipynb")
    return folder


def working(folder: Path) -> Path:
    """A folder of chapters with `good` in it, and its profiles."""
    (write(folder, "good", GOOD) / "profiles.yaml").write_text(
        "good:\n  smoke: {n: 2}\n  paper: {n: 7, sigmas: [0.2, 1.0, 5.0]}\n"
    )
    return folder


def hear_ctrl_c() -> None:
    """For `preexec_fn`: a shell's background job, as a test may be, starts with Ctrl-C ignored; a terminal's command
    does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
