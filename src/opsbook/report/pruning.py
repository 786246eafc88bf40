"""What goes from the archive, what stays and why: as tables and as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.archive.prune import Pruned
from opsbook.archive.retention import Candidate, Judgement
from opsbook.model.visible import one_line
from opsbook.report.duration import format_when
from opsbook.report.layout import Piece, show, show_plain, table, width_of

if TYPE_CHECKING:
    from rich.console import Console

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def print_judgement(judged: Judgement, console: Console, *, now: datetime) -> None:
    """Print the runs that go, those that are old enough and stay, and what cannot be told; totals last."""
    width = width_of(console)
    if judged.leaving:
        rows = [[*_piece(one, now), (format_size(one.size), "")] for one in judged.leaving]
        show(console, [*table(["GOES", "ENDED", "STATUS", "SIZE"], rows, width=width), Text()])
    if judged.staying:
        rows = [[*_piece(one, now), (one_line(one.stays), "")] for one in judged.staying]
        show(console, [*table(["STAYS", "ENDED", "STATUS", "WHY"], rows, width=width), Text()])
    if judged.damaged:
        rows = [[(one_line(one.run_id), ""), (one_line(one.problem), "")] for one in judged.damaged]
        show(console, [*table(["DAMAGED, STAYS", "WHY"], rows, width=width), Text()])
    show_plain(console, [_totals(judged)])


def print_pruned(done: Sequence[Pruned], judged: Judgement, console: Console) -> None:
    """Print how many runs went, and what kept the others."""
    for one in done:
        if one.problem:
            show_plain(console, [f"not pruned: {one_line(one.run_id)}: {one_line(one.problem)}"])
    gone = {one.run_id for one in done if not one.problem}
    freed = sum(one.size for one in judged.leaving if one.run_id in gone)
    show_plain(console, [f"pruned {_count(len(gone))}, {format_size(freed)}"])


def pruning_document(judged: Judgement, done: Sequence[Pruned], *, dry: bool) -> bytes:
    """Return all of it as one JSON document in one line; what went, or would go, is under `pruned`."""
    problems = {one.run_id: one.problem for one in done if one.problem}
    known = {one.run_id for one in judged.leaving}
    return (
        msgspec.json.encode(
            {
                "dry_run": dry,
                "pruned": [_described(one) for one in judged.leaving if one.run_id not in problems],
                "failed": [{"run_id": run_id, "problem": problem} for run_id, problem in problems.items()],
                "kept": [{**_described(one), "why": one.stays} for one in judged.staying],
                "damaged": judged.damaged,
                "young": judged.young,
                "private": judged.private,
                "freed_bytes": sum(one.size for one in judged.leaving if one.run_id in known - problems.keys()),
            }
        )
        + b"\n"
    )


def format_size(size: int) -> str:
    """Say an amount of bytes.

    >>> format_size(17), format_size(1536), format_size(3 * 2**30)
    ('17 bytes', '1.5 KiB', '3.0 GiB')
    """
    shown, unit = float(size), 0
    while shown >= _STEP and unit < len(_UNITS) - 1:
        shown, unit = shown / _STEP, unit + 1
    return f"{size} {_UNITS[0]}" if unit == 0 else f"{shown:.1f} {_UNITS[unit]}"


def _piece(one: Candidate, now: datetime) -> list[Piece]:
    return [(one_line(one.run_id), ""), (format_when(one.ended_at, now), ""), (one.status.value, "")]


def _described(one: Candidate) -> Mapping[str, object]:
    return {
        "run_id": one.run_id,
        "runbook": one.runbook,
        "status": one.status,
        "ended_at": one.ended_at,
        "size_bytes": one.size,
    }


def _totals(judged: Judgement) -> str:
    size = format_size(sum(one.size for one in judged.leaving))
    said = [f"{_count(len(judged.leaving))} to prune, {size}"]
    said += [f"{len(judged.staying)} old enough that stay"] if judged.staying else []
    said += [f"{judged.young} not due"] if judged.young else []
    said += [f"{len(judged.damaged)} damaged"] if judged.damaged else []
    said += [f"{judged.private} private to others"] if judged.private else []
    return "; ".join(said)


def _count(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"
