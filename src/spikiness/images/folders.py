"""Class folders of PNG and JPEG images, on disk or in a zip, decoded in memory."""

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from spikiness.errors import CorruptArtifact, SpikinessError
from spikiness.fingerprints import disk_sizes

SPLITS = ("train", "val", "test")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
OTHER_FORMATS = (".gif", ".webp", ".bmp", ".tif", ".tiff")
MAX_FILE_BYTES = 2**26  # of one image file
MAX_BYTES = 2**32  # of all files together
MAX_PIXELS = 2**24  # of one image, 4096 x 4096
LAYOUT = "images lie in CLASS/NAME.png, or train/CLASS/NAME.png and test/CLASS/NAME.png (.png, .jpg)"


def _zip_sizes(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Every file of the zip with its unpacked size; refuses names that leave it, links, encryption and doubles."""
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        name, mode = info.filename, info.external_attr >> 16
        if "\\" in name or ":" in name.split("/")[0] or name.startswith("/") or ".." in name.split("/"):
            raise CorruptArtifact(f"{path} holds {name!r}, which leads out of the archive; refused")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise CorruptArtifact(f"{path} holds {name!r} as a link or device; refused")
        if info.flag_bits & 1:
            raise SpikinessError(f"{path} is encrypted; unpack it and name the folder")
        if name in sizes:
            raise CorruptArtifact(f"{path} holds {name!r} twice; refused")
        if not info.is_dir():
            sizes[name] = info.file_size
    return sizes


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptArtifact(f"{path} is neither a folder nor a whole zip: {error}") from error
    with archive:
        yield archive


def _sizes(path: Path) -> dict[str, int]:
    """Sizes by name of all files in a folder or zip."""
    if path.is_dir():
        return disk_sizes(path)
    with _zip(path) as archive:
        return _zip_sizes(archive, path)


@contextmanager
def _reader(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function from the name of a file in a folder or zip to its bytes."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
    else:
        with _zip(path) as archive:
            yield archive.read


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # pathlib would take seconds for 60,000 names


def _images(sizes: dict[str, int], path: Path) -> list[str]:
    """The sorted names of image files, others left out; refuses formats that would be lost, and bombs."""
    names = []
    for name, size in sorted(sizes.items()):
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            continue
        suffix = _suffix(name)
        if suffix in OTHER_FORMATS:
            raise SpikinessError(f"{path} holds {name!r}; only PNG and JPEG are read, so convert it to PNG")
        if suffix in FORMATS:
            if size > MAX_FILE_BYTES:
                raise CorruptArtifact(f"{path}: {name!r} has {size} bytes; at most {MAX_FILE_BYTES} are read")
            names.append(name)
    total = sum(sizes[name] for name in names)
    if total > MAX_BYTES:
        raise CorruptArtifact(f"{path} unpacks to {total} bytes; at most {MAX_BYTES} are read")
    return names


def _split_names(names: list[str], split: str, path: Path) -> tuple[list[str], np.ndarray]:
    """Names of one split and their labels; classes are numbered in the sorted order of all splits' folders."""
    parts = {name: name.split("/") for name in names}
    in_splits = bool(names) and all(p[0] in SPLITS for p in parts.values())
    depth = 3 if in_splits else 2  # split/class/file or class/file
    odd = next((name for name, p in parts.items() if len(p) != depth), None)
    if odd or not names:
        raise SpikinessError(f"{path} holds {f'{odd!r}' if odd else 'no images'}; {LAYOUT}")
    classes = {c: i for i, c in enumerate(sorted({p[-2] for p in parts.values()}))}
    available = sorted({p[0] for p in parts.values()}) if in_splits else ["train"]
    if split not in available:
        raise SpikinessError(f"split {split!r} is not in {path}, which has {' and '.join(available)}; {LAYOUT}")
    chosen = [name for name, p in parts.items() if not in_splits or p[0] == split]
    return chosen, np.array([classes[parts[name][-2]] for name in chosen])


def _decode(name: str, read: Callable[[str], bytes], path: Path) -> np.ndarray:
    """One image as uint8 [H, W, 1 or 3]; its format must be the one its name tells."""
    try:
        with Image.open(io.BytesIO(read(name)), formats=(FORMATS[_suffix(name)],)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SpikinessError(f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
            if image.mode in ("1", "L"):
                return np.asarray(image.convert("L"))[..., None]
            if image.mode in ("RGB", "P", "CMYK"):
                return np.asarray(image.convert("RGB"))
            raise SpikinessError(f"its mode is {image.mode}; convert it to 8-bit grey or RGB without transparency")
    except Exception as error:  # damaged images make zipfile and Pillow raise errors of many kinds
        raise CorruptArtifact(f"{path}: {name!r} cannot be read: {error}") from error


def _decode_all(names: list[str], path: Path) -> np.ndarray:
    """uint8 [N, C, H, W]; grey images among coloured ones become coloured, unequal sizes are refused."""
    images: list[np.ndarray] = []
    with _reader(path) as read:
        for name in names:
            images.append(_decode(name, read, path))
            if images[-1].shape[:2] != images[0].shape[:2]:
                one, other = (f"{i.shape[1]} x {i.shape[0]}" for i in (images[0], images[-1]))
                raise SpikinessError(f"{path}: {names[0]!r} is {one}, {name!r} {other}; resize them to one size first")
            if images[0].size * len(names) > MAX_BYTES:
                raise SpikinessError(f"{path}: {len(names)} such images exceed {MAX_BYTES} bytes; take a smaller n")
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(i, (*i.shape[:2], channels)) for i in images]).transpose(0, 3, 1, 2)


def open_folder(path: Path, split: str) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], str]:
    """Labels [N], a function from positions [n] to pixels uint8 [n, C, H, W], and a note on how exact they are.

    Images are in the sorted order of their names and only those asked for are decoded, about .2 ms for a small
    JPEG, so a zip of 50,000 takes ten seconds. Raises `SpikinessError` for another layout, `CorruptArtifact` for
    damaged or hostile archives.
    """
    names, labels = _split_names(_images(_sizes(path), path), split, path)

    def pixels(index: np.ndarray) -> np.ndarray:
        return _decode_all([names[i] for i in index], path)

    jpeg = any(FORMATS[_suffix(name)] == "JPEG" for name in names)
    return labels, pixels, "recompressed as JPEG" if jpeg else ""
