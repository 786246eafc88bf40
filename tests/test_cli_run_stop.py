"""A run that is stopped, by a signal, from outside or by the end of its runner."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forked
from one_story import check_agreement
from support import LOAD, Desk, Ran, Run, code, finish, processes_with, wait_for

NAMES = {f"web{number}": f"127.0.1.{number}" for number in range(1, 4)}


def stopping(desk: Desk, cell: Callable[[str], object], number: str) -> Forked:
    """Start a run that sleeps in its middle."""
    desk.notebook(
        LOAD,
        code("print('before')", cell_id="before"),
        cell(number),
        code("open('touched', 'w').close()", cell_id="later"),
        code("targets('web1').run('echo tidy', read_only=True)", "always", cell_id="tidy"),
    )
    return desk.fork("run", "book.ipynb", start_new_session=True)


def remote(number: str):
    return code(f"%%on web\nsleep {number}", cell_id="sleeps")


def local(number: str):
    return code(f"import time\nprint('asleep', flush=True)\ntime.sleep({number})", cell_id="sleeps")


def begun(desk: Desk, cell_id: str) -> bool:
    """Whether a cell has been started; the last line of a growing journal may be torn."""
    mark = f'"type":"cell_started","cell_id":"{cell_id}"'
    return any(mark in file.read_text() for file in desk.folder.glob("archive/*/*/*/*/events.jsonl"))


def check_stopped(desk: Desk, ran: Ran, number: signal.Signals, *, seconds: float) -> Run:
    run = desk.run()
    assert ran.code == 128 + number, ran
    assert seconds < 10, f"it took {seconds} s"
    check_agreement(desk, run, ran)
    assert (run.record["status"], run.record["reason"]) == ("interrupted", f"stopped by {number.name}")
    assert run.states == {"load": "ok", "before": "ok", "sleeps": "interrupted", "later": "not_run", "tidy": "ok"}
    assert not (desk.folder / "touched").exists()
    assert "Traceback" not in ran.err
    assert "interrupted" in ran.out
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_remote_commands_and_the_record_is_whole(desk, asleep, number):
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    since = time.monotonic()
    process.send_signal(number)
    ran = finish(process, seconds=30)
    run = check_stopped(desk, ran, number, seconds=time.monotonic() - since)
    assert processes_with(f"sleep {asleep}") == []
    ended = [event for event in run.events("target_ended") if event["cell_id"] == "sleeps"]
    assert [event["state"] for event in ended] == ["cancelled"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_a_local_cell_too(desk, asleep, number):
    process = stopping(desk, local, asleep)
    wait_for(lambda: begun(desk, "sleeps"), seconds=20)
    time.sleep(0.3)
    since = time.monotonic()
    process.send_signal(number)
    ran = finish(process, seconds=30)
    check_stopped(desk, ran, number, seconds=time.monotonic() - since)


def test_a_second_signal_ends_what_always_runs_too(desk):
    desk.notebook(
        code("import time\nopen('asleep', 'w').close()\ntime.sleep(55)", cell_id="sleeps"),
        code("open('tidying', 'w').close()\ntime.sleep(55)", "always", cell_id="tidy"),
    )
    process = desk.fork("run", "book.ipynb", start_new_session=True)
    wait_for((desk.folder / "asleep").exists, seconds=20)
    process.send_signal(signal.SIGTERM)
    wait_for((desk.folder / "tidying").exists, seconds=10)
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ran = finish(process, seconds=20)
    run = desk.run()
    assert (ran.code, run.record["status"]) == (143, "interrupted"), ran
    assert time.monotonic() - since < 10
    assert run.states == {"sleeps": "interrupted", "tidy": "interrupted"}


def test_a_run_is_stopped_from_outside(desk, asleep):
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    since = time.monotonic()
    asked = desk.opsbook("stop", "last")
    assert asked.code == 0, asked
    assert "has stopped" in asked.err
    ran = finish(process, seconds=30)
    check_stopped(desk, ran, signal.SIGTERM, seconds=time.monotonic() - since)
    assert processes_with(f"sleep {asleep}") == []
    again = desk.opsbook("stop", "last")
    assert again.code == 1
    assert "over already" in again.err


def test_a_runner_that_is_killed_takes_its_kernel_along_and_reads_as_interrupted(desk, asleep):
    process = stopping(desk, remote, asleep)
    wait_for(lambda: len(processes_with(f"sleep {asleep}")) >= 3, seconds=20)
    children = [pid for pid in processes_with("opsbook.execution.launch") if parent(pid) == process.pid]
    assert len(children) == 1
    assert [one["status"] for one in desk.opsbook("runs", "--json").json] == ["running"]
    process.kill()
    finish(process)
    wait_for(
        lambda: not Path(f"/proc/{children[0]}").exists() or state(children[0]) == "Z",
        seconds=6,
        what="the kernel's end",
    )
    (seen,) = desk.opsbook("runs", "--json").json
    assert seen["status"] == "interrupted"
    assert {cell["id"]: cell["state"] for cell in seen["cells"]} == {
        "load": "ok",
        "before": "ok",
        "sleeps": "interrupted",
        "later": "not_run",
        "tidy": "not_run",
    }
    assert {name: result["state"] for name, result in seen["targets"]["results"].items()} == dict.fromkeys(
        NAMES, "lost"
    )
    assert "interrupted" in desk.opsbook("runs").out
    assert "interrupted" in desk.opsbook("show", "last").out
    assert not (desk.folder / "touched").exists()


def status_field(pid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:"))


def parent(pid: int) -> int:
    return int(status_field(pid, "PPid") or 0)


def state(pid: int) -> str:
    return status_field(pid, "State")
