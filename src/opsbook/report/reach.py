"""How targets answered when asked whether they are there, and which keys they showed: tables and JSON documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.text import Text

from opsbook.model.event import TargetEnded
from opsbook.model.outcome import STATE_ORDER, count_states, explain
from opsbook.model.reach import Reach, ShownKey
from opsbook.model.target import Target, TargetState
from opsbook.model.visible import one_line
from opsbook.report.duration import format_seconds
from opsbook.report.layout import Piece, show, table, width_of
from opsbook.report.phase import style_of, words

if TYPE_CHECKING:
    from rich.console import Console


def reached(targets: Sequence[Target], answers: Mapping[str, TargetEnded]) -> tuple[Reach, ...]:
    """Return what is worth knowing of each answer, those that failed first."""
    found = [
        Reach(
            name=target.name,
            address=target.address if target.port else target.host,
            state=answers[target.name].state,
            reason=explain(answers[target.name]),
            duration_s=answers[target.name].duration_s,
        )
        for target in targets
    ]
    return tuple(sorted(found, key=lambda reach: STATE_ORDER[reach.state]))


def print_reach(found: Sequence[Reach], console: Console) -> None:
    """Print one row for each target, and how many are in which state."""
    rows: list[list[Piece]] = [
        [
            (one_line(reach.name), ""),
            (one_line(reach.address), ""),
            (words(reach.state), style_of(reach.state)),
            (format_seconds(reach.duration_s), ""),
            (one_line(reach.reason), ""),
        ]
        for reach in found
    ]
    lines = table(["TARGET", "ADDRESS", "STATE", "TOOK", "REASON"], rows, width=width_of(console))
    show(console, [*lines, Text(), Text(count_states(reach.state for reach in found))])


def print_keys(shown: Sequence[ShownKey], console: Console) -> None:
    """Print the key of each host, what went wrong first, and how many are new."""
    rows: list[list[Piece]] = []
    for key in sorted(shown, key=lambda key: STATE_ORDER[key.state]):
        word = words(key.state) if key.state is not TargetState.OK else "new" if key.new else "known"
        style = style_of(key.state) if key.state.is_failure else "bold" if key.new else ""
        said = key.reason or key.fingerprint
        rows.append([(one_line(key.name), ""), (one_line(key.address), ""), (word, style), (one_line(said), "")])
    counts = (
        (sum(key.new for key in shown), "new"),
        (sum(key.state is TargetState.OK and not key.new for key in shown), "known"),
        (sum(key.state.is_failure for key in shown), "failed"),
    )
    lines = table(["HOST", "ADDRESS", "STATE", "KEY"], rows, width=width_of(console))
    show(console, [*lines, Text(), Text(" · ".join(f"{count} {word}" for count, word in counts if count))])


def reach_document(found: Sequence[Reach | ShownKey]) -> bytes:
    """Return what was found as one JSON document in one line."""
    return msgspec.json.encode(list(found)) + b"\n"
