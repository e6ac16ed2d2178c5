"""A Sphinx extension: docstrings are plain sentences with `code` in backticks, not reStructuredText."""

import re
from typing import Any

from spikiness.errors import Registry


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _escape, priority=400)  # before napoleon turns sections into markup
    return {"parallel_read_safe": True}


def _escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if isinstance(thing, Registry):
        lines += ["", f"Entries: {', '.join(f'`{entry}`' for entry in thing)}.", ""]
    lines[:] = [plain(line) for line in lines]


def plain(line: str) -> str:
    """`code` as a literal, and the characters that mean something else in reStructuredText as themselves."""
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(_literal(part) if part.startswith("`") else _text(part, i > 0) for i, part in enumerate(parts))


def _literal(part: str) -> str:
    return f"``{part.strip('`')}``"


def _text(part: str, after_literal: bool) -> str:
    escaped = re.sub(r"([*|\\])|_(?!\w)", lambda match: "\\" + match[0], part)
    return (
        "\\ " + escaped if after_literal and escaped[:1].isalnum() else escaped
    )  # a literal must end before a letter begins
