"""What a run would do to which targets, as a value. Working it out is the fleet room's."""

from __future__ import annotations

from msgspec import Struct

from opsbook.model.note import Note


class PlannedCell(Struct, frozen=True, kw_only=True):
    """One `%%on` cell, as far as its line tells before anything runs."""

    id: str
    index: int
    """Position in the runbook, from 0, counting every cell of the file."""
    label: str
    line: str
    """What stands behind `%%on`."""
    changes: bool = True
    targets: tuple[str, ...] = ()
    waves: tuple[tuple[str, ...], ...] = ()
    """The same targets in the waves they would be asked in; empty where they are asked all at once."""
    limit: int = 0
    """How many of them may fail."""
    open: str = ""
    """What has to be known first and is not, such as a variable that another cell sets; then there are no targets."""
    problem: str = ""
    """Why the cell would fail; empty when it would not for its line."""


class Plan(Struct, frozen=True, kw_only=True):
    """What one run would be."""

    runbook: str
    pattern: str | None = None
    selected: tuple[str, ...] = ()
    cells: tuple[PlannedCell, ...] = ()
    python: tuple[str, ...] = ()
    """The labels of the cells that choose their targets in Python, which only running them tells."""
    noted: tuple[Note, ...] = ()
    """What people have written about its cells."""
