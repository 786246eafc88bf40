"""How a run stops: real signals, a real terminal, a real sshd. Whatever stops it, all that is told of it agrees."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

import pytest
from agreement import check_run
from conftest import Sshd
from support import LOAD, Desk, Ran, Run, code, finish, processes_with, wait_for

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 4)}
START_S = 30
"""Seconds a run may take to come to a point on a busy machine."""
TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal on stdin the process's own, so that Ctrl-C is a signal, and becomes the command."""
PID = code("import os\nwith open('kernel', 'w') as file:\n    print(os.getpid(), file=file)", cell_id="pid")
LATER = code("open('later', 'w').close()", cell_id="later")


def await_sleepers(number: str, count: int) -> None:
    """Return when so many targets are in the middle of their command."""
    wait_for(lambda: len(processes_with(f"sleep {number}")) >= count, seconds=START_S, what=f"{count} sleeping")


def waiting(name: str) -> str:
    """Return a line of shell that waits, for a bounded time, until there is a file of that name."""
    return f"for _ in $(seq 1200); do if [ -e {name} ]; then break; fi; sleep 0.05; done"


def python_waiting(name: str) -> str:
    """Return lines of Python that do the same."""
    return (
        f"import os, time\nfor _ in range(1200):\n    if os.path.exists({name!r}):\n        break\n    time.sleep(0.05)"
    )


def written(desk: Desk, *words: str) -> bool:
    """Whether a journal has a line with all these words; the last line of a growing journal may be torn."""
    lines = [
        line for file in desk.folder.glob("archive/*/*/*/*/events.jsonl") for line in file.read_text().splitlines()
    ]
    return any(all(word in line for word in words) for line in lines)


def await_cell(desk: Desk, cell_id: str) -> None:
    wait_for(lambda: written(desk, '"cell_started"', f'"{cell_id}"'), seconds=START_S, what=f"the start of {cell_id}")


def await_file(path: Path) -> None:
    wait_for(path.exists, seconds=START_S, what=f"{path.name}")


def times(run: Run, *kinds: str, cell_id: str | None = None) -> list[datetime]:
    """When, by the journal, something happened."""
    return [
        datetime.fromisoformat(entry["at"])
        for entry in run.journal
        if entry["event"]["type"] in kinds and (cell_id is None or entry["event"].get("cell_id") == cell_id)
    ]


def seconds_to_end(run: Run) -> float:
    """How long, by the journal, the run took from the first signal to its end."""
    return (times(run, "run_ended")[0] - times(run, "stop_requested")[0]).total_seconds()


def ends(run: Run, cell_id: str) -> dict[str, tuple[str, str]]:
    """How a cell's fleet calls ended, by target: the state and the reason."""
    found = run.events("target_ended")
    return {one["target"]: (one["state"], one["reason"]) for one in found if one["cell_id"] == cell_id}


def check_stopped(desk: Desk, run: Run, exit_code: int, number: signal.Signals) -> None:
    """The run was stopped by a signal, and everything says so."""
    record = check_run(run, status="interrupted", code=128 + number)
    assert (exit_code, record["reason"]) == (128 + number, f"stopped by {number.name}")
    assert run.events("stop_requested")[0]["signal"] == number.name
    assert not (desk.folder / "later").exists()


class Terminal:
    """A person at a terminal who starts `opsbook run book.ipynb` there."""

    def __init__(self, desk: Desk) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-c", TERMINAL, sys.executable, "-m", "opsbook", "run", "book.ipynb"]
        self.process = subprocess.Popen(
            command,
            cwd=desk.folder,
            env={**desk.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._said: list[bytes] = []
        self._closing = Event()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._ours], [], [], 0.05)[0]:
                continue
            try:
                self._said.append(os.read(self._ours, 65536))
            except OSError:
                return  # the last process at the terminal has gone

    @property
    def shown(self) -> str:
        return b"".join(self._said).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def await_shown(self, words: str) -> None:
        wait_for(lambda: words in self.shown, seconds=START_S, what=f"{words!r} on the screen")

    def finish(self, *, seconds: float = 40) -> int:
        """Wait for the run's end, and return its exit code."""
        exit_code = self.process.wait(seconds)
        self._reader.join(10)
        return exit_code

    def close(self) -> None:
        """Close the window: what runs in it is hung up."""
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join(10)
            os.close(self._ours)


