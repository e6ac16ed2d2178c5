"""Checkpoints: everything a training needs to go on as if it had never stopped, two versions deep, each with a sha256.

A version is `<number>.safetensors`, written first, and `<number>.json`, which names its sha256: a version without its
JSON is not there. The one before the newest is kept, for the day the newest is damaged.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from spikiness import files
from spikiness.errors import CorruptArtifact, SpikinessError

KEPT = 2


def save(folder: Path, number: int, tensors: dict[str, Tensor], content: dict[str, Any]) -> Path:
    """Keep `tensors` and the JSON `content` as version `number` (steps done), all or nothing; the path of its JSON."""
    from safetensors.torch import save as to_bytes

    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    path = folder / f"{number:09d}.json"
    files.write_bytes(path.with_suffix(".safetensors"), data)
    files.write_json(path, {**content, "weights": files.sha256(data)})
    _prune(folder, path)
    return path


def _prune(folder: Path, newest: Path) -> None:
    """Leave `newest` and the version before it. Those with higher numbers are damaged, or training would have gone on
    from them; weights without a JSON were cut short."""
    every = versions(folder)
    below = [path for path in every if path.stem < newest.stem]
    for path in [path for path in every if path.stem > newest.stem] + below[KEPT - 1 :]:
        path.unlink(missing_ok=True)
    names = {path.stem for path in versions(folder)}
    for weights in folder.glob("[0-9]" * 9 + ".safetensors"):
        if weights.stem not in names:
            weights.unlink(missing_ok=True)


def versions(folder: Path) -> list[Path]:
    """JSON files of the versions in `folder`, the newest first."""
    return sorted(folder.glob("[0-9]" * 9 + ".json"), reverse=True)


def load(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest version that is whole, or None; one that is damaged is skipped with a line that says which.

    Raises `SpikinessError` where a whole version was made with other `settings` than these.
    """
    paths = versions(folder)
    for path in paths:
        try:
            tensors, content = _read(path)
        except CorruptArtifact as error:
            _say(f"damaged checkpoint skipped: {error}")
            continue
        _same_settings(path, content["settings"], settings)
        return tensors, content
    if paths:
        _say(f"no whole checkpoint in {folder}: training starts anew")
    return None


def seconds(folder: Path) -> float:
    """Seconds of training behind the newest version in `folder` that is whole; 0 where there is none, or it is silent.

    A training that goes on from there has taken these seconds already.
    """
    for path in versions(folder):
        with contextlib.suppress(CorruptArtifact):
            return float(_read(path)[1].get("seconds", 0.0))
    return 0.0


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    content, weights = files.read_json(path), path.with_suffix(".safetensors")
    files.check_file(weights, content["weights"])
    try:
        return from_bytes(weights.read_bytes()), content
    except SafetensorError as error:
        raise CorruptArtifact(f"{weights}: {error}") from error


def _same_settings(path: Path, kept: dict[str, Any], asked: dict[str, Any]) -> None:
    other = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    if other:
        shown = "; ".join(f"{name} was {kept.get(name)!r}, now {asked.get(name)!r}" for name in other)
        raise SpikinessError(
            f"{path} is of another training ({shown}): resume with its settings, or use another folder"
        )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
