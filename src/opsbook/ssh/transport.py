"""paramiko, tuned: what it reads from and the transport it speaks through.

Stock paramiko loses up to 40 ms three times in every handshake to delayed acknowledgements, wakes ten times a second
for each idle connection, starts a timer thread for each handshake, forgets the signal that ended a command, copies what
a channel says from buffer to buffer, and never looks whether its keepalives are answered. The names used here that are
private to paramiko are held by a test.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import paramiko
from paramiko.common import MSG_SERVICE_ACCEPT, cMSG_CHANNEL_WINDOW_ADJUST, cMSG_GLOBAL_REQUEST

from opsbook.ssh.hearing import HANDLERS, Hearer, data_of, ignore
from opsbook.ssh.packets import Burst, Packets

# what goes wrong is told as a target's state; paramiko's own logger would print tracebacks over the screen
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

_LEAST_ROOM, _MOST_ROOM = 8 * 1024, 256 * 1024
"""Bytes a connection can hold that were not looked at: while it is idle, and while much comes."""
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_EAGER_READS = 64
"""Reads whose acknowledgement is hurried: a login takes about twelve, the first command five."""
_PROXY_END_S = 0.5
"""Seconds a proxy command may take to end when it is told to."""
_KEPT = 256
PACKET_SPARE = 64
"""What paramiko keeps free in every packet."""


class Wire:
    """What a transport reads from and writes to: a TCP connection, a jump host's channel, or a proxy command.

    Reads in large pieces, into room that grows with what comes and is given back in silence; `close` wakes whoever
    reads.
    """

    patience = 1_000_000
    """How many attempts the end of such a wire may be worth: a tired server can be asked again and again."""

    def __init__(self, end: socket.socket | paramiko.Channel) -> None:
        self._end = end
        self._room = bytearray(_LEAST_ROOM)
        self._start = self._stop = 0
        self._flows = False
        """Whether the last read left no room: more is waiting."""
        self.received = 0
        """How many reads brought something: a number that stands still is a silent peer."""
        self.last_words = ""
        """What whoever carries the connection had to say about its end, once it is closed."""
        self.opening = b""
        """The first bytes that came: what a server says that speaks no SSH."""
        self._closed = False  # a name paramiko looks for when it stops

    @property
    def waiting(self) -> memoryview:
        """What has arrived and was not taken; good until the next `fill`."""
        return memoryview(self._room)[self._start : self._stop]

    def take(self, size: int) -> None:
        """Take so many bytes of what is waiting."""
        self._start += size

    def fill(self, room: int) -> bool:
        """Wait for more; false at the end. `room`: how many bytes will be waiting before any of it is taken."""
        self._make_room(room)
        free = len(self._room) - self._stop
        try:
            size = self._read(memoryview(self._room)[self._stop :])
        except TimeoutError:
            if self._start == self._stop:
                self._room, self._start, self._stop = bytearray(_LEAST_ROOM), 0, 0
            raise
        self.received += 1
        if len(self.opening) < _KEPT:
            self.opening += self._room[self._stop : self._stop + min(size, _KEPT)]
        self._stop += size
        self._flows = size == free
        if size:
            self._taken()
        return size > 0

    def recv(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        if self._start == self._stop and not self.fill(1):
            return b""
        piece = bytes(self.waiting[:size])
        self.take(len(piece))
        return piece

    def _make_room(self, room: int) -> None:
        """Move what is waiting to the beginning, of a larger piece of memory where the last read left none free."""
        waiting = self._room[self._start : self._stop]
        size = len(self._room)
        if self._flows:
            size = min(_MOST_ROOM, size * 4)
        size = max(size, room)
        if size > len(self._room):
            self._room = bytearray(size)
        self._room[: len(waiting)] = waiting
        self._start, self._stop = 0, len(waiting)

    def _read(self, room: memoryview) -> int:
        """Wait for something and put it there; return how many bytes."""
        data = self._end.recv(len(room))
        room[: len(data)] = data
        return len(data)

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
    """A TCP connection that acknowledges at once until the first command is under way.

    It waits only where it has to: a socket of Python's with a timeout waits before each call.
    """

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._sock = end
        self._sock.settimeout(0)
        self._wait_ms: float | None = None
        self._incoming = select.poll()
        self._incoming.register(end, select.POLLIN)
        self._eager = _EAGER_READS if _QUICKACK is not None else 0

    def settimeout(self, seconds: float | None) -> None:
        """See `Wire.settimeout`."""
        self._wait_ms = None if seconds is None else seconds * 1000

    def _read(self, room: memoryview) -> int:
        while True:
            if not self._flows and not self._incoming.poll(self._wait_ms):
                raise TimeoutError
            try:
                return self._sock.recv_into(room)
            except BlockingIOError:
                self._flows = False
            except OSError:
                if self._closed:
                    return 0
                raise

    def send(self, data: bytes) -> int:
        """See `Wire.send`."""
        while True:
            try:
                return self._sock.send(data)
            except BlockingIOError:
                outgoing = select.poll()
                outgoing.register(self._sock, select.POLLOUT)
                if not outgoing.poll(self._wait_ms):
                    raise TimeoutError from None

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

    def __init__(self, command: str, *, withheld: Sequence[str] = ()) -> None:
        """Start a command, without the variables that are `withheld` from it."""
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the command
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  the user's own configuration asks for it
                    [os.environ.get("SHELL", "/bin/sh"), "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._errors.fileno(),
                    env={name: value for name, value in os.environ.items() if name not in withheld},
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


class FleetTransport(paramiko.Transport):
    """One SSH connection: quiet when idle, asks whether the peer lives, and knows which signal ended a command.

    What comes for a channel somebody hears goes to them straight from the packet, and wakes them when there is nothing
    more to read for now. Its reader never waits for the end of a key exchange: only it can bring that about.
    """

    _active_check_timeout = 5.0
    """Seconds between looks at the idle connection (keepalives, rekeying); paramiko's own is 0.1."""
    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    )
    _channel_handler_table: dict[int, Any] = {  # noqa: RUF012  paramiko's own table, with entries of ours
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]  # noqa: SLF001
        **HANDLERS,
    }

    def __init__(self, wire: Wire, *, keepalive_s: float = 15.0) -> None:
        """Speak over a wire; a peer that is silent is asked for a sign of life every `keepalive_s` seconds or so."""
        self._active_check_timeout = min(5.0, keepalive_s / 4)
        super().__init__(wire, packetizer_class=Packets)  # type: ignore[arg-type]
        self.hearers: dict[int, Hearer] = {}
        """Channel number to who speaks on it."""
        self._told: list[Hearer] = []
        """Where something was put and nobody was woken yet."""
        self._later: list[paramiko.Message] = []
        """What the reader could not send while keys were exchanged."""
        self.farewell = ""
        """What the server gave as its reason to hang up."""
        self.on_service: Callable[[], None] = ignore
        """What to call when the server is ready to hear who wants to log in."""
        # on the instance: the library asks this table before the one of whoever logs in
        self._handler_table[MSG_SERVICE_ACCEPT] = lambda _: self.on_service()  # type: ignore[attr-defined]
        self.packetizer.set_keepalive(keepalive_s, self._ask_for_life)
        packets: Any = self.packetizer
        packets.on_packet, packets.on_pause = self._hear, self._pause

    def hear(self, channel: paramiko.Channel, wake: Callable[[], None]) -> Hearer:
        """Take what comes for a channel from now on, until `unhear`; `wake` is called when something has come.

        Who takes over from another one finds what has come before.
        """
        channel.in_window_threshold = channel.in_window_size // 2  # the library would tell the peer of every tenth
        hearer = self.hearers.setdefault(channel.get_id(), Hearer(wake))
        hearer.wake = wake
        return hearer

    def unhear(self, channel: paramiko.Channel) -> None:
        """Nobody hears a channel any more."""
        self.hearers.pop(channel.get_id(), None)

    def _hear(self, packet: bytes) -> bool:
        """Put a packet's data where it is waited for, if it has any, and nothing else is expected now."""
        if self._expected_packet:  # type: ignore[attr-defined]
            return False
        data = data_of(packet)
        hearer = None if data is None else self.hearers.get(int.from_bytes(packet[2:6], "big"))
        if data is None or hearer is None:
            return False
        hearer.put(*data)
        if hearer not in self._told:
            self._told.append(hearer)
        return True

    def _pause(self) -> None:
        """Wake those for whom something came, and send what had to wait for new keys."""
        while self._told:
            self._told.pop().tell()
        while self._later and self.clear_to_send.is_set():
            self._send_user_message(self._later.pop(0))

    def _send_user_message(self, data: paramiko.Message) -> None:
        """Send a message when no keys are being exchanged. The reader may not wait for that: it would be for ever."""
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._later.append(data)
        else:
            super()._send_user_message(data)  # type: ignore[misc]

    def taken(self, channel: paramiko.Channel, size: int) -> None:
        """Tell the peer that there is room again, once that is worth a packet."""
        room = channel._check_add_window(size)  # type: ignore[attr-defined]  # noqa: SLF001
        if room:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(channel.remote_chanid)
            message.add_int(room)
            self._send_user_message(message)

    def send_data(self, channel: paramiko.Channel, data: memoryview) -> int:
        """Send as much of `data` as the peer has room for now, in one burst; return how much. Waits for no room."""
        with channel.lock:
            if channel.closed or channel.eof_sent:
                return 0
            size = min(len(data), channel.out_window_size)
            channel.out_window_size -= size
        if size:
            piece = channel.out_max_packet_size - PACKET_SPARE
            self._send_user_message(Burst(channel.remote_chanid, data[:size], piece=piece))
        return size

    def _ask_for_life(self) -> None:
        """Send a question that a live peer has to answer; on the reader's thread."""
        if not self.clear_to_send.is_set():
            return  # keys are being exchanged, which is talk enough; waiting for its end here would be for ever
        message = paramiko.Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)  # noqa: FBT003  paramiko's signature
        self._send_user_message(message)

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        """Keep the reason, which paramiko only logs."""
        message.get_int()
        self.farewell = message.get_text()