@contextmanager
def at_a_terminal(desk: Desk) -> Iterator[Terminal]:
    terminal = Terminal(desk)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        terminal.close()


@contextmanager
def started(desk: Desk, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run without a terminal; a failed test does not leave it behind."""
    process = desk.start("run", *(args or ("book.ipynb",)), start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


# ---------------------------------------------------------------- the kernel goes, or is told to


def test_a_kernel_killed_from_outside_in_a_fan_out_leaves_its_targets_lost(desk: Desk, asleep: str) -> None:
    tidy = code("open('later', 'w').close()", "always", cell_id="tidy")
    desk.notebook(LOAD, PID, code(f"%%on web1,web2\nsleep {asleep}", cell_id="on"), tidy, LATER)
    with started(desk) as process:
        await_sleepers(asleep, 2)
        os.kill(int((desk.folder / "kernel").read_text()), signal.SIGKILL)
        ran = finish(process)
    run = desk.run()
    record = check_run(run, status="lost", code=6)
    assert ran.code == 6, ran
    assert "SIGKILL" in record["reason"]
    assert run.targets == {"web1": "lost", "web2": "lost"}
    assert {result["cell_id"] for result in record["targets"]["results"].values()} == {"on"}
    assert run.states == {"load": "ok", "pid": "ok", "on": "lost", "tidy": "not_run", "later": "not_run"}
    assert any("always" in note and "did not run" in note for note in record["notes"])
    assert "web1" in ran.out
    assert "lost" in ran.out
    assert not (desk.folder / "later").exists()


def test_a_service_manager_that_signals_runner_and_kernel_at_once_ends_the_remote_commands(
    desk: Desk, asleep: str
) -> None:
    again = f"targets('web1').run('touch {desk.folder}/cleaned', include_failed=True)"
    desk.notebook(
        LOAD,
        PID,
        code(f"%%on web\nsleep {asleep}\ntouch {desk.folder}/later", cell_id="on"),
        LATER,
        code(again, "always", cell_id="tidy"),
    )
    with started(desk) as process:
        await_sleepers(asleep, 3)
        os.kill(int((desk.folder / "kernel").read_text()), signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert processes_with(f"sleep {asleep}") == []
    assert ends(run, "on") == dict.fromkeys(NAMES, ("cancelled", "cancelled"))
    assert run.targets == dict.fromkeys(NAMES, "cancelled")
    assert run.states == {"load": "ok", "pid": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}
    assert (desk.folder / "cleaned").exists()


def test_a_cell_that_does_not_end_costs_the_kernel_and_the_record_names_what_did_not_run(desk: Desk) -> None:
    stubborn = """
    import time
    while True:
        try:
            open("ready", "w").close()
            time.sleep(60)
        except KeyboardInterrupt:
            pass
    """
    tidy = code("open('later', 'w').close()", "always", cell_id="tidy")
    desk.notebook(code(stubborn, cell_id="stubborn"), tidy)
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert run.states == {"stubborn": "interrupted", "tidy": "not_run"}
    assert seconds_to_end(run) < 8
    assert any("always" in note and "did not run" in note for note in run.record["notes"])
    assert "did not run" in ran.out


# ---------------------------------------------------------------- what always runs


def test_after_a_stop_what_always_runs_can_still_change_its_targets(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code("import time\nopen('ready', 'w').close()\ntime.sleep(55)", cell_id="work"),
        LATER,
        code(f"%%on web1,web2\ntouch {desk.folder}/back-$OPSBOOK_TARGET", "always", cell_id="on"),
        code(f"targets('web3').run('touch {desk.folder}/back-web3')", "always", cell_id="call"),
    )
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert sorted(path.name for path in desk.folder.glob("back-*")) == ["back-web1", "back-web2", "back-web3"]
    assert sorted(intent["target"] for intent in run.events("intent")) == sorted(NAMES)
    assert run.targets == dict.fromkeys(NAMES, "ok")
    assert run.states == {"load": "ok", "work": "interrupted", "later": "not_run", "on": "ok", "call": "ok"}


def test_a_stop_is_not_passed_on_to_what_always_runs_when_the_cell_ends_by_itself(desk: Desk) -> None:
    desk.notebook(
        code(f"open('ready', 'w').close()\n{python_waiting('go')}", cell_id="work"),
        LATER,
        code("time.sleep(1)\nopen('cleaned', 'w').close()", "always", cell_id="tidy"),
    )
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: written(desk, '"stop_requested"'))
        (desk.folder / "go").touch()
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert run.states["work"] in {"ok", "interrupted"}  # whichever came first
    assert (run.states["later"], run.states["tidy"]) == ("not_run", "ok")
    assert (desk.folder / "cleaned").exists()


def test_a_second_signal_ends_the_remote_command_of_what_always_runs(desk: Desk, asleep: str) -> None:
    desk.notebook(
        LOAD,
        code("import time\nopen('ready', 'w').close()\ntime.sleep(55)", cell_id="work"),
        code(f"%%on web1\nsleep {asleep}", "always", cell_id="long"),
        code(f"%%on web2\ntouch {desk.folder}/cleaned", "always", cell_id="short"),
    )
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        await_sleepers(asleep, 1)
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert processes_with(f"sleep {asleep}") == []
    assert run.targets == {"web1": "cancelled", "web2": "ok"}
    assert run.states == {"load": "ok", "work": "interrupted", "long": "interrupted", "short": "ok"}
    assert (desk.folder / "cleaned").exists()


def test_two_signals_in_a_row_end_what_runs_and_leave_what_always_runs_its_chance(desk: Desk, asleep: str) -> None:
    tidy = code(f"targets('web3').run('sleep 3; touch {desk.folder}/cleaned')", "always", cell_id="tidy")
    desk.notebook(LOAD, code(f"%%on web1,web2\nsleep {asleep}", cell_id="on"), LATER, tidy)
    with started(desk) as process:
        await_sleepers(asleep, 2)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: written(desk, '"stop_requested"'))
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert processes_with(f"sleep {asleep}") == []
    assert run.targets == {"web1": "cancelled", "web2": "cancelled", "web3": "ok"}
    assert run.states == {"load": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}
    assert (desk.folder / "cleaned").exists()


def test_a_third_signal_ends_a_stubborn_run_at_once(desk: Desk, asleep: str) -> None:
    stubborn = f"""
    try:
        targets("web1").run("sleep {asleep}")
    except KeyboardInterrupt:
        open("swallowed", "w").close()
        time.sleep(55)
    """
    desk.notebook(
        LOAD,
        code("import time\nopen('ready', 'w').close()\ntime.sleep(55)", cell_id="work"),
        code(stubborn, "always", cell_id="stubborn"),
    )
    with started(desk) as process:
        await_file(desk.folder / "ready")
        process.send_signal(signal.SIGTERM)
        await_sleepers(asleep, 1)
        process.send_signal(signal.SIGTERM)
        await_file(desk.folder / "swallowed")
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    asked, ended = times(run, "stop_requested"), times(run, "cell_ended", cell_id="stubborn")
    assert len(asked) == 3
    assert (ended[0] - asked[2]).total_seconds() < 2  # the second one alone would have given it five seconds
    assert processes_with(f"sleep {asleep}") == []
    assert run.targets == {"web1": "cancelled"}
    assert run.states == {"load": "ok", "work": "interrupted", "stubborn": "interrupted"}


def test_a_target_that_never_answers_costs_a_stop_no_time_and_no_clean_up(desk: Desk, sshd: Sshd, asleep: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hole = f"127.0.0.1 ansible_port={silent.getsockname()[1]}"
        sshd.inventory({**NAMES, "hole": hole}, desk.folder / "hosts.ini")
        desk.notebook(
            LOAD,
            code(f"%%on web1,web2,hole\nsleep {asleep}", cell_id="on"),
            LATER,
            code(f"targets('web3').run('touch {desk.folder}/cleaned')", "always", cell_id="tidy"),
        )
        with started(desk) as process:
            await_sleepers(asleep, 2)
            process.send_signal(signal.SIGTERM)
            ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert seconds_to_end(run) < 6
    assert ends(run, "on")["hole"] == ("cancelled", "cancelled before it was sent")
    assert "hole" not in {intent["target"] for intent in run.events("intent")}
    assert run.targets == {"web1": "cancelled", "web2": "cancelled", "hole": "cancelled", "web3": "ok"}
    assert run.states == {"load": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}
    assert (desk.folder / "cleaned").exists()


# ---------------------------------------------------------------- nothing is over before it is


@pytest.mark.parametrize(("end", "exit_code"), [("true", 0), ("exit 7", 1)], ids=["ends well", "fails"])
def test_a_cell_is_not_over_before_the_call_its_own_thread_made(desk: Desk, end: str, exit_code: int) -> None:
    script = f"touch {desk.folder}/sent; {waiting(f'{desk.folder}/go')}; touch {desk.folder}/done; {end}"
    desk.notebook(
        LOAD,
        code(
            f"""
            import pathlib, threading, time
            def work():
                targets("web1").run({script!r}, check=True)
            threading.Thread(target=work).start()
            while not pathlib.Path("sent").exists():
                time.sleep(0.05)
            open("returned", "w").close()
            """,
            cell_id="thread",
        ),
    )
    with started(desk) as process:
        await_file(desk.folder / "returned")
        time.sleep(1)  # what would end too early gets its chance
        assert process.poll() is None
        assert not written(desk, '"cell_ended"', '"thread"')
        (desk.folder / "go").touch()
        ran = finish(process)
    run = desk.run()
    assert ran.code == exit_code, ran
    check_run(run, status="failed" if exit_code else "succeeded", code=exit_code)
    assert (desk.folder / "done").exists()
    assert run.targets == {"web1": "failed" if exit_code else "ok"}
    assert times(run, "target_ended")[0] <= times(run, "cell_ended", cell_id="thread")[0]


def test_a_signal_while_a_cell_is_being_announced_is_not_lost(desk: Desk) -> None:
    """The disk is slow: the signal comes after the cell's line was written and before that is known to be on disk."""
    site = desk.folder / "site/sitecustomize.py"
    slow = f"""
import os, time
def slowly(descriptor, sync=os.fsync):
    if os.path.exists({str(desk.folder / "slow")!r}):
        time.sleep(1)
    sync(descriptor)
os.fsync = slowly
"""
    site.write_text(site.read_text() + slow)
    desk.notebook(
        code("open('slow', 'w').close()", cell_id="first"),
        code("import time\nopen('begun', 'w').close()\ntime.sleep(50)", cell_id="work"),
        LATER,
    )
    with started(desk) as process:
        await_cell(desk, "work")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: written(desk, '"stop_requested"'))
        (desk.folder / "slow").unlink()
        ran = finish(process)
    run = desk.run()
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    begun = (desk.folder / "begun").exists()  # on a machine busy enough it has
    assert run.states == {"first": "ok", "work": "interrupted" if begun else "not_run", "later": "not_run"}
    assert seconds_to_end(run) < 10


