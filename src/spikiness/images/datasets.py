"""Data sets by name: `load` gives one float tensor."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spikiness.errors import SpikinessError, suggest
from spikiness.fingerprints import CIFAR_BINARY_MD5, FETCHED, IDX_MD5, check_name, find, places, user_path
from spikiness.images import archives, download
from spikiness.images.folders import open_folder
from spikiness.images.transforms import greyscale, resize, subset, whole

SPLITS = ("train", "test", "val")  # val: only npz and folder


@dataclass(frozen=True, eq=False)
class Images:
    """x float32 [N, C, H, W] in [-1, 1], y int64 [N], the data set's name, and what a figure must say of the pixels."""

    x: Tensor
    y: Tensor
    name: str
    note: str = ""  # "recompressed as JPEG", or nothing where pixels are exact


@dataclass(frozen=True)
class _Source:
    """Labels [N], and the pixels at given positions [n] as uint8 [n, C, H, W] from 0 to `white`."""

    labels: np.ndarray
    pixels: Callable[[np.ndarray], np.ndarray]
    white: int = 255
    note: str = ""


@dataclass(frozen=True)
class _File:
    """A known file: its place below a data folder, where it is published, and its checksums."""

    place: str
    urls: tuple[str, ...]
    md5: str  # as published
    content_md5: str = ""  # unpacked, for .gz


def _mnist_files(name: str) -> list[_File]:
    """The four files of MNIST or Fashion-MNIST, with torchvision's places, checksums and mirrors."""
    from torchvision import datasets  # here, since it takes seconds to import

    kind = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    # an http mirror is used only where there is no other; the checksum guards either
    mirrors = [m for m in kind.mirrors if m.startswith("https:")] or kind.mirrors
    return [
        _File(f"{kind.__name__}/raw/{f}", tuple(m + f for m in mirrors), md5, content)
        for (f, md5), content in zip(kind.resources, IDX_MD5[name], strict=True)
    ]


def _cifar_file() -> _File:
    """CIFAR10's binary archive: the python one is a pickle."""
    from torchvision.datasets import CIFAR10

    place, url = (text.replace("python", "binary") for text in (CIFAR10.filename, CIFAR10.url))
    return _File(place, (url,), CIFAR_BINARY_MD5)


def _files(name: str) -> list[_File]:
    return [_cifar_file()] if name == "cifar10" else _mnist_files(name)


def _missing(name: str, folders: list[Path], reason: str) -> SpikinessError:
    """The one error for data that are not here and cannot be fetched: the three ways on."""
    looked = " or ".join(str(folder) for folder in folders)
    absent = [file for file in _files(name) if find(file.place, folders) is None]
    urls = " ".join(file.urls[0] for file in absent)
    hint = ""
    if name == "cifar10" and (jpeg := find("cifar10-jpeg.zip", folders)):
        hint = f" (load('folder:{jpeg}') reads a recompressed copy, whose pixels are not exact)"
    return SpikinessError(
        f"{name!r} is not in {looked}, and {reason}. Three ways on: put {urls} into "
        f"{(folders[0] / absent[0].place).parent}; set SPIKINESS_DATA, or root, to a folder that has them; "
        f'or use the embedded data="digits"{hint}'
    )


def _obtain(name: str, file: _File, root: str | os.PathLike | None, fetch: bool) -> bytes:
    """The verified, unpacked bytes of a known file, from the data folders or, where allowed, its publisher."""
    folders = places(root)
    path = find(file.place, folders)
    if path is None:
        if not fetch:
            raise _missing(name, folders, "download=False")
        try:
            folder = download.writable([(folder / file.place).parent for folder in folders])
            path = download.fetch(file.urls, folder / Path(file.place).name, file.md5)
        except download.DownloadFailed as error:
            raise _missing(name, folders, f"the download failed ({error})") from error
    return download.read_verified(path, file.content_md5 or file.md5, unpack=bool(file.content_md5))


def _array_source(pixels: np.ndarray, labels: np.ndarray, **more) -> _Source:
    return _Source(labels, lambda index: pixels[index], **more)


