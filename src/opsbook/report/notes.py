"""Notes on a screen: each a sentence, the blocking ones first, or a table of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.model.note import Note, Severity
from opsbook.model.visible import one_line
from opsbook.report.layout import Piece, measure, row, show, width_of, wrap

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {Severity.INFO: "dim", Severity.WARN: "yellow", Severity.BLOCK: "bold red"}
_LONGEST = 200
"""Characters of a field of a note."""


def print_notes(notes: Iterable[Note], console: Console) -> None:
    """Print what people have written about what is shown."""
    width = width_of(console)
    for note in notes:
        show(console, (Text(line, _STYLES[note.severity]) for line in wrap(one_line(note.sentence), width)))


def print_note_table(notes: Sequence[Note], console: Console) -> None:
    """Print notes as a table, in the order given, each with what it says under it."""
    width = width_of(console)
    titles = ["NOTE", "SEVERITY", "ABOUT", "BY", "DATE"]
    rows = [_row(note) for note in notes]
    widths = measure([titles, *([text for text, _ in cells] for cells in rows)], width=width, keep=frozenset({0}))
    lines = row([(title, "bold") for title in titles], widths)
    for note, cells in zip(notes, rows, strict=True):
        lines += row(cells, widths)
        lines += [Text(f"  {part}") for part in wrap(one_line(note.problem or note.text), width - 2)]
    show(console, lines)


def _row(note: Note) -> list[Piece]:
    day = f"{note.date:%Y-%m-%d}" if note.date is not None else ""
    about = note.target or note.subject or "(not readable)"
    texts = (note.id, "damaged" if note.problem else note.severity.value, about, note.author, day)
    styles = ("", _STYLES[note.severity], "", "", "")
    return [(one_line(text[:_LONGEST]), style) for text, style in zip(texts, styles, strict=True)]


def notes_document(notes: Sequence[Note]) -> bytes:
    """Return notes as one JSON document in one line."""
    return msgspec.json.encode(list(notes)) + b"\n"
