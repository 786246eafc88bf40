"""The packets of one SSH connection: sealed in bursts, and opened as many at a time as have arrived.

The library reads each packet in pieces and copies it a dozen times; under AES-GCM what has arrived is opened here where
it lies, and what a channel's reader waits for is handed to it at once. Every other cipher goes the library's own way.
Knows nothing of channels. What is used here of the library's private state is held by a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA
from paramiko.packet import NeedRekeyException, Packetizer

_BLOCK = 16
"""What a sealed packet's length is a multiple of, in bytes."""
_TAG = 16
_LENGTH = 4
LONGEST = 512 * 1024
"""Bytes of a packet; nobody sends longer ones, and a longer one is not waited for."""
_NOISE = 512
_COUNT = 0xFFFFFFFF


class Source(Protocol):
    """What packets are read from."""

    @property
    def waiting(self) -> memoryview:
        """What has arrived and was not taken."""

    def take(self, size: int) -> None:
        """Take so many bytes of what is waiting."""

    def fill(self, room: int) -> bool:
        """Wait for more; false at the end. `room`: how many bytes will be waiting before any of it is taken."""


class Burst(paramiko.Message):
    """Data for a channel, in as many packets as it takes."""

    def __init__(self, channel: int, data: memoryview, *, piece: int) -> None:
        """Prepare to send `data` to the channel the peer calls `channel`, `piece` bytes a packet."""
        super().__init__()
        self._head = cMSG_CHANNEL_DATA + channel.to_bytes(4, "big")
        self._data = data
        self._piece = piece

    def pieces(self) -> Iterator[tuple[bytes, memoryview]]:
        """Return what each packet holds: what goes before the data, and the data."""
        for start in range(0, len(self._data), self._piece):
            part = self._data[start : start + self._piece]
            yield self._head + len(part).to_bytes(4, "big"), part


def _refuse(_: bytes) -> bool:
    """Take no packet."""
    return False


def _ignore() -> None:
    """Nobody waits for this."""


