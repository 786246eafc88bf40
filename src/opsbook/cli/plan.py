"""What a run would do, shown without doing it: what `run --list-targets` prints."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from opsbook.cli.screen import result_console, write_document
from opsbook.errors import ExitCode
from opsbook.execution.request import RunRequest
from opsbook.fleet.plan import plan_targets
from opsbook.model.plan import Plan
from opsbook.report.notes import print_notes
from opsbook.report.plan import print_plan


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
    """Print which targets a run would reach; return 0, or 2 where a cell would fail for what its line says."""
    plan = replace(plan_of(request), noted=request.noted.found)
    if as_json:
        write_document(msgspec.json.encode(plan) + b"\n")
    else:
        print_notes(plan.noted, result_console())
        print_plan(plan, result_console())
    return ExitCode.USAGE if any(cell.problem for cell in plan.cells) else ExitCode.SUCCEEDED
