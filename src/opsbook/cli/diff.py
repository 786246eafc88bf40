"""`opsbook diff`: in what two runs differ."""

from __future__ import annotations

from pathlib import Path

import click

from opsbook.archive.diff import compare_runs
from opsbook.archive.history import find_run
from opsbook.cli.prepare import archive_root
from opsbook.cli.screen import result_console, write_document
from opsbook.errors import ExitCode
from opsbook.report.diff import diff_document, print_diff


@click.command("diff")
@click.argument("before", metavar="RUN")
@click.argument("after", metavar="RUN")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as one JSON document.")
def command(before: str, after: str, *, archive: Path | None, as_json: bool) -> int:
    """Compare two runs: how they ended, parameters, code, outputs and results by target.

    The exit code is 0 when they do not differ, 1 when they do. Times are shown, and make no difference.
    """
    root = archive_root(archive)
    old, new = find_run(root, before), find_run(root, after)
    found = compare_runs(old, new)
    if as_json:
        write_document(diff_document(found))
    elif old.record is not None and new.record is not None:
        print_diff(found, result_console(), runs=(old.record, new.record))
    return ExitCode.FAILED if found.differs else ExitCode.SUCCEEDED
