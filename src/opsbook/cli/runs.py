"""`opsbook runs`: the history, newest first, and what it comes to by runbook."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from opsbook.archive.history import ArchivedRun, iter_runs, read_run
from opsbook.archive.layout import run_folder
from opsbook.archive.selection import STATUSES, Selection, select_runs, total_up
from opsbook.cli.indexing import ask, span
from opsbook.cli.prepare import archive_root, given_parameters
from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.config import load_settings
from opsbook.model.visible import one_line
from opsbook.report.document import history_document
from opsbook.report.terminal import print_history
from opsbook.report.totals import print_totals, totals_document


@click.command("runs")
@click.option("--since", metavar="DATE", help="Begun since: 2026-11-20, yesterday, 30d.")
@click.option("--until", metavar="DATE", help="Begun until then, the day included.")
@click.option("--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="How they ended; repeatable.")
@click.option(
    "--runbook", metavar="NAME", default="", help="Runs of this runbook; * stands for anything, here and below."
)
@click.option("--target", metavar="NAME", default="", help="Runs that worked on this target.")
@click.option("--user", metavar="NAME", default="", help="Runs of this operator.")
@click.option(
    "-p", "--param", "params", metavar="NAME=VALUE", multiple=True, help="Runs with this parameter; repeatable."
)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--stats", is_flag=True, help="What they come to by runbook: runs, successes, times, operators.")
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the records, or the statistics, as one JSON document.")
def command(
    *,
    since: str | None,
    until: str | None,
    params: tuple[str, ...],
    limit: int,
    stats: bool,
    archive: Path | None,
    as_json: bool,
    **named: Any,
) -> None:
    """List the runs, newest first."""
    now = datetime.now(UTC).astimezone()
    settings = load_settings()
    root = archive_root(archive, settings)
    parameters = tuple(given_parameters(params).items())
    selection = Selection(between=span(since, until, now=now), parameters=parameters, **named)
    if stats:
        totals = ask(root, settings, lambda index: total_up(index, selection))
        if as_json:
            write_document(totals_document(totals))
        else:
            print_totals(totals, result_console(), now=now)
        return
    if selection.is_all:
        runs = list(islice(iter_runs(root), limit))
    else:
        ids = ask(root, settings, lambda index: select_runs(index, selection, limit=limit))
        runs = [read_run(run_folder(root, run_id)) for run_id in ids]
    _print(runs, root, as_json=as_json, some=not selection.is_all, now=now)


def _print(runs: Sequence[ArchivedRun], root: Path, *, as_json: bool, some: bool, now: datetime) -> None:
    records = [run.record for run in runs if run.record is not None]
    if as_json:
        write_document(history_document(records))
    elif records:
        print_history(records, result_console(), now=now)
    elif not runs:
        message_console().print(f"no such runs in {root}" if some else f"no runs yet in {root}", markup=False)
    for run in runs:
        if run.record is None:
            message_console().print(f"{run.unread_as}: {run.folder.run_id}: {one_line(run.problem)}", markup=False)
