"""One host: connecting, host keys, and how a command ended, against a real sshd."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from conftest import Sshd
from servers import connect
from support import wait_for

from opsbook.errors import ConnectError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.script import Script


def target(sshd: Sshd, **changes: object) -> Target:
    made = Target(name="web1", host="127.0.0.2", port=sshd.port, user=sshd.user, identity_files=(str(sshd.identity),))
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def connection(sshd: Sshd):
    made = connect(target(sshd), KnownHosts([sshd.known_hosts]), HostKeyPolicy.STRICT, timeout_s=10)
    yield made
    made.close()


def run(
    connection: Connection,
    text: str,
    *,
    timeout_s: float = 20,
    when_heard: Callable[[Command], object] = lambda _: None,
    **how: object,
):
    """Run a script; `when_heard` is called, on another thread, when it has said something."""
    lines: list[tuple[str, str]] = []

    def hear(*said: str) -> None:
        if not lines:
            threading.Thread(target=when_heard, args=(command,)).start()
        lines.append(said)

    command = Command(
        connection,
        Script(text=text, **how),
        marker=f"mark-{secrets.token_hex(8)}",
        timeout_s=timeout_s,
        on_output=hear,
    )
    result = command.run(lambda: None)
    return result, lines


@pytest.fixture
def asleep() -> str:
    """How long to sleep, as nobody else on this machine does."""
    return f"{random.randrange(4000, 9000)}.{secrets.randbits(40)}"


def survivors(word: str) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if word in line]


def test_output_and_exit_code_come_back(connection):
    result, lines = run(connection, "echo one; echo two >&2; exit 3")
    assert (result.state, result.exit_code) == (TargetState.FAILED, 3)
    assert (result.stdout, result.stderr) == ("one\n", "two\n")
    assert set(lines) == {("stdout", "one\n"), ("stderr", "two\n")}


def test_a_script_stops_at_its_first_failing_line_and_fails_in_a_pipe(connection):
    assert run(connection, "echo a\nfalse\necho b")[0].stdout == "a\n"
    assert run(connection, "false | cat\necho b")[0].state is TargetState.FAILED


@pytest.mark.parametrize(
    "broken", ["echo a\n)", "echo a\n}", "echo a\nif true; then", "echo a\necho 'open", "echo a\nfi"]
)
@pytest.mark.parametrize("shell", [None, "sh -eu"])
def test_a_syntax_error_is_found_before_the_first_line_runs(connection, broken, shell):
    result, _ = run(connection, broken, shell=shell)
    assert (result.state, result.exit_code, result.stdout) == (TargetState.FAILED, 2, "")
    assert "yntax error" in result.stderr or "unexpected EOF" in result.stderr or "Unterminated" in result.stderr


def test_a_command_cannot_read_the_script_as_its_input(connection):
    result, _ = run(connection, "cat\nread -r line || echo nothing\necho after")
    assert result.stdout == "nothing\nafter\n"


def test_a_large_script_is_in_no_argument_list(connection):
    word = "needle-7c1f"
    text = (
        f"# {word}\n"
        + ": filler filler filler filler filler filler filler filler\n" * 9_000
        + "ps -eo args | grep -c needle-7c1[f] || true"
    )
    assert run(connection, text)[0].stdout == "0\n"


def test_error_messages_count_lines_as_an_on_cell_does(connection):
    assert "line 3:" in run(connection, "echo a\nnot-a-command")[0].stderr


def test_variables_environment_and_directory_reach_the_script_quoted(connection, tmp_path):
    hostile = 'it\'s "$HOME" `id` $(id) \\ * ; é'
    result, _ = run(
        connection,
        'printf "%s\\n" "$plain" "$exported"; env | grep -c "^plain=" || true; pwd',
        variables={"plain": hostile},
        environment={"exported": hostile},
        directory=str(tmp_path),
    )
    assert result.stdout == f"{hostile}\n{hostile}\n0\n{tmp_path}\n"


def test_binary_and_broken_text_survive_as_replacement_characters(connection):
    result, _ = run(connection, r"printf 'a\377b\303'")
    assert result.stdout == "a\ufffdb\ufffd"


def test_both_streams_are_drained_together(connection):
    result, _ = run(connection, "head -c 3000000 /dev/zero | tr '\\0' e >&2; head -c 3000000 /dev/zero | tr '\\0' o")
    assert result.state is TargetState.OK
    assert result.truncated
    assert "characters left out" in result.stdout


def test_a_killed_command_names_its_signal(connection):
    result, _ = run(connection, "kill -KILL $$")
    assert (result.state, result.exit_code, result.signal) == (TargetState.FAILED, None, "KILL")


def test_a_deadline_ends_the_remote_processes(connection, asleep):
    begun = time.monotonic()
    result, _ = run(connection, f"trap '' TERM; echo in; sleep {asleep} & sleep {asleep}; wait", timeout_s=2)
    assert (result.state, result.stdout) == (TargetState.TIMED_OUT, "in\n")
    assert time.monotonic() - begun < 15
    wait_for(lambda: not survivors(asleep))


def test_a_cancel_ends_the_remote_processes(connection, asleep):
    result, _ = run(connection, f"echo in; sleep {asleep}", when_heard=Command.cancel)
    assert result.state is TargetState.CANCELLED
    wait_for(lambda: not survivors(asleep))


def test_a_child_left_behind_does_not_hold_the_command(connection, asleep):
    begun = time.monotonic()
    result, _ = run(connection, f"sleep {asleep} & echo done")
    assert (result.state, result.stdout) == (TargetState.OK, "done\n")
    assert time.monotonic() - begun < 30
    subprocess.run(["pkill", "-f", f"sleep {asleep}"], check=False)


def test_a_lost_link_is_lost_and_not_failed(connection):
    result, _ = run(connection, "echo in; sleep 5", when_heard=lambda _: connection._sock._sock.shutdown(2))
    assert (result.state, result.exit_code) == (TargetState.LOST, None)
    assert "may still be running" in result.reason


def test_a_killed_server_process_is_lost(sshd, connection):
    def kill_servers(_: Command) -> None:
        listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            pid, parent, *words = line.split()
            if parent == str(sshd.pid) and words and words[0].startswith("sshd"):
                os.kill(int(pid), signal.SIGKILL)

    assert run(connection, "echo in; sleep 5", when_heard=kill_servers)[0].state is TargetState.LOST


def test_without_sudo_rights_the_state_is_become(connection):
    result, _ = run(connection, "id -u", sudo=True, as_user="nobody-of-that-name")
    assert result.state is TargetState.BECOME
    assert result.stdout == ""


def test_what_goes_before_the_send_can_forbid_it(connection):
    command = Command(connection, Script(text="touch x"), marker="", timeout_s=5, on_output=lambda *_: None)

    def forbid() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        command.run(forbid)


def failure(
    sshd: Sshd, known: KnownHosts, policy: HostKeyPolicy = HostKeyPolicy.STRICT, **changes: object
) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        connect(target(sshd, **changes), known, policy, timeout_s=2).close()
    return caught.value


def test_each_way_not_to_connect_has_its_state(sshd, tmp_path):
    known = KnownHosts([sshd.known_hosts])
    assert failure(sshd, known, port=1).state == "unreachable"
    assert failure(sshd, known, host="no-such-host.invalid").state == "unreachable"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    assert failure(sshd, known, identity_files=(str(tmp_path / "other"),)).state == "auth"
    assert failure(sshd, known, identity_files=(str(tmp_path / "missing"),)).state == "auth"
    assert failure(sshd, KnownHosts([])).state == "hostkey"
    changed = tmp_path / "changed"
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    changed.write_text(f"[127.0.0.2]:{sshd.port} {key}\n")
    error = failure(sshd, KnownHosts([changed]), HostKeyPolicy.ACCEPT_NEW)
    assert error.state == "hostkey"
    assert "CHANGED" in str(error)


def test_a_silent_server_is_unreachable_within_the_deadline(sshd):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        error = failure(sshd, KnownHosts([]), host="127.0.0.1", port=silent.getsockname()[1])
    assert error.state == "unreachable"
    assert time.monotonic() - begun < 4


def test_a_new_key_is_recorded_once_and_then_known(sshd, tmp_path: Path):
    file = tmp_path / "fresh" / "known_hosts"
    connect(target(sshd), KnownHosts([file]), HostKeyPolicy.ACCEPT_NEW, timeout_s=5).close()
    connect(target(sshd), KnownHosts([file]), HostKeyPolicy.STRICT, timeout_s=5).close()
    assert len(file.read_text().splitlines()) == 1
    assert file.stat().st_mode & 0o777 == 0o600


def test_hashed_revoked_and_wildcard_entries_are_understood(sshd, tmp_path):
    key = " ".join((sshd.folder / "host.pub").read_text().split()[:2])
    hashed = tmp_path / "hashed"
    hashed.write_text(f"[127.0.0.2]:{sshd.port} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hashed)], check=True, capture_output=True)
    assert "127.0.0.2" not in hashed.read_text()
    connect(target(sshd), KnownHosts([hashed]), HostKeyPolicy.STRICT, timeout_s=5).close()
    revoked = tmp_path / "revoked"
    revoked.write_text(f"[127.*]:{sshd.port} {key}\n@revoked * {key}\n")
    assert failure(sshd, KnownHosts([revoked])).state == "hostkey"


def test_the_private_names_of_paramiko_that_are_used_still_stand():
    import inspect
    import socket

    import paramiko

    assert isinstance(paramiko.Transport._active_check_timeout, float)
    assert callable(paramiko.Channel._handle_request)
    assert callable(paramiko.Transport._send_user_message)
    assert paramiko.common.MSG_CHANNEL_REQUEST in paramiko.Transport._channel_handler_table
    assert paramiko.common.MSG_SERVICE_ACCEPT in paramiko.common.MSG_NAMES
    assert callable(paramiko.Transport._send_message)
    assert callable(paramiko.Transport._parse_disconnect)
    assert isinstance(inspect.getattr_static(paramiko.auth_handler.AuthHandler, "_handler_table"), property)
    assert callable(paramiko.auth_handler.AuthHandler._parse_userauth_failure)
    assert callable(paramiko.auth_handler.AuthOnlyHandler.send_auth_request)
    assert "public_blob" in inspect.getsource(paramiko.auth_handler.AuthHandler._get_key_type_and_bits)
    assert callable(paramiko.packet.Packetizer.start_handshake)
    assert "packetizer_class" in inspect.signature(paramiko.Transport).parameters
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = paramiko.Transport(ours)
        assert isinstance(transport._handler_table, dict)
        assert isinstance(transport.clear_to_send, threading.Event)


def test_a_script_that_waits_for_its_children_does_not_wait_for_ours(connection):
    result, _ = run(connection, "sleep 0.2 & sleep 0.3 & wait\necho waited")
    assert (result.state, result.stdout) == (TargetState.OK, "waited\n")


def test_a_script_that_kills_itself_is_over(connection, tmp_path):
    result, _ = run(connection, f"kill $$; sleep 0.3; touch {tmp_path}/after")
    assert (result.state, result.signal) == (TargetState.FAILED, "TERM")
    time.sleep(0.6)
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("shell", ["bash -eu", "sh -eu", "bash --posix -eu"])
def test_a_chosen_shell_says_nothing_of_its_own(connection, shell):
    result, _ = run(connection, "echo out", shell=shell)
    assert (result.stdout, result.stderr) == ("out\n", "")


def test_a_process_group_of_its_own_does_not_escape_a_stop(connection, asleep):
    result, _ = run(connection, f"echo in; timeout 9999 sleep {asleep}", when_heard=Command.cancel)
    assert result.state is TargetState.CANCELLED
    wait_for(lambda: not survivors(asleep))


def test_what_escapes_a_stop_is_reported(connection, asleep):
    result, _ = run(connection, f"setsid sleep {asleep}", timeout_s=2)
    assert result.state is TargetState.TIMED_OUT
    assert "still" in result.reason
    subprocess.run(["pkill", "-f", f"sleep {asleep}"], check=False)


@pytest.mark.parametrize("shell", [None, "sh -eu"])
def test_nothing_of_ours_stays_on_a_target_after_a_command(connection, asleep, shell):
    result, _ = run(connection, f"echo {asleep} >/dev/null; echo out", shell=shell, directory="/")
    assert result.stdout == "out\n"
    wait_for(lambda: not sessions_left(connection))


def sessions_left(connection: Connection) -> list[str]:
    """What runs on behalf of a connection besides its server."""
    client = f"SSH_CONNECTION=127.0.0.1 {connection._sock._sock.getsockname()[1]} "
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended
            if client in place.read_text(errors="replace"):
                found.append((place.parent / "cmdline").read_text())
    return found


def test_scripts_end_as_shells_do(connection):
    ends = {
        "# only a comment": (0, ""),
        "": (0, ""),
        "cat <<EOF\nhere\nEOF": (0, "here\n"),
        "trap 'echo bye' EXIT; echo in; exit 4": (4, "in\nbye\n"),
        "exec sh -c 'exit 9'": (9, ""),
        "f() { exit 3; }\nf\necho never": (3, ""),
        "set +e; false; echo on": (0, "on\n"),
        "exec 3>&2; echo three": (0, "three\n"),
        "echo unset: $nothing": (1, ""),
    }
    for text, (code, out) in ends.items():
        result, _ = run(connection, text)
        assert (result.exit_code, result.stdout) == (code, out), text
