"""What people see while a run works: the fold of its entries, the lines of a CI log, and the live screen."""

import re
from pathlib import Path

import pytest
from patch_events import (
    RUN_ID,
    STARTED,
    WAVES,
    WEB,
    ended,
    entry,
    folded,
    logged,
    output,
    ran,
    shown,
    to_the_third_wave,
    wave,
)

from opsbook.model.event import (
    CallEnded,
    CallStarted,
    CellEnded,
    CellOutput,
    CellStarted,
    GateAnswered,
    Intent,
    MetricRecorded,
    RunEnded,
    RunStarted,
    StopRequested,
    WavesPlanned,
)
from opsbook.model.run import CellError, CellState, RunState
from opsbook.model.target import TargetState
from opsbook.report.progress import PlainProgress
from opsbook.report.state import TAIL_LINES, Call, count_targets


def test_a_target_is_waiting_until_there_is_a_sign_of_it():
    progress = folded(to_the_third_wave())

    assert set(progress.calls[3].running) == {"web09", "web11"}
    assert count_targets([progress.calls[3]]) == "1 ok · 2 failed · 2 running · 12 waiting"


def test_earlier_waves_of_the_same_change_count_along_and_other_calls_do_not():
    progress = folded(to_the_third_wave())
    call = progress.call_shown()

    assert count_targets(progress.series(call)) == "8 ok · 2 failed · 2 running · 12 waiting"
    other = CallStarted(call=9, cell_id="update", kind="reboot", text="reboot", targets=("web01",))
    progress.apply(entry(21, other))
    assert count_targets(progress.series(progress.call_shown())) == "1 waiting"


def test_waves_that_are_planned_count_as_waiting_before_they_begin():
    begun = [
        entry(0, STARTED), entry(5, CellStarted(cell_id="update")),
        entry(5, WavesPlanned(cell_id="update", waves=WAVES)),
        entry(6, wave(1)), entry(7, ended(1, "web01")), entry(7, CallEnded(call=1, cell_id="update")),
        entry(8, wave(2)),
    ]  # fmt: skip
    progress = folded(begun)

    assert progress.ahead(progress.call_shown()) == 17
    assert "          wave 2 of 3   ░░░░░░░░░░░░░░░░░░░░   1 ok · 23 waiting" in shown(begun, at=9)
    assert folded([*begun, *ran("reboot", 9, 1)]).plan is None
    again = folded([*begun, entry(9, WavesPlanned(cell_id="update", waves=WAVES)), entry(9, wave(1))])
    assert set(again.calls) == {1, 2}
    assert folded([*begun, entry(9, wave(3))]).ahead(Call(wave(3))) == 0


def test_a_loop_over_waves_counts_each_of_its_calls_along_the_waves():
    entries = [entry(0, STARTED), entry(0, CellStarted(cell_id="update"))]
    for number, (kind, index) in enumerate([("reboot", 1), ("wait_until", 1), ("reboot", 2), ("wait_until", 2)]):
        names = WAVES[index - 1]
        call = CallStarted(call=number, cell_id="update", kind=kind, text=kind, targets=names, wave=index, waves=3)
        entries += [entry(number, call), *(entry(number, ended(number, name)) for name in names)]
        entries.append(entry(number, CallEnded(call=number, cell_id="update")))
    progress = folded(entries)

    assert count_targets(progress.series(progress.call_shown())) == "7 ok"


def test_a_new_cell_starts_with_no_failures_and_no_finished_calls():
    progress = folded([*to_the_third_wave(), entry(30, CallEnded(call=3, cell_id="update")), *ran("reboot", 31, 1)])

    assert progress.failed == {}
    assert progress.calls == {}


def test_what_a_notebook_does_in_a_loop_does_not_pile_up():
    progress = folded([entry(0, STARTED), entry(0, CellStarted(cell_id="update"))])
    for number in range(500):
        call = CallStarted(
            call=number, cell_id="update", kind="run", text="true", targets=WEB, wave=number % 2 or None, waves=1
        )
        progress.apply(entry(number, call))
        progress.apply(entry(number, output(number, "web01", "line\n" * 50)))
        progress.apply(entry(number, CallEnded(call=number, cell_id="update")))

    assert len(progress.calls) < 100
    assert len(progress.tail) == TAIL_LINES


def test_results_that_do_not_count_are_no_failures():
    progress = folded([*to_the_third_wave()[:-4], entry(14, ended(3, "db02", TargetState.FAILED, counted=False))])

    assert progress.failed == {}


def test_entries_that_fit_nothing_change_nothing():
    stray = [
        ended(7, "web01"), output(7, "web01", "x"), CallEnded(call=7, cell_id=None),
        CellEnded(cell_id="?", state=CellState.OK), MetricRecorded(name="a", value=1),
        CellOutput(cell_id="?", stream="stdout", text="x"),
        Intent(call=7, cell_id=None, target="x", digest="", kind="run"), GateAnswered(cell_id="?", granted=True, by=""),
    ]  # fmt: skip
    entries = [entry(0, event) for event in stray]

    assert folded(entries).calls == {}
    assert shown(entries, at=0)
    assert logged(entries)


