"""The file formats of the known data sets, parsed from bytes: CIFAR's archive and batches, MedMNIST's npz.

Nothing here is extracted to disk or executed.
"""

import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from spikiness.errors import CorruptArtifact, SpikinessError

MAX_BYTES = 2**32  # of one array, unpacked


def tar_members(packed: bytes, names: Sequence[str]) -> list[bytes]:
    """The files `names` of a .tar.gz, read in memory; its checksum must have been verified."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return [cast(IO[bytes], tar.extractfile(name)).read() for name in names]


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays of plain numbers and nothing else, so no code in the file can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the same function, whatever numpy calls its module today
        raise CorruptArtifact(f"refused: the file asks for {module}.{name}, and only arrays are read")


def read_cifar(batches: Sequence[bytes], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3, 32, 32] and labels [N] of CIFAR10's pickled batches; their checksums must have been verified."""
    try:
        # latin1: the files were written by Python 2, whose text is bytes
        parts = [_ArraysOnly(io.BytesIO(batch), encoding="latin1").load() for batch in batches]
    except CorruptArtifact as error:
        raise CorruptArtifact(f"{what}: {error}") from error
    pixels = np.concatenate([part["data"] for part in parts])  # [N, 3072], red, green and blue planes
    return pixels.reshape(-1, 3, 32, 32), np.concatenate([part["labels"] for part in parts]).astype(np.uint8)


def _npz_array(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    """One array of an npz, its size capped before it is unpacked and its objects refused."""
    info = archive.getinfo(f"{key}.npy")
    if info.file_size > MAX_BYTES:
        raise CorruptArtifact(f"{path}: {key} unpacks to {info.file_size} bytes; at most {MAX_BYTES} are read")
    try:
        return np.load(io.BytesIO(archive.read(info)), allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError, MemoryError) as error:
        raise CorruptArtifact(f"{path}: {key} cannot be read: {error}; write plain arrays with np.savez") from error


def read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, C, H, W] and labels [N] of one split of an npz with MedMNIST's keys.

    `<split>_images` is uint8 [N, H, W] or [N, H, W, 1 or 3], `<split>_labels` whole numbers [N] or [N, 1]; splits are
    train, val and test. Raises `CorruptArtifact` for a damaged file, `SpikinessError` for other keys, types or shapes.
    """
    images, labels = f"{split}_images", f"{split}_labels"
    try:
        with zipfile.ZipFile(path) as archive:
            keys = sorted(name.removesuffix(".npy") for name in archive.namelist())
            if images not in keys or labels not in keys:
                raise SpikinessError(f"{path} has no {images!r} and {labels!r}; its arrays are {', '.join(keys)}")
            x, y = _npz_array(archive, images, path), _npz_array(archive, labels, path)
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptArtifact(f"{path} is not a whole npz file: {error}; write it with np.savez") from error
    if x.dtype != np.uint8:
        raise SpikinessError(f"{path}: {images} is {x.dtype}; pixels must be uint8, 0..255")
    if x.ndim == 3:
        x = x[..., None]  # [N, H, W, 1]
    if x.ndim != 4 or x.shape[3] not in (1, 3) or x.size == 0:
        raise SpikinessError(f"{path}: {images} has shape {list(x.shape)}; [N, H, W] or [N, H, W, 1 or 3] wanted")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise SpikinessError(
            f"{path}: {labels} is {y.dtype} of shape {list(y.shape)}; one whole number for each of "
            f"{len(x)} images wanted"
        )
    return x.transpose(0, 3, 1, 2), y
