"""Which locks are held and which targets were left in the middle: a table and a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import msgspec

from opsbook.model.lock import LockState, Standing
from opsbook.model.visible import one_line
from opsbook.report.layout import Piece, show, table, width_of

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {LockState.HELD: "", LockState.LEFT: "yellow"}


def print_locks(standings: Sequence[Standing], console: Console) -> None:
    """Print one row for each lock."""
    rows: list[list[Piece]] = [
        [
            (one.state.value, _STYLES[one.state]),
            (one_line(", ".join(one.targets)) or "--lock", ""),
            (one_line(one.place), ""),
            (one_line(one.run_id), ""),
            (one_line(f"{one.user}@{one.host}"), ""),
            (f"{one.since.astimezone(UTC):%F %T}Z", ""),
        ]
        for one in standings
    ]
    show(console, table(["STATE", "TARGET", "ADDRESS OR NAME", "RUN", "WHO", "SINCE"], rows, width=width_of(console)))


def locks_document(standings: Sequence[Standing]) -> bytes:
    """Return the locks as one JSON document in one line."""
    return msgspec.json.encode(list(standings)) + b"\n"
