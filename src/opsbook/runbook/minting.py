"""MEMEs written into a notebook's own file: given where they are missing, or made new as the root of a new line.

The one place that changes a source, and only for somebody who asked for it. What is written differs from what was there
by the MEMEs alone, as far as JSON can be written in more than one way: order, indentation and escapes stay.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from opsbook.errors import RunbookError, UsageError
from opsbook.runbook.lineage import (
    CELL_KEY,
    NOTEBOOK_KEY,
    SIGNATURE_KEY,
    history_with,
    link,
    list_in,
    meme_in,
    read_lineage,
    unique_memes,
)
from opsbook.runbook.meme import new_origin
from opsbook.runbook.notebook import Runbook, read_runbook
from opsbook.runbook.source_file import create_file, replace_file

_INDENT = re.compile(rb"\{\r?\n([ \t]+)")


class Minted(Struct, frozen=True, kw_only=True):
    """What was written into a notebook."""

    path: str
    cells: int
    given: int
    """How many of its cells have a MEME, or another one, that had not."""
    changed: bool


class NewRoot(Struct, frozen=True, kw_only=True):
    """A notebook that begins a new line, and what its cells were called before."""

    path: str
    renamed: tuple[tuple[str, str], ...]
    """The old and the new MEME of each cell; the old one is empty where there was none."""


def mint(path: Path) -> Minted:
    """Give a notebook's file the MEMEs it lacks, in place; one that lacks none is left as it is.

    A cell gets the UUID it was known by before, so that runs and notes of it stay its own.

    Raises:
        RunbookError: it is no notebook, or it cannot be written.
    """
    runbook = read_runbook(path)
    document = _load(runbook)
    lineage = read_lineage(runbook)
    entries = [_entry(cell) for cell in document["cells"]]
    wanted = unique_memes([cell.meme or cell.origin for cell in lineage.cells])
    given = [entry.get("current") != meme for entry, meme in zip(entries, wanted, strict=True)]
    _rename(entries, wanted)
    for cell, entry in zip(document["cells"], entries, strict=True):
        _put(cell["metadata"], CELL_KEY, entry, like=document)
    if not lineage.meme:
        notebook = {"current": lineage.origin, "history": [], "root_cells": wanted}
        _put(document["metadata"], NOTEBOOK_KEY, notebook, like=document)
    changed = document != _load(runbook)
    if changed:
        replace_file(path, _dump(document, like=runbook.raw))
    return Minted(path=str(path), cells=len(entries), given=sum(given), changed=changed)


def new_root(source: Path, to: Path, *, trim_history: int | None = None, clear_signature: bool = False) -> NewRoot:
    """Write a copy of a notebook whose cells begin a new line, each with a MEME nobody has; the old are history.

    `trim_history` keeps so many entries of each history, the newest.

    Raises:
        RunbookError: the source is no notebook, or the copy cannot be written.
        UsageError: there is something in the copy's place.
    """
    if to.is_symlink() or to.exists():
        raise UsageError(f"{to} is there already", "name a file that is not")
    runbook = read_runbook(source)
    document = _load(runbook)
    before = read_lineage(runbook)
    entries = [_entry(cell) for cell in document["cells"]]
    wanted = [new_origin() for _ in entries]
    _rename(entries, wanted)
    renamed = tuple((cell.meme, new) for cell, new in zip(before.cells, wanted, strict=True))
    for cell, entry in zip(document["cells"], entries, strict=True):
        entry["history"] = _trimmed(entry["history"], trim_history)
        _put(cell["metadata"], CELL_KEY, entry, like=document)
    held = document["metadata"].get(NOTEBOOK_KEY)
    notebook = {**(held if isinstance(held, dict) else {}), "current": new_origin(), "root_cells": wanted}
    notebook["history"] = _trimmed([*list_in(held, "history"), *filter(None, [before.meme])], trim_history)
    generations = [*list_in(held, "root_cells_history"), [[old, new] for old, new in renamed if old]]
    notebook["root_cells_history"] = _trimmed(generations, trim_history)
    if clear_signature:
        notebook.pop(SIGNATURE_KEY, None)
    _put(document["metadata"], NOTEBOOK_KEY, notebook, like=document)
    create_file(to, _dump(document, like=runbook.raw))
    return NewRoot(path=str(to), renamed=renamed)


def _rename(entries: list[dict[str, Any]], wanted: list[str]) -> None:
    """Give cells these MEMEs and their neighbours; where anything differs, what was is the history's last entry."""
    before = [dict(entry) for entry in entries]
    for entry, meme in zip(entries, wanted, strict=True):
        entry["current"] = meme
    ends = [{name for name in ("previous", "next") if name not in entry} for entry in entries]
    link(entries)
    for entry, was, absent in zip(entries, before, ends, strict=True):
        for name in absent:
            if meme_in(was) is not None and entry[name] is None:
                del entry[name]  # at its ends NII's own tools write it in both ways
        same = all(entry.get(name) == was.get(name) for name in ("current", "previous", "next"))
        entry["history"] = list_in(was, "history") if same else history_with(was)
        if same and "history" not in was:
            del entry["history"]


def _entry(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of what a cell holds; nothing of what is no MEME."""
    held = cell["metadata"].get(CELL_KEY)
    return dict(held) if meme_in(held) is not None else {}


def _trimmed(history: list[Any], most: int | None) -> list[Any]:
    return history if most is None else history[max(0, len(history) - most) :]


def _put(metadata: dict[str, Any], key: str, value: object, *, like: dict[str, Any]) -> None:
    """Set a key of a notebook; in one whose tables are sorted (as Jupyter's are) ours are, too."""
    is_sorted = list(like) == sorted(like)
    in_order = is_sorted and list(metadata) == sorted(metadata)
    metadata[key] = _sorted(value) if is_sorted else value
    if in_order and list(metadata) != sorted(metadata):
        entries = sorted(metadata.items())
        metadata.clear()
        metadata.update(entries)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return list(map(_sorted, value)) if isinstance(value, list) else value


def _load(runbook: Runbook) -> dict[str, Any]:
    """Return a notebook as JSON has it, in its own order."""
    try:
        document = json.loads(runbook.raw)
    except (ValueError, RecursionError) as error:
        raise RunbookError(f"{runbook.path.name} cannot be read to be written again: {error}") from None
    return dict(document)


def _dump(document: dict[str, Any], *, like: bytes) -> bytes:
    """Write a notebook in the way it was written."""
    found = _INDENT.match(like)
    indent = found[1].decode() if found else None
    is_escaped = like.isascii() and b"\\u" in like
    is_spaced = found is not None or b'": ' in like[:200]
    separators = (("," if found else ", "), ": ") if is_spaced else (",", ":")
    text = json.dumps(document, ensure_ascii=is_escaped, indent=indent, separators=separators)
    if b"\r\n" in like:
        text = text.replace("\n", "\r\n")
    ending = like[len(like.rstrip()) :]
    return text.encode("utf-8", "surrogatepass") + ending
