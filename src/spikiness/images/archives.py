"""The file formats of the known data sets, parsed from bytes: IDX, CIFAR's binary and python form, MedMNIST's npz.

Nothing here is extracted to disk or executed: archives are read member by member, each with a size known beforehand.
"""

import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spikiness.errors import CorruptArtifact, SpikinessError

CIFAR_RECORDS = 10_000  # images in each of CIFAR10's six files
CIFAR_PIXELS = 3 * 32 * 32
MAX_BYTES = 2**32  # of one array or folder, unpacked


def read_idx(data: bytes, what: str) -> np.ndarray:
    """The uint8 array in IDX, the format of MNIST: 00 00 08 ndim, big-endian sizes, values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise CorruptArtifact(f"{what} is not IDX: it starts with {data[:4]!r} instead of 00 00 08 and its dimensions")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != np.prod(shape, dtype=object):  # object: no overflow for absurd sizes
        raise CorruptArtifact(f"{what} announces {shape.tolist()} values and holds {len(values)}")
    return values.reshape(shape)


def tar_members(packed: bytes, names: Sequence[str], most: int, what: str) -> dict[str, bytes]:
    """The regular files `names` of a .tar.gz, read in memory; refuses links, devices and members above `most` bytes."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r|gz") as tar:
            for member in tar:
                if member.size > most:
                    raise CorruptArtifact(
                        f"{what} holds {member.name!r} of {member.size} bytes; at most {most} expected"
                    )
                if member.name in names:
                    if not member.isreg():
                        raise CorruptArtifact(
                            f"{what} holds {member.name!r} as a link or device; a plain file expected"
                        )
                    found[member.name] = tar.extractfile(member).read()
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorruptArtifact(f"{what} is not a whole .tar.gz: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise CorruptArtifact(f"{what} lacks {missing[0]!r}")
    return found


def read_cifar_binary(files: Sequence[bytes], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3, 32, 32] and labels [N] of CIFAR10's binary files: a label byte, then red, green, blue planes."""
    size = CIFAR_RECORDS * (1 + CIFAR_PIXELS)
    for data in files:
        if len(data) != size:
            raise CorruptArtifact(f"{what} holds a file of {len(data)} bytes; {size} expected")
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, 1 + CIFAR_PIXELS)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays of plain numbers and nothing else, so no code in the file can run."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the same function, whatever numpy calls its module today
        raise CorruptArtifact(f"refused: the file asks for {module}.{name}, and only arrays are read")


def read_cifar_python(files: Sequence[bytes], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3, 32, 32] and labels [N] of CIFAR10's python files; their checksums must have been verified."""
    pixels, labels = [], []
    for data in files:
        try:
            # latin1: the files were written by Python 2, whose text is bytes
            batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
            pixels.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch["labels"], np.uint8))
        except SpikinessError as error:
            raise CorruptArtifact(f"{what}: {error}") from error
        except Exception as error:  # a damaged pickle can fail in any way
            raise CorruptArtifact(f"{what} is not a CIFAR10 batch: {type(error).__name__}: {error}") from error
    return np.concatenate(pixels), np.concatenate(labels)


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
