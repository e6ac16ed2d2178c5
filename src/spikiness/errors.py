"""The errors a user can meet: each names the value, what is allowed and the nearest fix."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches


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
    near = get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def renamed(old: str, new: str) -> None:
    """Warn that what the caller's caller used is called otherwise now; the old name works for one version."""
    warnings.warn(f"{old} is now {new}; the old name goes with version 0.2", DeprecationWarning, stacklevel=3)
