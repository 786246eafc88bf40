"""The hosts of a demo fleet, as an SSH client and the process table see them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import paramiko
import psutil
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_CHANNEL_REQUEST

from opsbook.demo import DemoFleet, DemoHost

LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend"
READ_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def host_named(fleet: DemoFleet, name: str) -> DemoHost:
    return next(host for host in fleet.hosts if host.name == name)


@contextlib.contextmanager
def connected(fleet: DemoFleet, name: str) -> Iterator[paramiko.SSHClient]:
    """Log in as the inventory says: the fleet's key, the fleet's known host keys, nothing of our own."""
    client = paramiko.SSHClient()
    client.load_host_keys(str(fleet.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            "127.0.0.1",
            port=host_named(fleet, name).port,
            username="root",
            key_filename=str(fleet.identity),
            allow_agent=False,
            look_for_keys=False,
            timeout=5,
            banner_timeout=5,
            auth_timeout=5,
        )
        client.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client
    finally:
        if (transport := client.get_transport()) is not None:
            with contextlib.suppress(OSError):  # wakes its reader, which close() alone would wait for
                transport.sock.shutdown(socket.SHUT_RDWR)
        client.close()


def opened(client: paramiko.SSHClient, command: str) -> paramiko.Channel:
    channel = client.get_transport().open_session(timeout=5)
    channel.settimeout(10)
    channel.exec_command(command)
    return channel


def answer(client: paramiko.SSHClient, command: str) -> tuple[int, str, str]:
    """Run a command to its end: exit status, stdout, stderr."""
    channel = opened(client, command)
    channel.shutdown_write()
    out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
    return channel.recv_exit_status(), out.decode(), err.decode()


def say(fleet: DemoFleet, name: str, command: str) -> str:
    """Run a command that must succeed, on a connection of its own; return its stdout."""
    with connected(fleet, name) as client:
        code, out, err = answer(client, command)
    assert code == 0, err
    return out


def ask_all(fleet: DemoFleet, names: list[str], command: str) -> dict[str, str]:
    """Run a command on several hosts at once, each on a connection of its own."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(lambda name: say(fleet, name, command), names), strict=True))


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; threads: {threading.enumerate()}"
        time.sleep(0.02)


def exit_signals(client: paramiko.SSHClient) -> list[str]:
    """Watch for `exit-signal`, which paramiko's own client passes over."""
    transport, seen = client.get_transport(), []
    table = transport._channel_handler_table

    def handle(channel: paramiko.Channel, message: paramiko.Message) -> None:
        if message.get_text() == "exit-signal":
            message.get_boolean()
            seen.append(message.get_text())
        message.rewind()
        message.get_int()
        table[MSG_CHANNEL_REQUEST](channel, message)

    transport._channel_handler_table = {**table, MSG_CHANNEL_REQUEST: handle}
    return seen


def send_signal(channel: paramiko.Channel, name: str) -> None:
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_byte(b"\0")  # no reply wanted
    message.add_string(name)
    channel.get_transport()._send_user_message(message)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
