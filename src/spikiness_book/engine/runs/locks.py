"""One owner at a time: of a run, of a training. Others wait; a lock whose owner died is taken over.

A lock is a file, claimed with link(2), which is atomic on every file system that two machines may share. It holds who
has it: machine, process, start of the process, and a token. On the owner's machine a lock is dead when that process is
gone; elsewhere, when the owner's heartbeat, a number that it writes every few seconds, has stood still for a while on
the watcher's own clock: two machines' clocks are never compared.

The `filelock` package has such a lock, `SoftFileLease`, but it takes a dead owner's over only where a file system can
exchange two names in one step; NFS cannot, and that is where machines share runs. Its `FileLock` (flock) is not seen by
other machines on every network file system.
"""

import contextlib
import errno
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spikiness.errors import CorruptArtifact, RunFailed, SpikinessError
from spikiness.files import read_json, write_json

BEAT = 10.0  # seconds between two heartbeats
SILENT = 120.0  # seconds without one after which an owner on another machine counts as dead
LOOK = (0.1, 1.0)  # seconds between two looks of one who waits, growing
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def hold(path: Path, what: str, wait: bool = True) -> Iterator[Callable[[], bool]]:
    """Own the lock file `path` while the block runs; `what` names in messages what is locked.

    Another's lock is waited for, with one line that says whose, or with `wait=False` refused by `RunFailed`. A dead
    owner's is taken over. What the block gets says, when called, whether the lock is still ours: a process that was
    suspended for long may have been taken for dead. Raises `SpikinessError` where the folder cannot be written.
    """
    me = owner()
    _acquire(path, me, what, wait)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, me["token"], ended), daemon=True)
    try:
        beating.start()
        yield lambda: _token(path) == me["token"]
    finally:
        ended.set()
        try:
            if _token(path) == me["token"]:  # else it was taken for dead and taken over: the new owner's stays
                path.unlink(missing_ok=True)
        finally:
            beating.join()
            _heart(path, me["token"]).unlink(missing_ok=True)


def owner() -> dict[str, Any]:
    """Who this process is, to be known again later and from elsewhere."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "token": secrets.token_hex(8),
    }


def alive(who: dict[str, Any]) -> bool | None:
    """Whether an owner lives; None where we cannot see it: on another machine, or hidden from this user."""
    if who.get("machine") != _machine():
        return None
    try:
        started = _started(who["pid"])
    except PermissionError:
        return None
    return started is not None and abs(started - who["started"]) < 1


def _started(pid: int) -> float | None:
    """When a process started, on a clock that nobody sets: a pid may be used again. None where there is none, or only
    what is left of one until its parent asks; `PermissionError` where there is one that we may not see."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else float(fields[19])  # ticks since the boot
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)  # /proc may be mounted so that it shows each user only their own
        return None
    import psutil  # not Linux

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def holder(path: Path) -> dict[str, Any] | None:
    """The owner that a lock file names, dead or alive, or None where there is no lock."""
    try:
        return read_json(path)
    except CorruptArtifact:
        # a lock is written before it is linked, so half of one is a damaged disk: an owner that nobody can be
        return {"host": "?", "machine": "?", "pid": 0, "started": 0.0, "token": "?"} if path.exists() else None


def name(who: dict[str, Any]) -> str:
    """An owner in words."""
    where = "" if who.get("machine") == _machine() else f" on {who.get('host')}"
    return f"process {who.get('pid')}{where}"


def unlock(path: Path) -> None:
    """Remove a lock, whoever has it: for one whose owner is known to be gone."""
    for file in [path, *path.parent.glob(f"{path.name}.*")]:
        file.unlink(missing_ok=True)


# ---- claiming


def _acquire(path: Path, me: dict[str, Any], what: str, wait: bool) -> None:
    seen: tuple[Any, float] = (None, 0.0)  # another machine's (token, heartbeat), and since when it has been that
    pause, told = LOOK[0], False
    while not _claim(path, me):
        other = holder(path)
        if other is None:
            continue
        living = alive(other)
        if living is None:
            now = (other["token"], _count(path, other["token"]))
            if now != seen[0]:
                seen = (now, time.monotonic())
            living = time.monotonic() - seen[1] < SILENT
        if not living and _take_over(path, me, other["token"]):
            say(f"{what}: taken over from {name(other)}, which is gone")
            return
        if living and not wait:
            raise RunFailed(f"{what}: in use by {name(other)}: wait for it, or stop it")
        if living and not told:
            say(f"{what}: waiting for {name(other)}")
            told = True
        time.sleep(pause)
        pause = min(LOOK[1], 1.5 * pause)


def _claim(path: Path, me: dict[str, Any]) -> bool:
    """Make `path` ours where there is none; False where there is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{path.name}.{me['token']}")
        write_json(own, me)
        try:
            os.link(own, path)
        except OSError as error:
            if error.errno in NO_LINKS:
                return _claim_exclusively(path, me)
            if not isinstance(error, FileExistsError):
                raise
            return os.stat(own).st_nlink == 2  # a network file system may have lost its answer to a link that it made
        finally:
            own.unlink(missing_ok=True)
    except OSError as error:
        raise SpikinessError(f"cannot lock {path}: {error.strerror or error}: is the folder writable?") from error
    return True


def _claim_exclusively(path: Path, me: dict[str, Any]) -> bool:
    """The same on a file system without hard links."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    write_json(path, me)
    return True


def _take_over(path: Path, me: dict[str, Any], dead: str) -> bool:
    """Replace the lock of the owner `dead`; of several who try, one does."""
    aside = path.with_name(f"{path.name}.{dead}.dead")
    if not _claim(aside, me):
        if (other := holder(aside)) and alive(other) is False:  # it died while taking over
            aside.unlink(missing_ok=True)
        return False
    try:
        if _token(path) != dead:  # it was taken over before we came
            return False
        write_json(path, me)
        return True
    finally:
        aside.unlink(missing_ok=True)
        _heart(path, dead).unlink(missing_ok=True)


def _token(path: Path) -> str | None:
    found = holder(path)
    return None if found is None else found["token"]


# ---- heartbeats


def _heart(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name}.{token}.beat")


def _beat(path: Path, token: str, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        count += 1
        with contextlib.suppress(OSError, SpikinessError):  # a full disk must not end the run: the lock is still ours
            write_json(_heart(path, token), {"beat": count})


def _count(path: Path, token: str) -> Any:
    with contextlib.suppress(CorruptArtifact):
        return read_json(_heart(path, token))
    return None


def _machine() -> str:
    """What tells two machines apart, and two containers that do not see each other's processes or clocks."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    for namespace in ("pid", "time"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(f"/proc/self/ns/{namespace}"))
    return " ".join(parts)


def say(line: str) -> None:
    """A line for who watches: in a run it goes to the log, since the page of the chapter shows what a cell prints."""
    if path := os.environ.get("SPIKINESS_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
