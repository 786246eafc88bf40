"""A short question to a target, beside the commands that run there: changes nothing that they do, and is bounded."""

from __future__ import annotations

import secrets
import time

from opsbook.errors import ConnectError
from opsbook.ssh.channel import never
from opsbook.ssh.connection import Connection
from opsbook.ssh.exchange import Wake, opened
from opsbook.ssh.script import Script, prepare
from opsbook.ssh.sudo import Passage
from opsbook.ssh.terms import Terms

_MOST = 256 * 1024
"""Bytes of an answer that are kept."""


def ask(
    connection: Connection,
    text: str,
    *,
    like: Script,
    terms: Terms,
    seconds: float,
) -> str | None:
    """Run a script as the user another one runs as, and return what it prints; None without a whole answer in time.

    No cancel ends it: it is short, and often asked because of one.
    """
    deadline = time.monotonic() + seconds
    script = Script(text=text, sudo=like.sudo, as_user=like.as_user)
    marker = f"opsbook-{secrets.token_hex(12)}"
    prepared = prepare(script, marker=marker, password=terms.password is not None)
    answer = bytearray()
    try:
        with opened(connection, deadline=deadline, wake=Wake()) as exchange:
            exchange.request(prepared.command)
            passage = Passage(exchange, prepared, terms, deadline=deadline)
            if prepared.ready and passage.open(never) is not None:
                return None
            exchange.on_stdout = answer.extend
            exchange.on_stderr = _unheard
            exchange.send(prepared.payload, seconds=deadline - time.monotonic())
            while not exchange.ended and time.monotonic() < deadline and len(answer) < _MOST:
                if not exchange.pump():
                    exchange.wake.wait(deadline - time.monotonic())
            exchange.drain(silence_s=0.5, most_s=0.5)
            return answer.decode("utf-8", "replace") if exchange.code == 0 else None
    except (ConnectError, OSError):
        return None


def _unheard(_: bytes) -> None:
    """What is said on stderr is no part of an answer."""
