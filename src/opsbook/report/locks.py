"""Which locks are held and which targets were left in the middle: as lines and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.model.lock import LockState, Standing
from opsbook.model.visible import one_line
from opsbook.report.layout import Piece, flow, labelled, measure, row, show, width_of

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {LockState.HELD: "", LockState.LEFT: "yellow"}
_INDENT = 6


def print_locks(standings: Sequence[Standing], console: Console) -> None:
    """Print each run, whose it is and since when it has its locks, and under it what they are of."""
    width = width_of(console)
    for number, ((state, run_id), locks) in enumerate(groupby(standings, key=lambda one: (one.state, one.run_id))):
        held = list(locks)
        since = min(one.since for one in held).astimezone(UTC)
        who = f"{held[0].user}@{held[0].host}"
        head = flow(map(one_line, (state.value, run_id, who, f"since {since:%F %T}Z")), between="  ", width=width)
        rows: list[list[Piece]] = [
            [(one_line(", ".join(one.targets)) or "--lock", ""), (one_line(one.place), "")] for one in held
        ]
        widths = measure([[text for text, _ in cells] for cells in rows], width=width - _INDENT)
        show(console, [Text()] * (number > 0) + [Text(line, _STYLES[state]) for line in head])
        lines = [line for cells in rows for line in row(cells, widths, indent=_INDENT)]
        show(console, [*lines, *_next(state, one_line(run_id))])


def _next(state: LockState, run_id: str) -> list[Text]:
    """Say in which ways targets that were left in the middle are settled."""
    ways = [f"opsbook resume {run_id}", f"opsbook run … --acknowledge {run_id}"] if state is LockState.LEFT else []
    return labelled("go on", ways, indent=_INDENT, label_width=5)


def locks_document(standings: Sequence[Standing]) -> bytes:
    """Return the locks as one JSON document in one line."""
    return msgspec.json.encode(list(standings)) + b"\n"
