"""How a run stops at a real terminal: at a gate, by Ctrl-C once and twice, and when the window is closed."""

from __future__ import annotations

import signal
import time

from agreement import check_run
from stopping import (
    LATER,
    Terminal,
    at_a_terminal,
    await_file,
    await_sleepers,
    check_stopped,
    ends,
    seconds_to_end,
    waiting,
    written,
)
from support import LOAD, Desk, code, processes_with

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 4)}


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
