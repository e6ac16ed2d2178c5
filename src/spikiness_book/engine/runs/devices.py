"""The devices that a run may use, seen without importing torch, which takes seconds."""

import os
from importlib import metadata
from pathlib import Path

CPU, CUDA = "cpu", "cuda"  # the class of a device: part of a run's id, since the two give other last digits


def gpus() -> list[str]:
    """The GPUs that this process may use: those of $CUDA_VISIBLE_DEVICES where it is set."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    return sorted(path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())


def device() -> str:
    """The class of the device that a run started here would use: "cuda" where there is a GPU and torch can use it."""
    try:
        built_for_cpu = metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        built_for_cpu = True
    return CUDA if gpus() and not built_for_cpu else CPU
