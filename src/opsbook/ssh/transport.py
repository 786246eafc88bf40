"""paramiko, tuned: the socket it reads from and the transport it speaks through.

Stock paramiko loses up to 40 ms three times in every handshake to delayed acknowledgements, wakes ten times a second
for each idle connection, and forgets the signal that ended a command. The names used here that are private to
paramiko are held by a test.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

# what goes wrong is told as a target's state; paramiko's own logger would print tracebacks over the screen
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

_READ = 256 * 1024
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class QuickSocket:
    """A socket that reads in large pieces and acknowledges at once until the handshake is over."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(b"")
        self.eager = _QUICKACK is not None
        """Whether acknowledgements are still hurried; Linux forgets after each read, so it is said again."""
        self._closed = False  # a name paramiko looks for when it stops

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        if not self._buffer:
            self._buffer = memoryview(self._sock.recv(_READ))
            if self.eager and _QUICKACK is not None:
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(piece)

    def send(self, data: bytes) -> int:
        """Send some of `data`; return how many bytes."""
        return self._sock.send(data)

    def settimeout(self, seconds: float | None) -> None:
        """Bound the next reads and writes."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close, and wake whoever waits for a read."""
        self._closed = True
        with suppress(OSError):  # the peer may have closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def _note_exit(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Remember the signal that ended a command, which paramiko drops, and wake whoever waits for the end."""
    position = message.packet.tell()
    is_signal = message.get_text() == "exit-signal"
    message.get_boolean()
    name = message.get_text() if is_signal else ""
    message.packet.seek(position)
    paramiko.Channel._handle_request(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001
    transport, number = channel.get_transport(), channel.get_id()
    if isinstance(transport, FleetTransport):
        if name:
            transport.exit_signals[number] = name
        transport.on_exit.get(number, _ignore)()


def _ignore() -> None:
    """Nobody waits for this channel."""


class FleetTransport(paramiko.Transport):
    """One SSH connection: quiet when idle, and it knows which signal ended a command."""

    _active_check_timeout = 5.0
    """Seconds between looks at the idle connection (keepalives, rekeying); paramiko's own is 0.1."""
    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    )
    _channel_handler_table: dict[int, Any] = {  # noqa: RUF012  paramiko's own table, with one entry of ours
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]  # noqa: SLF001
        MSG_CHANNEL_REQUEST: _note_exit,
    }

    def __init__(self, sock: QuickSocket) -> None:
        super().__init__(sock)  # type: ignore[arg-type]
        self.exit_signals: dict[int, str] = {}
        """Channel number to signal name, for commands a signal ended."""
        self.on_exit: dict[int, Callable[[], None]] = {}
        """Channel number to what to call when the target tells how the command ended."""
