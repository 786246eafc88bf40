"""`opsbook run`: parse, run, render."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import click

from opsbook.cli.locking import refuse_what_is_marked
from opsbook.cli.run_flags import asked_for, run_flags
from opsbook.cli.screen import message_console, result_console, write_document
from opsbook.cli.view import DRY_NOTICE, UNCHECKED_WARNING, Questions, ask_hidden, choose_view
from opsbook.execution.identity import earlier_result
from opsbook.execution.request import FinishedRun, RunRequest
from opsbook.execution.runner import run as execute


@click.command("run")
@click.argument("runbook", type=click.Path(path_type=Path))
@run_flags
@click.option("--list-targets", is_flag=True, help="The same as `opsbook plan`: run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print nothing when it succeeds.")
def command(runbook: Path, *, list_targets: bool, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Run RUNBOOK, a Jupyter notebook, and say how it went.

    Exit codes: 0 succeeded, 1 failed, 2 nothing ran (parameters, inventory, runbook), 3 refused, 4 only unreachable
    targets, 5 the archive could not be written, 6 unknown, 70 internal error, 75 busy, 124 timed out, 128+N stopped by
    signal N.
    """
    request = asked_for(runbook, **flags)
    if list_targets:
        from opsbook.cli.plan import show_plan  # noqa: PLC0415  no run needs it

        return show_plan(request, as_json=as_json)
    return run_and_show(request, as_json=as_json, quiet=quiet)


def run_and_show(request: RunRequest, *, as_json: bool, quiet: bool) -> int:
    """Run, show how it goes and what came of it, and return the exit code."""
    finished = run_and_watch(request, quiet=quiet)
    record, copy = finished.record, finished.copy
    with suppress(OSError, ValueError):  # nobody reads it, or there is no room for it: not the run's failure
        if as_json:
            from opsbook.report.document import record_document  # noqa: PLC0415  a kernel can boot before it is needed

            write_document(record_document(record, copy=copy))
        elif not (quiet and record.exit_code == 0):
            from opsbook.report.summary import summarise  # noqa: PLC0415
            from opsbook.report.terminal import print_summary  # noqa: PLC0415

            print_summary(summarise(record, copy=copy), result_console())
        sys.stdout.flush()
    return record.exit_code or 0


def run_and_watch(request: RunRequest, *, quiet: bool) -> FinishedRun:
    """Run, and show how it goes. What weakens or empties the run is said before anything starts."""
    finished = earlier_result(request) or _run_now(request, quiet=quiet)
    if finished.said and not (quiet and finished.record.exit_code == 0):
        with suppress(OSError, ValueError):
            sys.stderr.write("".join(f"{sentence}\n" for sentence in finished.said))
    return finished


def _run_now(request: RunRequest, *, quiet: bool) -> FinishedRun:
    if any(cell.fans_out for cell in request.runbook.code_cells):
        from opsbook.fleet.plan import check_lines  # noqa: PLC0415  the fleet is much to import for a runbook without

        check_lines(request.runbook, request.binding)
    refuse_what_is_marked(request)
    screen = cache(message_console)  # made when something is to be shown on it
    if request.options.host_keys == "off":
        screen().print(UNCHECKED_WARNING, markup=False)
    if request.options.checking and not quiet:
        screen().print(DRY_NOTICE, markup=False)
    if request.noted.found and not (quiet or request.noted.blocking):
        from opsbook.report.notes import print_notes  # noqa: PLC0415  most runs have none

        print_notes(request.noted.found, screen())
    view = choose_view(screen, quiet=quiet)
    asks = request.terminal and not request.yes
    return execute(
        request,
        observers=[view] if view is not None else [],
        prompter=Questions(screen(), view) if asks else None,
        ask=ask_hidden if request.terminal else None,
    )
