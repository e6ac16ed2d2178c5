"""Trained networks, kept by what made them: a change of colour retrains nothing, a change of the training everything.
Of several processes that want the same networks one trains them and the others wait.

A network is found by the code of the function that trains it and all it uses, the arguments, and torch's version; not
by the device that trained it: either gives a network of this recipe. It is kept in `<home>/networks/<digest>/` as
`weights.safetensors` and `networks.json`, each with its sha256.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikiness import denoisers, networks, sampling
from spikiness.errors import CorruptArtifact, SpikinessError, suggest
from spikiness.training import checkpoints
from spikiness_book.engine.runs import chapter, digests, locks, store

FORMAT = 3
KEPT: dict[str, type[nn.Module]] = {**networks.REGISTRY, "EDM": denoisers.EDM}
SILENT = ("progress", "checkpoint")  # arguments that do not change what is trained


def cached(fit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `fit(*args, **kwargs)` returns, a trained network or a list of them: trained once, then read from disk.

    `fit` is a named function of a module; arguments are tensors, arrays, numbers, text, None, or lists, dicts and
    dataclasses of these, or a class of network, known by its code, perhaps with arguments of its own
    (`functools.partial(UNet, 1, 8)`).
    A network's class is one of `networks.REGISTRY`, with `.arguments` (its constructor's) and perhaps `.record` (JSON:
    how training went); both come back, and weights keep their dtype, on the CPU. Weights that were altered on disk are
    reported and trained again. Raises `SpikinessError` for an argument that cannot be told apart by its value.
    """
    folder = store.under(store.home(), "networks", key(fit, args, kwargs))
    own = folder.with_name(f"{folder.name}.checkpoint")
    if "checkpoint" in inspect.signature(fit).parameters:  # a training cut short goes on from there
        kwargs = {"checkpoint": own, **kwargs}
    if folder.is_dir():
        with contextlib.suppress(CorruptArtifact):  # looked at again below, by one process alone
            return _load(folder)
    with locks.hold(folder.with_name(f"{folder.name}.lock"), f"networks {folder.name[:8]}"):
        if folder.is_dir():  # another process trained them while we waited, or they are damaged
            try:
                return _load(folder)
            except CorruptArtifact as error:
                locks.say(f"cached networks refused, training them again: {error}")
                _discard(folder)
        started, before = time.monotonic(), checkpoints.seconds(Path(kwargs.get("checkpoint") or own))
        made = fit(*args, **kwargs)
        _save(folder, made, before + time.monotonic() - started)
        shutil.rmtree(own, ignore_errors=True)
        return _load(folder)  # what is kept, not what was made: the first run and the next give the same


def sampled(denoiser: nn.Module, shape: Sequence[int], seeds: Sequence[int], labels: Tensor | None = None) -> Tensor:
    """`sampling.sample` of a trained denoiser with these arguments: drawn once, then read from disk, for every chapter
    that asks the same network; on the CPU. Known by the weights, the code of network and sampler, the arguments, and
    torch's version; a file that was altered is drawn again."""
    what = [_described(denoiser), store.sha256(_weights([denoiser])), [*shape], [*seeds]]
    code = [("spikiness.sampling", "sample"), *((type(m).__module__, type(m).__qualname__) for m in _nested(denoiser))]
    what += [_fingerprint("labels", labels), digests.code_digest(code), _torch()]
    path = store.under(store.home(), "samples", f"{store.sha256(json.dumps(what).encode())[:32]}.npz")
    with locks.hold(path.with_suffix(".lock"), f"samples {path.stem[:8]}"):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # zip checks every bit
            return torch.from_numpy(np.load(path)["values"])
        drawn = sampling.sample(denoiser, shape, seeds, labels=labels)
        file = io.BytesIO()
        np.savez(file, values=drawn.cpu().numpy())
        store.write_bytes(path, file.getvalue())
    return drawn.cpu()


def _nested(model: nn.Module) -> list[nn.Module]:
    """A denoiser and the network inside it."""
    return [model, *_nested(model.network)] if isinstance(model, denoisers.EDM) else [model]


