"""Logging in to a real sshd: keys, agents, certificates, passwords, and what is never tried."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from conftest import Sshd
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448
from servers import Server, User, agent, make_key, new_user, serve

from opsbook.errors import ConnectError, SecretError
from opsbook.fleet.pool import Pool
from opsbook.model.message import RunOptions
from opsbook.model.target import Target

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can create a user with a password")


def options(server: Server, **changes: object) -> RunOptions:
    made = RunOptions(known_hosts=(str(server.known_hosts),), connect_timeout_s=10)
    return msgspec.structs.replace(made, **changes)


def target(server: Server, **changes: object) -> Target:
    made = Target(name="web1", host="127.0.0.2", port=server.port, user=server.sshd.user)
    return msgspec.structs.replace(made, **changes)


def log_in(
    where: Target, how: RunOptions, secrets: dict[str, str] | None = None, *, trusted: bool | None = True
) -> None:
    """Log in once and out again."""

    def reveal(reference: str) -> str:
        try:
            return (secrets or {})[reference]
        except KeyError:
            raise SecretError(f"{reference} is not set") from None

    pool = Pool(how, reveal)
    try:
        connection, fresh = pool.connection(where)
        assert fresh
        assert connection.alive
        assert connection.trusted is trusted
    finally:
        pool.close()


def refusal(where: Target, how: RunOptions, secrets: dict[str, str] | None = None, state: str = "auth") -> str:
    with pytest.raises(ConnectError) as caught:
        log_in(where, how, secrets)
    assert caught.value.state == state
    return str(caught.value)


@pytest.fixture(scope="module")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(sshd, tmp_path_factory.mktemp("login")) as made:
        yield made


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with new_user() as made:
        yield made


@pytest.fixture(scope="module")
def asking(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes passwords."""
    with serve(sshd, tmp_path_factory.mktemp("asking"), PasswordAuthentication="yes", MaxAuthTries="20") as made:
        yield made


def test_a_key_of_an_agent_logs_in(server, tmp_path, monkeypatch):
    with agent(tmp_path / "agent", make_key(tmp_path / "other"), server.sshd.identity) as held:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        log_in(target(server), options(server))


def test_the_agent_ssh_config_names_is_asked_and_none_means_none(server, tmp_path, monkeypatch):
    config = tmp_path / "config"
    with agent(tmp_path / "agent", server.sshd.identity) as held:
        config.write_text(f"IdentityAgent {held}\n")
        log_in(target(server), options(server, ssh_config=str(config)))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        config.write_text("IdentityAgent none\n")
        assert "no key was found" in refusal(target(server), options(server, ssh_config=str(config)))


def test_one_agent_serves_many_targets_at_once(server, tmp_path, monkeypatch):
    with agent(tmp_path / "agent", server.sshd.identity) as held:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        pool = Pool(options(server))
        many = [target(server, name=f"w{n}", host=f"127.0.1.{n}") for n in range(1, 21)]
        with ThreadPoolExecutor(10) as threads:
            made = list(threads.map(lambda one: pool.connection(one)[0].alive, many))
        pool.close()
    assert made == [True] * 20


def test_an_encrypted_key_is_used_through_the_agent_that_holds_it(sshd, tmp_path, monkeypatch):
    key = make_key(tmp_path / "mine")
    with agent(tmp_path / "agent", key) as held:
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "long enough", "-f", str(key)], check=True, capture_output=True)
        authorized = f"{tmp_path}/mine.pub"
        with serve(sshd, tmp_path / "server", AuthorizedKeysFile=authorized) as server:
            where = target(server, identity_files=(str(key),))
            assert "passphrase" in refusal(where, options(server))
            monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
            log_in(where, options(server))


def test_the_named_key_comes_first_and_five_attempts_are_all(server, tmp_path, monkeypatch):
    others = [make_key(tmp_path / f"key{number}") for number in range(7)]
    with agent(tmp_path / "agent", *others) as held:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        log_in(target(server, identity_files=(str(server.sshd.identity),)), options(server))
        before = server.log.count("Failed publickey")
        said = refusal(target(server), options(server))
    assert server.log.count("Failed publickey") - before == 5
    assert said.count("agent key") == 5


