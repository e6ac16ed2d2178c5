"""Weights from elsewhere: trained on a GPU, in half precision, compiled or in parallel, and loaded on any machine."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from spikiness.errors import CorruptArtifact, SpikinessError

WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile, and parallel or averaged training, put before every name


def load_weights(network: nn.Module, source: Path | str | Mapping[str, Tensor]) -> nn.Module:
    """Put weights into `network`, in its own type and on its own device; returns it.

    `source` is a safetensors file or a state dict. Names may carry the prefixes of torch.compile, DataParallel and
    AveragedModel. Pickled checkpoints (.pt, .pth, .ckpt, .bin) are refused without being opened, since opening one runs
    code. Raises SpikinessError where names or shapes are not exactly those of the network, with the first that differ.
    """
    given = {_plain(name): weight for name, weight in _read(source).items()}
    given.pop("n_averaged", None)
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is not a weight of this network" for name in given if name not in own]
    problems += [
        f"{name} is {list(given[name].shape)}, not {list(weight.shape)}"
        for name, weight in own.items()
        if name in given and given[name].shape != weight.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SpikinessError(f"these weights are of another network: {'; '.join(problems[:3])}{more}")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(given[name])
    return network


def _plain(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _read(source: Path | str | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        return source
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source)
    if path.suffix != ".safetensors":
        raise SpikinessError(
            f"{path} is not a .safetensors file, and a pickled one can run code when it is opened; where you trust it, "
            "write safetensors.torch.save_file(torch.load(path, weights_only=True), ...) once"
        )
    try:
        return load_file(path, device="cpu")
    except FileNotFoundError as error:
        raise SpikinessError(f"{path} is not there") from error
    except (SafetensorError, OSError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
