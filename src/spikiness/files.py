"""Files written whole or not at all, and read only with the sha256 they were written with."""

import errno
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from spikiness.errors import CorruptArtifact, SpikinessError


def sha256(source: Path | bytes) -> str:
    """The sha256 of a file or of bytes, in hex."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` all or nothing: after a crash or a full disk the previous file is still there, whole.

    Raises `SpikinessError` naming the path and the bytes where the system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # same folder: a rename cannot cross disks
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise SpikinessError(
            f"cannot write {path}: {why} ({len(data):,} bytes needed); free some space there or set SPIKINESS_HOME"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical(content: dict[str, Any]) -> str:
    """A JSON object as text, the same for equal objects, in whatever order their keys were written."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n"


def as_text(content: dict[str, Any]) -> str:
    """A JSON object as a file holds it: in the order in which its keys were written, for who reads it."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object atomically, with the sha256 of the rest of it under the key "sha256"."""
    digest = sha256(as_text(content).encode())
    write_bytes(path, as_text({**content, "sha256": digest}).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote, without the "sha256" key; `CorruptArtifact` where one bit of it differs."""
    try:
        text = Path(path).read_bytes().decode().replace("\r\n", "\n")  # git may have changed the line ends
        content = json.loads(text)
        expected = content.pop("sha256")
        found = sha256(as_text(content).encode())
        whole = text == as_text({**content, "sha256": expected})
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{path} is missing") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptArtifact(f"{path} cannot be read ({type(error).__name__}): truncated or altered") from error
    if found != expected or not whole:
        raise CorruptArtifact(f"{path}: expected sha256 {expected}, found {found}: truncated or altered")
    return content


def check_file(path: Path, expected: str) -> None:
    """`CorruptArtifact` unless the file at `path` has the sha256 `expected`."""
    try:
        found = sha256(path)
    except OSError as error:
        raise CorruptArtifact(f"{path}: expected sha256 {expected}, but {error.strerror or error}") from error
    if found != expected:
        raise CorruptArtifact(f"{path}: expected sha256 {expected}, found {found}")
