"""A shell that waits for the next script: who gets one, what runs in it, and that nothing else differs."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Sshd
from rig import known_hosts, target_of
from servers import Server, connect, serve
from support import wait_for

from opsbook.fleet import standby as keeping
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.target import Inventory, TargetState
from opsbook.ssh import standby as waiting
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.exchange import start_standby
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import COMMAND_VARIABLE, Script

ITSELF = "tr '\\0' ' ' </proc/$$/cmdline"
"""Says the command line of the shell it runs in."""


def command(connection: Connection, text: str, **how: object) -> Command:
    marker = f"mark-{secrets.token_hex(8)}"
    return Command(
        connection,
        Script(text=text, environment={COMMAND_VARIABLE: marker}, **how),
        marker=marker,
        timeout_s=30,
        on_output=lambda *_: None,
        watched=False,
    )


def run(connection: Connection, text: str, **how: object) -> CommandResult:
    return command(connection, text, **how).run(lambda: None)


def ahead(connection: Connection) -> str:
    """Have a shell wait, and return its name."""
    start_standby(connection, seconds=10)
    return connection.standby._waiting.name


def process_of(name: str) -> int | None:
    """The process that a waiting shell is."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in file.read_bytes():
                return int(file.parent.name)
        except OSError:
            continue  # it has just ended
    return None


@contextmanager
def linked(sshd: Sshd, server: Server | None = None) -> Iterator[Connection]:
    """One connection, to a server of its own where one is given."""
    there = sshd if server is None else server
    target = target_of(sshd, "web1", port=there.port)
    made = connect(target, KnownHosts([there.known_hosts]), HostKeyPolicy.STRICT, timeout_s=20)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def connection(sshd: Sshd):
    with linked(sshd) as made:
        yield made


@pytest.fixture
def fleet(sshd: Sshd, tmp_path: Path):
    """Three targets of one session, without a runner."""
    targets = tuple(target_of(sshd, f"web{number}", host=f"127.0.0.{number}") for number in (2, 3, 4))
    options = RunOptions(known_hosts=(str(known_hosts(sshd, tmp_path)),), ssh_config="none", connect_timeout_s=20)
    session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
    yield Fleet(session, targets)
    session.pool.close()


def waiting_in(fleet: Fleet) -> int:
    return sum(one.standby._waiting is not None for one in fleet._session.pool.connections)


def test_a_script_runs_in_the_shell_that_waited_and_the_next_one_in_another(connection):
    name = ahead(connection)
    assert name in run(connection, ITSELF).stdout
    assert name not in run(connection, ITSELF).stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("printf 'a\\377b\\000c'; printf 'no end' >&2; exit 3", ("failed", 3, None)),
        ("exit 143", ("failed", 143, None)),
        ("sh -c 'kill -TERM $$'", ("failed", 143, None)),
        ("kill -TERM $$; sleep 30", ("failed", None, "TERM")),
        ("cat; read -r line || echo nothing; set -o | grep -E 'errexit|nounset|pipefail'", ("ok", 0, None)),
        ("echo a\n)", ("failed", 2, None)),
        ("false | cat\necho b", ("failed", 1, None)),
        ("echo $unset", ("failed", 1, None)),
        (
            "pwd; echo $SHLVL $-; ulimit -a; trap -p; jobs; env | grep -vE '^(_|SSH_C.*|OPSBOOK_C.*)='",
            ("ok", 0, None),
        ),
    ],
)
def test_it_ends_and_says_exactly_what_it_would_in_a_shell_of_its_own(connection, text, expected):
    plain = run(connection, text)
    ahead(connection)
    again = run(connection, text)
    assert (again.state, again.exit_code, again.signal) == expected
    assert again == plain


def test_nothing_of_one_script_is_left_for_the_next(connection, tmp_path):
    for _ in range(2):
        ahead(connection)
        text = f"echo ${{left-clean}} $(umask) $PWD; left=over; export left; umask 077; cd {tmp_path}"
        said = run(connection, text).stdout
    assert said.startswith("clean 0022 ")
    assert str(tmp_path) not in said


def test_a_large_script_waits_for_nothing_either(connection):
    name = ahead(connection)
    text = ": filler filler filler filler filler filler filler filler\n" * 9_000 + ITSELF
    assert name in run(connection, text).stdout


def test_a_cancel_ends_what_runs_in_it_and_the_shell_itself(connection, tmp_path):
    name = ahead(connection)
    sleeping = command(connection, f"exec 2>/dev/null; touch {tmp_path}/begun; while :; do sleep 0.2 || :; done")
    threading.Thread(target=lambda: (wait_for((tmp_path / "begun").exists), sleeping.cancel())).start()
    assert sleeping.run(lambda: None).state is TargetState.CANCELLED
    wait_for(lambda: process_of(name) is None)


def test_one_that_died_or_waited_for_too_long_is_not_used(connection, monkeypatch):
    name = ahead(connection)
    os.kill(wait_for(lambda: process_of(name)), signal.SIGKILL)
    wait_for(lambda: connection.standby.wanted or not connection.standby._is_fit(connection.standby._waiting))
    assert run(connection, "echo fine").stdout == "fine\n"
    name = ahead(connection)
    monkeypatch.setattr(waiting, "FRESH_S", 0.0)
    assert name not in run(connection, ITSELF).stdout
    wait_for(lambda: process_of(name) is None)


