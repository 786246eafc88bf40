"""Connections to further servers, by way of a pool, as a fleet makes them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import pytest
from servers import Server

from opsbook.errors import ConnectError
from opsbook.fleet.pool import Pool
from opsbook.model.message import RunOptions
from opsbook.model.target import Target
from opsbook.ssh.connection import Connection


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
