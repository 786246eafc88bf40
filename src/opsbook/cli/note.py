"""`opsbook note`: what the next one to run these cells should know."""

from __future__ import annotations

from pathlib import Path

import click

from opsbook.archive.history import find_run
from opsbook.cli.noted import notes_folder, notes_for_run, notes_for_runbook
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.cli.subject import WHAT, file_and_cell, subject_of
from opsbook.config import Settings, load_settings
from opsbook.execution.origin import operator_here
from opsbook.model.note import Note, Severity
from opsbook.report.notes import notes_document, print_note_table
from opsbook.runbook.meme import parse_meme
from opsbook.runbook.notebook import read_runbook
from opsbook.runbook.notes import add_note, find_note, note_file, notes_on, read_notes, remove_note


@click.group("note")
def command() -> None:
    """Keep notes on runbooks, cells and runs: files a team reviews in its repository.

    A note goes along with every copy of a cell (opsbook lineage). A cell is meant by its id, or by its number among
    the code cells: patch.ipynb#update, patch.ipynb#3.
    """


@command.command("add")
@click.argument("target", metavar=WHAT)
@click.option("-m", "--message", required=True, metavar="TEXT", help="What it says.")
@click.option("--severity", type=click.Choice([word.value for word in Severity]), default="info", show_default=True)
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
def add(target: str, *, message: str, severity: str, archive: Path | None) -> None:
    """Write a note. One of severity 'block' keeps every run of its cells from starting until --ack-note names it."""
    settings = load_settings()
    about = subject_of(target, archive_root(archive, settings))
    author = operator_here(terminal=True).user
    asked = Note(id="", severity=Severity(severity), subject=about.key, target=about.words, author=author, text=message)
    note = add_note(notes_folder(settings), asked, name=about.name)
    result_console().print(str(note_file(notes_folder(settings), note)), markup=False, soft_wrap=True)


@command.command("list")
@click.argument("target", metavar=f"[{WHAT}]", required=False)
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print them as one JSON document.")
def list_notes(target: str | None, *, archive: Path | None, as_json: bool) -> None:
    """List the notes, the newest first: all, or those that concern a runbook, a cell or a run."""
    settings = load_settings()
    notes = _concerning(target, settings, archive_root(archive, settings))
    if as_json:
        write_document(notes_document(notes))
    elif notes:
        print_note_table(notes, result_console())
    else:
        message_console().print(f"no notes in {notes_folder(settings)}", markup=False)


@command.command("rm")
@click.argument("ids", metavar="NOTE...", nargs=-1, required=True)
def remove(ids: tuple[str, ...]) -> None:
    """Take notes away, each meant by its id or a unique part of it; a repository still knows them."""
    folder = notes_folder(load_settings())
    notes = read_notes(folder)
    for note in dict.fromkeys(find_note(notes, text) for text in ids):
        remove_note(folder, note)
        message_console().print(f"removed {note.id}", markup=False)


def _concerning(target: str | None, settings: Settings, root: Path) -> tuple[Note, ...]:
    """Return all notes, or those that concern what is named."""
    if target is None:
        return read_notes(notes_folder(settings))
    path, cell = file_and_cell(target)
    if path is not None and not cell:
        return notes_for_runbook(settings, read_runbook(path))
    run = None if path is not None or parse_meme(target) else find_run(root, target)
    if run is not None and run.record is not None:
        return notes_for_run(settings, run.record)
    return notes_on(read_notes(notes_folder(settings)), {subject_of(target, root).key})
