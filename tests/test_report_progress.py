"""What people see while a run works: the fold of its entries, the lines of a CI log, and the live screen."""

import io
import os
import pty
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from opsbook.model.event import (
    CallEnded,
    CallStarted,
    CellEnded,
    CellOutput,
    CellStarted,
    Entry,
    GateAnswered,
    Intent,
    MetricRecorded,
    RunEnded,
    RunStarted,
    StopRequested,
    TargetEnded,
    TargetOutput,
    WavesPlanned,
)
from opsbook.model.run import CellError, CellRecord, CellState, RunState
from opsbook.model.target import TargetState
from opsbook.report.live import LiveProgress
from opsbook.report.progress import PlainProgress
from opsbook.report.screen import screen
from opsbook.report.state import TAIL_LINES, Call, Progress, count_targets

AT = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
RUN_ID = "20261120T113958Z-patch-7f3a2c"
WEB = tuple(f"web{n:02}" for n in range(1, 19))
DB = tuple(f"db{n:02}" for n in range(1, 7))
WAVES = (WEB[:1], WEB[1:7], (*WEB[7:], *DB))
LOCK = "Reading package lists...\nE: Could not get lock /var/lib/dpkg/lock-frontend\n\n"
CELLS = tuple(
    CellRecord(id=key, index=number, label=label, tags=(tag,) if tag else ())
    for number, (key, label, tag) in enumerate(
        [
            ("params", "Parameters", "parameters"),
            ("check1", "Check the errata", ""),
            ("check2", "Check the errata", ""),
            ("announce", "Announce", "confirm"),
            ("update", "Update the packages", ""),
            ("reboot", "Reboot what needs it", ""),
            ("silence", "Silence off", "always"),
        ]
    )
)
STARTED = RunStarted(
    run_id=RUN_ID,
    title="Patch a stack of servers",
    runbook="runbooks/patch.ipynb",
    parameters={"stack": "prod"},
    pattern="prod",
    selected=(*WEB, *DB),
    cells=CELLS,
)


def entry(seconds, event, seq=1):
    return Entry(seq=seq, at=AT + timedelta(seconds=seconds), prev="0" * 64, event=event)


def wave(number, *, cell_id="update", **more):
    return CallStarted(
        call=number, cell_id=cell_id, kind="run", text="apt-get -qy upgrade", targets=WAVES[number - 1], wave=number,
        waves=3, **more,
    )  # fmt: skip


def ended(call, target, state=TargetState.OK, **more):
    return TargetEnded(call=call, cell_id="update", target=target, state=state, **more)


def output(call, target, text):
    return TargetOutput(call=call, target=target, stream="stdout", text=text)


def ran(cell_id, start, seconds):
    done = CellEnded(cell_id=cell_id, state=CellState.OK, duration_s=seconds)
    return [entry(start, CellStarted(cell_id=cell_id)), entry(start + seconds, done)]


def to_the_third_wave():
    """Two waves are done; in the third, one is done, two have failed, two are at work and twelve are waiting."""
    entries = [entry(0, STARTED), *ran("params", 0, 0.1), *ran("check1", 0.1, 2), *ran("check2", 2.1, 1.9)]
    entries += [*ran("announce", 4, 1), entry(5, CellStarted(cell_id="update"))]
    for number in (1, 2):
        entries.append(entry(5 + number, wave(number)))
        entries += [entry(6 + number, ended(number, name, duration_s=127)) for name in WAVES[number - 1]]
        entries.append(entry(6 + number, CallEnded(call=number, cell_id="update")))
    entries.append(entry(10, wave(3)))
    entries.append(entry(11, Intent(call=3, cell_id="update", target="web09", digest="d", kind="run")))
    entries.append(entry(12, output(3, "web08", "Reading database ...\n")))
    entries.append(entry(13, ended(3, "web08")))
    entries += [entry(14, ended(3, name, TargetState.FAILED, exit_code=100, stderr=LOCK)) for name in ("db02", "db03")]
    entries.append(entry(20, output(3, "web11", "Setting up libssl3 (3.0.17) ...\n10%\r\x1b[32m20%\x1b[0m\n")))
    return entries


def folded(entries):
    progress = Progress()
    for one in entries:
        progress.apply(one)
    return progress


def shown(entries, *, at, width=80, height=40):
    lines = screen(folded(entries), now=AT + timedelta(seconds=at), width=width, height=height)
    return [line.plain.rstrip() for line in lines]


def logged(entries):
    lines = []
    log = PlainProgress(lines.append)
    for one in entries:
        log.observe(one)
    log.close()
    return lines


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


def test_the_live_screen_shows_where_everything_is():
    assert shown(to_the_third_wave(), at=123) == [
        "patch · Patch a stack of servers                        prod · 24 targets · 2:03",
        "run 20261120T113958Z-patch-7f3a2c",
        "",
        "  ✓ Check the errata       2 cells        0:04",
        "  ✓ Announce               1 cell         0:01",
        "  ● Update the packages    1 cell         1:58",
        "          wave 3 of 3   █████░░░░░░░░   8 ok · 2 failed · 2 running · 12 waiting",
        "          slow   web09  1:52  apt-get -qy upgrade",
        "          slow   web11  1:43  apt-get -qy upgrade",
        "          failed db02         E: Could not get lock /var/lib/dpkg/lock-frontend",
        "          failed db03         E: Could not get lock /var/lib/dpkg/lock-frontend",
        "  ○ Reboot what needs it",
        "  ○ Silence off (always)",
        "web08 | Reading database ...",
        "web11 | Setting up libssl3 (3.0.17) ...",
        "web11 | 10%",
        "web11 | 20%",
    ]


