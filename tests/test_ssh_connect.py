"""The way to a host, over real sshd processes: addresses, connections that end, and what goes wrong in the library."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time

import paramiko
import pytest
from conftest import free_port
from dialling import black_hole, options, pooled, refusal, target
from servers import serve
from support import wait_for

from opsbook.model.target import TargetState
from opsbook.ssh import reach
from opsbook.ssh.fault import of_handshake, of_login, of_reaching
from opsbook.ssh.route import Route
from opsbook.ssh.transport import QuickSocket

pytest_plugins = ["ssh_desk"]


# reaching


def test_a_dead_first_address_does_not_eat_the_deadline(server):
    route = Route(host="somewhere", user="me")
    with black_hole() as dead:
        places = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
            for port in (dead, free_port(), dead, server.port)
        ]
        begun = time.monotonic()
        with reach._connect(places, route, begun + 10) as sock:
            assert sock.getpeername()[1] == server.port
        assert time.monotonic() - begun < 5
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            reach._connect(places[:1], route, begun + 0.6)
        assert time.monotonic() - begun < 3


def test_a_host_that_is_not_there_says_why_and_is_asked_three_times_at_most(server):
    assert refusal(target(server, port=free_port()), options(server)).endswith("connection refused, 3 times")
    assert "cannot resolve nowhere.invalid" in refusal(target(server, host="nowhere.invalid"), options(server))
    assert "it is no host name" in refusal(target(server, host="a" * 70 + ".example"), options(server))
    with black_hole() as dead:
        begun = time.monotonic()
        said = refusal(target(server, host="127.0.0.1", port=dead), options(server, connect_timeout_s=0.7))
        assert said == f"no answer from 127.0.0.1:{dead} within 0.7 s"
        assert time.monotonic() - begun < 4


def test_ssh_configs_shorter_time_out_counts(server, tmp_path):
    config = tmp_path / "config"
    config.write_text("ConnectTimeout 1\n")
    with black_hole() as dead:
        said = refusal(target(server, host="127.0.0.1", port=dead), options(server, ssh_config=str(config)))
    assert said.endswith("within 1 s")


def test_what_speaks_no_ssh_is_quoted(server):
    def greet(listener: socket.socket) -> None:
        listener.settimeout(10)
        try:
            while True:
                link, _ = listener.accept()
                with link:
                    link.sendall(b"HTTP/1.1 400 Bad Request\x1b[2J\r\n\r\n")
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        where = target(server, host="127.0.0.1", port=listener.getsockname()[1])
        said = refusal(where, options(server, connect_timeout_s=1))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert "(HTTP/1.1 400 Bad Request[2J)" in said


def test_the_bind_address_and_the_family_are_kept(server, tmp_path):
    config = tmp_path / "config"
    config.write_text("BindAddress 127.0.0.77\nAddressFamily inet\n")
    with pooled(options(server, ssh_config=str(config))) as pool:
        pool.connection(target(server))
        assert "from 127.0.0.77 port" in server.log
    config.write_text("AddressFamily inet6\n")
    assert "cannot resolve" in refusal(target(server), options(server, ssh_config=str(config)))


def test_a_known_hosts_file_somebody_keeps_locked_ends_with_the_time_to_connect(server, tmp_path):
    file = tmp_path / "known"
    file.touch()
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        how = options(server, known_hosts=(str(file),), host_keys="accept-new", connect_timeout_s=1.5)
        assert f"{file} is locked" in refusal(target(server), how, "hostkey")
        assert time.monotonic() - begun < 5
    with pooled(how) as pool:
        assert not pool.connection(target(server))[0].trusted


# connections that end


def test_a_frozen_server_process_is_noticed_by_what_it_does_not_say(sshd, tmp_path):
    with serve(sshd, tmp_path / "frozen") as server, pooled(options(server, keepalive_s=0.8)) as pool:
        connection, _ = pool.connection(target(server))
        channel = connection.transport.open_session(timeout=10)
        channel.exec_command("sleep 60")
        time.sleep(3.8)
        assert connection.alive  # longer than a silent peer would be borne
        stopped = server.children()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            wait_for(lambda: not connection.alive, seconds=20)
            assert time.monotonic() - begun > 1
            channel.settimeout(5)
            assert channel.recv(1) == b""
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_nobody_watches_when_there_is_nothing_to_watch(server):
    def watchers() -> int:
        return sum(thread.name == "opsbook-keepalive" for thread in threading.enumerate())

    before = watchers()
    with pooled(options(server, keepalive_s=0.4)) as pool:
        for number in range(3):
            pool.connection(target(server, name=f"w{number}"))
        assert watchers() == before + 1
    wait_for(lambda: watchers() == before)


def test_a_pool_goes_on_after_it_was_closed(server):
    with pooled(options(server)) as pool:
        pool.connection(target(server))
        pool.close()
        connection, fresh = pool.connection(target(server))
        assert fresh
        assert pool.connection(target(server)) == (connection, False)
        pool.drop(target(server))
        assert not connection.alive


def test_a_pool_is_closed_where_no_thread_can_be_started_any_more(server, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with pooled(options(server)) as pool:
        made = [pool.connection(target(server, name=f"w{number}"))[0] for number in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            pool.close()
        assert not any(connection.alive for connection in made)


# what goes wrong in the library


def every_kind(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*map(every_kind, kind.__subclasses__()))


def example(kind: type[BaseException]) -> Exception:
    key = paramiko.PKey.from_type_string("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32))
    arguments = {
        paramiko.BadAuthenticationType: ("no", ["password"]),
        paramiko.ssh_exception.PartialAuthentication: (["password"],),
        paramiko.ChannelException: (2, "Connect failed"),
        paramiko.BadHostKeyException: ("web1", key, key),
        paramiko.ProxyCommandFailure: ("relay", 1),
        paramiko.ssh_exception.NoValidConnectionsError: ({("web1", 22): OSError(111, "refused")},),
    }
    made = kind(*arguments.get(kind, ("it broke",)))
    assert isinstance(made, Exception)
    return made


def test_every_exception_of_the_library_is_a_state_of_the_target():
    kinds = {kind for kind in every_kind(paramiko.SSHException) if kind.__module__.startswith("paramiko")}
    kinds |= {paramiko.ssh_exception.NoValidConnectionsError, EOFError, TimeoutError, socket.gaierror, ConnectionError}
    assert len(kinds) > 12
    ours, theirs = socket.socketpair()
    with theirs:
        wire = QuickSocket(ours)
        for kind in kinds:
            error = example(kind)
            for fault in (
                of_reaching(error, "web1:22", within_s=1),
                of_handshake(error, "web1:22", wire, within_s=1),
                of_login(error, "web1:22", within_s=1),
            ):
                assert TargetState(fault.error.state).is_unreachable, kind
                assert str(fault.error), kind
        assert of_login(EOFError(), "web1:22", within_s=1).attempts == 1


def test_ssh_configs_algorithms_are_kept_to(server, tmp_path):
    config = tmp_path / "config"
    config.write_text("Ciphers aes256-ctr,chacha20-poly1305@openssh.com\nKexAlgorithms ecdh-sha2-*\nMACs -*-etm*\n")
    with pooled(options(server, ssh_config=str(config))) as pool:
        transport = pool.connection(target(server))[0].transport
        assert (transport.local_cipher, transport.local_mac) == ("aes256-ctr", "hmac-sha2-256")
        offered = transport.get_security_options()
        assert {name[:9] for name in offered.kex} == {"ecdh-sha2"}
    config.write_text("Ciphers chacha20-poly1305@openssh.com\n")
    assert "leaves nothing opsbook knows" in refusal(target(server), options(server, ssh_config=str(config)))
    config.write_text("HostKeyAlgorithms rsa-sha2-512\n")
    assert "no algorithm in common" in refusal(target(server), options(server, ssh_config=str(config)))
