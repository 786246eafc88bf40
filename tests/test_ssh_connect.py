"""The way to a host, over real sshd processes: addresses, jump hosts, proxy commands, and connections that end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import paramiko
import pytest
from conftest import Sshd, free_port
from servers import Server, make_key, serve
from support import wait_for

from opsbook.errors import ConnectError
from opsbook.fleet.pool import Pool
from opsbook.model.message import RunOptions
from opsbook.model.target import Target, TargetState
from opsbook.ssh import reach
from opsbook.ssh.connection import Connection
from opsbook.ssh.fault import of_handshake, of_login, of_reaching
from opsbook.ssh.route import Route
from opsbook.ssh.transport import QuickSocket

RELAY = """
import os, socket, sys, threading
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def carry(read, write):
    while data := read(65536):
        write(data)
    os._exit(0)
threading.Thread(target=carry, args=(lambda size: os.read(0, size), link.sendall), daemon=True).start()
carry(link.recv, lambda data: os.write(1, data))
"""


def options(server: Server, **changes: object) -> RunOptions:
    made = RunOptions(known_hosts=(str(server.known_hosts),), connect_timeout_s=10)
    return msgspec.structs.replace(made, **changes)


def target(server: Server, **changes: object) -> Target:
    made = Target(
        name="web1",
        host="127.0.0.2",
        port=server.port,
        user=server.sshd.user,
        identity_files=(str(server.sshd.identity),),
    )
    return msgspec.structs.replace(made, **changes)


@contextmanager
def pooled(how: RunOptions) -> Iterator[Pool]:
    pool = Pool(how)
    try:
        yield pool
    finally:
        pool.close()


def refusal(where: Target, how: RunOptions, state: str = "unreachable") -> str:
    with pooled(how) as pool, pytest.raises(ConnectError) as caught:
        pool.connection(where)
    assert caught.value.state == state
    return str(caught.value)


def works(connection: Connection) -> bool:
    channel = connection.transport.open_session(timeout=10)
    channel.exec_command("echo there")
    channel.settimeout(10)
    said = channel.recv(100)
    channel.close()
    return said == b"there\n"


@pytest.fixture(scope="module")
def server(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(sshd, tmp_path_factory.mktemp("inner")) as made:
        yield made


@pytest.fixture(scope="module")
def bastion(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of default patience, as a jump host has."""
    with serve(sshd, tmp_path_factory.mktemp("bastion"), MaxStartups="10:30:100") as made:
        yield made


@pytest.fixture
def config(server: Server, bastion: Server, tmp_path: Path) -> RunOptions:
    """The options of a run whose ssh_config knows two jump hosts, and whose known_hosts know both servers."""
    file, known = tmp_path / "config", tmp_path / "known"
    file.write_text(
        f"Host gate*\n HostName 127.0.0.1\n Port {bastion.port}\n IdentityFile {server.sshd.identity}\n"
        f"Host behind*\n HostName 127.0.0.3\n Port {server.port}\n IdentityFile {server.sshd.identity}\n"
    )
    known.write_text(server.known_hosts.read_text() + bastion.known_hosts.read_text())
    return RunOptions(known_hosts=(str(known),), ssh_config=str(file), connect_timeout_s=10)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers nothing, not even to refuse: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.1", port))
        yield port


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


# jump hosts


def test_targets_behind_a_jump_host_share_its_connection(server, config):
    with pooled(config) as pool:
        for number in range(1, 6):
            where = target(server, name=f"w{number}", host=f"127.0.2.{number}", jump="gate")
            assert works(pool.connection(where)[0])
        hops = [key for key in pool._open if not isinstance(key, str)]
        assert [hop.host for hop in hops] == ["127.0.0.1"]


def test_a_chain_of_jump_hosts_is_gone_through_in_order(server, config):
    with pooled(config) as pool:
        connection, _ = pool.connection(target(server, jump="gate,behind"))
        assert works(connection)
        hops = [key for key in pool._open if not isinstance(key, str)]
        assert sorted(hop.host for hop in hops) == ["127.0.0.1", "127.0.0.3"]


def test_a_jump_hosts_trouble_is_told_as_its_own(server, config, tmp_path):
    behind = target(server, jump="gate")
    dead = msgspec.structs.replace(behind, jump=f"127.0.0.1:{free_port()}")
    assert refusal(dead, config).startswith("jump host 127.0.0.1:")
    unknown = msgspec.structs.replace(config, known_hosts=(str(server.known_hosts),))
    assert "jump host 127.0.0.1" in refusal(behind, unknown, "hostkey")
    stranger = tmp_path / "stranger"
    stranger.write_text(
        f"Host gate\n HostName 127.0.0.1\n Port {Path(config.ssh_config).read_text().split()[5]}\n"
        f" IdentityFile {make_key(tmp_path / 'other')}\n"
    )
    assert "jump host" in refusal(behind, msgspec.structs.replace(config, ssh_config=str(stranger)), "auth")


