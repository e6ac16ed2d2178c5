"""Data sets by name: `load` gives one float tensor."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import renamed
from spikiness.images.sources import source
from spikiness.images.transforms import grayscale, resize, subset, whole


@dataclass(frozen=True, eq=False)
class Images:
    """x float32 [N, C, H, W] in [-1, 1], y int64 [N], the data set's name, and what a figure must say of the pixels."""

    x: Tensor
    y: Tensor
    name: str
    note: str = ""  # "recompressed as JPEG", or nothing where pixels are exact


def load(
    name: str,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    *,
    gray: bool = False,
    size: int | None = None,
    grey: bool | None = None,
) -> Images:
    """A data set, or a seeded subset of it, as `Images(x, y, name)` with x float32 [N, C, H, W] in [-1, 1].

    name: digits (8 x 8, ships with scikit-learn, 1,400 / 397), mnist, fashion-mnist, cifar10, npz:PATH (MedMNIST's
    keys) or folder:PATH (class folders of PNG or JPEG, or a zip of them; a flat folder is one class). split: train or
    test (npz and folder: also val). n: draws n images without replacement (of one seed, the first of a larger draw);
    all of them, in stored order, by default. root: where data lie, $SPIKINESS_DATA by default, then the user's cache;
    it need not be writable. download: whether missing files may be fetched. gray: one channel, the luma (`grey` is its
    old name). size: H and W in pixels.

    Raises `SpikinessError` for anything unknown, missing or too large an n, and `CorruptArtifact` where a file is
    damaged or not the published one.
    """
    if grey is not None:
        renamed("grey=", "gray=")
        gray = grey
    if n is not None:
        whole(n, "n", 1)  # before seconds are spent on reading
    whole(seed, "seed", 0)
    if size is not None:
        whole(size, "size", 1)
    data = source(name, split, root, download)
    index = torch.arange(len(data.labels))
    if n is not None:
        index = subset(index, n, seed, what=f"{name} {split} images")
    pixels = np.ascontiguousarray(data.pixels(index.numpy()))
    x = torch.from_numpy(pixels).float().div_(data.white / 2).sub_(1)  # [N, C, H, W], 0 -> -1, white -> 1
    x = grayscale(x) if gray else x
    x = x if size is None else resize(x, size)
    y = torch.from_numpy(data.labels.astype(np.int64))[index]
    kind, colon, path = name.partition(":")
    return Images(x, y, f"{kind}:{Path(path).name}" if colon else kind, data.note)  # no machine's path in a figure
