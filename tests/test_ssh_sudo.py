"""Commands through sudo, as a plain user of this machine against a real sshd and the real sudo (SEMANTICS 8)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from accounts import PASSWORD, Account, made_account
from servers import connect

from opsbook.errors import SecretError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.target import Become, Inventory, TargetState
from opsbook.ssh.command import Command
from opsbook.ssh.connection import Connection
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script
from opsbook.ssh.terms import Terms

MARKER = "mark-5a1e"
ASKS = "USER ALL=(ALL:ALL) ALL"
FREE = "USER ALL=(ALL:ALL) NOPASSWD: ALL"


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with made_account() as made:
        yield made


@pytest.fixture
def connection(account: Account) -> Iterator[Connection]:
    made = account.connect()
    yield made
    made.close()


def run(
    connection: Connection, text: str, *, password: str | None = PASSWORD, patience_s: float = 20.0, **how: object
) -> CommandResult:
    answer = None if password is None else lambda: password
    command = Command(
        connection,
        Script(text=text, sudo=True, **how),
        marker=MARKER,
        timeout_s=60,
        on_output=lambda *_: None,
        terms=Terms(password=answer, patience_s=patience_s),
    )
    result = command.run(lambda: None)
    assert MARKER not in result.stdout + result.stderr + result.reason
    assert PASSWORD not in result.stdout + result.stderr + result.reason
    return result


def test_a_password_gets_a_script_through_and_leaves_no_trace(account, connection):
    account.allow(ASKS, "Defaults:USER lecture=always")
    seen = run(connection, "id -un; whoami >&2; env | grep -v ^SUDO_COMMAND")
    assert (seen.state, seen.reason) == (TargetState.OK, "")
    assert seen.stdout.startswith("root\n")
    assert seen.stderr == "root\n"


def test_without_a_need_for_it_the_password_is_not_asked_for(account, connection):
    account.allow(FREE)
    asked: list[str] = []
    command = Command(
        connection,
        Script(text="id -un", sudo=True),
        marker=MARKER,
        timeout_s=60,
        on_output=lambda *_: None,
        terms=Terms(password=lambda: asked.append("asked") or PASSWORD),
    )
    result = command.run(lambda: None)
    assert (result.state, result.stdout, asked) == (TargetState.OK, "root\n", [])
    assert run(connection, "id -un", password=None).stdout == "root\n"


def test_a_script_runs_as_any_user_sudo_allows(account, connection):
    account.allow(ASKS)
    result = run(connection, 'id -un; echo "$HOME"', as_user="daemon")
    assert result.stdout.splitlines()[0] == "daemon"
    account.allow(FREE)
    assert run(connection, "id -un", password=None, as_user="nobody").stdout == "nobody\n"


@pytest.mark.parametrize("rule", [ASKS, FREE])
def test_a_login_shell_that_traces_what_it_does_gets_no_password(account, connection, rule):
    account.allow(rule)
    (account.home / ".bashrc").write_text("set -x\nexport SHELLOPTS\n")
    try:
        command = Command(
            connection,
            Script(text="set +x\nid -un", sudo=True),
            marker=MARKER,
            timeout_s=60,
            on_output=lambda *_: None,
            terms=Terms(password=lambda: PASSWORD),
        )
        result = command.run(lambda: None)
    finally:
        (account.home / ".bashrc").unlink()
    assert (result.state, result.stdout) == (TargetState.OK, "root\n"), result
    assert "battery" not in result.stderr


def test_a_wrong_password_is_known_at_the_second_prompt(account, connection):
    account.allow(ASKS)
    result = run(connection, "touch /tmp/never", password="wrong password")
    assert (result.state, result.reason) == (TargetState.BECOME, "sudo did not accept the password")
    account.allow(ASKS, "Defaults:USER passwd_tries=1")
    result = run(connection, "touch /tmp/never", password="wrong password")
    assert result.state is TargetState.BECOME
    assert result.reason.startswith("sudo ended after the password was sent: sudo: 1 incorrect password attempt")


def test_a_password_that_is_wanted_and_not_given_is_said(account, connection):
    account.allow(ASKS)
    result = run(connection, "id", password=None)
    assert result.state is TargetState.BECOME
    assert result.reason.endswith("sudo: a password is required; no password for it was given")


def test_a_prompt_that_never_comes_is_not_waited_for_long(account, connection):
    sleeper = account.folder / "sudo"
    sleeper.write_text("#!/bin/sh\nexec sleep 60.125\n")
    sleeper.chmod(0o755)
    (account.home / ".bashrc").write_text(f"PATH={account.folder}:$PATH\n")
    try:
        begun = time.monotonic()
        result = run(connection, "id", patience_s=0.5)
    finally:
        (account.home / ".bashrc").unlink()
        subprocess.run(["pkill", "-f", "sleep 60.12[5]"], check=False)
    assert result.state is TargetState.BECOME
    assert result.reason == "sudo neither asked for the password nor went on within 0.5 s"
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([ASKS, "Defaults:USER requiretty"], "tty"),
        (["Defaults:USER !lecture"], "not in the sudoers file"),
        (["USER ALL=(ALL:ALL) /bin/false", "Defaults:USER !lecture"], "not allowed to execute"),
    ],
)
def test_sudos_own_refusal_is_told_in_its_last_words(account, connection, rules, words):
    account.allow(*rules)
    result = run(connection, "touch /tmp/never")
    assert result.state is TargetState.BECOME
    assert words in result.reason


def test_a_target_without_sudo_says_so(account, connection):
    (account.home / ".bashrc").write_text("PATH=/nowhere\n")
    try:
        result = run(connection, "id")
    finally:
        (account.home / ".bashrc").unlink()
    assert result.state is TargetState.BECOME
    assert "sudo: not found" in result.reason or "sudo: command not found" in result.reason


def test_sudo_that_gives_commands_a_terminal_of_their_own_changes_nothing(account, connection):
    account.allow(ASKS, "Defaults:USER use_pty")
    result = run(connection, "id -un; echo two >&2; cat; exit 4")
    assert (result.exit_code, result.stdout, result.stderr) == (4, "root\n", "two\n")


def test_no_password_goes_to_a_host_first_seen_now(account, tmp_path):
    account.allow(ASKS)
    known = KnownHosts([tmp_path / "known_hosts"])
    fresh = connect(account.target(), known, HostKeyPolicy.ACCEPT_NEW, timeout_s=20)
    try:
        result = run(fresh, "id")
        assert result.state is TargetState.BECOME
        assert "not known before" in result.reason
        account.allow(FREE)
        assert run(fresh, "id -un").stdout == "root\n"
    finally:
        fresh.close()


def test_a_secret_that_cannot_be_resolved_and_one_of_two_lines_are_not_sent(account, connection):
    account.allow(ASKS)

    def unresolved() -> str:
        raise SecretError("the environment variable GONE is not set")

    command = Command(
        connection,
        Script(text="id", sudo=True),
        marker=MARKER,
        timeout_s=60,
        on_output=lambda *_: None,
        terms=Terms(password=unresolved),
    )
    result = command.run(lambda: None)
    assert (result.state, result.reason) == (
        TargetState.BECOME,
        "sudo asks for the password: the environment variable GONE is not set",
    )
    assert "one line" in run(connection, "id", password="two\nlines").reason


@pytest.fixture
def fleet(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("SUDO_ONE", PASSWORD)
    monkeypatch.setenv("SUDO_WRONG", "wrong password")
    targets = (
        account.target("own", "127.0.9.1", become=Become(always=True, password="env:SUDO_ONE")),
        account.target("run", "127.0.9.2", become=Become(always=True)),
        account.target("lost", "127.0.9.3", become=Become(password="env:SUDO_GONE")),
        account.target("plain", "127.0.9.4"),
    )
    options = RunOptions(
        known_hosts=(str(account.folder / "known_hosts"),), sudo_password="env:SUDO_WRONG", connect_timeout_s=20
    )
    session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
    yield Fleet(session, targets)
    session.pool.close()


def test_each_target_has_its_own_way_through(account, fleet):
    account.allow(ASKS)
    result = fleet.run("id -un", check=False)
    assert {one.target: one.state.value for one in result} == {
        "own": "ok",
        "run": "become",
        "lost": "ok",
        "plain": "ok",
    }
    assert result["own"].stdout == "root\n"
    assert result["plain"].stdout == f"{account.name}\n"
    sudo = fleet.only(["lost", "own"]).run("id -un", as_user="daemon", check=False)
    assert sudo["own"].stdout == "daemon\n"
    assert sudo["lost"].state is TargetState.BECOME
    assert "SUDO_GONE is not set" in sudo["lost"].reason
    assert fleet.only(["own"]).run("id -un", sudo=False)["own"].stdout == f"{account.name}\n"


def test_the_password_is_on_no_disk_and_in_no_process(account, connection):
    account.allow(ASKS)
    result = run(
        connection,
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -ac '[b]attery' || true; "
        "grep -rl '[b]attery' /tmp/opsbook* /var/tmp /root/.local 2>/dev/null || true",
    )
    assert result.stdout == "0\n"
