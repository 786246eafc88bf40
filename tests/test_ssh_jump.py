"""The way to a host by others: jump hosts that targets share, and proxy commands."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from conftest import free_port
from dialling import black_hole, options, pooled, refusal, target, works
from servers import make_key, serve
from support import wait_for

from opsbook.errors import ConnectError
from opsbook.model.message import RunOptions

pytest_plugins = ["ssh_desk"]
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
