"""`opsbook show`: one run as it went, or one runbook as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from opsbook.archive.history import find_run, iter_runs
from opsbook.archive.succession import successor
from opsbook.cli.noted import notes_for_run, notes_for_runbook
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import result_console, write_document
from opsbook.config import load_settings
from opsbook.errors import ArchiveError, UsageError
from opsbook.model.run import RunRecord, RunState
from opsbook.report.document import record_document
from opsbook.report.notes import print_notes
from opsbook.report.terminal import print_run, print_runbook
from opsbook.runbook.notebook import Runbook, read_runbook


@click.command("show")
@click.argument("what", metavar="RUN|RUNBOOK")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print a run's record as one JSON document.")
def command(what: str, *, archive: Path | None, as_json: bool) -> None:
    """Show a run (its id, a unique part of it, or 'last'), or what a RUNBOOK takes and does."""
    root = archive_root(archive)
    if what.endswith(".ipynb") or Path(what).is_file():
        if as_json:
            raise UsageError(f"--json prints a run's record, and {what} is no run", f"opsbook show {shlex.quote(what)}")
        runbook = read_runbook(Path(what))
        print_runbook(runbook, result_console(), last=_last_success(root, runbook))
        print_notes(notes_for_runbook(load_settings(), runbook), result_console())
        return
    run = find_run(root, what)
    if run.record is None:
        raise ArchiveError(run.unread)
    copy = run.folder.copy if run.folder.copy.is_file() else None
    noted = notes_for_run(load_settings(), run.record)
    if as_json:
        write_document(record_document(run.record, copy=copy, noted=noted))
    else:
        print_run(run.record, result_console(), copy=copy, newer=successor(run.folder))
        told = "\n".join(run.record.notes)  # what stood there when it ran
        print_notes((note for note in noted if note.id not in told), result_console())


def _last_success(root: Path, runbook: Runbook) -> RunRecord | None:
    """Return the newest run of a runbook of this name that succeeded; a dry run, and one of a part, is none."""
    for run in iter_runs(root):
        record = run.record
        real = record is not None and record.status is RunState.SUCCEEDED and not record.short_of
        if record is not None and real and Path(record.runbook.path).name == runbook.path.name:
            return record
    return None
