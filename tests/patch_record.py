"""Records of a patch run, and the screens they are printed on."""

import io
from datetime import UTC, datetime, timedelta

import msgspec
from rich.console import Console

from opsbook.model.run import (
    CellError,
    CellRecord,
    CellState,
    GitState,
    Operator,
    RunbookRef,
    RunRecord,
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import TargetState
from opsbook.report.summary import summarise
from opsbook.report.terminal import print_summary

AT = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
RUN_ID = "20261120T113958Z-patch-7f3a2c"
WEB = [f"web{n:02}" for n in range(1, 19)]
DB = [f"db{n:02}" for n in range(1, 7)]
LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend"
STEPS = [
    ("params", "Parameters", "parameters"),
    ("check1", "Check the errata", ""),
    ("check2", "Check the errata", ""),
    ("announce", "Announce", "confirm"),
    ("update", "Update the packages", ""),
    ("reboot", "Reboot what needs it", ""),
    ("verify", "Verify", ""),
    ("silence", "Silence off", "always"),
]
HOSTILE = "\x1b[31mred\x1b[0m\x1b]0;title\x07 [bold]x[/bold] \u202egnp\n::set-env name=P::x ##vso[task.x] \ud800"


def make_cells(states, times):
    return tuple(
        CellRecord(
            id=key,
            index=2 * number + 1,
            label=label,
            tags=(tag,) if tag else (),
            state=CellState(state),
            duration_s=seconds,
        )
        for number, ((key, label, tag), state, seconds) in enumerate(zip(STEPS, states.split(), times, strict=True))
    )


def make_record(**changes):
    record = RunRecord(
        run_id=RUN_ID,
        status=RunState.FAILED,
        reason='2 of 24 targets failed in "Update the packages", limit 1',
        exit_code=1,
        runbook=RunbookRef(
            path="runbooks/patch.ipynb",
            title="Patch a stack of servers",
            sha256="0" * 64,
            git=GitState(commit="1" * 40, describe="v1.4", dirty=False),
        ),
        parameters={"stack": "prod", "waves": "1,25%,100%"},
        secrets=("token",),
        started_at=AT,
        ended_at=AT + timedelta(seconds=432),
        duration_s=432,
        operator=Operator(user="maya", host="bastion1", pid=77, terminal=True),
        operator_reason="the November updates",
        metrics={"packages": 312, "reboots_needed": 5},
    )
    return msgspec.structs.replace(record, **changes)


def failed_record(**changes):
    ok = TargetOutcome(state=TargetState.OK, exit_code=0, cell_id="update", duration_s=100)
    bad = TargetOutcome(state=TargetState.FAILED, exit_code=100, reason=LOCK, cell_id="update", duration_s=3)
    left = TargetOutcome(state=TargetState.SKIPPED, reason="the limit was reached", cell_id="update")
    results = dict.fromkeys([*WEB[:17], "db01"], ok) | dict.fromkeys(["db02", "db03"], bad)
    results |= dict.fromkeys(["web18", "db04", "db05", "db06"], left)
    cells = make_cells("ok ok ok ok failed not_run not_run ok", [0.1, 2, 2, 1, 391, None, None, 2.2])
    error = CellError(name="FleetError", text="2 of 24 targets failed")
    states = {name: result.state for name, result in results.items()}
    cells = tuple(msgspec.structs.replace(c, error=error, targets=states) if c.id == "update" else c for c in cells)
    targets = RunTargets(pattern="prod", selected=(*WEB, *DB), results=results)
    return make_record(cells=cells, targets=targets, **changes)


def good_record(**changes):
    ok = TargetOutcome(state=TargetState.OK, exit_code=0, cell_id="update", duration_s=100)
    changes = {
        "status": RunState.SUCCEEDED,
        "reason": "",
        "exit_code": 0,
        "duration_s": 543,
        "cells": make_cells("ok " * 8, [0.1, 2, 2, 1, 391, 120, 20, 2.2]),
        "targets": RunTargets(pattern="prod", selected=(*WEB, *DB), results=dict.fromkeys([*WEB, *DB], ok)),
    } | changes
    return make_record(**changes)


def printed(print_it, *args, width=80, **more):
    file = io.StringIO()
    print_it(*args, Console(file=file, width=width), **more)
    return file.getvalue()


def summary_of(record, *, width=80, copy=None):
    return printed(print_summary, summarise(record, copy=copy), width=width)