def test_a_target_that_is_dead_behind_a_jump_host_is_told_as_the_targets(server, config):
    said = refusal(target(server, jump="gate", port=free_port()), config)
    assert "cannot be reached from the jump host" in said
    assert not said.startswith("jump host")
    with black_hole() as dead:
        quick = msgspec.structs.replace(config, connect_timeout_s=1)
        assert "no answer" in refusal(target(server, jump="gate", host="127.0.0.1", port=dead), quick)


def test_a_jump_host_that_fails_fails_for_all_at_once(server, config):
    with black_hole() as dead, pooled(msgspec.structs.replace(config, connect_timeout_s=1)) as pool:

        def reason(number: int) -> str:
            with pytest.raises(ConnectError) as caught:
                pool.connection(target(server, name=f"w{number}", jump=f"127.0.0.1:{dead}"))
            return str(caught.value)

        begun = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            said = set(threads.map(reason, range(20)))
    assert said == {f"jump host 127.0.0.1:{dead}: no answer from 127.0.0.1:{dead} within 1 s"}
    assert time.monotonic() - begun < 8


def test_a_jump_host_that_was_lost_is_dialled_again(server, config):
    with pooled(config) as pool:
        where = target(server, jump="gate")
        first, _ = pool.connection(where)
        (hop,) = (made for key, made in pool._open.items() if not isinstance(key, str))
        hop.close()
        wait_for(lambda: not first.alive)
        again, fresh = pool.connection(where)
        assert fresh
        assert works(again)


@pytest.mark.parametrize("way", ["direct", "gate"])
def test_a_hundred_targets_at_one_sshd_of_default_patience_are_all_reached(bastion, config, way):
    file = Path(config.ssh_config)
    file.write_text(file.read_text() + f"Host *\n IdentityFile {bastion.sshd.identity}\n")
    patient = msgspec.structs.replace(config, connect_timeout_s=60)
    jump = None if way == "direct" else "gate"
    many = [target(bastion, name=f"t{number}", host=f"127.0.1.{number}", jump=jump) for number in range(1, 101)]
    with pooled(patient) as pool, ThreadPoolExecutor(64) as threads:
        made = list(threads.map(lambda one: pool.connection(one)[0], many))
        assert sum(connection.alive for connection in made) == 100
        begun = time.monotonic()
        pool.close()
        assert time.monotonic() - begun < 5


# proxy commands


def processes(word: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in place.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(place.parent.name)
        except OSError:
            continue
    return found


def test_a_proxy_command_carries_the_connection_and_ends_with_it(server, tmp_path):
    relay = tmp_path / "relay-4be1.py"
    relay.write_text(RELAY)
    where = target(server, proxy_command=f"sleep 50.375 & {sys.executable} {relay} %h %p")
    with pooled(options(server)) as pool:
        assert works(pool.connection(where)[0])
        assert processes("relay-4be1")
    wait_for(lambda: not processes("relay-4be1"))  # on a busy machine the closing has an end of its own
    wait_for(lambda: not processes("sleep 50.375"))
    assert not [
        place
        for place in Path(f"/proc/{os.getpid()}/task").glob("*/children")
        for child in place.read_text().split()
        if "State:\tZ" in Path(f"/proc/{child}/status").read_text()
    ]


def test_a_proxy_command_that_fails_says_its_last_line(server):
    failing = "sh -c 'echo first >&2; echo no way >&2; false'"
    said = refusal(target(server, proxy_command=failing), options(server))
    assert "(no way), 3 times" in said
    assert refusal(target(server, proxy_command="sleep 50"), options(server, connect_timeout_s=0.5)).startswith("no ")


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


def test_a_frozen_jump_host_is_noticed_too(sshd, server, tmp_path):
    with serve(sshd, tmp_path / "gate") as gate:
        known = tmp_path / "known"
        known.write_text(server.known_hosts.read_text() + gate.known_hosts.read_text())
        file = tmp_path / "config"
        file.write_text(f"Host gate\n HostName 127.0.0.1\n Port {gate.port}\n IdentityFile {sshd.identity}\n")
        how = RunOptions(known_hosts=(str(known),), ssh_config=str(file), keepalive_s=0.4)
        with pooled(how) as pool:
            connection, _ = pool.connection(target(server, jump="gate"))
            stopped = gate.children()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                wait_for(lambda: not connection.alive, seconds=15)
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