class Packets(Packetizer):
    """Without the timer thread for each handshake: whoever waits for the handshake has a deadline.

    A burst is sealed packet by packet and leaves by one call: one by one its packets cost twice the time, most of it
    for threads that hand the interpreter to each other around each call.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)  # type: ignore[arg-type]
        self._source = source
        self._noise = b""
        self.on_packet: Callable[[bytes], bool] = _refuse
        """Is shown each packet (how much padding it has, its payload, the padding); whether that was all of it."""
        self.on_pause: Callable[[], None] = _ignore
        """Is called when there is nothing more to read for now."""

    def start_handshake(self, timeout: float) -> None:
        """Start nothing."""

    def send_message(self, data: paramiko.Message) -> None:
        """Send a message, or a burst of them."""
        own = vars(self)
        with own["_Packetizer__write_lock"]:
            ours = own["_Packetizer__aead_out"] and own["_Packetizer__compress_engine_out"] is None
            if ours:
                self._seal(own, tuple(data.pieces()) if isinstance(data, Burst) else ((b"", data.asbytes()),))
            elif isinstance(data, Burst):
                for head, part in data.pieces():
                    super().send_message(paramiko.Message(b"".join((head, part))))
            else:
                super().send_message(data)

    def read_message(self) -> tuple[int, paramiko.Message]:
        """Return the next message that nobody has taken before."""
        own = vars(self)
        if not own["_Packetizer__aead_in"] or own["_Packetizer__compress_engine_in"] or own["_Packetizer__remainder"]:
            self.on_pause()
            return super().read_message()
        taken = False
        while True:
            plain = self._open(own)
            if plain is None:
                self.on_pause()
                if taken and self.need_rekey():
                    raise NeedRekeyException
                self._fill()
            elif self.on_packet(plain):
                taken = True
            else:
                return self._message(own, plain)

    def _open(self, own: dict[str, Any]) -> bytes | None:
        """Take the next packet out of what has arrived, if all of it has: its length in the open, then the rest."""
        waiting = self._source.waiting
        if len(waiting) < _LENGTH:
            return None
        whole = _whole(waiting)
        if len(waiting) < whole:
            return None
        nonce = own["_Packetizer__iv_in"]
        plain: bytes = own["_Packetizer__block_engine_in"].decrypt(nonce, waiting[_LENGTH:whole], waiting[:_LENGTH])
        self._source.take(whole)
        own["_Packetizer__iv_in"] = nonce[:4] + (int.from_bytes(nonce[4:], "big") + 1).to_bytes(8, "big")
        own["_Packetizer__sequence_number_in"] = own["_Packetizer__sequence_number_in"] + 1 & _COUNT
        self._note_received(own, whole)
        return plain

    def _message(self, own: dict[str, Any], plain: bytes) -> tuple[int, paramiko.Message]:
        message = paramiko.Message(plain[2 : len(plain) - plain[0]])
        message.seqno = own["_Packetizer__sequence_number_in"] - 1 & _COUNT
        return plain[1], message

    def _fill(self) -> None:
        """Wait until more has arrived; in silence new keys are asked for, or a sign of life.

        Raises:
            EOFError: nothing more will come.
        """
        waiting = self._source.waiting
        room, between = _whole(waiting) if len(waiting) >= _LENGTH else _LENGTH, not waiting
        del waiting
        while True:
            try:
                if self._source.fill(room):
                    return
                raise EOFError
            except TimeoutError:
                if self.closed:
                    raise EOFError from None
                if between and self.need_rekey():
                    raise NeedRekeyException from None
                self._check_keepalive()  # type: ignore[attr-defined]
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise

    def _seal(self, own: dict[str, Any], pieces: Sequence[tuple[bytes, bytes | memoryview]]) -> None:
        """Send pieces under AES-GCM: the length in the open, then padding and payload, then the tag (RFC 5647)."""
        sealer, nonce = own["_Packetizer__block_engine_out"], own["_Packetizer__iv_out"]
        fixed, count = nonce[:4], int.from_bytes(nonce[4:], "big")
        noise = self._some_noise()
        out: list[bytes] = []
        for head, part in pieces:
            spare = 4 + -(1 + len(head) + len(part) + 4) % _BLOCK
            plain = b"".join((bytes((spare,)), head, part, noise[:spare]))
            length = len(plain).to_bytes(4, "big")
            out += length, sealer.encrypt(fixed + count.to_bytes(8, "big"), plain, length)
            count += 1
        own["_Packetizer__iv_out"] = fixed + count.to_bytes(8, "big")
        own["_Packetizer__sequence_number_out"] = own["_Packetizer__sequence_number_out"] + len(pieces) & _COUNT
        data = b"".join(out)
        self.write_all(memoryview(data))
        self._note_sent(own, len(pieces), len(data))

    def _some_noise(self) -> bytes:
        """Return what padding is made of: asked of the system for many packets at once."""
        most = 4 + _BLOCK
        if len(self._noise) < most:
            self._noise = os.urandom(_NOISE)
        noise, self._noise = self._noise[:most], self._noise[most:]
        return noise

    def _note_sent(self, own: dict[str, Any], packets: int, size: int) -> None:
        """Ask for new keys when these have served long enough, as the library does for what it sends itself."""
        own["_Packetizer__sent_packets"] += packets
        own["_Packetizer__sent_bytes"] += size
        if own["_Packetizer__sent_packets"] >= self.REKEY_PACKETS or own["_Packetizer__sent_bytes"] >= self.REKEY_BYTES:
            self._ask_for_keys(own)

    def _note_received(self, own: dict[str, Any], size: int) -> None:
        """Do the same for what is read, and bound what a peer may send that does not answer."""
        own["_Packetizer__received_packets"] += 1
        own["_Packetizer__received_bytes"] += size
        if own["_Packetizer__need_rekey"]:
            own["_Packetizer__received_packets_overflow"] += 1
            own["_Packetizer__received_bytes_overflow"] += size
            if (
                own["_Packetizer__received_packets_overflow"] >= self.REKEY_PACKETS_OVERFLOW_MAX
                or own["_Packetizer__received_bytes_overflow"] >= self.REKEY_BYTES_OVERFLOW_MAX
            ):
                raise paramiko.SSHException("the peer does not exchange keys")
        elif (
            own["_Packetizer__received_packets"] >= self.REKEY_PACKETS
            or own["_Packetizer__received_bytes"] >= self.REKEY_BYTES
        ):
            self._ask_for_keys(own)

    def _ask_for_keys(self, own: dict[str, Any]) -> None:
        if not self.need_rekey():
            own["_Packetizer__received_bytes_overflow"] = own["_Packetizer__received_packets_overflow"] = 0
            self._trigger_rekey()  # type: ignore[attr-defined]


def _whole(waiting: memoryview) -> int:
    """Return the length of the packet that begins here, with all that belongs to it."""
    whole = _LENGTH + int.from_bytes(waiting[:_LENGTH], "big") + _TAG
    if whole > LONGEST:
        raise paramiko.SSHException("what arrives is no SSH packet")
    return whole
