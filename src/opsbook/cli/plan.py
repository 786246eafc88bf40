"""`opsbook plan`: what a run would do, shown without doing it. It takes what `opsbook run` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from opsbook.cli.locking import locks_in_the_way, refuse_what_is_marked
from opsbook.cli.run_flags import asked_for, run_flags
from opsbook.cli.screen import result_console, write_document
from opsbook.errors import ExitCode, RefusedError
from opsbook.execution.preflight import check_gates, check_kernel, check_notes, open_gates, planned_secrets
from opsbook.execution.request import RunRequest
from opsbook.fleet.plan import plan_targets
from opsbook.model.plan import Plan
from opsbook.report.notes import print_notes
from opsbook.report.plan import print_plan


@click.command("plan")
@click.argument("runbook", type=click.Path(path_type=Path))
@run_flags
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON document.")
def command(runbook: Path, *, as_json: bool, **flags: Any) -> int:
    """Show what `opsbook run` with the same words would do. It connects to nothing and runs nothing.

    Exit codes: 0 it could start, 2 a cell would fail for its line, or a secret or the kernel is missing, 3 it would be
    refused: by a note, for targets that another run has left in the middle, or a gate and no terminal to ask on.
    """
    return show_plan(asked_for(runbook, **flags), as_json=as_json)


def plan_of(request: RunRequest) -> Plan:
    """Return which targets a run would reach, as far as its text tells."""
    return plan_targets(
        request.runbook,
        request.binding,
        inventory=request.inventory,
        pattern=request.pattern,
        selected=request.selected,
        options=request.options,
    )


def show_plan(request: RunRequest, *, as_json: bool) -> int:
    """Print what a run would do, and return the exit code of `opsbook plan`.

    Raises:
        OpsbookError: it cannot be run with this kernel.
    """
    check_kernel(request)
    plan = plan_of(request)
    plan = replace(
        plan,
        noted=request.noted.found,
        refused=_refusal(request),
        gates=open_gates(request),
        locks=locks_in_the_way(request, plan),
        secrets=tuple(planned_secrets(request)),
    )
    if as_json:
        write_document(msgspec.json.encode(plan) + b"\n")
    else:
        print_notes(plan.noted, result_console())
        print_plan(plan, result_console())
    return ExitCode.REFUSED if plan.refused else ExitCode.USAGE if plan.problems else ExitCode.SUCCEEDED


def _refusal(request: RunRequest) -> str:
    """Say why a run would be refused here; nothing when it would start."""
    try:
        refuse_what_is_marked(request)
        check_notes(request)
        check_gates(request, asked=request.terminal)
    except RefusedError as error:
        return f"{error} ({error.hint})"
    return ""
