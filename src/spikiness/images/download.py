"""Verified files: read with their checksum, downloaded under a temporary name and renamed once the checksum agrees."""

import errno
import gzip
import hashlib
import io
import os
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from spikiness.errors import CorruptArtifact, SpikinessError

ATTEMPTS = 3  # rounds over the mirrors
BACKOFF_SECONDS = 1.0  # pause after the first round; doubles
STALL_SECONDS = 15.0  # a server silent for so long is given up
LIMIT_SECONDS = 1800.0  # for one file, all attempts together
MAX_BYTES = 2**30  # no known file is larger


class DownloadFailed(SpikinessError):
    """No mirror gave the file; says what each answered."""


def _md5(data: bytes = b""):
    return hashlib.md5(data, usedforsecurity=False)  # the publishers give MD5; it guards against damage


def _differs(what: object, expected: str, got: str, head: bytes) -> str:
    page = " (it is a web page, not the data)" if head.lstrip()[:6].lower() in (b"<!doct", b"<html>", b"<html ") else ""
    return f"{what}: expected md5 {expected}, got {got}{page}"


def _gunzip(packed: bytes) -> bytes:
    """The content of a gzip file; of a damaged one the file itself, which the checksum then refuses."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            return file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error):
        return packed


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
    got = _md5(data).hexdigest()
    if got != md5:
        what = f"{path} (its content)" if unpack else path
        raise CorruptArtifact(f"{_differs(what, md5, got, stored[:64])}; remove the file, and it is fetched again")
    return data


class _KeepHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(self, request, response, code, message, headers, url):
        if request.full_url.startswith("https:") and not url.startswith("https:"):
            raise urllib.error.HTTPError(url, 403, "redirect from https to http refused", headers, response)
        return super().redirect_request(request, response, code, message, headers, url)


def _stream(url: str, file, deadline: float) -> tuple[str, bytes]:
    """Copies `url` into `file`; its MD5 and first bytes. Raises OSError or HTTPException where the transfer fails."""
    opener = urllib.request.build_opener(_KeepHttps)
    request = urllib.request.Request(url, headers={"User-Agent": "spikiness"})
    digest, head, received = _md5(), b"", 0
    with opener.open(request, timeout=STALL_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0)
        # disable=None: no bar where nobody watches, such as in a notebook run
        with tqdm(total=total or None, unit="B", unit_scale=True, desc=url.rpartition("/")[2], disable=None) as bar:
            # read1 returns what has come, so a slow drip cannot outlast the deadline
            while chunk := response.read1(2**16):
                head = head or chunk[:64]
                received += len(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"took longer than {LIMIT_SECONDS:.0f} s")
                if received > MAX_BYTES:
                    raise ConnectionError(f"sent more than {MAX_BYTES} bytes")
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    if received < total:
        raise ConnectionError(f"cut off after {received} of {total} bytes")
    return digest.hexdigest(), head


def _attempt(url: str, target: Path, md5: str, deadline: float) -> None:
    """One download of `url` to `target`; on any failure nothing is left behind."""
    # a name of its own per process: two at once both succeed, the later rename wins with the same bytes
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            got, head = _stream(url, file, deadline)
            file.flush()
            os.fsync(file.fileno())
        if got != md5:
            raise ConnectionError(_differs("wrong content", md5, got, head))
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would shut colleagues out of a shared folder
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _permanent(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)


def fetch(urls: Sequence[str], target: Path, md5: str) -> Path:
    """`target`, downloaded from the first of `urls` that gives bytes with this MD5; retried with growing pauses.

    Only the given addresses are asked, so https never becomes http. Raises `DownloadFailed` with each answer after
    `ATTEMPTS` rounds or `LIMIT_SECONDS`; `target` is then as it was.
    """
    deadline, left, answers = time.monotonic() + LIMIT_SECONDS, list(urls), {}
    for attempt in range(ATTEMPTS):
        for url in list(left):
            try:
                _attempt(url, target, md5, deadline)
                return target
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise SpikinessError(
                        f"no room for {target}: {error.strerror}; free some or move the data"
                    ) from error
                answers[url] = str(error) or type(error).__name__
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if _permanent(error):
                    left.remove(url)
        pause = BACKOFF_SECONDS * 2**attempt
        if not left or attempt == ATTEMPTS - 1 or time.monotonic() + pause > deadline:
            break
        time.sleep(pause)
    raise DownloadFailed("; ".join(f"{url}: {answer}" for url, answer in answers.items()))


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