def key(fit: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> str:
    """The digest under which `cached(fit, *args, **kwargs)` keeps its networks."""
    bound = inspect.signature(fit).bind(*args, **(kwargs or {}))
    bound.apply_defaults()
    named = {name: value for name, value in bound.arguments.items() if name not in SILENT}
    arguments = [[name, _fingerprint(name, value)] for name, value in sorted(named.items())]
    content = [FORMAT, _code(fit), arguments, _torch()]
    return store.sha256(json.dumps(content).encode())[:32]


def _torch() -> str:
    return metadata.version("torch").partition("+")[0]


def _code(fit: Callable[..., Any]) -> Any:
    """The digest of the code of a function that trains, or of a class of network."""
    name = getattr(fit, "__qualname__", "<lambda>")
    if "<" in name or "." in name:
        raise SpikinessError(f"cached() takes functions and classes defined at the top of a module, not {fit!r}")
    if fit.__module__.partition(".")[0] in digests.PACKAGES:
        return digests.function_digest(fit.__module__, name)
    file = getattr(sys.modules.get(fit.__module__), "__file__", None)
    if file is None:
        raise SpikinessError(
            f"cached() cannot see the code of {fit.__qualname__}: define it in a module, not a notebook"
        )
    return [name, digests.file_digest(Path(file))]  # such a file counts whole


def _fingerprint(name: str, value: Any) -> Any:
    """A JSON value that is equal for equal arguments only."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise SpikinessError(f"cached(): argument {name!r} holds Python objects: give numbers")
        return [str(array.dtype), list(np.shape(value)), store.sha256(array.tobytes())]
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if isinstance(value, torch.dtype | torch.device):
        return [type(value).__name__, str(value)]
    if isinstance(value, type) and issubclass(value, nn.Module):
        return ["class", _code(value)]
    if isinstance(value, functools.partial):
        parts = value.func, value.args, value.keywords
        return ["partial", [_fingerprint(name, part) for part in parts]]
    if isinstance(value, list | tuple):
        return ["list", [_fingerprint(name, item) for item in value]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ["fields", _fingerprint(name, vars(value))]
    if isinstance(value, dict):
        return ["dict", [[str(item), _fingerprint(name, value[item])] for item in sorted(value)]]
    raise SpikinessError(
        f"cached(): argument {name!r} is a {type(value).__name__}, which has no value to know it by: give arrays, "
        "numbers, text, a class of network, or a seed in place of a generator"
    )


def _save(folder: Path, made: Any, seconds: float) -> None:
    """Keep networks: written beside and renamed, so that half of them is never seen."""
    models = made if isinstance(made, list) else [made]
    described = [_described(model) for model in models]
    work = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        weights = _weights(models)
        store.write_bytes(work / "weights.safetensors", weights)
        content = {
            "format": FORMAT,
            "list": isinstance(made, list),
            "networks": described,
            "weights": store.sha256(weights),
            "seconds": round(seconds, 2),  # of training, in all its parts: for the record of every run that uses them
        }
        store.write_json(work / "networks.json", content)
        try:
            os.rename(work, folder)
        except OSError:
            if not folder.is_dir():  # else who was taken for dead made them after all, the same ones
                raise
        store.sync_folder(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _described(model: Any) -> dict[str, Any]:
    name = type(model).__name__
    if not isinstance(model, nn.Module) or KEPT.get(name) is not type(model):
        raise SpikinessError(f"cached() keeps networks of {', '.join(KEPT)}, got {type(model).__qualname__}")
    inner = {"network": _described(model.network)} if isinstance(model, denoisers.EDM) else {}
    return {"class": name, "arguments": model.arguments, "record": getattr(model, "record", None), **inner}


def _weights(models: list[nn.Module]) -> bytes:
    from safetensors.torch import save

    return save(
        {f"{i}.{k}": w.detach().cpu().contiguous() for i, m in enumerate(models) for k, w in m.state_dict().items()}
    )


def _load(folder: Path) -> Any:
    """The networks kept in `folder`, every bit checked; `CorruptArtifact` otherwise. Nothing in it is ever executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = store.read_json(folder / "networks.json")
    path = folder / "weights.safetensors"
    store.check_file(path, content["weights"])
    try:
        weights = load(path.read_bytes())
        made = [_rebuilt(i, described, weights) for i, described in enumerate(content["networks"])]
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"{path} does not hold the networks of {folder / 'networks.json'}: {error}") from error
    chapter.count_training(folder.name, content["seconds"])
    return made if content["list"] else made[0]


def _rebuilt(index: int, described: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    model = _made(described)
    start = f"{index}."
    mine = {key.removeprefix(start): weight for key, weight in weights.items() if key.startswith(start)}
    model.load_state_dict(mine, strict=True, assign=True)  # assign keeps float64
    return model


def _made(described: dict[str, Any]) -> nn.Module:
    name = described["class"]
    if name not in KEPT:
        raise SpikinessError(f"unknown network {name!r}{suggest(name, KEPT)}")
    inner = [_made(described["network"])] if "network" in described else []
    model = KEPT[name](*inner, **described["arguments"])
    if described["record"] is not None:
        model.record = described["record"]
    return model


def _discard(folder: Path) -> None:
    aside = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
