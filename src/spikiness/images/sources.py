"""Data sets by name as arrays of uint8, and what names them: `fingerprint`. Nothing here imports torch.

Known files are read from the data folders or fetched from their publishers; their bytes are parsed only after their
checksum was verified. Places, addresses and checksums of downloads are torchvision's.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from spikiness.errors import CorruptArtifact, SpikinessError, suggest
from spikiness.images import archives, download
from spikiness.images.folders import folder_digest, open_folder

#: What `load` takes as a name.
NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "npz:PATH", "folder:PATH")
TRAINING_IMAGES = {"digits": 1400, "mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000}
SPLITS = ("train", "test", "val")  # val: only npz and folder

DIGITS_SHA256 = "d67e6500a0b361994083b4d78c9ef5bc7dc9e97aefe19a7f2dafd50195c687f3"  # of all pixels, train then test
CIFAR_BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of the publisher's archive without pickles: it names the data
# of the unpacked files: torchvision's checksums are those of the .gz, which packing again changes
IDX_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
IDX_FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}  # where torchvision puts them
# torchvision knows Fashion-MNIST by an http address only; this is the authors' repository
FASHION_MIRROR = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"


@dataclass(frozen=True)
class Source:
    """Labels [N], and the pixels at given positions [n] as uint8 [n, C, H, W] from 0 to `white`."""

    labels: np.ndarray
    pixels: Callable[[np.ndarray], np.ndarray]
    white: int = 255
    note: str = ""


def source(name: str, split: str, root: str | os.PathLike[str] | None, fetch: bool) -> Source:
    """The data set `name`; raises `SpikinessError` for an unknown name or split, and where data are missing."""
    kind = check_name(name)
    _check_split(split, kind)
    if kind == "digits":
        return _digits(split)
    if kind == "cifar10":
        return _cifar10(split, root, fetch)
    if kind in IDX_MD5:
        return _mnist(name, split, root, fetch)
    path = _user_path(name, root)
    if kind == "npz":
        return _array_source(*archives.read_npz(path, split))
    labels, pixels, note = open_folder(path, split)
    return Source(labels, pixels, note=note)


def fingerprint(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """SHA-256 (hex) that names the data behind `load(name)`, of all splits.

    Known sets go by their published checksums, so nothing is read; npz and folder by their contents. Raises
    `SpikinessError` for an unknown name or a path that does not exist.
    """
    kind = check_name(name)
    if kind == "digits":
        return DIGITS_SHA256
    if kind in ("cifar10", *IDX_MD5):
        published = [CIFAR_BINARY_MD5] if kind == "cifar10" else IDX_MD5[kind].values()
        return hashlib.sha256(" ".join([kind, *published]).encode()).hexdigest()
    path = _user_path(name, root)
    try:
        return folder_digest(path)
    except OSError as error:
        raise SpikinessError(f"cannot read {error.filename or path}: {error.strerror}") from error


def places(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders in which data are looked for, in this order: root, else $SPIKINESS_DATA; then the user's cache."""
    named = root or os.environ.get("SPIKINESS_DATA")
    cache = Path(platformdirs.user_cache_dir("spikiness", appauthor=False), "data")
    return [Path(named).expanduser(), cache] if named else [cache]


def check_name(name: object) -> str:
    """The kind of data set in `name`: the part before a colon."""
    text = str(name)
    kind = text.partition(":")[0]
    paths = ("npz", "folder")
    if not isinstance(name, str) or (kind if kind in paths else text) not in (*NAMES[:4], *paths):
        near = "; did you mean 'npz:" + text + "'?" if text.endswith(".npz") else suggest(text.lower(), NAMES)
        raise SpikinessError(f"data {name!r} is unknown; use one of {', '.join(NAMES)}{near}")
    if text in ("npz", "npz:", "folder", "folder:"):
        raise SpikinessError(f"data {name!r} needs a path: {kind}:PATH")
    return kind


def _check_split(split: object, kind: str) -> None:
    allowed = SPLITS if kind in ("npz", "folder") else SPLITS[:2]
    if split not in allowed:
        near = suggest(split, allowed)
        raise SpikinessError(f"split {split!r} is unknown for {kind}; use one of {', '.join(allowed)}{near}")


# ---- each kind of data


def _array_source(pixels: np.ndarray, labels: np.ndarray, white: int = 255) -> Source:
    return Source(labels, lambda index: pixels[index], white)


