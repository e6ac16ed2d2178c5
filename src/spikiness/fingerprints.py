"""Which data a name means: where they lie, and a digest of them, found without importing torch, which takes seconds."""

import hashlib
import os
import stat
from pathlib import Path

import platformdirs

from spikiness.errors import SpikinessError, suggest

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "npz:PATH", "folder:PATH")
FETCHED = ("mnist", "fashion-mnist", "cifar10")
TRAINING_IMAGES = {"digits": 1400, "mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000}

CIFAR_BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # published beside the archive; torchvision knows the pickle only
# of the unpacked files, in the order of torchvision's `resources`, whose own checksums are those of the .gz
IDX_MD5 = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}


def places(root: str | os.PathLike | None = None) -> list[Path]:
    """Folders in which data are looked for, in this order: root, else $SPIKINESS_DATA; then the user's cache."""
    named = root or os.environ.get("SPIKINESS_DATA")
    cache = Path(platformdirs.user_cache_dir("spikiness", appauthor=False), "data")
    return [Path(named).expanduser(), cache] if named else [cache]


def find(place: str, folders: list[Path]) -> Path | None:
    """The first of `folders` that holds `place`, joined with it."""
    # os.path: a name too long or a folder closed to us counts as absent, where pathlib raises
    return next((folder / place for folder in folders if os.path.exists(folder / place)), None)


def user_path(name: str, root: str | os.PathLike | None) -> Path:
    """The path in "npz:PATH" or "folder:PATH": as given, or below a data folder. Raises `SpikinessError`."""
    given = Path(name.partition(":")[2]).expanduser()
    looked = [Path(), *places(root)]
    path = find(str(given), looked)
    if path is None or not (os.path.isfile(path) or os.path.isdir(path)):  # a device would be read for ever
        tried = " or ".join(dict.fromkeys(str((folder / given).absolute()) for folder in looked))
        raise SpikinessError(f"{name!r}: there is no file or folder {tried}; give a path that exists")
    return path


def check_name(name: object) -> str:
    """The kind of data set in `name`: the part before a colon. Raises `SpikinessError` where there is no such kind."""
    text = str(name)
    kind = text.partition(":")[0]
    paths = ("npz", "folder")
    if not isinstance(name, str) or (kind if kind in paths else text) not in ("digits", *FETCHED, *paths):
        near = "; did you mean 'npz:" + text + "'?" if text.endswith(".npz") else suggest(text.lower(), NAMES)
        raise SpikinessError(f"data {name!r} is unknown; use one of {', '.join(NAMES)}{near}")
    if text in ("npz", "npz:", "folder", "folder:"):
        raise SpikinessError(f"data {name!r} needs a path: {kind}:PATH")
    return kind


def fingerprint(name: str, root: str | os.PathLike | None = None) -> str:
    """SHA-256 (hex) that names the data behind `images.load(name)`, of all splits.

    Known sets go by their published checksums, so nothing is read; digits by their values; npz and folder by their
    contents. Raises `SpikinessError` for an unknown name or a path that does not exist.
    """
    kind = check_name(name)
    if kind == "digits":
        from spikiness.images import datasets  # the one kind that is read as images

        return hashlib.sha256(datasets.digits_bytes()).hexdigest()
    if kind in FETCHED:
        checksums = (CIFAR_BINARY_MD5,) if kind == "cifar10" else IDX_MD5[kind]
        return hashlib.sha256(" ".join([name, *checksums]).encode()).hexdigest()
    path = user_path(name, root)
    try:
        return folder_digest(path)
    except OSError as error:
        raise SpikinessError(f"cannot read {error.filename or path}: {error.strerror}") from error


def folder_digest(path: Path) -> str:
    """SHA-256 over the sorted names and contents of a folder's files; of a zip, over its bytes."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, size in sorted(disk_sizes(path).items()):
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256((path / name).read_bytes()).digest())
    return digest.hexdigest()


def disk_sizes(path: Path) -> dict[str, int]:
    """Every file below `path` with its size; refuses links and anything that is not a plain file."""
    sizes = {}

    def unreadable(error: OSError) -> None:  # os.walk leaves such folders out by default
        raise SpikinessError(f"cannot read {error.filename}: {error.strerror}")

    for folder, subfolders, files in os.walk(path, onerror=unreadable):
        for entry in subfolders + files:
            full = Path(folder, entry)
            mode = full.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise SpikinessError(f"{full} is a link or device; put a copy of the file in its place")
            if stat.S_ISREG(mode):
                sizes[full.relative_to(path).as_posix()] = full.stat().st_size
    return sizes