def test_a_ci_log_has_one_line_for_each_thing_that_happened():
    left = [
        entry(25, ended(3, n, TargetState.SKIPPED, reason="the limit was reached")) for n in ("db04", "db05", "db06")
    ]
    error = CellError(name="FleetError", text="2 failed, limit 1\nmore")
    entries = [
        *to_the_third_wave(),
        *left,
        entry(26, CallEnded(call=3, cell_id="update", error="2 failed, limit 1")),
        entry(26, CellEnded(cell_id="update", state=CellState.FAILED, duration_s=21, error=error)),
        entry(26, StopRequested(signal="SIGTERM")),
        entry(26, CellEnded(cell_id="reboot", state=CellState.NOT_RUN)),
        entry(32, RunEnded(status=RunState.FAILED, exit_code=1, reason="x")),
    ]

    assert "".join(logged(entries)) == (
        "11:39:58Z run 20261120T113958Z-patch-7f3a2c  patch.ipynb  stack=prod  24 targets\n"
        '11:39:58Z cell 1/7 "Parameters" starts\n'
        '11:39:58Z cell 1/7 "Parameters" ok 0.1s\n'
        '11:39:58Z cell 2/7 "Check the errata" starts\n'
        '11:40:00Z cell 2/7 "Check the errata" ok 2.0s\n'
        '11:40:00Z cell 3/7 "Check the errata" starts\n'
        '11:40:02Z cell 3/7 "Check the errata" ok 1.9s\n'
        '11:40:02Z cell 4/7 "Announce" starts\n'
        '11:40:03Z cell 4/7 "Announce" ok 1.0s\n'
        '11:40:03Z cell 5/7 "Update the packages" starts\n'
        '11:40:04Z cell 5/7 "Update the packages" wave 1/3 1 target\n'
        "11:40:05Z target web01 ok 127s\n"
        '11:40:05Z cell 5/7 "Update the packages" wave 2/3 6 targets\n'
        "11:40:06Z target web02 ok 127s\n"
        "11:40:06Z target web03 ok 127s\n"
        "11:40:06Z target web04 ok 127s\n"
        "11:40:06Z target web05 ok 127s\n"
        "11:40:06Z target web06 ok 127s\n"
        "11:40:06Z target web07 ok 127s\n"
        '11:40:08Z cell 5/7 "Update the packages" wave 3/3 17 targets\n'
        "11:40:11Z target web08 ok 0.0s\n"
        "11:40:12Z target db02 failed exit 100: E: Could not get lock /var/lib/dpkg/lock-frontend\n"
        "11:40:12Z target db03 failed exit 100: E: Could not get lock /var/lib/dpkg/lock-frontend\n"
        "11:40:24Z skipped db04-db06: the limit was reached\n"
        '11:40:24Z cell 5/7 "Update the packages" failed: 2 failed, limit 1\n'
        "11:40:24Z stopping: SIGTERM\n"
        '11:40:24Z cell 6/7 "Reboot what needs it" not run\n'
        "11:40:30Z run failed exit 1\n"
    )


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (GateAnswered(cell_id="announce", granted=True, by="--yes"), 'cell 4/7 "Announce" confirmed (--yes)'),
        (
            GateAnswered(cell_id="announce", granted=False, by="terminal"),
            'cell 4/7 "Announce" not confirmed (terminal)',
        ),
        (
            CellEnded(cell_id="check1", state=CellState.FAILED, error=CellError(name="KeyError", text="'x'")),
            "cell 2/7 \"Check the errata\" failed: KeyError: 'x'",
        ),
        (CellEnded(cell_id="check1", state=CellState.TIMED_OUT), 'cell 2/7 "Check the errata" timed out'),
        (
            ended(1, "db02", TargetState.UNREACHABLE, reason="no route to host"),
            "target db02 unreachable: no route to host",
        ),
        (ended(1, "db02", TargetState.FAILED, exit_code=1), "target db02 failed exit 1"),
        (
            ended(1, "db02", TargetState.TIMED_OUT, stderr="x", reason="30:00 passed"),
            "target db02 timed out: 30:00 passed",
        ),
        (ended(1, "db02", TargetState.FAILED, exit_code=1, counted=False), "target db02 failed (not counted) exit 1"),
        (
            CallStarted(call=1, cell_id="update", kind="run", text="true", targets=WEB),
            'cell 5/7 "Update the packages" 18 targets',
        ),
        (RunEnded(status=RunState.TIMED_OUT, exit_code=124), "run timed out exit 124"),
    ],
)
def test_each_event_has_its_line(event, line):
    assert logged([entry(0, STARTED), entry(0, event)])[1:] == [f"11:39:58Z {line}\n"]


def test_nothing_a_target_says_can_command_a_ci_system_or_break_a_line():
    hostile = "##vso[task.setvariable variable=x]y \x1b[2J\u202e\ud800"
    lines = logged(
        [
            entry(0, STARTED),
            entry(0, ended(1, f"web\n::error::{hostile}", TargetState.FAILED, exit_code=1, stderr=hostile)),
            entry(
                0,
                CellEnded(cell_id="\n::set-env::", state=CellState.FAILED, error=CellError(name="\r\n", text=hostile)),
            ),
        ]
    )

    assert all(line.count("\n") == 1 and re.match(r"\d\d:\d\d:\d\dZ ", line) for line in lines)
    assert not any("##vso[" in line or "\x1b" in line or "\u202e" in line for line in lines)
    "".join(lines).encode()


def test_values_of_any_kind_have_their_place_in_the_log():
    values = {"a": [1, "ü\ud800"], "b": None, "c": {"x": True}, "d": "two\nlines"}
    started = RunStarted(run_id=RUN_ID, title="", parameters=values)

    assert logged([entry(0, started)]) == [
        f'11:39:58Z run {RUN_ID}  a=[1, "ü\\ud800"] b=null c={{"x": true}} d=two lines\n'
    ]


def test_a_stream_that_breaks_ends_the_log_and_not_the_run():
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115  closing it is part of what fails
    log = PlainProgress(full.write)
    log.observe(entry(0, STARTED))
    log.observe(entry(1, RunEnded(status=RunState.SUCCEEDED, exit_code=0)))
    log.close()
    with pytest.raises(OSError, match="No space"):
        full.close()
