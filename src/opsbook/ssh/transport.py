"""paramiko, tuned: what it reads from and the transport it speaks through.

Stock paramiko loses up to 40 ms three times in every handshake to delayed acknowledgements, wakes ten times a second
for each idle connection, starts a timer thread for each handshake, forgets the signal that ended a command, and never
looks whether its keepalives are answered. The names used here that are private to paramiko are held by a test.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST, MSG_SERVICE_ACCEPT, cMSG_CHANNEL_DATA, cMSG_GLOBAL_REQUEST
from paramiko.packet import Packetizer

# what goes wrong is told as a target's state; paramiko's own logger would print tracebacks over the screen
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

_READ = 256 * 1024
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_EAGER_READS = 64
"""Reads whose acknowledgement is hurried: a login takes about twelve, the first command five."""
_PROXY_END_S = 0.5
"""Seconds a proxy command may take to end when it is told to."""
_KEPT = 256
PACKET_SPARE = 64
"""What paramiko keeps free in every packet."""
_BLOCK = 16
"""What a sealed packet's length is a multiple of, in bytes."""


def _ignore() -> None:
    """Nobody waits for this."""


class Wire:
    """What a transport reads from and writes to: a TCP connection, a jump host's channel, or a proxy command.

    Reads in large pieces; `close` wakes whoever reads.
    """

    patience = 1_000_000
    """How many attempts the end of such a wire may be worth: a tired server can be asked again and again."""

    def __init__(self, end: socket.socket | paramiko.Channel) -> None:
        self._end = end
        self._buffer = memoryview(b"")
        self.received = 0
        """How many reads brought something: a number that stands still is a silent peer."""
        self.last_words = ""
        """What whoever carries the connection had to say about its end, once it is closed."""
        self.opening = b""
        """The first bytes that came: what a server says that speaks no SSH."""
        self._closed = False  # a name paramiko looks for when it stops

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        if not self._buffer:
            data = self._end.recv(_READ)
            self.received += 1
            if len(self.opening) < _KEPT:
                self.opening += data[:_KEPT]
            self._buffer = memoryview(data)
            self._taken()
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(piece)

    def _taken(self) -> None:
        """Something was read."""

    def send(self, data: bytes) -> int:
        """Send some of `data`; return how many bytes."""
        return self._end.send(data)

    def settimeout(self, seconds: float | None) -> None:
        """Bound the next reads and writes."""
        self._end.settimeout(seconds)

    def close(self) -> None:
        """Close, and wake whoever waits for a read."""
        self._closed = True
        with suppress(OSError, EOFError, paramiko.SSHException):  # the jump host may be gone, and cannot be told
            self._end.close()  # a channel's readers are woken first