def test_identities_only_keeps_the_agents_other_keys_back(server, tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.write_text(f"IdentitiesOnly yes\nIdentityFile {make_key(tmp_path / 'mine')}\n")
    with agent(tmp_path / "agent", server.sshd.identity) as held:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        said = refusal(target(server), options(server, ssh_config=str(config)))
    assert "agent key" not in said


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_certificates_log_in_beside_the_key_by_name_and_with_an_agent(sshd, tmp_path, monkeypatch, kind):
    size = ("-b", "2048") if kind == "rsa" else ()
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "mine", *size, kind=kind)
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", sshd.user, str(key)]
    subprocess.run(sign, check=True, capture_output=True)
    with serve(sshd, tmp_path / "server", TrustedUserCAKeys=f"{authority}.pub", AuthorizedKeysFile="none") as server:
        log_in(target(server, identity_files=(str(key),)), options(server))
        with agent(tmp_path / "agent1", key) as held:  # it takes the certificate along
            monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
            log_in(target(server), options(server))
        elsewhere = shutil.move(f"{key}-cert.pub", tmp_path / "elsewhere.pub")
        monkeypatch.delenv("SSH_AUTH_SOCK")
        assert "mine" in refusal(target(server, identity_files=(str(key),)), options(server))
        config = tmp_path / "config"
        config.write_text(f"CertificateFile {elsewhere}\n")
        log_in(target(server, identity_files=(str(key),)), options(server, ssh_config=str(config)))
        with agent(tmp_path / "agent2", key) as held:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
            log_in(target(server), options(server, ssh_config=str(config)))


@needs_root
def test_a_password_logs_in_and_a_wrong_one_is_tried_once(asking, user):
    where = target(asking, user=user.name, password="env:PW")
    log_in(where, options(asking), {"env:PW": user.password})
    before = asking.log.count(f"Failed password for {user.name}")
    said = refusal(where, options(asking), {"env:PW": "not this one"})
    assert asking.log.count(f"Failed password for {user.name}") - before == 1
    assert "password" in said
    assert "not this one" not in said


@needs_root
def test_the_runs_password_stands_in_where_the_target_has_none(asking, user):
    how = options(asking, password="env:RUN")
    log_in(target(asking, user=user.name), how, {"env:RUN": user.password})


@needs_root
def test_no_password_goes_to_a_host_key_first_seen_in_this_run_or_unchecked(asking, user, tmp_path):
    where = target(asking, user=user.name, password="env:PW")
    before = asking.log.count(f"password for {user.name}")
    for policy in ("accept-new", "off"):
        how = options(asking, host_keys=policy, known_hosts=(str(tmp_path / f"new-{policy}"),))
        assert "known before this run" in refusal(where, how, {"env:PW": user.password})
    assert asking.log.count(f"password for {user.name}") == before
    how = options(asking, host_keys="accept-new", known_hosts=(str(tmp_path / "new-accept-new"),))
    log_in(where, how, {"env:PW": user.password})  # another run


@needs_root
def test_a_password_that_cannot_be_had_is_a_login_that_failed(asking, user):
    where = target(asking, user=user.name, password="env:NOWHERE")
    assert "env:NOWHERE is not set" in refusal(where, options(asking))


@needs_root
def test_a_key_and_then_a_password_where_both_are_asked_for(sshd, user, tmp_path):
    user.authorize(sshd.identity)
    both = {"PasswordAuthentication": "yes", "AuthenticationMethods": "publickey,password"}
    with serve(sshd, tmp_path / "both", AuthorizedKeysFile=".ssh/authorized_keys", **both) as server:
        where = target(server, user=user.name, password="env:PW", identity_files=(str(sshd.identity),))
        log_in(where, options(server), {"env:PW": user.password})
        alone = target(server, user=user.name, identity_files=(str(sshd.identity),))
        assert "more is asked for" in refusal(alone, options(server))


@needs_root
@pytest.mark.skipif(not Path("/etc/pam.d/sshd").exists(), reason="sshd asks at a prompt through PAM alone")
def test_a_password_answers_a_single_hidden_prompt(sshd, user, tmp_path):
    with serve(sshd, tmp_path / "prompt", UsePAM="yes", KbdInteractiveAuthentication="yes") as server:
        where = target(server, user=user.name, password="env:PW")
        log_in(where, options(server), {"env:PW": user.password})
        assert "password at a prompt" in refusal(where, options(server), {"env:PW": "a wrong one"})


def test_a_server_that_hangs_up_while_keys_are_tried_is_a_login_that_failed(sshd, tmp_path, monkeypatch):
    others = [make_key(tmp_path / f"key{number}") for number in range(4)]
    with serve(sshd, tmp_path / "few", MaxAuthTries="2") as server, agent(tmp_path / "agent", *others) as held:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(held))
        assert "Too many authentication failures" in refusal(target(server), options(server))


