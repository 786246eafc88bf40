"""`opsbook run`: parse, run, render."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import click

from opsbook.cli.locking import locking_flags, refuse_what_is_marked
from opsbook.cli.noted import ack_flag
from opsbook.cli.part import chosen_part
from opsbook.cli.prepare import file_parameters, given_parameters, request_for
from opsbook.cli.screen import is_terminal, message_console, result_console, write_document
from opsbook.cli.view import DRY_NOTICE, UNCHECKED_WARNING, Questions, ask_hidden, choose_view
from opsbook.execution.identity import earlier_result
from opsbook.execution.request import FinishedRun, RunRequest
from opsbook.execution.runner import run as execute
from opsbook.runbook.notebook import read_runbook


@click.command("run")
@click.argument("runbook", type=click.Path(path_type=Path))
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="Give a parameter.")
@click.option("-f", "--params-file", "files", multiple=True, type=click.Path(path_type=Path), help="YAML or JSON file.")
@click.option("-t", "--targets", "pattern", metavar="PATTERN", help="Limit the run to these targets.")
@click.option(
    "-i", "--inventory", "inventory_files", multiple=True, type=click.Path(path_type=Path), help="Ansible format."
)
@click.option("--archive", type=click.Path(path_type=Path), help="Where runs are kept.")
@click.option("--max-fail", metavar="N|N%", help="How many targets may fail before a change stops.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many targets work at once.")
@click.option("--host-keys", type=click.Choice(["strict", "accept-new", "off"]), help="What to do with a new host key.")
@click.option("--failed-from", metavar="RUN", help="Only the targets that failed in that run.")
@click.option("--list-targets", is_flag=True, help="Show which targets, in which waves, and run nothing.")
@click.option("--check", is_flag=True, help="Dry run: send read-only commands alone. Local Python runs.")
@click.option("--timeout", "run_timeout", metavar="TIME", help="For the whole run, such as 2h.")
@click.option("--cell-timeout", metavar="TIME", help="For each cell whose own tag does not say.")
@click.option("--always-timeout", metavar="TIME", help="For each clean-up cell after a failure or a stop (60s).")
@click.option("--section", multiple=True, metavar="HEADING", help="Only the cells under this heading.")
@click.option("--only-tags", multiple=True, metavar="TAG,...", help="Only the cells with one of these tags.")
@click.option("--skip-tags", multiple=True, metavar="TAG,...", help="Leave out the cells with one of these tags.")
@locking_flags
@ack_flag
@click.option("--run-id", metavar="ID", help="Run at most once under this id; again, it prints the first result.")
@click.option("--yes", is_flag=True, help="Confirm every gate beforehand.")
@click.option("--reason", default="", help="Why; kept in the record.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print nothing when it succeeds.")
def command(runbook: Path, *, list_targets: bool, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Run RUNBOOK, a Jupyter notebook, and say how it went.

    Exit codes: 0 succeeded, 1 failed, 2 nothing ran (parameters, inventory, runbook), 3 refused, 4 only unreachable
    targets, 5 the archive could not be written, 6 unknown, 70 internal error, 75 busy, 124 timed out, 128+N stopped by
    signal N.
    """
    read = read_runbook(runbook)
    values, texts = file_parameters(flags.pop("files")), given_parameters(flags.pop("params"))
    part = chosen_part(**{name: flags.pop(name) for name in ("section", "only_tags", "skip_tags")})
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    request = request_for(read, values=values, texts=texts, terminal=watched, selection=part, **flags)
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
