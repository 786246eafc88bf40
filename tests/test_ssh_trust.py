"""What a server sees of us before we know it, and what it never gets: counted in its own log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts import Account, made_account
from conftest import Sshd
from rig import Rig, known_hosts, target_of
from servers import Server, User, agent, make_key, new_user, serve
from support import wait_for

from opsbook.model.target import Become, TargetState

ASKED = "userauth-request for user"
FORWARDED = "auth-agent-req"
HOSTS = {"web1": "127.0.0.2", "web2": "127.0.0.3", "web3": "127.0.0.4"}


@pytest.fixture(scope="module")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("trust")
    with serve(sshd, folder, LogLevel="DEBUG1", PasswordAuthentication="yes") as made:
        yield made


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    if os.getuid() != 0:
        pytest.skip("only root can create a user with a password")
    with new_user() as made:
        yield made


def rig_at(server: Server, folder: Path, *, known: Path, **changes: object) -> Rig:
    options = {name: changes.pop(name) for name in ("host_keys", "ssh_config") if name in changes}
    made = target_of(server.sshd, "web1", port=server.port, **changes)
    return Rig((made,), folder, known_hosts=(str(known),), **options)


def accepted(server: Server) -> int:
    return server.log.count("Connection from 127.")


@pytest.mark.parametrize("known", ["nothing", "another-key"])
def test_nothing_is_tried_at_a_server_whose_host_key_is_not_the_one_that_is_known(
    server: Server, tmp_path: Path, known: str
) -> None:
    file = tmp_path / "known"
    key = make_key(tmp_path / "other").with_suffix(".pub").read_text() if known == "another-key" else ""
    file.write_text(f"[127.0.0.2]:{server.port} {key}" if key else "")
    rig = rig_at(server, tmp_path / "rig", known=file, password="test:Pw-not-to-be-sent", user="nobody-of-that-name")
    before = server.log.count(ASKED), accepted(server)
    result = rig.run("true", read_only=True)
    rig.close()
    assert result["web1"].state is TargetState.HOSTKEY
    assert server.log.count(ASKED) == before[0]
    assert accepted(server) > before[1], "it was not there at all"


def test_what_is_counted_there_is_what_a_login_leaves(server: Server, tmp_path: Path) -> None:
    rig = rig_at(server, tmp_path / "rig", known=known_hosts(server.sshd, tmp_path))
    before = server.log.count(ASKED)
    assert rig.run("true", read_only=True)["web1"].ok
    rig.close()
    assert server.log.count(ASKED) > before


def test_no_agent_is_ever_forwarded(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  ForwardAgent yes\n")
    with agent(tmp_path / "agent", server.sshd.identity) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        rig = rig_at(
            server,
            tmp_path / "rig",
            known=known_hosts(server.sshd, tmp_path),
            ssh_config=str(config),
            identity_files=(),
        )
        result = rig.run('echo "agent=${SSH_AUTH_SOCK-none}"', read_only=True)
        rig.close()
    assert result["web1"].stdout == "agent=none\n"
    assert FORWARDED not in server.log


def test_a_wrong_password_is_sent_once_to_each_target_in_a_run_however_often_it_is_asked(
    server: Server, user: User, tmp_path: Path
) -> None:
    wrong = {"user": user.name, "password": "test:Pw-wrong-one", "identity_files": (), "port": server.port}
    targets = tuple(target_of(server.sshd, name, host=host, **wrong) for name, host in HOSTS.items())
    rig = Rig(targets, tmp_path / "rig", known_hosts=(str(known_hosts(server.sshd, tmp_path)),))
    states = [one.state for _ in range(3) for one in rig.run("true", read_only=True)]
    rig.close()
    assert states == [TargetState.AUTH] * 3 * len(HOSTS)
    assert server.log.count(f"Failed password for {user.name}") == len(HOSTS)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with made_account() as made:
        yield made


@pytest.mark.parametrize("more", [(), ("Defaults:USER passwd_tries=1",)], ids=["asks-again", "asks-once"])
def test_sudo_itself_counts_one_wrong_password_for_each_target_in_a_run(
    account: Account, tmp_path: Path, more: tuple[str, ...]
) -> None:
    log = tmp_path / "sudo"
    account.allow("USER ALL=(ALL:ALL) ALL", f"Defaults:USER logfile={log}, loglinelen=0", *more)
    become = Become(always=True, password="test:not the password")
    targets = tuple(account.target(name, host, become=become) for name, host in HOSTS.items())
    rig = Rig(targets, tmp_path, known_hosts=(str(account.folder / "known_hosts"),))
    first, second = (rig.run("true", read_only=True) for _ in range(2))
    rig.close()
    assert {one.state for one in (*first, *second)} == {TargetState.BECOME}
    for one in first:
        assert "sudo did not accept the password" in one.reason or "1 incorrect password attempt" in one.reason
    assert {one.reason for one in second} == {
        "sudo asks for the password: it was refused here before and is not sent again"
    }
    wait_for(lambda: len(attempts(log)) >= len(HOSTS), what="sudo's log")
    assert attempts(log) == [1] * len(HOSTS)


def attempts(log: Path) -> list[int]:
    """How many wrong passwords sudo was given, by its own log, each time it was given any."""
    return [int(count) for count in re.findall(r": (\d+) incorrect password attempts?", log.read_text())]