def _digits(split: str) -> _Source:
    """scikit-learn's 1,797 digits: 1,400 train and 397 test, drawn once, stratified by class.

    The file's own order would put different writers in the two parts. RandomState, which this draw uses, is frozen.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    order = np.arange(len(data.target))
    train, test = train_test_split(order, train_size=1400, test_size=397, stratify=data.target, random_state=0)
    index = np.sort(train if split == "train" else test)
    return _array_source(data.images[index][:, None].astype(np.uint8), data.target[index], white=16)


def _mnist(name: str, split: str, root: str | os.PathLike | None, fetch: bool) -> _Source:
    prefix = "train" if split == "train" else "t10k"
    files = [f for f in _mnist_files(name) if Path(f.place).name.startswith(prefix)]
    pixels, labels = (archives.read_idx(_obtain(name, f, root, fetch), f.place) for f in files)
    return _array_source(pixels[:, None], labels)


def _cifar_python(split: str, folders: list[Path]) -> _Source | None:
    """CIFAR10 from torchvision's copy, archive or folder: checksums first, then arrays only; None where absent."""
    from torchvision.datasets import CIFAR10

    batches = CIFAR10.train_list if split == "train" else CIFAR10.test_list
    if folder := find(CIFAR10.base_folder, folders):
        files = [download.read_verified(folder / batch, md5) for batch, md5 in batches]
        return _array_source(*archives.read_cifar_python(files, str(folder)))
    if archive := find(CIFAR10.filename, folders):
        packed = download.read_verified(archive, CIFAR10.tgz_md5)
        names = [f"{CIFAR10.base_folder}/{batch}" for batch, _ in batches]
        files = archives.tar_members(packed, names, 2**26, str(archive))
        return _array_source(*archives.read_cifar_python([files[name] for name in names], str(archive)))
    return None


def _cifar10(split: str, root: str | os.PathLike | None, fetch: bool) -> _Source:
    """CIFAR10's exact pixels, from the binary archive or a verified python copy; never from a recompressed one."""
    file = _cifar_file()
    if find(file.place, places(root)) is None and (source := _cifar_python(split, places(root))):
        return source
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    names = [f"cifar-10-batches-bin/{batch}" for batch in batches]
    members = archives.tar_members(_obtain("cifar10", file, root, fetch), names, 2**26, file.place)
    return _array_source(*archives.read_cifar_binary([members[name] for name in names], file.place))


def _check_split(split: object, kind: str) -> None:
    allowed = SPLITS if kind in ("npz", "folder") else SPLITS[:2]
    if split not in allowed:
        near = suggest(split, allowed)
        raise SpikinessError(f"split {split!r} is unknown for {kind}; use one of {', '.join(allowed)}{near}")


def _source(name: str, split: str, root: str | os.PathLike | None, fetch: bool) -> _Source:
    kind = check_name(name)
    _check_split(split, kind)
    if kind == "digits":
        return _digits(split)
    if kind == "cifar10":
        return _cifar10(split, root, fetch)
    if kind in FETCHED:
        return _mnist(name, split, root, fetch)
    path = user_path(name, root)
    if kind == "npz":
        return _array_source(*archives.read_npz(path, split))
    labels, pixels, note = open_folder(path, split)
    return _Source(labels, pixels, note=note)


def load(
    name: str,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
    root: str | os.PathLike | None = None,
    download: bool = True,
    *,
    grey: bool = False,
    size: int | None = None,
) -> Images:
    """A data set, or a seeded subset of it, as `Images(x, y, name)` with x float32 [N, C, H, W] in [-1, 1].

    name: digits (8 x 8, ships with scikit-learn, 1,400 / 397), mnist, fashion-mnist, cifar10, npz:PATH (MedMNIST's
    keys) or folder:PATH (class folders of PNG or JPEG, or a zip of them). split: train or test (npz and folder: also
    val). n: draws n images without replacement (of one seed, the first of a larger draw); all of them, in stored
    order, by default. root: where data lie, $SPIKINESS_DATA by default, then the user's cache; it need not be
    writable. download: whether missing files may be fetched. grey: one channel, the luma. size: H and W in pixels.

    Raises `SpikinessError` for anything unknown, missing or too large an n, and `CorruptArtifact` where a file is
    damaged or not the published one.
    """
    if n is not None:
        whole(n, "n", 1)  # before seconds are spent on reading
    whole(seed, "seed", 0)
    if size is not None:
        whole(size, "size", 1)
    source = _source(name, split, root, download)
    index = torch.arange(len(source.labels))
    if n is not None:
        index = subset(index, n, seed, what=f"{name} {split} images")
    pixels = np.ascontiguousarray(source.pixels(index.numpy()))
    x = torch.from_numpy(pixels).float().div_(source.white / 2).sub_(1)  # [N, C, H, W], 0 -> -1, white -> 1
    x = greyscale(x) if grey else x
    x = x if size is None else resize(x, size)
    y = torch.from_numpy(source.labels.astype(np.int64))[index]
    kind, colon, path = name.partition(":")
    return Images(x, y, f"{kind}:{Path(path).name}" if colon else kind, source.note)  # no machine's path in a figure


def digits_bytes() -> bytes:
    """The pixels of all digits, both parts, in their order: what the fingerprint of digits is of."""
    parts = [part.pixels(np.arange(len(part.labels))).tobytes() for part in map(_digits, SPLITS[:2])]
    return b"".join(parts)
