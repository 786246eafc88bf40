"""What always runs, after a stop: with targets of its own, its own signals, and its own bound."""

from __future__ import annotations

import signal
import socket

from conftest import Sshd
from stopping import (
    LATER,
    await_file,
    await_sleepers,
    check_stopped,
    ends,
    python_waiting,
    seconds_to_end,
    started,
    times,
    written,
)
from support import LOAD, Desk, code, finish, processes_with, wait_for

NAMES = {f"web{number}": f"127.0.7.{number}" for number in range(1, 4)}


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
    holds = code(f"%%on web1,web2\ntrap '' TERM\nsleep {asleep}", cell_id="on")  # for the second one to come in time
    desk.notebook(LOAD, holds, LATER, tidy)
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
