"""What people read after a run and before one: summaries, tables, descriptions and JSON documents, to the letter."""

import io
import time
from pathlib import Path

import msgspec
import pytest
from patch_record import (
    AT,
    HOSTILE,
    RUN_ID,
    failed_record,
    good_record,
    make_cells,
    make_record,
    printed,
    summary_of,
)
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
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import Target, TargetState
from opsbook.report.summary import summarise
from opsbook.report.terminal import print_history, print_run, print_summary, print_targets


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


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
        "      look       opsbook logs 20261120T113958Z-patch-7f3a2c --target db02\n"
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
    assert shown.endswith(f"look       opsbook logs {RUN_ID} --target db02\n      go on      opsbook resume {RUN_ID}\n")


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


def test_an_error_that_the_reason_says_whole_is_not_said_again():
    cells = make_cells("ok ok failed not_run not_run not_run not_run ok", [0.1, 2, 2, None, None, None, None, 2])
    held = CellError(name="BusyError", text="web1 is held")
    cells = tuple(msgspec.structs.replace(c, error=held) if c.id == "check2" else c for c in cells)

    for reason in ("web1 is held", "it raised BusyError: web1 is held"):
        assert summary_of(make_record(cells=cells, reason=reason)).count("web1 is held") == 1
    for reason in ("web1 is held up", "so web1 is held"):
        assert 'BusyError in "Check the errata": web1' in summary_of(make_record(cells=cells, reason=reason))


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
