"""What comes for one channel: put there by the connection's reader, taken by the one who speaks on it.

It holds no more than the channel's window: room is given again only for what was taken. Who takes says from how many
bytes on it wants to be woken, so that a stream is taken in few large pieces. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
)

STDOUT, STDERR = 0, 1
_STDERR_CODE = 1
UNKNOWN_SIGNAL = "UNKNOWN"
_SIGNALS = {name.removeprefix("SIG") for name in signal.Signals.__members__} | {"SIG@openssh.com"}
"""What servers call signals; a record keeps the name as it is, and a server may say anything."""


def ignore() -> None:
    """Nobody waits for this."""


class Hearer:
    """One channel's share. The reader calls `put`, `tell`, `wake` and `on_room`; the rest is for who speaks on it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        """Is called when something has come."""
        self.on_room: Callable[[], None] = ignore
        """Is called when the target takes more."""
        self.signal = ""
        """The signal that ended the command, if the target told one."""
        self.enough = 1
        """How many bytes have to be there for `wake` to be called."""
        self._pieces: tuple[deque[bytes | memoryview], deque[bytes | memoryview]] = (deque(), deque())
        self._arrived = 0  # counted by the reader alone, and the next by who takes alone: no lock is needed
        self._taken = 0

    def put(self, stream: int, data: bytes | memoryview) -> None:
        """Add what arrived on a stream."""
        self._pieces[stream].append(data)
        self._arrived += len(data)

    def tell(self) -> None:
        """Wake who waits, if enough is there."""
        if self.waiting >= self.enough:
            self.wake()

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and were not taken."""
        return self._arrived - self._taken

    def take(self, stream: int, *, most: int) -> bytes:
        """Return what has arrived on a stream, in whole pieces until there are `most` bytes."""
        pieces, taken, size = self._pieces[stream], [], 0
        while pieces and size < most:
            taken.append(pieces.popleft())
            size += len(taken[-1])
        self._taken += size
        return b"".join(taken)


def data_of(packet: bytes) -> tuple[int, memoryview] | None:
    """Return the stream and the data of a packet: one byte before its payload, some padding behind; None for others."""
    kind = packet[1]
    if kind == MSG_CHANNEL_DATA:
        stream, begin = STDOUT, 6
    elif kind == MSG_CHANNEL_EXTENDED_DATA and int.from_bytes(packet[6:10], "big") == _STDERR_CODE:
        stream, begin = STDERR, 10
    else:
        return None
    size = int.from_bytes(packet[begin : begin + 4], "big")
    return stream, memoryview(packet)[begin + 4 : begin + 4 + size]


def _take_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Remember the signal that ended a command, which paramiko drops, and wake whoever waits for the end."""
    position = message.packet.tell()
    is_signal = message.get_text() == "exit-signal"
    message.get_boolean()
    told = message.get_text() if is_signal else ""
    name = told if not told or told in _SIGNALS else UNKNOWN_SIGNAL
    message.packet.seek(position)
    paramiko.Channel._handle_request(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001
    hearer = _hearer(channel)
    if hearer is not None:
        hearer.signal = name or hearer.signal
        hearer.wake()


def _take_data(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Take what did not come straight from its packet."""
    hearer = _hearer(channel)
    if hearer is None:
        paramiko.Channel._feed(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001
    else:
        hearer.put(STDOUT, message.get_binary())
        hearer.tell()


def _take_extended(channel: paramiko.Channel, message: paramiko.Message) -> None:
    hearer = _hearer(channel)
    if hearer is None:
        paramiko.Channel._feed_extended(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001
    elif message.get_int() == _STDERR_CODE:
        hearer.put(STDERR, message.get_binary())
        hearer.tell()


def _take_window(channel: paramiko.Channel, message: paramiko.Message) -> None:
    paramiko.Channel._window_adjust(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001
    hearer = _hearer(channel)
    if hearer is not None:
        hearer.on_room()


def _take_close(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Answer with one packet: that nothing more will come needs not be said of a channel that is closed."""
    with channel.lock:
        channel.eof_sent = True
    paramiko.Channel._handle_close(channel, message)  # type: ignore[attr-defined]  # noqa: SLF001


def _hearer(channel: paramiko.Channel) -> Hearer | None:
    hearers: dict[int, Hearer] = getattr(channel.get_transport(), "hearers", {})
    return hearers.get(channel.get_id())


HANDLERS: dict[int, Any] = {
    MSG_CHANNEL_REQUEST: _take_request,
    MSG_CHANNEL_DATA: _take_data,
    MSG_CHANNEL_EXTENDED_DATA: _take_extended,
    MSG_CHANNEL_WINDOW_ADJUST: _take_window,
    MSG_CHANNEL_CLOSE: _take_close,
}
"""What a transport does with the messages of its channels, by their numbers."""
