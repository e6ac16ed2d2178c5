"""The errors a user can meet: each names the value, what is allowed and the nearest fix."""

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NoReturn, TypeVar

Entry = TypeVar("Entry")


class SpikinessError(ValueError):
    """Something the caller can mend: the message says how."""


class CorruptArtifact(SpikinessError):
    """A stored file is not the one that was written: its checksum differs."""


class RunFailed(SpikinessError):
    """A chapter ended without a verified result."""


class Diverged(SpikinessError):
    """Training met a loss that is not finite."""


def suggest(name: object, allowed: Iterable[str]) -> str:
    """The nearest allowed name as the end of a sentence, "; did you mean 'n'?", or an empty string."""
    allowed = {known.lower(): known for known in allowed}
    near = get_close_matches(str(name).lower(), allowed, n=1, cutoff=0.5)
    return f"; did you mean {allowed[near[0]]!r}?" if near else ""


class Registry(dict[str, Entry]):
    """A table by name; asked for a name that it lacks, it raises a `SpikinessError` with the nearest one."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        super().__init__(entries)
        self.kind = kind  # what the entries are, as the error calls them

    def check(self, name: str) -> None:
        """Refuse a name that the table lacks."""
        if name not in self:
            self.__missing__(name)

    def __missing__(self, name: object) -> NoReturn:
        raise SpikinessError(f"unknown {self.kind} {name!r}: one of {', '.join(self)}{suggest(name, self)}")


def renamed(old: str, new: str) -> None:
    """Warn that what the caller's caller used is called otherwise now; the old name works for one version."""
    warnings.warn(f"{old} is now {new}; the old name goes with version 0.2", DeprecationWarning, stacklevel=3)