def test_it_ends_with_its_connection(sshd):
    with linked(sshd) as connection:
        name = ahead(connection)
        process = wait_for(lambda: process_of(name))
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def test_one_that_is_killed_before_it_took_its_script_claims_no_exit_code(connection):
    name = ahead(connection)
    process = wait_for(lambda: process_of(name))

    def kill() -> None:
        os.kill(process, signal.SIGSTOP)  # it takes nothing any more, and nobody knows
        threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()

    result = command(connection, "echo ran").run(kill)
    assert (result.state, result.exit_code, result.signal, result.stdout) == (TargetState.FAILED, None, "KILL", "")


def test_one_that_gets_no_script_ends_by_a_signal_which_is_nobodys_exit_code(connection):
    ahead(connection)
    channel = connection.standby._waiting.channel
    channel.shutdown_write()
    wait_for(lambda: channel.closed or connection.transport.hearers[channel.get_id()].signal)
    assert connection.transport.hearers[channel.get_id()].signal == "KILL"


def test_the_login_files_speak_and_count_once_and_a_time_limit_in_them_ends_no_shell(sshd, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("echo hello; echo there >&2; readonly TMOUT=1; export FROM_RC=yes\n")
    with serve(sshd, tmp_path / "own", SetEnv=f"HOME={home}") as server, linked(sshd, server) as connection:
        plain = run(connection, "echo $FROM_RC")
        name = ahead(connection)
        time.sleep(1.5)  # longer than TMOUT
        waited = run(connection, f"echo $FROM_RC; {ITSELF} >&2")
    assert waited.stdout == plain.stdout == "hello\nyes\n"
    assert waited.stderr.startswith("there\n")
    assert name in waited.stderr


def test_a_forced_command_is_not_run_once_more_for_a_shell_that_waits(sshd, tmp_path):
    counted = tmp_path / "counted"
    forced = f'echo "$SSH_ORIGINAL_COMMAND" >&2; echo run >> {counted}; head -c 9 >&2'
    with serve(sshd, tmp_path / "own", ForceCommand=forced) as server:
        targets = (target_of(sshd, "forced", port=server.port), target_of(sshd, "free"))
        options = RunOptions(known_hosts=(str(known_hosts(sshd, tmp_path)),), ssh_config="none", connect_timeout_s=20)
        session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
        fleet = Fleet(session, targets)
        fleet.run("true", read_only=True, check=False)
        fleet.run("true", read_only=True, check=False)
        wait_for(lambda: waiting_in(fleet) == 1)
        fleet.run("true", read_only=True, check=False)
        session.pool.close()
    assert counted.read_text() == "run\n" * 3


def test_where_the_server_has_no_room_the_shell_makes_way(sshd, tmp_path):
    with serve(sshd, tmp_path / "own", MaxSessions="1") as server, linked(sshd, server) as connection:
        ahead(connection)
        assert run(connection, "echo other", shell="sh -eu").stdout == "other\n"
        assert not connection.standby.wanted


def test_shells_wait_after_the_second_call_and_the_third_one_finds_them(fleet):
    fleet.run("true", read_only=True)
    time.sleep(0.2)
    assert waiting_in(fleet) == 0, "one command alone costs no second shell"
    second = fleet.run("echo out; echo err >&2", read_only=True)
    assert {(one.stdout, one.stderr) for one in second} == {("out\n", "err\n")}, "the proof is nobody's output"
    wait_for(lambda: waiting_in(fleet) == 3)
    names = {one.standby._waiting.name for one in fleet._session.pool.connections}
    said = [one.stdout for one in fleet.run(ITSELF, read_only=True)]
    assert all(any(name in line for name in names) for line in said)


def test_none_is_started_while_a_call_is_in_flight_or_the_run_is_stopping(fleet):
    session = fleet._session
    fleet.run("true", read_only=True)
    session.enter(fleet)
    fleet.run("true", read_only=True)
    time.sleep(0.2)
    assert waiting_in(fleet) == 0
    session.stopping = True
    session.leave(fleet)
    time.sleep(0.2)
    assert waiting_in(fleet) == 0


def test_shells_that_nobody_needs_end(fleet, monkeypatch):
    monkeypatch.setattr(keeping, "FRESH_S", 1.0)
    fleet.run("true", read_only=True)
    fleet.run("true", read_only=True)
    wait_for(lambda: waiting_in(fleet) == 3)
    names = [one.standby._waiting.name for one in fleet._session.pool.connections]
    wait_for(lambda: waiting_in(fleet) == 0)
    wait_for(lambda: not any(map(process_of, names)))


def test_what_a_change_left_is_seen_by_the_next_command(sshd, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with serve(sshd, tmp_path / "own", SetEnv=f"HOME={home}") as server:
        targets = (target_of(sshd, "web1", port=server.port),)
        options = RunOptions(known_hosts=(str(server.known_hosts),), ssh_config="none", connect_timeout_s=20)
        session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
        fleet = Fleet(session, targets)
        fleet.run("true", read_only=True)
        fleet.run("true", read_only=True)
        wait_for(lambda: waiting_in(fleet) == 1)
        fleet.run(f"echo 'export NEWS=seen' > {home}/.bashrc", shell="sh -eu")  # runs in no shell that waited
        assert fleet.run("echo ${NEWS-missed}", read_only=True)["web1"].stdout == "seen\n"
        session.pool.close()
