"""What is shown of runs that are over, of targets and of runbooks, and the documents of `--json`."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from patch_record import AT, RUN_ID, failed_record, good_record, make_record, printed

from opsbook.model.run import (
    Operator,
    RunbookRef,
    RunState,
)
from opsbook.model.target import Target
from opsbook.report.document import history_document, record_document
from opsbook.report.summary import summarise
from opsbook.report.terminal import print_history, print_run, print_runbook, print_targets
from opsbook.runbook.notebook import read_runbook


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


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
        "  CELL   STATE     TOOK   LABEL\n"
        "  1      ok        0:00   Parameters\n"
        "  2      ok        0:02   Check the errata\n"
        "  3      ok        0:02   Check the errata\n"
        "  4      ok        0:01   Announce (confirm)\n"
        "  5      failed    6:31   Update the packages: FleetError\n"
        "  6      not run          Reboot what needs it\n"
        "  7      not run          Verify\n"
        "  8      ok        0:02   Silence off (always)\n"
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
        "2-3 Check the errata · 4 Announce (confirm) ·\n"
        "5 Update the packages (%%on, changes) · 6 Verify (%%on, read-only) ·\n"
        "7 Old step (skipped) · always: 8 Silence off\n"
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
