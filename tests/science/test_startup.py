"""What importing the science brings with it: torch, and no library that only some functions use."""

import subprocess
import sys

import pytest

LATER = ("PIL", "pandas", "pooch", "scipy", "sklearn", "torchvision", "triton")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("spikiness.images", ("torch", *LATER)), ("spikiness.detection", LATER), ("spikiness.training", LATER)],
)
def test_imports_are_light(module, unwanted):
    code = f"import sys, {module}; print(*[name for name in {unwanted} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
