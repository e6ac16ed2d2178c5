"""Verified files: read with their checksum, downloaded under a temporary name and renamed once the checksum agrees."""

import errno
import gzip
import hashlib
import io
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from spikiness.errors import CorruptArtifact, SpikinessError

RETRIES = 2  # of one address, after pauses that grow
STALL_SECONDS = 15.0  # a server silent for so long is given up
MAX_BYTES = 2**30  # no known file is larger


class DownloadFailed(SpikinessError):
    """No address gave the file; says what each answered."""


def read_verified(path: Path, md5: str, unpack: bool = False) -> bytes:
    """The bytes of `path`, or `CorruptArtifact` where their MD5 is not the expected one; nothing is parsed before.

    unpack: the file is gzip, and the bytes and their MD5 are those of its content, since packing again changes a
    gzip file and not its content.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:  # a device would be read for ever
            raise CorruptArtifact(f"{path} is no plain file of at most {MAX_BYTES} bytes; remove it")
        stored = path.read_bytes()
    except OSError as error:
        raise SpikinessError(f"cannot read {path}: {error.strerror}; check that it is a readable file") from error
    data = _gunzip(stored) if unpack else stored
    got = hashlib.md5(data, usedforsecurity=False).hexdigest()  # the publishers give MD5
    if got != md5:
        what = f"{path} (its content)" if unpack else path
        page = " (it is a web page, not the data)" if stored.lstrip()[:5].lower() in (b"<!doc", b"<html") else ""
        raise CorruptArtifact(f"{what}: expected md5 {md5}, got {got}{page}; remove the file, and it is fetched again")
    return data


def _gunzip(packed: bytes) -> bytes:
    """The content of a gzip file; of a damaged one the file itself, which the checksum then refuses."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            return file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error):
        return packed


def fetch(urls: Sequence[str], target: Path, md5: str) -> Path:
    """`target`, downloaded from the first of `urls` that gives bytes with this MD5.

    Each address is tried again after a pause. No redirect is followed, so https never becomes http. The file appears
    whole or not at all, and of two processes at once both succeed. Raises `DownloadFailed` with each answer, and
    `SpikinessError` where the disk is full; `target` is then as it was.
    """
    import pooch  # here, since most data are on disk already

    pooch.get_logger().setLevel("WARNING")
    bar = sys.stderr.isatty()  # no bar where nobody watches, such as in a notebook run
    downloader = pooch.HTTPDownloader(progressbar=bar, timeout=STALL_SECONDS, allow_redirects=False)
    answers = []
    for url in urls:
        store = pooch.create(
            target.parent, "", registry={target.name: f"md5:{md5}"}, urls={target.name: url}, retry_if_failed=RETRIES
        )
        try:
            store.fetch(target.name, downloader=downloader)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpikinessError(f"no room for {target}: {error.strerror}; free some or move the data") from error
            answers.append(f"{url}: {error}")
        else:
            target.chmod(0o644)  # a temporary file's 0600 would shut colleagues out of a shared folder
            return target
    raise DownloadFailed("; ".join(answers))


def writable(folders: Sequence[Path]) -> Path:
    """The first of `folders` in which a file can be made, created where absent; `SpikinessError` where none is."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    tried = " nor ".join(str(folder) for folder in folders)
    raise SpikinessError(f"cannot write to {tried}; set SPIKINESS_DATA to a folder that you can write")
