"""What cells said, whole, where the executed copy shows a summary of it: the copy says where, the journal has it.

A journal is read as it is, its chain not looked at, and of a long one the beginning: this is for finding things.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from opsbook.archive.layout import JOURNAL
from opsbook.archive.reading import LARGEST, open_regular

_REFERENCE = f"path: {JOURNAL} (opsbook logs "
_OUTPUT, _BEGUN = b'"cell_output"', b'"cell_started"'


class _Said(Struct, frozen=True):
    type: str = ""
    cell_id: str = ""
    text: str = ""


class _Line(Struct, frozen=True):
    event: _Said = _Said()


_DECODER = msgspec.json.Decoder(_Line)


def reference(run_id: str, cell: int | str) -> str:
    """Return the first line of a summary: where a run has the whole, the cell named by its number or id."""
    return f"{_REFERENCE}{run_id} --cell {cell})"


def is_reference(text: str) -> bool:
    """Whether a text of the executed copy is the summary of one that the journal has."""
    return text.startswith(_REFERENCE)


def whole_outputs(journal: Path, cells: Collection[str]) -> dict[str, str]:
    """Return what some cells, by id, said when they ran last; those without a word are left out."""
    said: dict[str, list[str]] = {}
    with suppress(OSError), open_regular(journal) as stream:
        for event in _events(stream):
            if event.cell_id in cells:
                if event.type == "cell_started":
                    said.pop(event.cell_id, None)
                else:
                    said.setdefault(event.cell_id, []).append(event.text)
    return {cell_id: "".join(texts) for cell_id, texts in said.items()}


def _events(stream: BinaryIO) -> Iterator[_Said]:
    """Yield what may be the beginnings of cells and what they said; other lines are not taken apart."""
    left = LARGEST
    while left > 0 and (line := stream.readline(left)):
        left -= len(line)
        if _OUTPUT in line or _BEGUN in line:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                yield _DECODER.decode(line).event