def test_what_the_runner_refuses_to_send_ends_the_cell(desk: Desk) -> None:
    """The journal cannot grow any more, as on a full disk: nothing is sent that nobody could record."""
    change = f"""
    record("big", "x" * 400_000)
    targets("web1").run("touch {desk.folder}/sent")
    open("later", "w").close()
    """
    desk.notebook(LOAD, code(change, cell_id="work"), code("open('later', 'w').close()", cell_id="after"))
    command = shlex.join([sys.executable, "-m", "opsbook", "run", "book.ipynb"])
    process = subprocess.Popen(
        ["bash", "-c", f"ulimit -f 300; exec {command}"],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ran = finish(process)
    assert ran.code == 5, ran
    record = desk.run().record
    assert (record["status"], record["exit_code"]) == ("failed", 5)
    assert "running" not in {cell["state"] for cell in record["cells"]}
    assert desk.run().states["work"] != "ok"
    assert not (desk.folder / "sent").exists()
    assert not (desk.folder / "later").exists()


# ---------------------------------------------------------------- at a terminal


def at_a_gate(desk: Desk) -> None:
    ask = "open('later', 'w').close()\nprint(targets('web1').run('touch later', read_only=True))"
    desk.notebook(LOAD, code(ask, "confirm", cell_id="gate"), LATER)


def test_a_stop_at_a_gate_ends_the_run_and_a_yes_comes_too_late(desk: Desk) -> None:
    at_a_gate(desk)
    with at_a_terminal(desk) as terminal:
        terminal.await_shown("[y/N]")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.press(b"y\n")
        exit_code = terminal.finish(seconds=15)
    run = desk.run()
    check_stopped(desk, run, exit_code, signal.SIGTERM)
    assert seconds_to_end(run) < 6
    assert run.events("cell_started", "call_started")[1:] == []  # the first is `load`
    assert run.states == {"load": "ok", "gate": "not_run", "later": "not_run"}
    assert "Traceback" not in terminal.shown


def test_the_end_of_input_at_a_gate_is_a_no(desk: Desk) -> None:
    at_a_gate(desk)
    with at_a_terminal(desk) as terminal:
        terminal.await_shown("[y/N]")
        terminal.press(b"\x04")
        exit_code = terminal.finish()
    run = desk.run()
    check_run(run, status="refused", code=3)
    assert exit_code == 3, terminal.shown
    assert run.states == {"load": "ok", "gate": "not_run", "later": "not_run"}
    assert run.events("stop_requested", "call_started") == []
    assert not (desk.folder / "later").exists()


def one_after_the_other(desk: Desk, line: str) -> None:
    desk.notebook(
        LOAD,
        code(f"%%on web1,web2 --parallel 1\ntouch {desk.folder}/sent-$OPSBOOK_TARGET\n{line}", cell_id="on"),
        LATER,
        code(f"targets('web3').run('sleep 1; touch {desk.folder}/cleaned')", "always", cell_id="tidy"),
    )


def check_interrupted_at_a_terminal(desk: Desk, terminal: Terminal, exit_code: int, *, web1: str) -> None:
    """What ran has this end, what waited was left out, what always runs did."""
    run = desk.run()
    check_stopped(desk, run, exit_code, signal.SIGINT)
    assert run.targets == {"web1": web1, "web2": "skipped", "web3": "ok"}
    assert run.states == {"load": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}
    assert [path.name for path in desk.folder.glob("sent-*")] == ["sent-web1"]
    assert ends(run, "on")["web2"] == ("skipped", "the run is stopping")
    assert (desk.folder / "cleaned").exists()
    assert "interrupted" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_a_first_ctrl_c_lets_running_commands_finish_and_starts_nothing_new(desk: Desk) -> None:
    one_after_the_other(desk, f"{waiting(f'{desk.folder}/go')}; touch {desk.folder}/finished")
    with at_a_terminal(desk) as terminal:
        await_file(desk.folder / "sent-web1")
        terminal.press(b"\x03")
        terminal.await_shown("stopping")
        time.sleep(1)  # what would end it too early gets its chance
        assert not written(desk, '"target_ended"', '"web1"')
        (desk.folder / "go").touch()
        exit_code = terminal.finish()
    assert (desk.folder / "finished").exists()
    check_interrupted_at_a_terminal(desk, terminal, exit_code, web1="ok")


def test_a_second_ctrl_c_ends_running_commands(desk: Desk, asleep: str) -> None:
    one_after_the_other(desk, f"sleep {asleep}")
    with at_a_terminal(desk) as terminal:
        await_sleepers(asleep, 1)
        terminal.press(b"\x03")
        terminal.await_shown("stopping")
        terminal.press(b"\x03")
        exit_code = terminal.finish()
    assert processes_with(f"sleep {asleep}") == []
    assert len(desk.run().events("stop_requested")) == 2
    assert seconds_to_end(desk.run()) < 15
    check_interrupted_at_a_terminal(desk, terminal, exit_code, web1="cancelled")


def test_a_terminal_that_is_closed_ends_the_run_and_nothing_breaks(desk: Desk, asleep: str) -> None:
    one_after_the_other(desk, f"sleep {asleep}")
    with at_a_terminal(desk) as terminal:
        await_sleepers(asleep, 1)
        terminal.close()
        exit_code = terminal.finish()
    assert processes_with(f"sleep {asleep}") == []
    run = desk.run()
    check_stopped(desk, run, exit_code, signal.SIGHUP)
    assert run.targets == {"web1": "cancelled", "web2": "skipped", "web3": "ok"}
    assert run.states == {"load": "ok", "on": "interrupted", "later": "not_run", "tidy": "ok"}


# ---------------------------------------------------------------- early, ignored, and from outside


def folder_appears(desk: Desk) -> bool:
    return any(desk.folder.glob("archive/*/*/*/*Z-book-*"))


def kernel_boots(desk: Desk) -> bool:
    return bool(desk.kernels())


@pytest.mark.parametrize("moment", [folder_appears, kernel_boots], ids=["the run's folder", "the kernel"])
def test_a_stop_while_the_kernel_boots_runs_no_cell(desk: Desk, moment: Callable[[Desk], bool]) -> None:
    desk.notebook(LOAD, code("open('later', 'w').close()", cell_id="first"), LATER)
    with started(desk) as process:
        deadline = time.monotonic() + START_S
        while not moment(desk):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        ran = finish(process)
    run = desk.run()
    assert ran.code == 143, ran
    check_stopped(desk, run, ran.code, signal.SIGTERM)
    assert set(run.states.values()) == {"not_run"}
    assert run.events("cell_started") == []
    assert "Traceback" not in ran.err


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(desk: Desk) -> None:
    desk.notebook(
        LOAD,
        code(f"%%on web1\ntouch {desk.folder}/sent\n{waiting(f'{desk.folder}/go')}", cell_id="on"),
        code("import signal\nprint(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)", cell_id="last"),
    )
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "opsbook", "run", "book.ipynb"],
        cwd=desk.folder,
        env=desk.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await_file(desk.folder / "sent")
        process.send_signal(signal.SIGHUP)
    finally:
        (desk.folder / "go").touch()
        ran = finish(process)
    run = desk.run()
    assert ran.code == 0, ran
    check_run(run, status="succeeded", code=0)
    assert run.events("stop_requested") == []
    assert run.states == {"load": "ok", "on": "ok", "last": "ok"}
    assert run.output("last") == "True\n"