def _digits(split: str) -> Source:
    """scikit-learn's 1,797 digits: 1,400 train and 397 test, drawn once, stratified by class.

    The file's own order would put different writers in the two parts. RandomState, which this draw uses, is frozen.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    order = np.arange(len(data.target))
    drawn = train_test_split(order, train_size=1400, test_size=397, stratify=data.target, random_state=0)
    train, test = (np.sort(part) for part in drawn)
    pixels = data.images[:, None].astype(np.uint8)
    if hashlib.sha256(pixels[train].tobytes() + pixels[test].tobytes()).hexdigest() != DIGITS_SHA256:
        raise CorruptArtifact("this scikit-learn has other digits, or splits them otherwise; install another version")
    index = train if split == "train" else test
    return _array_source(pixels[index], data.target[index], white=16)


def _mnist(name: str, split: str, root: str | os.PathLike[str] | None, fetch: bool) -> Source:
    prefix = "train" if split == "train" else "t10k"
    contents = [
        download.read_verified(_located(name, f"{IDX_FOLDERS[name]}/{file}", root, fetch), md5, unpack=True)
        for file, md5 in IDX_MD5[name].items()
        if file.startswith(prefix)
    ]
    # IDX: a head of four bytes and four for each dimension, then the values
    pixels, labels = (np.frombuffer(data, np.uint8, offset=at) for data, at in zip(contents, (16, 8), strict=True))
    return _array_source(pixels.reshape(-1, 1, 28, 28), labels)


def _cifar10(split: str, root: str | os.PathLike[str] | None, fetch: bool) -> Source:
    """CIFAR10's exact pixels, from torchvision's folder or the published archive; never from a recompressed copy."""
    from torchvision.datasets import CIFAR10

    batches = CIFAR10.train_list if split == "train" else CIFAR10.test_list
    if path := _find(CIFAR10.base_folder, places(root)):
        contents = [download.read_verified(path / batch, md5) for batch, md5 in batches]
    else:
        path = _located("cifar10", CIFAR10.filename, root, fetch)
        packed = download.read_verified(path, CIFAR10.tgz_md5)
        contents = archives.tar_members(packed, [f"{CIFAR10.base_folder}/{batch}" for batch, _ in batches])
    return _array_source(*archives.read_cifar(contents, str(path)))


def _user_path(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The path in "npz:PATH" or "folder:PATH": as given, or below a data folder."""
    given = Path(name.partition(":")[2]).expanduser()
    looked = [Path(), *places(root)]
    path = _find(str(given), looked)
    if path is None or not (os.path.isfile(path) or os.path.isdir(path)):  # a device would be read for ever
        tried = " or ".join(dict.fromkeys(str((folder / given).absolute()) for folder in looked))
        raise SpikinessError(f"{name!r}: there is no file or folder {tried}; give a path that exists")
    return path


# ---- known files


def _find(place: str, folders: list[Path]) -> Path | None:
    # os.path: a name too long or a folder closed to us counts as absent, where pathlib raises
    return next((folder / place for folder in folders if os.path.exists(folder / place)), None)


def _located(name: str, place: str, root: str | os.PathLike[str] | None, fetch: bool) -> Path:
    """The file `place` of the known set `name`: in a data folder, or fetched into the first that can be written."""
    folders = places(root)
    if path := _find(place, folders):
        return path
    if not fetch:
        raise _missing(name, folders, "download=False")
    urls, md5 = _published(name)[place]
    folder = download.writable([(folder / place).parent for folder in folders])
    try:
        return download.fetch(urls, folder / Path(place).name, md5)
    except download.DownloadFailed as error:
        raise _missing(name, folders, f"the download failed ({error})") from error


def _published(name: str) -> dict[str, tuple[list[str], str]]:
    """The files of a known set by their place below a data folder: https addresses and MD5, as torchvision has them."""
    from torchvision import datasets

    if name == "cifar10":
        return {datasets.CIFAR10.filename: ([datasets.CIFAR10.url], datasets.CIFAR10.tgz_md5)}
    kind: Any = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    mirrors = [mirror for mirror in kind.mirrors if mirror.startswith("https:")] or [FASHION_MIRROR]
    return {f"{IDX_FOLDERS[name]}/{file}": ([m + file for m in mirrors], md5) for file, md5 in kind.resources}


def _missing(name: str, folders: list[Path], reason: str) -> SpikinessError:
    """The one error for data that are not here and cannot be fetched: the three ways on."""
    looked = " or ".join(str(folder) for folder in folders)
    absent = {place: urls[0] for place, (urls, _) in _published(name).items() if _find(place, folders) is None}
    hint = ""
    if name == "cifar10" and (jpeg := _find("cifar10-jpeg.zip", folders)):
        hint = f" (load('folder:{jpeg}') reads a recompressed copy, whose pixels are not exact)"
    return SpikinessError(
        f"{name!r} is not in {looked}, and {reason}. Three ways on: put {' '.join(absent.values())} into "
        f"{(folders[0] / next(iter(absent))).parent}; set SPIKINESS_DATA, or root, to a folder that has them; "
        f'or use the embedded data="digits"{hint}'
    )
