"""The notes that concern what a command is about, and the flag that acknowledges one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from opsbook.config import Settings
from opsbook.execution.request import Noted
from opsbook.model.note import Note
from opsbook.model.run import RunRecord
from opsbook.runbook.lineage import read_lineage, record_origins
from opsbook.runbook.notebook import Runbook
from opsbook.runbook.notes import means, notes_on, read_notes


def ack_flag(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flag that insists on what a note blocks."""
    told = "Run although that note blocks it; kept in the record."
    return click.option("--ack-note", "ack_notes", multiple=True, metavar="ID", help=told)(command)


def notes_folder(settings: Settings) -> Path:
    """Return where the notes lie."""
    return Path(settings.notes.path)


def notes_for_runbook(settings: Settings, runbook: Runbook, *, to_run: bool = False) -> tuple[Note, ...]:
    """Return the notes on a runbook and its cells; `to_run` leaves out those on cells that a run leaves out.

    Raises:
        RunbookError: the folder of the notes cannot be read.
    """
    notes = () if runbook.in_memory else read_notes(notes_folder(settings))
    if not notes:
        return ()
    lineage = read_lineage(runbook)
    left_out = {cell.id for cell in runbook.cells if to_run and cell.left_out}
    return notes_on(notes, {lineage.origin, *(cell.origin for cell in lineage.cells if cell.id not in left_out)})


def notes_for_run(settings: Settings, record: RunRecord) -> tuple[Note, ...]:
    """Return the notes on a run, its runbook and its cells, as they stand today.

    Raises:
        RunbookError: the folder of the notes cannot be read.
    """
    notes = read_notes(notes_folder(settings))
    return notes_on(notes, {record.run_id, *record_origins(record)}) if notes else ()


def noted_for(settings: Settings, runbook: Runbook, acknowledged: Iterable[str]) -> Noted:
    """Return what a run has to know of the notes on its runbook; `acknowledged` are ids, or unique parts of them.

    One that names no note of this run is let pass: a job that names it goes on when the note is gone.
    """
    found = notes_for_runbook(settings, runbook, to_run=True)
    named = [note.id for note in found if any(means(note, text) for text in acknowledged)]
    return Noted(found=found, acknowledged=tuple(named))
