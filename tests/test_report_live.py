"""The live screen, and the view that draws it on a real terminal."""

import io
import os
import pty
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patch_events import (
    AT,
    STARTED,
    entry,
    folded,
    output,
    shown,
    to_the_third_wave,
)
from rich.console import Console

from opsbook.model.event import (
    CallStarted,
    CellStarted,
    StopRequested,
)
from opsbook.report.live import LiveProgress
from opsbook.report.screen import screen


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
