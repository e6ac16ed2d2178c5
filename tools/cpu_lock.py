"""Split requirements.lock for a CPU-only torch.

`--torch` prints torch's pins, `--rest` the lock without torch and the packages of its CUDA build.
"""

import re
import sys
from pathlib import Path

TORCH = ("torch", "torchvision")
CUDA = ("cuda-", "nvidia-", "triton")  # name prefixes of what only the CUDA build of torch needs


def entries(lock: str) -> list[tuple[str, str, str]]:
    """Name, version and full text (marker, hashes, comments) of each package of a lock."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    heads = ((re.match(r"([\w.-]+)==([^\s;\\]+)", block), block) for block in blocks)
    return [(head[1].lower(), head[2], block) for head, block in heads if head]


def torch_pins(lock: str) -> list[str]:
    """torch and torchvision at their locked versions; the CPU index serves them under other hashes."""
    return [f"{name}=={version}" for name, version, _ in entries(lock) if name in TORCH]


def without_torch(lock: str) -> str:
    """The lock without torch, torchvision and the packages that only a CUDA build needs."""
    return "".join(text for name, _, text in entries(lock) if name not in TORCH and not name.startswith(CUDA))


if __name__ == "__main__":
    option, path = sys.argv[1:]
    text = Path(path).read_text(encoding="utf-8")
    print({"--torch": lambda: " ".join(torch_pins(text)), "--rest": lambda: without_torch(text)}[option]())
