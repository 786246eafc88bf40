"""Log lines as people read them, as they are, and as one JSON document; a name before each where several speak.

What is printed passes `visible`, and lines are found by what is printed. Batches are written as they come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec.structs import replace

from opsbook.archive.line_pattern import LinePattern
from opsbook.archive.logs import LogLine
from opsbook.model.visible import one_line, plain_json, visible
from opsbook.report.layout import show_plain
from opsbook.secret_forms import as_bytes

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN = re.compile(r"[\t\x20-\x7e]*")
"""Text in which nothing acts: looking each line through for what might costs much more."""


class TextLog:
    """Writes lines for people."""

    def __init__(self, console: Console, *, named: bool) -> None:
        self._console = console
        self._named = named

    def write(self, lines: Sequence[LogLine]) -> None:
        """Write a batch, and hand it over."""
        names = _names(lines, named=self._named)
        show_plain(self._console, [f"{names[line.target, line.cell]}{shown(line)}" for line in lines])
        self._console.file.flush()

    def end(self, notes: Iterable[str]) -> None:
        """End without a word: notes are no part of a log."""


class RawLog:
    """Writes the bytes that are in the archive, line by line."""

    def __init__(self, stream: BinaryIO, *, named: bool) -> None:
        self._stream = stream
        self._named = named

    def write(self, lines: Sequence[LogLine]) -> None:
        """Write a batch, and hand it over."""
        names = _names(lines, named=self._named)
        self._stream.write(b"".join(as_bytes(f"{names[line.target, line.cell]}{line.text}\n") for line in lines))
        self._stream.flush()

    def end(self, notes: Iterable[str]) -> None:
        """End without a word: notes are no part of a log."""


class JsonLog:
    """Writes one document: `run_id`, `lines`, and `notes` on what is not there."""

    def __init__(self, stream: BinaryIO, *, run_id: str) -> None:
        self._stream = stream
        self._between = b""
        self._stream.write(b'{"run_id":' + msgspec.json.encode(run_id) + b',"lines":[')

    def write(self, lines: Sequence[LogLine]) -> None:
        """Write a batch."""
        for line in lines:
            text = as_bytes(line.text).decode("utf-8", "replace")
            self._stream.write(self._between + plain_json(msgspec.json.encode(replace(line, text=text))))
            self._between = b",\n"

    def end(self, notes: Iterable[str]) -> None:
        """Close the document."""
        self._stream.write(b'],"notes":' + plain_json(msgspec.json.encode(list(notes))) + b"}\n")


def found(lines: Sequence[LogLine], pattern: LinePattern | None) -> Sequence[LogLine]:
    """Return the lines a pattern finds, by what is shown of them; all of them where there is none.

    Raises:
        UsageError: it takes too long.
    """
    if pattern is None:
        return lines
    with pattern.bounded():
        return [line for line in lines if pattern.finds(shown(line))]


def shown(line: LogLine) -> str:
    """Return a line's text as it is shown."""
    if _PLAIN.fullmatch(line.text):
        return line.text
    return visible(as_bytes(line.text.removesuffix("\r")).decode("utf-8", "replace"))


def _names(lines: Iterable[LogLine], *, named: bool) -> dict[tuple[str, int], str]:
    """Return what stands before lines, by who said them; nothing where nobody is named."""
    speakers = {(line.target, line.cell) for line in lines}
    return {(target, cell): f"{one_line(target) or f'cell {cell}'} | " if named else "" for target, cell in speakers}
