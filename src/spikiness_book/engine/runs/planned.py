"""What planning found out, kept in the home until anything that it came from changes: parsing the code takes seconds,
and a list of all runs or an unchanged book would wait for nothing else."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

from spikiness.errors import SpikinessError
from spikiness_book.engine.runs import store


def recall(name: str, key: Callable[[], list[Any]], make: Callable[[], Any]) -> Any:
    """What `make` returns, a JSON value: as it was the last time, where `key`, all that it depends on, is the same.

    One value is kept under each name. None is where the home is not there yet or cannot be written, or where the key
    changed while `make` ran.
    """
    digest = _digest(key())
    place = store.under(store.home(), "planned", f"{name}.json")
    with contextlib.suppress(SpikinessError, KeyError):
        kept = store.read_json(place)
        if kept["key"] == digest:
            return kept["value"]
    value = make()
    if store.home().is_dir() and _digest(key()) == digest:
        with contextlib.suppress(SpikinessError):
            store.write_json(place, {"key": digest, "value": value})
    return value


def _digest(key: list[Any]) -> str:
    return store.sha256(json.dumps(key).encode())
