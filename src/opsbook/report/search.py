"""What a search found, as people read it and as a JSON document, and a query with a sign under what is wrong in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.cells import cell_len
from rich.text import Text

from opsbook.archive.excerpt import Excerpt
from opsbook.archive.index_items import BOOK
from opsbook.archive.line_pattern import PatternError
from opsbook.archive.query import QueryError
from opsbook.archive.search import Found, Hit
from opsbook.model.visible import one_line, visible
from opsbook.report.duration import format_when
from opsbook.report.layout import ends, labelled, show, width_of
from opsbook.report.summary import nearest

if TYPE_CHECKING:
    from rich.console import Console

_LABEL = 7
_WIDEST = 110
"""Text set at both ends of a line is not torn further apart than this."""


def print_found(found: Found, console: Console, *, now: datetime) -> None:
    """Print the hits, the best first, each with the line it was found by and the command that shows more."""
    width = width_of(console)
    for number, hit in enumerate(found.hits):
        show(console, [Text()] * (number > 0) + _hit_lines(hit, now, width=width))
    if found.more:
        show(console, [Text(), Text("there is more: --limit shows it, more words narrow it down")])


def found_document(found: Found, *, query: str) -> bytes:
    """Return what was found as one JSON document in one line."""
    return msgspec.json.encode({"query": query, **msgspec.to_builtins(found)}) + b"\n"


def print_place(error: QueryError | PatternError, console: Console) -> None:
    """Print a query that cannot be understood, and a sign under the place where it went wrong."""
    before, behind = (_on_one_line(part) for part in (error.text[: error.at], error.text[error.at :]))
    show(console, [Text(f"  {before}{behind}"), Text(f"  {' ' * cell_len(before)}^")])


def _hit_lines(hit: Hit, now: datetime, *, width: int) -> list[Text]:
    place = hit.place
    name = one_line(place.runbook) or one_line(place.name)
    label = one_line(place.label)
    told = [place.status, format_when(place.at, now), one_line(place.user)]
    where = f"cell {place.cell} of it" if place.cell else ""
    also = f"the same in {hit.also} other run{'' if hit.also == 1 else 's'}" if hit.also else ""
    look = f"opsbook show {one_line(nearest(Path(place.path)) if place.kind == BOOK else place.name)}"
    more = ", ".join(filter(None, (where, also)))
    lines = ends(
        f"{name} · {label}" if label else name,
        " · ".join(filter(None, ["library" if place.kind == BOOK else "", *told])),
        width=min(width, _WIDEST),
    )
    if hit.excerpt.text:
        lines.append(_line(hit.excerpt, width=width))
    return [*lines, *labelled("look", [f"{look}   ({more})" if more else look], indent=2, label_width=_LABEL)]


def _line(excerpt: Excerpt, *, width: int) -> Text:
    """Return the line something was found by, what was asked for set off."""
    line = Text.assemble("  ", (excerpt.part.ljust(_LABEL), "dim"), "  ")
    end = 0
    for start, stop in excerpt.marks:
        line.append(_on_one_line(excerpt.text[end:start]))
        line.append(_on_one_line(excerpt.text[start:stop]), "bold yellow")
        end = stop
    line.append(_on_one_line(excerpt.text[end:]))
    line.truncate(width, overflow="ellipsis")
    line.rstrip()
    return line


def _on_one_line(text: str) -> str:
    """Return a text visible and in one line, its spaces as they are."""
    return visible(text).replace("\n", " ").replace("\t", " ")
