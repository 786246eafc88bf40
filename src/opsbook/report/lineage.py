"""Where cells come from, on a screen: a notebook's cells and their branches, and where else their like are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.archive.index_items import RUN
from opsbook.archive.search import Place
from opsbook.model.run import RunRecord
from opsbook.model.visible import one_line
from opsbook.report.duration import format_when
from opsbook.report.layout import Piece, crop, labelled, measure, row, show, table, width_of, wrap
from opsbook.report.summary import nearest
from opsbook.runbook.lineage import CellLineage, Lineage
from opsbook.runbook.meme import Meme, parse_meme
from opsbook.runbook.notebook import Runbook

if TYPE_CHECKING:
    from rich.console import Console

_LABEL = 8
_KEPT = frozenset({0, 1})
"""Columns that are never folded."""
_WIDEST = 40
"""Characters of a cell's label."""
_SHOWN = 20
"""Runs that are listed under a notebook."""


def print_lineage(
    runbook: Runbook,
    lineage: Lineage,
    held_by: Sequence[Place],
    console: Console,
    *,
    run: RunRecord | None,
    now: datetime,
) -> None:
    """Print where a notebook and its cells come from, and the runs of it; `run` is the one whose copy it is."""
    width = width_of(console)
    given = sum(bool(cell.meme) for cell in lineage.cells)
    head = f"{one_line(runbook.path.name)} · {len(lineage.cells)} cells, {given or 'none'} with a MEME"
    lines = [Text(line, "bold") for line in wrap(head, width)]
    meme = parse_meme(lineage.meme)
    fields = (
        ("run", run.run_id if run is not None else ""),
        ("of", run.runbook.path if run is not None else ""),
        ("resumes", (run.resumed_from or "") if run is not None else ""),
        ("origin", lineage.origin),
        ("branches", _branches(meme) if meme is not None else ""),
        *(("before", text) for text in _other_origins(lineage.history, lineage.origin)),
        (
            "",
            ""
            if lineage.has_memes
            else "known by its name and its cells' ids; opsbook lineage mint writes MEMEs into it",
        ),
    )
    for label, text in fields:
        lines += labelled(label, wrap(one_line(text), width - _LABEL - 2), label_width=_LABEL) if text else []
    show(console, [*lines, *_cell_lines(runbook, lineage, width=width), *_run_lines(held_by, width=width, now=now)])


def _cell_lines(runbook: Runbook, lineage: Lineage, *, width: int) -> list[Text]:
    """Show each cell, and under it the origins it had before."""
    titles = ["ORIGIN", "INDEX", "CELL", "BRANCHES", "LABEL"]
    rows = [_cell_row(runbook, cell) for cell in lineage.cells]
    if not rows:
        return []
    widths = measure([titles, *([text for text, _ in cells] for cells in rows)], width=width, gap=2, keep=_KEPT)
    lines = [Text(), *row([(title, "bold") for title in titles], widths, gap=2)]
    for cell, cells in zip(lineage.cells, rows, strict=True):
        lines += row(cells, widths, gap=2)
        lines += [Text(f"  before {text}", "dim") for text in _other_origins(cell.history, cell.origin)]
    return lines


def _run_lines(held_by: Sequence[Place], *, width: int, now: datetime) -> list[Text]:
    """Show the newest runs that came from a notebook."""
    runs = runs_of(held_by)
    if not runs:
        return []
    rows = [[(run.name, ""), (run.status, ""), (format_when(run.at, now), ""), (run.user, "")] for run in runs[:_SHOWN]]
    more = [Text(f"and {len(runs) - _SHOWN} more")] if len(runs) > _SHOWN else []
    return [Text(), *table(["RUN", "STATUS", "STARTED", "BY"], _visible(rows), width=width), *more]


def runs_of(held_by: Sequence[Place]) -> list[Place]:
    """Return the runs among the places of a notebook's origin."""
    return [place for place in held_by if place.kind == RUN and place.number == 0]


def _other_origins(history: Sequence[str], origin: str) -> list[str]:
    """Return the origins something had before, the newest first."""
    known = (parse_meme(text) for text in reversed(history))
    return list(dict.fromkeys(meme.origin for meme in known if meme is not None and meme.origin != origin))


def print_places(meme: Meme, held_by: Sequence[Place], console: Console, *, now: datetime) -> None:
    """Print every place a cell, or a notebook, of one origin is, the runbooks first, and how it went there."""
    width = width_of(console)
    lines = labelled("origin", [meme.origin], label_width=_LABEL)
    lines += labelled("branches", [_branches(meme)], label_width=_LABEL) if meme.count else []
    rows = [_place_row(place, held_by, now=now) for place in sorted(held_by, key=lambda place: place.kind)]
    lines += [Text(), *table(["WHERE", "CELL", "RESULT", "WHEN", "LABEL"], _visible(rows), width=width)]
    show(console, lines)


def lineage_document(runbook: Runbook, lineage: Lineage, held_by: Sequence[Place]) -> bytes:
    """Return a notebook's lineage as one JSON document in one line."""
    path = os.fsencode(runbook.path).decode("utf-8", "replace")
    document = {"path": path, **msgspec.to_builtins(lineage), "runs": msgspec.to_builtins(runs_of(held_by))}
    return msgspec.json.encode(document) + b"\n"


def places_document(meme: Meme, held_by: Sequence[Place]) -> bytes:
    """Return every place of one origin as one JSON document in one line."""
    document = {"origin": meme.origin, "meme": meme.text, "places": msgspec.to_builtins(list(held_by))}
    return msgspec.json.encode(document) + b"\n"


def _cell_row(runbook: Runbook, cell: CellLineage) -> list[Piece]:
    meme = parse_meme(cell.meme)
    label = runbook.cells[cell.index].label
    branches = _branches(meme) if meme is not None else "(none written)"
    texts = (cell.origin, str(cell.index), cell.id, branches, crop(label, _WIDEST))
    return [(one_line(text), "") for text in texts]


def _branches(meme: Meme) -> str:
    """Say along which branches something was copied; of old ones only how many there were."""
    if not meme.count:
        return "root"
    unknown = max(0, meme.count - len(meme.branches))
    return " ".join((*([f"{unknown} older"] if unknown else []), *meme.branches))


def _place_row(place: Place, held_by: Sequence[Place], *, now: datetime) -> list[Piece]:
    """Say where it is, and how it went: in a runbook, how it went in the newest run of it."""
    is_run = place.kind == RUN
    known = (other for other in held_by if other.kind == RUN and other.runbook == place.runbook)
    last = place if is_run else next(known, None)
    result = (last.state or last.status) if last is not None else ""
    when = format_when(last.at, now) if last is not None else "never run"
    cell = place.cell_id if place.number else "(the notebook)"
    return [
        (text, "") for text in (place.name if is_run else nearest(Path(place.path)), cell, result, when, place.label)
    ]


def _visible(rows: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    return [[(one_line(text), style) for text, style in cells] for cells in rows]
