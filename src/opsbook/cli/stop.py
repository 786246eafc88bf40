"""`opsbook stop`: end a run from outside, the way a signal would."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from opsbook.archive.history import find_run
from opsbook.archive.layout import is_alive
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console
from opsbook.errors import ArchiveError, OpsbookError
from opsbook.execution.stop import stop_run

WAIT_S = 90.0
"""Seconds a run may take to end: its remote commands, its `always` cells, its record."""


@click.command("stop")
@click.argument("what", metavar="RUN")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
def command(what: str, *, archive: Path | None) -> None:
    """Stop RUN (its id, a unique part of it, or 'last'): its commands are ended and its record is finished."""
    run = find_run(archive_root(archive), what)
    if run.record is None:
        raise ArchiveError(run.unread)
    run_id, here = run.folder.run_id, socket.gethostname()
    if not stop_run(run_id, run.record.operator, here=here, alive=lambda: is_alive(run.folder), wait_s=WAIT_S):
        raise OpsbookError(f"{run_id} was asked to stop and still runs", f"opsbook logs {run_id} -f says what it does")
    message_console().print(f"{run_id} has stopped", markup=False)
