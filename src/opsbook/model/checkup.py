"""What is wrong with a runbook that was only looked at, as a value."""

from __future__ import annotations

from msgspec import Struct

from opsbook.model.note import Note


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that would stop a run."""

    text: str
    hint: str = ""
    cell: int = 0
    """Which code cell, from 1, as runs count them; 0 for the runbook as a whole."""
    label: str = ""


class Checkup(Struct, frozen=True, kw_only=True):
    """One runbook, and all that was found."""

    path: str
    problems: tuple[Problem, ...] = ()
    noted: tuple[Note, ...] = ()
    """What people have written about its cells."""
