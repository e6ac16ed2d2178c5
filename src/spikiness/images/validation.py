"""Validation of images that come from outside, once, by `check`."""

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import SpikinessError
from spikiness.images.transforms import whole


def _check_dtype(x: object) -> None:
    if isinstance(x, np.ndarray):
        raise SpikinessError("x is a numpy array; images are float tensors [N, C, H, W]: torch.from_numpy(x)")
    if not isinstance(x, Tensor):
        raise SpikinessError(f"x is a {type(x).__name__}; images are float tensors [N, C, H, W]{_as_tensor(x)}")
    if x.dtype == torch.uint8:
        raise SpikinessError("x is uint8 (0..255); images are floats in [-1, 1]: x.float() / 127.5 - 1")
    if x.dtype not in (torch.float32, torch.float64):
        raise SpikinessError(f"x is {x.dtype}; images are float32 or float64 in [-1, 1]: x.float(), then scale")


def _as_tensor(x: object) -> str:
    """How to make a tensor of what is none, as the end of a sentence."""
    if isinstance(getattr(x, "x", None), Tensor):  # what `images.load` gives
        return ": give its .x"
    first = x[0] if isinstance(x, list | tuple) and x else None
    if isinstance(first, Tensor):
        return ": torch.stack(x)"
    if hasattr(first, "getbands"):  # a PIL image, without importing PIL
        return ": torch.stack([torchvision.transforms.functional.pil_to_tensor(i) for i in x]) / 127.5 - 1"
    return ""


def _check_layout(x: Tensor, channels: int | None) -> None:
    if x.ndim != 4:
        fixes = {3: "; for one image x[None], for N gray ones x[:, None]", 2: "; for flat rows x.reshape(N, C, H, W)"}
        raise SpikinessError(f"x has shape {list(x.shape)}; images are [N, C, H, W]{fixes.get(x.ndim, '')}")
    if x.numel() == 0:
        raise SpikinessError(f"x has shape {list(x.shape)}, so holds no images; at least one is needed")
    known = (1, 3) if channels is None else (channels,)
    if x.shape[1] not in known and x.shape[3] in known:
        raise SpikinessError(f"x has shape {list(x.shape)}, which looks like [N, H, W, C]: x.permute(0, 3, 1, 2)")
    if channels is not None and x.shape[1] != channels:
        fix = {(1, 3): ": x.expand(-1, 3, -1, -1)", (3, 1): ": images.grayscale(x)"}.get((x.shape[1], channels), "")
        raise SpikinessError(f"x has {x.shape[1]} channel(s); {channels} wanted{fix}")


def _check_range(x: Tensor, tolerance: float, allow_unit: bool) -> None:
    finite = x.isfinite()
    if not bool(finite.all()):
        bad = (~finite).flatten(1).any(1).nonzero().flatten()
        raise SpikinessError(
            f"{len(bad)} of {len(x)} images hold NaN or infinity, the first at {int(bad[0])}; leave them out"
        )
    low, high = float(x.min()), float(x.max())
    if low < -1 - tolerance or high > 1 + tolerance:
        scale = "x / 127.5 - 1 if they are 0..255" if low >= 0 and high <= 255 else "x.clamp(-1, 1) if they overshoot"
        edge = 1 + tolerance
        raise SpikinessError(
            f"x spans {low:.4g} to {high:.4g}; images lie in [-1, 1] (at most {edge:.4g} off 0): {scale}"
        )
    if 0 <= low < high <= 1 and not allow_unit:
        raise SpikinessError(
            f"x spans {low:.4g} to {high:.4g}, which looks like [0, 1]; images lie in [-1, 1]: 2 * x - 1, "
            "or allow_unit=True where nothing is darker than mid-gray"
        )


def check(
    x: Tensor,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    tolerance: float = 0.5,
    allow_unit: bool = False,
) -> Tensor:
    """x itself if it is a batch of images [N, C, H, W], float32 or float64 in [-1, 1], else one error with the remedy.

    channels, size: wanted C, and H, W, where they matter. tolerance: how far a value may lie beyond [-1, 1], since
    samples overshoot. allow_unit: accept a batch that lies in [0, 1], refused by default since it is most often
    badly scaled. Nothing is converted silently. Raises `SpikinessError`.
    """
    _check_dtype(x)
    _check_layout(x, None if channels is None else whole(channels, "channels", 1))
    if size is not None:
        height, width = size if isinstance(size, tuple) else (size, size)
        if tuple(x.shape[2:]) != (height, width):
            got, fix = f"{x.shape[2]} x {x.shape[3]}", f": images.resize(x, {height})" if height == width else ""
            raise SpikinessError(f"images are {got}; {height} x {width} wanted{fix}")
    _check_range(x, tolerance, allow_unit)
    return x