class QuickSocket(Wire):
    """A TCP connection that acknowledges at once until the first command is under way."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._sock = end
        self._eager = _EAGER_READS if _QUICKACK is not None else 0

    def _taken(self) -> None:
        if self._eager and _QUICKACK is not None:  # Linux forgets after each read, so it is said again
            self._eager -= 1
            self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def close(self) -> None:
        """See `Wire.close`."""
        self._closed = True
        with suppress(OSError):  # the peer may have closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class ProxySocket(Wire):
    """The input and output of a proxy command, which lives as long as the connection."""

    patience = 3

    def __init__(self, command: str) -> None:
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the command
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  the user's own configuration asks for it
                    [os.environ.get("SHELL", "/bin/sh"), "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._errors.fileno(),
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                self._errors.close()
                raise
        super().__init__(ours)
        self._pair = ours
        self._lock = threading.Lock()
        self.last_words = ""

    def _listen_to_errors(self) -> str:
        """Return the last line it wrote to stderr."""
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
        return next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")

    def close(self) -> None:
        """Close, and end the command and all it started; it is waited for."""
        self._closed = True
        with suppress(OSError):
            self._pair.shutdown(socket.SHUT_RDWR)
        with self._lock:
            if not self._errors.closed:
                self._end_process()

    def _end_process(self) -> None:
        self._pair.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PROXY_END_S)
        self.last_words = self._listen_to_errors()
        self._errors.close()


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


class Packets(Packetizer):
    """Without the timer thread for each handshake: whoever waits for the handshake has a deadline.

    A burst is sealed packet by packet and leaves by one call: one by one its packets cost twice the time, most of it
    for threads that hand the interpreter to each other around each call.
    """

    def start_handshake(self, timeout: float) -> None:
        """Start nothing."""

    def send_message(self, data: paramiko.Message) -> None:
        """Send a message, or a burst of them."""
        if not isinstance(data, Burst):
            super().send_message(data)
            return
        own = vars(self)
        with own["_Packetizer__write_lock"]:
            if own["_Packetizer__aead_out"] and own["_Packetizer__compress_engine_out"] is None:
                self._seal(own, tuple(data.pieces()))
                return
            for head, part in data.pieces():
                super().send_message(paramiko.Message(b"".join((head, part))))

    def _seal(self, own: dict[str, Any], pieces: Sequence[tuple[bytes, memoryview]]) -> None:
        """Send pieces under AES-GCM: the length in the open, then padding and payload, then the tag (RFC 5647)."""
        sealer, nonce = own["_Packetizer__block_engine_out"], own["_Packetizer__iv_out"]
        fixed, count = nonce[:4], int.from_bytes(nonce[4:], "big")
        noise = os.urandom(4 + _BLOCK)
        out: list[bytes] = []
        for head, part in pieces:
            spare = 4 + -(1 + len(head) + len(part) + 4) % _BLOCK
            plain = b"".join((bytes((spare,)), head, part, noise[:spare]))
            length = len(plain).to_bytes(4, "big")
            out += length, sealer.encrypt(fixed + count.to_bytes(8, "big"), plain, length)
            count += 1
        own["_Packetizer__iv_out"] = fixed + count.to_bytes(8, "big")
        own["_Packetizer__sequence_number_out"] = own["_Packetizer__sequence_number_out"] + len(pieces) & 0xFFFFFFFF
        data = b"".join(out)
        self.write_all(memoryview(data))
        self._note_sent(own, len(pieces), len(data))

    def _note_sent(self, own: dict[str, Any], packets: int, size: int) -> None:
        """Ask for new keys when these have served long enough, as the library does for what it sends itself."""
        own["_Packetizer__sent_packets"] += packets
        own["_Packetizer__sent_bytes"] += size
        enough = own["_Packetizer__sent_packets"] >= self.REKEY_PACKETS or (
            own["_Packetizer__sent_bytes"] >= self.REKEY_BYTES
        )
        if enough and not self.need_rekey():
            own["_Packetizer__received_bytes_overflow"] = own["_Packetizer__received_packets_overflow"] = 0
            self._trigger_rekey()  # type: ignore[attr-defined]


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


class FleetTransport(paramiko.Transport):
    """One SSH connection: quiet when idle, asks whether the peer lives, and knows which signal ended a command."""

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

    def __init__(self, wire: Wire, *, keepalive_s: float = 15.0) -> None:
        """Speak over a wire; a peer that is silent is asked for a sign of life every `keepalive_s` seconds or so."""
        self._active_check_timeout = min(5.0, keepalive_s / 4)
        super().__init__(wire, packetizer_class=Packets)  # type: ignore[arg-type]
        self.exit_signals: dict[int, str] = {}
        """Channel number to signal name, for commands a signal ended."""
        self.on_exit: dict[int, Callable[[], None]] = {}
        """Channel number to what to call when the target tells how the command ended."""
        self.farewell = ""
        """What the server gave as its reason to hang up."""
        self.on_service: Callable[[], None] = _ignore
        """What to call when the server is ready to hear who wants to log in."""
        # on the instance: the library asks this table before the one of whoever logs in
        self._handler_table[MSG_SERVICE_ACCEPT] = lambda _: self.on_service()  # type: ignore[attr-defined]
        self.packetizer.set_keepalive(keepalive_s, self._ask_for_life)

    def send_data(self, channel: paramiko.Channel, data: memoryview) -> int:
        """Send as much of `data` as the peer has room for now, in one burst; return how much. Waits for no room."""
        with channel.lock:
            if channel.closed or channel.eof_sent:
                return 0
            size = min(len(data), channel.out_window_size)
            channel.out_window_size -= size
        if size:
            piece = channel.out_max_packet_size - PACKET_SPARE
            self._send_user_message(Burst(channel.remote_chanid, data[:size], piece=piece))  # type: ignore[attr-defined]
        return size

    def _ask_for_life(self) -> None:
        """Send a question that a live peer has to answer; on the reader's thread."""
        if not self.clear_to_send.is_set():
            return  # keys are being exchanged, which is talk enough; waiting for its end here would be for ever
        message = paramiko.Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)  # noqa: FBT003  paramiko's signature
        self._send_user_message(message)  # type: ignore[attr-defined]

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        """Keep the reason, which paramiko only logs."""
        message.get_int()
        self.farewell = message.get_text()
