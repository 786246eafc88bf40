"""What ends a command ends its processes, whoever they belong to, and what escapes is told (SEMANTICS 12)."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from accounts import PASSWORD, Account, made_account
from conftest import Sshd
from faults import another_sshd, network
from rig import Rig, known_hosts, target_of
from servers import connect
from support import processes_with, wait_for

from opsbook.errors import FleetError
from opsbook.fleet.fleet import Fleet
from opsbook.model.target import Become, TargetState
from opsbook.ssh import reach
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.follow import Follow, Progress
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import COMMAND_VARIABLE, Script
from opsbook.ssh.terms import Terms


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with made_account() as made:
        made.allow("USER ALL=(ALL:ALL) ALL")
        yield made


@pytest.fixture
def connection(sshd: Sshd) -> Iterator[Connection]:
    made = connect(target_of(sshd, "web1"), KnownHosts([sshd.known_hosts]), HostKeyPolicy.STRICT, timeout_s=20)
    yield made
    made.close()


def sleepers(number: str) -> list[int]:
    """The processes that sleep, without those that only started one."""
    return [pid for pid in processes_with(f"sleep {number}") if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]


def run(
    connection: Connection,
    text: str,
    *,
    stop_when: object = None,
    watched: bool = True,
    timeout_s: float = 60,
    idle_s: float | None = None,
    **how: object,
) -> CommandResult:
    """Run a script, and cancel it when something holds."""
    marker = f"mark-{secrets.token_hex(8)}"
    command = Command(
        connection,
        Script(text=text, environment={COMMAND_VARIABLE: marker}, **how),
        marker=marker,
        timeout_s=timeout_s,
        idle_s=idle_s,
        on_output=lambda *_: None,
        terms=Terms(password=lambda: PASSWORD),
        watched=watched,
    )

    def cancel() -> None:
        wait_for(stop_when, seconds=40)  # type: ignore[arg-type]
        command.cancel()

    canceller = threading.Thread(target=cancel) if stop_when is not None else None
    if canceller is not None:
        canceller.start()
    result = command.run(lambda: None)
    if canceller is not None:
        canceller.join(10)
    return result


ESCAPES = "trap '' TERM\nsetsid sleep {0} </dev/null >/dev/null 2>&1 &\nsleep {0} & sleep {0}; sleep {0}"


@pytest.mark.parametrize("who", ["root", "user", "sudo"])
def test_a_cancel_ends_the_processes_and_tells_which_escaped(sshd, account, asleep, who):
    known = KnownHosts([sshd.known_hosts])
    made = connect(target_of(sshd, "web1"), known, HostKeyPolicy.STRICT, timeout_s=20)
    made = (made.close(), account.connect())[1] if who != "root" else made
    try:
        text = ESCAPES.format(asleep)
        result = run(made, text, stop_when=lambda: len(sleepers(asleep)) == 3, sudo=who == "sudo")
    finally:
        made.close()
    assert result.state is TargetState.CANCELLED
    (left,) = wait_for(lambda: len(found := sleepers(asleep)) == 1 and found, seconds=20)
    assert result.reason == f"cancelled; 1 process escaped: sleep (pid {left})"


def test_what_ends_in_time_is_not_said_to_have_escaped(connection, asleep):
    text = f"(trap '' TERM; sleep {asleep}; sleep {asleep}) & sleep {asleep}"
    result = run(connection, text, stop_when=lambda: len(sleepers(asleep)) == 2)
    assert result.reason == "cancelled"
    assert not sleepers(asleep)


@pytest.mark.parametrize("text", ["sleep {}", "while :; do :; done # {}", "(sleep {}; sleep {}) & wait"])
def test_what_runs_without_a_watcher_is_ended_too(connection, asleep, text):
    begun = time.monotonic()
    result = run(connection, text.replace("{}", asleep), watched=False, timeout_s=1)
    assert (result.state, result.reason) == (TargetState.TIMED_OUT, "timed out after 1 s")
    assert time.monotonic() - begun < 20
    assert not processes_with(asleep)


def test_a_flood_of_output_hides_no_deadline_and_no_cancel(connection):
    result = run(connection, "yes | tee /dev/stderr", timeout_s=1.5)
    assert (result.state, result.reason) == (TargetState.TIMED_OUT, "timed out after 1.5 s")
    assert result.truncated
    assert len(result.stdout) < 3_000_000


def test_silence_is_not_output(connection, asleep):
    begun = time.monotonic()
    result = run(connection, f"echo one; sleep 0.3; echo two >&2; sleep {asleep}", idle_s=1)
    assert (result.state, result.stdout, result.stderr) == (TargetState.TIMED_OUT, "one\n", "two\n")
    assert result.reason == "timed out: idle, it said nothing for 1 s"
    assert time.monotonic() - begun >= 1.3
    wait_for(lambda: not sleepers(asleep), seconds=20)
    assert run(connection, "for n in 1 2; do sleep 0.2; echo $n; done", idle_s=20).state is TargetState.OK


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_script_that_hangs_in_a_full_socket_hides_no_deadline_and_no_cancel(sshd, tmp_path, monkeypatch, cancelled):
    tune = reach._tune

    def tune_small(sock: socket.socket, silence_s: float) -> None:
        tune(sock, silence_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    monkeypatch.setattr(reach, "_tune", tune_small)
    window = "_wait_for_send_window"  # else it may be what is used up first, and that is noticed without closing
    monkeypatch.setattr(paramiko.Channel, window, lambda self, size: 0 if self.closed else min(size, 32_000))
    with network() as net:
        proxy = net.proxy(sshd.port)
        where = target_of(sshd, "web1", proxy=proxy)
        made = connect(where, KnownHosts([known_hosts(sshd, tmp_path)]), HostKeyPolicy.STRICT, timeout_s=20)
        script = Script(text=f"touch {tmp_path}/ran\n: " + "x" * 8_000_000)
        timeout_s = 60.0 if cancelled else 1.5
        command = Command(made, script, marker="mark-1", timeout_s=timeout_s, on_output=lambda *_: None)

        def freeze() -> None:
            proxy.freeze()
            if cancelled:
                threading.Timer(1.5, command.cancel).start()

        begun = time.monotonic()
        result = command.run(freeze)
        took = time.monotonic() - begun
        wait_for(lambda: not made.alive, seconds=5)  # another thread closes it
        made.close()
    assert 2.3 <= took < 30
    how = "cancelled" if cancelled else "timed out after 1.5 s"
    assert (str(result.state), result.reason) == (
        "cancelled" if cancelled else "timed_out",
        f"{how} while it was being sent; nothing ran",
    )
    assert not (tmp_path / "ran").exists()


def test_much_on_both_streams_arrives_over_new_keys_and_little_is_kept(sshd, tmp_path):
    size = 24_000_000
    with another_sshd(sshd, tmp_path, "RekeyLimit 3M") as port:
        where = target_of(sshd, "web1", port=port)
        made = connect(where, KnownHosts([known_hosts(sshd, tmp_path)]), HostKeyPolicy.STRICT, timeout_s=20)
        heard = {"stdout": 0, "stderr": 0}

        def count(stream: str, text: str) -> None:
            heard[stream] += len(text)

        make = f"head -c {size} /dev/zero | tr '\\0'"
        script = Script(text=f"{make} o & {make} e >&2; wait")
        command = Command(made, script, marker="mark-1", timeout_s=100, on_output=count)
        result = command.run(lambda: None)
        made.close()
    assert (result.state, result.reason) == (TargetState.OK, "")
    assert heard == {"stdout": size, "stderr": size}
    assert result.truncated
    assert len(result.stdout) + len(result.stderr) < 5_000_000


def test_a_hard_stop_ends_what_runs_as_a_user_and_under_sudo(account, asleep, tmp_path):
    targets = (
        account.target("bad", "127.0.10.1"),
        account.target("plain", "127.0.10.2"),
        account.target("sudo", "127.0.10.3", become=Become(always=True, password="test:sudo")),
    )
    made = Rig(targets, tmp_path / "marks", known_hosts=(str(account.folder / "known_hosts"),))
    made.journal.reveal = lambda _, **__: PASSWORD  # type: ignore[method-assign]
    made.folder.chmod(0o777)
    tmp_path.chmod(0o755)
    text = (
        f'if [ "$OPSBOOK_TARGET" = bad ]; then while [ ! -e /tmp/{asleep} ]; do sleep 0.1; done; exit 1; fi\n'
        f"sleep {asleep}"
    )
    flag = Path(f"/tmp/{asleep}")

    def go() -> None:
        wait_for(lambda: len(sleepers(asleep)) == 2, seconds=40)
        flag.touch()

    starter = threading.Thread(target=go)
    starter.start()
    try:
        with pytest.raises(FleetError):
            Fleet(made.session, targets).run(text, hard_stop=True)
    finally:
        starter.join(45)
        flag.unlink(missing_ok=True)
        made.close()
    assert made.journal.ended("plain").state is TargetState.CANCELLED
    assert made.journal.ended("sudo").state is TargetState.CANCELLED
    wait_for(lambda: not sleepers(asleep), seconds=20)


@pytest.mark.parametrize(
    "bashrc", ["set -o noclobber", "f() { :; }", "shopt -s extglob", "trap 'echo trapped' EXIT", "IFS=x", ":"]
)
def test_what_bashrc_changes_does_not_reach_a_script(account, bashrc):
    (account.home / ".bashrc").write_text(bashrc + "\n")
    made = account.connect()
    try:
        text = (
            'echo "$-"; shopt extglob || :; declare -F || :; x="a x b"; printf "%s|" $x; echo; trap; '
            "set -- one; echo $#; cat; : >/dev/null; echo x >$HOME/file; echo y >$HOME/file"
        )
        fresh, direct = (run(made, text, watched=False, shell=shell) for shell in ("bash -euo pipefail", None))
    finally:
        made.close()
        (account.home / ".bashrc").unlink()
    assert fresh.state is TargetState.OK
    assert (direct.state, direct.stdout, direct.stderr) == (fresh.state, fresh.stdout, fresh.stderr)


@pytest.mark.parametrize(("bashrc", "directly"), [(":", True), ("shopt -s checkwinsize", True), ("f() { :; }", False)])
def test_a_login_bash_that_nobody_changed_runs_the_script_itself(account, bashrc, directly):
    (account.home / ".bashrc").write_text(bashrc + "\n")
    made = account.connect()
    try:
        result = run(made, "tr '\\0' ' ' </proc/$$/cmdline")
    finally:
        made.close()
        (account.home / ".bashrc").unlink()
    assert result.stdout.startswith("bash -c test " if directly else "bash -euo pipefail -c "), result


@pytest.mark.parametrize("shell", ["sh", "dash", "zsh", "fish", "csh"])
def test_whatever_the_login_shell_a_script_runs_the_same(account, shell):
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run(["usermod", "-s", path, account.name], check=True, capture_output=True)
    made = account.connect()
    try:
        result = run(made, 'echo "$-"; cat; echo two >&2; exit 3', watched=False)
        script = Script(text="echo in; exit 4", sudo=False)
        lasting = Follow(made, script, Progress(lambda *_: None, timeout_s=60, idle_s=None), **durably()).run(
            lambda: None
        )
    finally:
        made.close()
        subprocess.run(["usermod", "-s", "/bin/bash", account.name], check=True, capture_output=True)
    assert (result.exit_code, result.stderr) == (3, "two\n"), result
    assert (lasting.exit_code, lasting.stdout, lasting.stderr) == (4, "in\n", ""), lasting


def durably() -> dict[str, Any]:
    return {"spool": secrets.token_hex(12), "terms": Terms(), "starting": True}


def test_nothing_of_ours_stays_on_a_target_when_all_ended_well(connection):
    command = Command(connection, Script(text="true"), marker="mark-4f1c9e", timeout_s=60, on_output=lambda *_: None)
    assert command.run(lambda: None).state is TargetState.OK
    wait_for(lambda: not processes_with("mark-4f1c9e"), seconds=20)
