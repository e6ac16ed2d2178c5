"""What measures take: sets of images or features as finite rows, checked in one place."""

import torch
from torch import Tensor

from spikiness.errors import SpikinessError


def flat(name: str, x: object) -> Tensor:
    """x [N, ...] as [N, d]; refused where empty, not float or not finite."""
    x = _as_tensor(name, x)
    if not x.is_floating_point() or x.ndim < 2 or x[:1].numel() == 0:
        raise SpikinessError(f"{name} must be float and [N, ...] with N >= 1; this is {x.dtype} {tuple(x.shape)}")
    x = x.detach().flatten(1)
    if not torch.stack(x.aminmax()).isfinite().all():  # one pass; both ends are NaN where any value is
        bad = int((~x.isfinite()).any(dim=1).sum())
        raise SpikinessError(f"{bad} of {len(x)} {name} hold NaN or inf and have no distance; remove and report them")
    return x


def _as_tensor(name: str, x: object) -> Tensor:
    """A tensor, or an array or a list of numbers as one; anything else is refused with the remedy."""
    if isinstance(getattr(x, "x", None), Tensor):  # what `images.load` gives
        raise SpikinessError(f"{name} is {type(x).__name__}, not a tensor [N, ...]; give its .x")
    try:
        return torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpikinessError(
            f"{name} is a {type(x).__name__}, not a float tensor [N, ...]; of a list of images make one by torch.stack"
        ) from error


def flat_pair(samples: Tensor, train: Tensor, names: tuple[str, str] = ("samples", "train")) -> tuple[Tensor, Tensor]:
    """samples [N, ...] and train [n, ...] as [N, d] and [n, d]; refused where they differ in more than N and n."""
    samples, train = _as_tensor(names[0], samples), _as_tensor(names[1], train)
    a, b = flat(names[0], samples), flat(names[1], train)
    if samples.shape[1:] != train.shape[1:]:
        shapes = f"{names[0]} {tuple(samples.shape)} and {names[1]} {tuple(train.shape)}"
        raise SpikinessError(f"{shapes} must agree in all but the first axis")
    return a, b