@needs_root
@pytest.mark.parametrize("how", ["case", "files"])
def test_a_key_recorded_in_this_run_is_told_no_password_by_any_other_name_or_file(asking, user, tmp_path, how):
    mine = str(tmp_path / "mine")
    config = tmp_path / "config"
    config.write_text(f"GlobalKnownHostsFile none\nUserKnownHostsFile {mine} {tmp_path}/more\n")
    first = target(asking, user=user.name, password="env:PW", host="localhost", known_hosts=mine)
    changed = {"host": "LocalHost"} if how == "case" else {"known_hosts": None}
    again = msgspec.structs.replace(first, name="web2", **changed)
    before = asking.log.count(f"password for {user.name}")
    pool = Pool(
        options(asking, host_keys="accept-new", known_hosts=(), ssh_config=str(config)), lambda _: user.password
    )
    for where in (first, again):
        with pytest.raises(ConnectError, match="known before this run"):
            pool.connection(where)
    pool.close()
    assert asking.log.count(f"password for {user.name}") == before


def test_without_a_known_hosts_file_of_the_user_none_is_written_to(server, tmp_path):
    config, system = tmp_path / "config", tmp_path / "system"
    config.write_text(f"UserKnownHostsFile none\nGlobalKnownHostsFile {system}\n")
    how = options(server, host_keys="accept-new", known_hosts=(), ssh_config=str(config))
    said = refusal(target(server, identity_files=(str(server.sshd.identity),)), how, state="hostkey")
    assert "no known_hosts file" in said
    assert not system.exists()


def unknown_keys(folder: Path) -> list[Path]:
    """Make private keys that paramiko does not know, and that what is under it does not know either."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public = b"\0\0\0\x09ssh-ed448\0\0\0\x39" + bytes(57)
    none = b"\0\0\0\x04none"
    body = b"openssh-key-v1\0" + none + none + b"\0\0\0\0\0\0\0\x01"
    secret = bytes(8) + public + b"\0\0\0\x01x" * 2
    for part in (public, secret + bytes(range(1, 1 + -len(secret) % 8))):
        body += len(part).to_bytes(4, "big") + part
    text = (
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{base64.encodebytes(body).decode()}-----END OPENSSH PRIVATE KEY-----\n"
    )
    files = [folder / "paramiko", folder / "cryptography"]
    files[0].write_bytes(ed448.Ed448PrivateKey.generate().private_bytes(*form))
    files[1].write_text(text)
    return files


def test_a_key_of_a_kind_nobody_here_knows_is_passed_over(server, tmp_path):
    strange = [str(file) for file in unknown_keys(tmp_path)]
    log_in(target(server, identity_files=(*strange, str(server.sshd.identity))), options(server))
    said = refusal(target(server, identity_files=(*strange,)), options(server))
    assert all(f"{file}: " in said for file in strange)


@needs_root
def test_the_runs_password_is_offered_to_targets_and_to_no_jump_host(asking, user, tmp_path):
    config = tmp_path / "config"
    config.write_text(f"Host gate\n HostName 127.0.0.1\n Port {asking.port}\n User {user.name}\n")
    how = options(asking, password="env:RUN", ssh_config=str(config))
    before = asking.log.count(f"password for {user.name}")
    said = refusal(target(asking, user=user.name, jump="gate"), how, {"env:RUN": user.password})
    assert said.startswith("jump host 127.0.0.1:")
    assert asking.log.count(f"password for {user.name}") == before


@contextmanager
def agent_that_never_signs(path: Path, key: Path) -> Iterator[Path]:
    """Answer for an agent that lists a key, and whose owner is away when it is to sign."""
    blob = base64.b64decode(Path(f"{key}.pub").read_text().split()[1])
    listed = struct.pack(">BII", 12, 1, len(blob)) + blob + struct.pack(">I", 1) + b"k"

    def answer(link: socket.socket) -> None:
        with link:
            while size := link.recv(4):
                if link.recv(int.from_bytes(size, "big"))[0] == 11:
                    link.sendall(len(listed).to_bytes(4, "big") + listed)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_an_agent_that_does_not_sign_costs_no_more_than_the_time_to_connect(server, tmp_path, monkeypatch):
    with agent_that_never_signs(tmp_path / "agent", server.sshd.identity) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        pool = Pool(options(server, connect_timeout_s=2))

        def reason(number: int) -> str:
            with pytest.raises(ConnectError) as caught:
                pool.connection(target(server, name=f"w{number}", host=f"127.0.1.{number}"))
            assert caught.value.state == "auth"
            return str(caught.value)

        begun = time.monotonic()
        with ThreadPoolExecutor(24) as threads:
            said = list(threads.map(reason, range(1, 25)))
        pool.close()
        assert time.monotonic() - begun < 12  # one after the other, it would be a minute
    assert all("the agent did not sign" in one or "the agent is busy" in one for one in said), said