def stop(desk: Desk, *what: str) -> Ran:
    return desk.opsbook("stop", *what)


def test_stop_ends_the_run_that_is_meant_and_no_other(desk: Desk) -> None:
    for name in ("alpha", "beta"):
        desk.notebook(
            code(f"open('{name}', 'w').close()\n{python_waiting('never')}", cell_id="work"), name=f"{name}.ipynb"
        )
    with started(desk, "alpha.ipynb") as first:
        await_file(desk.folder / "alpha")
        with started(desk, "beta.ipynb") as second:
            await_file(desk.folder / "beta")
            alpha, beta = sorted(desk.runs(), key=lambda run: "-beta-" in run.folder.name)
            many = stop(desk, alpha.folder.name[:4])
            assert (many.code, "2 runs match" in many.err) == (2, True), many
            suffix = alpha.folder.name.rpartition("-")[2]
            asked = stop(desk, suffix)
            assert asked.code == 0, asked
            assert f"{alpha.folder.name} has stopped" in asked.err
            check_stopped(desk, alpha, finish(first).code, signal.SIGTERM)
            assert second.poll() is None
            record = (alpha.folder / "run.json").read_bytes()
            over = stop(desk, suffix)
            assert (over.code, "over already" in over.err) == (1, True), over
            assert (alpha.folder / "run.json").read_bytes() == record
            assert second.poll() is None
            asked = stop(desk, "last")
            assert (asked.code, beta.folder.name in asked.err) == (0, True), asked
            check_stopped(desk, beta, finish(second).code, signal.SIGTERM)
    assert stop(desk, "last").code == 1
    nobody = stop(desk, "nobody")
    assert (nobody.code, "'nobody'" in nobody.err) == (2, True), nobody
