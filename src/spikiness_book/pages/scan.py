"""The last gate: what must not be in a published page or in a committed notebook."""

import getpass
import re
from collections.abc import Iterator
from pathlib import Path

SECRETS = {
    "a GitHub token": r"\b(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# Folders that exist on one machine only. After a letter, digit, dot or dash it is part of a web address or relative.
FOLDERS = "home|root|Users|tmp|work|workspace|mnt|scratch|data|var/folders"
PATHS = rf"(?<![\w.\-])(?:/(?:{FOLDERS})/[\w.\-]+|[A-Z]:\\+Users\\+\w+)"
BLOB = re.compile(r"[A-Za-z0-9+/=]{200,}")  # pictures in base64 spell anything
ORDINARY = {"root", "user", "admin", "ubuntu", "runner", "jovyan", "vscode", "codespace", "docker", "build", "work"}


def leaks(text: str) -> list[str]:
    """What `text` gives away: absolute paths of a machine, tokens."""
    text = BLOB.sub(" ", text)
    found = [f"an absolute path, {match[0]!r}" for match in re.finditer(PATHS, text)]
    found += [what for what, pattern in SECRETS.items() if re.search(pattern, text)]
    return list(dict.fromkeys(found))


def owner(printed: str, written: str) -> list[str]:
    """The name of who runs this where outputs have `printed` it, and the text, as `written`, has no such word."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return []
    if len(user) < 4 or user.lower() in ORDINARY:
        return []
    word = re.compile(rf"\b{re.escape(user)}\b")
    return [f"the user name {user!r} in an output"] if word.search(printed) and not word.search(written) else []


def html(folder: Path) -> list[str]:
    """Everything wrong with the built pages under `folder`, as "page: what"."""
    problems = [
        f"{page.relative_to(folder)}: {what}" for page in sorted(folder.rglob("*.html")) for what in _page(page)
    ]
    sources = sorted((folder / "_sources").rglob("*")) if (folder / "_sources").is_dir() else []
    for source in sources:
        if source.is_file():
            text = source.read_text(encoding="utf-8", errors="replace")
            problems += [f"{source.relative_to(folder)}: {what}" for what in leaks(text)]
    return problems


def _page(path: Path) -> Iterator[str]:
    from bs4 import BeautifulSoup

    text = path.read_text(encoding="utf-8")
    yield from leaks(text)
    soup = BeautifulSoup(text, "html.parser")
    for tag in soup.find_all(["script", "img", "iframe", "link", "source"]):
        address = tag.get("src") or (tag.get("href") if tag.name == "link" else None) or ""
        if re.match(r"(?:https?:)?//", str(address)) and tag.get("rel") != ["canonical"]:
            yield f"<{tag.name}> loads {address}: the book must read offline"
    for image in soup.select("article img"):
        alt = str(image.get("alt") or "").strip()
        if not alt or Path(str(image.get("src"))).name == Path(alt).name:
            name = Path(str(image.get("src"))).name
            yield f"image {name} has no alt text: set mystnb.image.alt in its cell's metadata"
    printed = [output.extract() for output in soup.select(".cell_output")]
    for output in printed:
        yield from _active(output)
    yield from owner(" ".join(output.get_text(" ") for output in printed), soup.get_text(" "))


def _active(output) -> Iterator[str]:
    """What runs, or should not have been printed, in one output."""
    for tag in output.find_all(["script", "iframe", "object", "embed", "form"]):
        yield f"<{tag.name}> in an output"
    if output.select(".stderr, .traceback"):
        yield "a warning or an error in an output"
    for tag in output.find_all(True):
        if any(name.lower().startswith("on") for name in tag.attrs):
            yield f"<{tag.name}> with an event handler in an output"
        if str(tag.get("href", "")).strip().lower().startswith("javascript:"):
            yield "a javascript: link in an output"


def notebook(path: Path, stored_allowed: bool) -> list[str]:
    """Everything wrong with a committed notebook; a published run may hold outputs, a chapter's source may not."""
    import nbformat

    text = path.read_text(encoding="utf-8")
    content = nbformat.reads(text, as_version=4)
    ran = [c.get("outputs") or c.get("execution_count") is not None for c in content.cells]
    stored = [index for index, done in enumerate(ran, start=1) if done]
    kept = [] if stored_allowed else [f"cell {index} is stored with outputs" for index in stored]
    printed = " ".join(str(output) for cell in content.cells for output in cell.get("outputs", []))
    written = " ".join(cell.source for cell in content.cells)
    return [*leaks(text), *owner(printed, written), *kept, *outputs(content)]


def outputs(content) -> list[str]:
    """Everything wrong with what the cells of an executed notebook printed."""
    code = [(i, cell) for i, cell in enumerate(content.cells, start=1) if cell.cell_type == "code"]
    return [f"cell {index} {what}" for index, cell in code for output in cell.outputs for what in _stored(output)]


def _stored(output) -> Iterator[str]:
    if output.output_type == "error":
        yield f"ended with {output.ename}"
    elif output.output_type == "stream":
        if output.name == "stderr":
            yield f"wrote to stderr: {output.text.strip()[:200]}"
    elif "application/javascript" in output.data or "<script" in str(output.data.get("text/html", "")).lower():
        yield "shows a script"