def test_a_wide_live_screen_has_a_longer_bar():
    lines = shown(to_the_third_wave(), at=20, width=120)

    assert lines[0].endswith("prod · 24 targets · 0:20")
    assert len(lines[0]) == 120
    assert lines[6] == "          wave 3 of 3   ████████░░░░░░░░░░░░   8 ok · 2 failed · 2 running · 12 waiting"


def test_a_run_that_is_asked_to_stop_says_so():
    entries = [*to_the_third_wave(), entry(21, StopRequested(signal="SIGINT"))]

    assert shown(entries, at=22)[1] == "run 20261120T113958Z-patch-7f3a2c   stopping: SIGINT, again to end what runs"


def test_on_a_low_screen_the_running_step_stays_in_sight():
    lines = shown(to_the_third_wave(), at=123, height=9)

    assert lines[3:] == [
        "  … 1 above",
        "  ✓ Announce               1 cell         0:01",
        "  ● Update the packages    1 cell         1:58",
        "          wave 3 of 3   █████░░░░░░░░   8 ok · 2 failed · 2 running · 12 waiting",
        "          slow   web09  1:52  apt-get -qy upgrade",
        "  … 5 below",
    ]


@given(st.integers(0, 130), st.integers(0, 30), st.integers(0, 40))
def test_the_live_screen_is_never_larger_than_the_terminal(width, height, count):
    lines = screen(folded(to_the_third_wave()[:count]), now=AT, width=width, height=height)

    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)


def test_hostile_output_is_harmless_on_the_live_screen():
    hostile = output(3, "web\x1b[2J", "\x1b]0;title\x07[red]x[/red] \u202egnp\n")
    call = CallStarted(call=3, cell_id="update", kind="run", text="\x1b[2Jx", targets=("web\x1b[2J",))
    started = [entry(0, STARTED), entry(0, CellStarted(cell_id="update")), entry(0, call)]
    lines = shown([*started, entry(1, hostile)], at=100)

    assert r"web\x1b[2J | \x1b]0;title\a[red]x[/red] \u202egnp" in lines
    assert not any("\x1b" in line or "\u202e" in line for line in lines)


@pytest.fixture
def terminal():
    """A real terminal of 80 by 24, and a function that returns what has been written to it."""
    master, slave = pty.openpty()
    written = bytearray()

    def read():
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:
                return
            if not chunk:
                return
            written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    file = os.fdopen(slave, "w", encoding="utf-8")
    environment = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    yield Console(file=file, _environ=environment), written
    file.close()
    reader.join(10)
    os.close(master)


def wait_for(written, text):
    deadline = time.monotonic() + 10
    while text.encode() not in written:
        assert time.monotonic() < deadline, bytes(written)
        time.sleep(0.02)


def test_the_live_view_draws_pauses_for_a_question_and_leaves_nothing_behind(terminal):
    console, written = terminal
    view = LiveProgress(console)
    for one in to_the_third_wave():
        view.observe(one)
    wait_for(written, "12 waiting")
    view.pause()
    console.print("Go on? ", end="")
    wait_for(written, "Go on?")
    before = len(written)
    view.observe(entry(30, output(3, "web12", "said while paused\n")))
    time.sleep(0.4)
    assert len(written) == before

    view.resume()
    wait_for(written, "said while paused")
    view.close()
    view.observe(entry(31, output(3, "web12", "said after the end\n")))
    view.close()

    console.print("the summary")
    wait_for(written, "the summary")
    assert b"said after the end" not in written
    last = bytes(written).rpartition(b"\x1b[?25h")[2]  # the cursor is shown again, then every line is erased
    assert last.count(b"\x1b[2K") == len(shown(to_the_third_wave(), at=20))
    assert last.endswith(b"the summary\r\n")


def test_the_live_view_counts_time_between_entries_by_its_own_clock(terminal):
    console, written = terminal
    ticks = [100.0]
    view = LiveProgress(console, clock=lambda: ticks[0])
    view.observe(entry(0, STARTED))
    wait_for(written, "0:00")
    ticks[0] += 3600
    wait_for(written, "1:00:00")
    view.close()


def test_the_live_view_takes_entries_and_pauses_from_many_threads(terminal):
    console, _ = terminal
    view = LiveProgress(console)

    def ask():
        for _ in range(10):
            view.pause()
            view.resume()

    def tell():
        for one in to_the_third_wave() * 5:
            view.observe(one)

    threads = [threading.Thread(target=work) for work in (ask, tell, ask, tell)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    view.close()


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {"COLUMNS": "0"}])
def test_off_a_terminal_the_live_view_writes_nothing(environment):
    file = io.StringIO()
    view = LiveProgress(Console(file=file, _environ=environment))
    for one in to_the_third_wave():
        view.observe(one)
    view.close()

    assert file.getvalue() == ""
