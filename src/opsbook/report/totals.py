"""What the runs of each runbook come to: a table and a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.archive.selection import Totals
from opsbook.model.visible import one_line
from opsbook.report.duration import format_duration, format_when
from opsbook.report.layout import Piece, show, table, width_of

if TYPE_CHECKING:
    from rich.console import Console

_MOST_NAMES = 4


def print_totals(totals: Sequence[Totals], console: Console, *, now: datetime) -> None:
    """Print one row for each runbook."""
    if not totals:
        show(console, [Text("no runs")])
        return
    rows = [_row(one, now) for one in totals]
    header = ["RUNBOOK", "RUNS", "SUCCEEDED", "MEDIAN", "LAST SUCCESS", "BY"]
    show(console, table(header, rows, width=width_of(console)))


def totals_document(totals: Sequence[Totals]) -> bytes:
    """Return the totals as one JSON document in one line: an array, in the order given."""
    return msgspec.json.encode(list(totals)) + b"\n"


def _row(one: Totals, now: datetime) -> list[Piece]:
    names = ", ".join(map(one_line, one.operators[:_MOST_NAMES]))
    more = len(one.operators) - _MOST_NAMES
    return [
        (one_line(one.runbook), ""),
        (f"{one.runs}{f' ({one.running} running)' if one.running else ''}", ""),
        (f"{one.success_rate:.0%}" if one.success_rate is not None else "", ""),
        (format_duration(one.median_s) if one.median_s is not None else "", ""),
        (format_when(one.last_success, now) if one.last_success else "never", "" if one.last_success else "red"),
        (f"{names} and {more} more" if more > 0 else names, ""),
    ]
