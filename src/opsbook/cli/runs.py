"""`opsbook runs`: the history, newest first."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import click

from opsbook.archive.history import iter_runs
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import message_console, result_console
from opsbook.report.document import history_document
from opsbook.report.terminal import print_history


@click.command("runs")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as one JSON document.")
def command(*, limit: int, archive: Path | None, as_json: bool) -> None:
    """List the runs, newest first."""
    root = archive_root(archive)
    runs = list(islice(iter_runs(root), limit))
    records = [run.record for run in runs if run.record is not None]
    if as_json:
        sys.stdout.buffer.write(history_document(records))
    elif records:
        print_history(records, result_console(), now=datetime.now(UTC))
    else:
        message_console().print(f"no runs yet in {root}", markup=False)
    for run in runs:
        if run.record is None:
            message_console().print(f"damaged: {run.folder.run_id}: {run.problem}", markup=False)
