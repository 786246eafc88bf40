"""A runbook's outline: its steps in a line, from the labels and tags of its code cells. Reads; judges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from opsbook.model.visible import one_line
from opsbook.runbook.notebook import Cell
from opsbook.runbook.tags import PARAMETERS_TAG

_ASIDE = ("always", "on-failure")


def outline(cells: Iterable[Cell]) -> list[str]:
    """List a runbook's steps by the numbers of their code cells, which notes, `logs` and `lineage` take.

    Such as `2-3 Check`, `4 Announce (confirm)`, `5 Update (%%on, changes)`, `always: 8 Silence off`.
    """
    steps = [(number, cell) for number, cell in enumerate(cells, 1) if PARAMETERS_TAG not in cell.tags]
    steps.sort(key=lambda step: bool(_aside(step[1])))
    grouped = groupby(steps, key=lambda step: (_aside(step[1]), step[1].label))
    return [_step(aside, label, list(group)) for (aside, label), group in grouped]


def _aside(cell: Cell) -> str:
    """Return the tag that takes a cell out of the order of steps, or an empty string."""
    return next((tag for tag in _ASIDE if tag in cell.tags), "")


def _step(aside: str, label: str, steps: Sequence[tuple[int, Cell]]) -> str:
    first, last = steps[0][0], steps[-1][0]
    named = f"{aside + ': ' if aside else ''}{first if first == last else f'{first}-{last}'} {label}"
    cells = [cell for _, cell in steps]
    fans_out, changes = any(cell.fans_out for cell in cells), any(cell.changes for cell in cells)
    words = [
        "confirm" if any("confirm" in cell.tags for cell in cells) else "",
        "%%on" if fans_out else "",
        "changes" if changes else "read-only" if fans_out else "",
        "skipped" if all(cell.is_skipped for cell in cells) else "",
    ]
    said = ", ".join(word for word in words if word)
    return one_line(f"{named} ({said})" if said else named)
