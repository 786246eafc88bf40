"""A runbook's outline: its steps in a line, from the labels and tags of its code cells. Reads; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from opsbook.model.visible import one_line
from opsbook.runbook.notebook import Cell
from opsbook.runbook.tags import PARAMETERS_TAG

_ASIDE = ("always", "on-failure")


def outline(cells: Iterable[Cell]) -> list[str]:
    """List a runbook's steps: `1 Check`, `2 Announce (confirm)`, `3 Update (%%on, changes)`, `always: Silence off`."""
    steps = [cell for cell in cells if PARAMETERS_TAG not in cell.tags]
    in_order = [cell for cell in steps if not _aside(cell)]
    numbered = groupby(in_order, key=lambda cell: cell.label)
    made = [f"{number} {_step(label, list(group))}" for number, (label, group) in enumerate(numbered, 1)]
    for (aside, label), group in groupby(filter(_aside, steps), key=lambda cell: (_aside(cell), cell.label)):
        made.append(f"{aside}: {_step(label, list(group))}")
    return made


def _aside(cell: Cell) -> str:
    """Return the tag that takes a cell out of the order of steps, or an empty string."""
    return next((tag for tag in _ASIDE if tag in cell.tags), "")


def _step(label: str, cells: Sequence[Cell]) -> str:
    fans_out, changes = any(cell.fans_out for cell in cells), any(cell.changes for cell in cells)
    words = [
        "confirm" if any("confirm" in cell.tags for cell in cells) else "",
        "%%on" if fans_out else "",
        "changes" if changes else "read-only" if fans_out else "",
        "skipped" if all(cell.is_skipped for cell in cells) else "",
    ]
    said = ", ".join(word for word in words if word)
    return one_line(f"{label} ({said})" if said else label)
