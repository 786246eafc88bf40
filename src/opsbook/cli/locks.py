"""`opsbook locks`: who holds what, and what was left in the middle."""

from __future__ import annotations

import click

from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.config import load_settings
from opsbook.execution.marks import standing
from opsbook.locks.folder import lock_folder
from opsbook.report.locks import locks_document, print_locks


@click.command("locks")
@click.option("--json", "as_json", is_flag=True, help="Print them as one JSON document.")
def command(*, as_json: bool) -> None:
    """List what runs hold now, and the targets that runs which are over have left in the middle.

    A target that was left in the middle is not changed until that run is resumed (opsbook resume RUN), or somebody
    says that it may be: opsbook run … --acknowledge RUN.
    """
    folder = lock_folder(load_settings().locks.path)
    found = standing(folder)
    if as_json:
        write_document(locks_document(found))
    elif found:
        print_locks(found, result_console())
    else:
        message_console().print(f"no locks are held in {folder.path}", markup=False)
