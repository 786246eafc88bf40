"""What people read after a run and before one: summaries, tables, descriptions and JSON documents, to the letter."""

import io
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from opsbook.model.run import (
    CellError,
    CellRecord,
    CellState,
    Check,
    GitState,
    Operator,
    RunbookRef,
    RunRecord,
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import Target, TargetState
from opsbook.report.document import history_document, record_document
from opsbook.report.summary import summarise
from opsbook.report.terminal import print_history, print_run, print_runbook, print_summary, print_targets
from opsbook.runbook.notebook import read_runbook

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


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


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


def test_a_failed_run_says_what_failed_first_and_what_to_type_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    shown = summary_of(failed_record(), width=120, copy=tmp_path / "archive" / "patch.ipynb")

    assert shown == (
        '✗ patch failed after 7:12: 2 of 24 targets failed in "Update the packages", limit 1\n'
        "\n"
        "  ✓ Check the errata        0:04   2 cells\n"
        "  ✓ Announce                0:01\n"
        "  ✗ Update the packages     6:31   18 ok · 2 failed · 4 skipped\n"
        "  \u2013 Reboot what needs it           not run\n"
        "  \u2013 Verify                         not run\n"
        "  ✓ Silence off (always)    0:02\n"
        "\n"
        "      2 failed   db02, db03         exit 100  E: Could not get lock /var/lib/dpkg/lock-frontend\n"
        "      18 ok      web01-web17, db01\n"
        "      4 skipped  web18, db04-db06             the limit was reached\n"
        "\n"
        "      with       stack=prod  waves=1,25%,100%\n"
        "      metrics    packages=312  reboots_needed=5\n"
        "      copy       archive/patch.ipynb\n"
        "      look       opsbook show 20261120T113958Z-patch-7f3a2c\n"
        "      go on      opsbook resume 20261120T113958Z-patch-7f3a2c\n"
    )


def test_eighty_columns_are_enough_for_a_summary():
    shown = summary_of(failed_record())

    assert shown.splitlines()[:2] == [
        '✗ patch failed after 7:12: 2 of 24 targets failed in "Update the packages",',
        "  limit 1",
    ]
    assert (
        "      2 failed   db02, db03         exit 100  E: Could not get lock\n"
        "                                              /var/lib/dpkg/lock-frontend\n"
    ) in shown
    assert all(cell_len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("width", [0, 1, 5])
def test_a_terminal_that_claims_to_have_no_width_gets_the_whole_summary(width):
    shown = summary_of(failed_record(), width=width)

    assert shown.startswith("✗ patch failed after 7:12: 2 of 24\n  targets failed")
    assert shown.endswith(f"look       opsbook show {RUN_ID}\n      go on      opsbook resume {RUN_ID}\n")


def test_a_run_that_succeeded_says_so_and_asks_for_nothing():
    assert summary_of(good_record()) == (
        "✓ patch succeeded in 9:03: 24 of 24 targets\n"
        "\n"
        "  ✓ Check the errata        0:04   2 cells\n"
        "  ✓ Announce                0:01\n"
        "  ✓ Update the packages     6:31\n"
        "  ✓ Reboot what needs it    2:00\n"
        "  ✓ Verify                  0:20\n"
        "  ✓ Silence off (always)    0:02\n"
        "\n"
        "      24 ok  web01-web18, db01-db06\n"
        "\n"
        "      with       stack=prod  waves=1,25%,100%\n"
        "      metrics    packages=312  reboots_needed=5\n"
    )


def test_a_run_without_targets_says_nothing_of_targets():
    shown = summary_of(good_record(targets=RunTargets(), metrics={}))

    assert shown.startswith("✓ patch succeeded in 9:03\n")
    assert "target" not in shown


@pytest.mark.parametrize(
    ("status", "seconds", "reason", "headline"),
    [
        (RunState.REFUSED, 0.2, "the answer was no", "✗ patch was refused: the answer was no"),
        (RunState.INTERRUPTED, 69, "stopped by SIGINT", "✗ patch was interrupted after 1:09: stopped by SIGINT"),
        (RunState.TIMED_OUT, 1800, "a cell timed out", "✗ patch timed out after 30:00: a cell timed out"),
        (RunState.LOST, 60, "the kernel died", "✗ patch was lost after 1:00: the kernel died"),
        (RunState.RUNNING, None, "", "● patch is running since 2026-11-20 11:39"),
        (RunState.UNKNOWN, None, "", "? patch ended in a way this opsbook does not know"),
    ],
)
def test_every_ending_has_its_sentence(status, seconds, reason, headline):
    record = make_record(status=status, duration_s=seconds, reason=reason, metrics={})

    assert (
        summary_of(record)
        == f"{headline}\n\n      with       stack=prod  waves=1,25%,100%\n      look       opsbook show {RUN_ID}\n"
    )


def test_a_local_error_is_shown_with_its_first_twenty_lines():
    text = "3 services did not come back\n" + "\n".join(f"    service {n}" for n in range(30))
    cells = make_cells("ok ok failed not_run not_run not_run not_run ok", [0.1, 2, 2, None, None, None, None, 2])
    error = CellError(name="AssertionError", text=text)
    cells = tuple(msgspec.structs.replace(c, error=error) if c.id == "check2" else c for c in cells)

    lines = summary_of(make_record(cells=cells, reason="x")).splitlines()

    start = lines.index('      error      AssertionError in "Check the errata": 3 services did not come')
    assert lines[start + 1 : start + 3] == ["                 back", "                     service 0"]
    assert "  ✗ Check the errata        0:04   2 cells" in lines
    assert lines[start + 20 : start + 22] == ["                     service 18", "                 … 11 more lines"]


def test_failures_within_the_limit_show_in_a_phase_that_is_ok():
    failed = failed_record()
    states = {cell.id: cell.targets for cell in failed.cells}
    cells = tuple(msgspec.structs.replace(cell, targets=states[cell.id]) for cell in good_record().cells)
    record = good_record(status=RunState.FAILED, reason="2 of 24", targets=failed.targets, cells=cells)

    assert "  ✓ Update the packages     6:31   18 ok · 2 failed · 4 skipped\n" in summary_of(record)


def test_a_failed_parameters_cell_is_shown_and_a_good_one_is_not():
    bad = make_record(cells=make_cells("failed " + "not_run " * 7, [0.1] + [None] * 7))

    assert "✗ Parameters" in summary_of(bad)
    assert "Parameters" not in summary_of(good_record())


def test_long_names_stay_whole_and_reasons_go_under_them():
    names = [f"app-{letter}.prod.eu-central-1.internal.example.org" for letter in "abc"]
    result = TargetOutcome(
        state=TargetState.FAILED, exit_code=1, reason="no space left on the device at all", cell_id="u"
    )
    record = make_record(targets=RunTargets(results=dict.fromkeys(names, result)), metrics={}, reason="x")

    assert summary_of(record).splitlines()[2:6] == [
        "      3 failed  app-a.prod.eu-central-1.internal.example.org,",
        "                app-b.prod.eu-central-1.internal.example.org,",
        "                app-c.prod.eu-central-1.internal.example.org",
        "                exit 1 · no space left on the device at all",
    ]


def test_hundreds_of_different_failures_do_not_flood_the_summary():
    results = {
        f"host{n}": TargetOutcome(state=TargetState.FAILED, exit_code=1, reason=f"reason {n}", cell_id="u")
        for n in range(200)
    }
    shown = summary_of(make_record(targets=RunTargets(results=results)))

    assert "      … and 180 more, each for its own reason\n" in shown
    assert len(shown.splitlines()) < 30


def test_failed_checks_and_notes_are_in_the_summary():
    checks = (Check(name="health", ok=False, detail="503"), Check(name="disk", ok=True), Check(name="dns", ok=False))
    shown = summary_of(make_record(checks=checks, notes=("a secret was masked",)))

    assert "      check      health: 503\n      check      dns: failed\n      note       a secret was masked\n" in shown
    assert "disk" not in shown


@pytest.mark.parametrize("width", [40, 80, 120])
def test_hostile_text_does_nothing_on_any_screen(width):
    cell = CellRecord(
        id="x", index=0, label=HOSTILE, state=CellState.FAILED, error=CellError(name=HOSTILE, text=f"::a::\n{HOSTILE}")
    )
    targets = RunTargets(results={HOSTILE: TargetOutcome(state=TargetState.LOST, reason=HOSTILE, cell_id="x")})
    record = make_record(
        run_id=HOSTILE, reason=HOSTILE, cells=(cell,), targets=targets, metrics={HOSTILE: HOSTILE},
        parameters={HOSTILE: HOSTILE}, notes=(HOSTILE,), operator=Operator(user=HOSTILE, host=HOSTILE, pid=1),
        operator_reason=HOSTILE, checks=(Check(name=HOSTILE, ok=False, detail=HOSTILE),), secrets=(HOSTILE,),
        runbook=RunbookRef(path=HOSTILE, title="", sha256="", git=GitState(commit="", describe=HOSTILE, dirty=True)),
    )  # fmt: skip
    target = Target(name=HOSTILE, host=HOSTILE, user=HOSTILE, groups=(HOSTILE,))
    shown = (
        summary_of(record, width=width, copy=Path("archive") / HOSTILE)
        + printed(print_run, record, width=width, copy=None)
        + printed(print_history, [record], width=width, now=AT)
        + printed(print_targets, [target], width=width)
    )

    assert not any(ch != "\n" and (ord(ch) < 0x20 or 0x7F <= ord(ch) < 0xA0 or ch in "\u202e\ud800") for ch in shown)
    assert not any(line.lstrip().startswith("::") or "##vso[" in line for line in shown.splitlines())
    assert "[bold]x[/bold]" in " ".join(shown.split())


def test_a_terminal_gets_colours_and_a_pipe_does_not():
    terminal = io.StringIO()
    print_summary(
        summarise(failed_record(), copy=None),
        Console(file=terminal, width=80, force_terminal=True, color_system="standard", no_color=False, _environ={}),
    )

    assert "\x1b[1;31m✗\x1b[0m" in terminal.getvalue()
    assert "\x1b" not in summary_of(failed_record())


def history():
    return [
        failed_record(parameters={"stack": "prod", "waves": "1,25%"}),
        make_record(
            run_id="20261120T021500Z-certs-91bb02",
            status=RunState.SUCCEEDED,
            runbook=RunbookRef(path="certs.ipynb", title="", sha256=""),
            parameters={"days": 30},
            started_at=AT - timedelta(hours=9),
            duration_s=21,
            operator=Operator(user="cron", host="h", pid=1),
        ),
        make_record(status=RunState.RUNNING, duration_s=None, parameters={}, started_at=AT - timedelta(days=17)),
    ]


def test_the_runs_are_a_table_on_a_wide_screen():
    assert printed(print_history, history(), width=120, now=AT) == (
        "RUN                            RUNBOOK  STATUS     STARTED      TOOK  TARGETS  BY    PARAMETERS\n"
        "20261120T113958Z-patch-7f3a2c  patch    failed     today 11:39  7:12  18/24    maya  stack=prod waves=1,25%\n"
        "20261120T021500Z-certs-91bb02  certs    succeeded  today 02:39  0:21           cron  days=30\n"
        "20261120T113958Z-patch-7f3a2c  patch    running    3 Nov                       maya\n"
    )


def test_the_runs_fold_on_a_narrow_screen_and_their_ids_stay_whole():
    assert printed(print_history, history(), width=80, now=AT) == (
        "RUN                            STATUS     STARTED      TOOK  TARGETS  BY\n"
        "20261120T113958Z-patch-7f3a2c  failed     today 11:39  7:12  18/24    maya\n"
        "  stack=prod waves=1,25%\n"
        "20261120T021500Z-certs-91bb02  succeeded  today 02:39  0:21           cron\n"
        "  days=30\n"
        "20261120T113958Z-patch-7f3a2c  running    3 Nov                       maya\n"
    )
    assert printed(print_history, history()[:1], width=5, now=AT).splitlines()[1].startswith(f"{RUN_ID}  failed")


def test_no_runs_are_said_to_be_none():
    assert printed(print_history, [], now=AT) == "no runs\n"


def test_a_run_is_shown_with_everything_it_was_given_and_did():
    shown = printed(print_run, failed_record(), copy=Path("archive/patch.ipynb"))

    assert "look" not in shown
    assert (
        "      run         20261120T113958Z-patch-7f3a2c\n"
        "      runbook     runbooks/patch.ipynb @ v1.4 (clean)\n"
        "      parameters  stack=prod  waves=1,25%,100%\n"
        "      secrets     token\n"
        "      targets     prod · 24 selected\n"
        "      operator    maya on bastion1, at a terminal\n"
        "      reason      the November updates\n"
        "      started     2026-11-20 11:39, ended 2026-11-20 11:47\n"
        "      exit code   1\n"
        "\n"
        "  CELL   INDEX   STATE     TOOK   LABEL\n"
        "  1      1       ok        0:00   Parameters\n"
        "  2      3       ok        0:02   Check the errata\n"
        "  3      5       ok        0:02   Check the errata\n"
        "  4      7       ok        0:01   Announce (confirm)\n"
        "  5      9       failed    6:31   Update the packages: FleetError\n"
        "  6      11      not run          Reboot what needs it\n"
        "  7      13      not run          Verify\n"
        "  8      15      ok        0:02   Silence off (always)\n"
        "\n"
        "  TARGET   STATE     EXIT   TOOK   REASON\n"
        "  web01    ok        0      1:40\n"
    ) in shown
    assert "  db03     failed    100    0:03   E: Could not get lock\n" in shown
    assert shown.endswith("  db06     skipped          0:00   the limit was reached\n")


def test_targets_are_a_table():
    targets = [
        Target(name="web01", host="10.0.0.1", user="ops", groups=("prod", "web")),
        Target(name="db01", host="db01.example.org", port=2222),
    ]

    assert printed(print_targets, targets) == (
        "TARGET   ADDRESS                 USER   GROUPS\n"
        "web01    10.0.0.1                ops    prod, web\n"
        "db01     db01.example.org:2222   -      -\n"
    )
    assert printed(print_targets, []) == "no targets\n"


def write_runbook(path):
    prose = (
        "# Patch a stack of servers\n\n**Purpose.** Apply pending updates to one stack, in waves, and prove that its\n"
        "services came back.\n\n**Audience.** operations\n\n**Data sources.** the errata feed\n\n"
        "**Review by.** 2027-03-01"
    )
    parameters = (
        'stack: Literal["dev", "staging", "prod"]  # Stack to patch\n'
        'waves: str = "1,25%,100%"  # Hosts per wave\n'
        'token: Secret = "env:MONITOR_TOKEN"\n'
    )
    parts = [
        (prose, None), (parameters, "parameters"), ("## Check the errata", None), ("x = 1", ""), ("y = 2", ""),
        ("## Announce", None), ("announce()", "confirm"), ("## Update the packages", None),
        ("%%on {stack} --sudo\napt-get -q update", ""), ("## Verify", None), ("%%on {stack} --read-only\ntrue", ""),
        ("## Old step", None), ("old()", "skip"), ("## Silence off", None), ("off()", "always"),
    ]  # fmt: skip
    cells = []
    for number, (source, tag) in enumerate(parts):
        cell = {"id": f"c{number}", "source": source, "metadata": {"tags": [tag] if tag else []}}
        code = {"cell_type": "code", "outputs": [], "execution_count": None}
        cells.append(cell | ({"cell_type": "markdown"} if tag is None else code))
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return read_runbook(path)


def test_a_runbook_is_shown_with_its_purpose_its_parameters_and_its_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runbook = write_runbook(Path("patch.ipynb"))

    assert printed(print_runbook, runbook, last=failed_record()) == (
        "patch · Patch a stack of servers                                     patch.ipynb\n"
        "purpose    Apply pending updates to one stack, in waves, and prove that its\n"
        "           services came back.\n"
        "audience   operations\n"
        "data       the errata feed\n"
        "review by  2027-03-01\n"
        "\n"
        "PARAMETER   TYPE                   DEFAULT\n"
        "stack       dev | staging | prod   required            Stack to patch\n"
        "waves       text                   1,25%,100%          Hosts per wave\n"
        "token       secret                 env:MONITOR_TOKEN\n"
        "\n"
        "1 Check the errata · 2 Announce (confirm) ·\n"
        "3 Update the packages (%%on, changes) · 4 Verify (%%on, read-only) ·\n"
        "5 Old step (skipped) · always: Silence off\n"
        "\n"
        "last run   failed 2026-11-20 11:39 (7:12, 18 of 24 targets, by maya)\n"
        "look       opsbook show 20261120T113958Z-patch-7f3a2c\n"
    )


def test_the_document_is_the_record_with_the_copy():
    record = failed_record()
    document = record_document(record, copy=Path("archive/x.ipynb"))
    tree = json.loads(document)

    assert document.count(b"\n") == 1
    assert tree.pop("copy") == "archive/x.ipynb"
    assert tree == json.loads(msgspec.json.encode(record))
    assert tree["schema"] == 1
    assert json.loads(record_document(record, copy=None))["copy"] is None
    assert json.loads(record_document(record, copy=Path(os.fsdecode(b"a\xff"))))["copy"] == "a\ufffd"


def test_the_history_is_one_array_of_records():
    tree = json.loads(history_document([failed_record(), good_record()]))

    assert [record["status"] for record in tree] == ["failed", "succeeded"]
    assert history_document([]) == b"[]\n"


def test_a_summary_needs_no_working_directory(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert summarise(failed_record(), copy=tmp_path / "x.ipynb").copy == str(tmp_path / "x.ipynb")
