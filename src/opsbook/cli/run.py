"""`opsbook run`: parse, run, render."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from opsbook.cli.plan import show_plan
from opsbook.cli.prepare import file_parameters, given_parameters, request_for
from opsbook.cli.screen import is_terminal, message_console, result_console
from opsbook.cli.view import DRY_NOTICE, UNCHECKED_WARNING, Questions, choose_view
from opsbook.execution.request import FinishedRun, RunRequest
from opsbook.execution.runner import run as execute
from opsbook.report.document import record_document
from opsbook.report.summary import summarise
from opsbook.report.terminal import print_summary
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
@click.option("--yes", is_flag=True, help="Confirm every gate beforehand.")
@click.option("--reason", default="", help="Why; kept in the record.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print nothing when it succeeds.")
def command(runbook: Path, *, list_targets: bool, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Run RUNBOOK, a Jupyter notebook, and say how it went.

    Exit codes: 0 succeeded, 1 failed, 2 nothing ran (parameters, inventory, runbook), 3 refused, 4 only unreachable
    targets, 5 the archive could not be written, 6 unknown, 124 timed out, 128+N stopped by signal N.
    """
    read = read_runbook(runbook)
    values, texts = file_parameters(flags.pop("files")), given_parameters(flags.pop("params"))
    watched = is_terminal(sys.stderr) and is_terminal(sys.stdin)
    request = request_for(read, values=values, texts=texts, terminal=watched, **flags)
    if list_targets:
        return show_plan(request, as_json=as_json)
    return run_and_show(request, as_json=as_json, quiet=quiet)


def run_and_show(request: RunRequest, *, as_json: bool, quiet: bool) -> int:
    """Run, show how it goes and what came of it, and return the exit code."""
    finished = run_and_watch(request, quiet=quiet)
    record, copy = finished.record, finished.copy
    with suppress(OSError, ValueError):  # nobody reads it, or there is no room for it: not the run's failure
        if as_json:
            sys.stdout.buffer.write(record_document(record, copy=copy))
        elif not (quiet and record.exit_code == 0):
            print_summary(summarise(record, copy=copy), result_console())
        sys.stdout.flush()
    return record.exit_code or 0


def run_and_watch(request: RunRequest, *, quiet: bool) -> FinishedRun:
    """Run, and show how it goes. What weakens or empties the run is said before anything starts."""
    screen = message_console()
    if request.options.host_keys == "off":
        screen.print(UNCHECKED_WARNING, markup=False)
    if request.options.checking and not quiet:
        screen.print(DRY_NOTICE, markup=False)
    view = choose_view(screen, quiet=quiet)
    asks = request.terminal and not request.yes
    return execute(
        request, observers=[view] if view is not None else [], prompter=Questions(screen, view) if asks else None
    )
