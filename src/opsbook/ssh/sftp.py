"""SFTP, protocol 3, as far as one file needs it: requests out, answers in, on one channel.

Many requests may be under way at a time: whoever asks keeps their numbers. Nothing here decides how long to wait: a
`Patience` is handed in, is asked before everything that may take time, and raises when it is time to stop. Knows
nothing of files on this side, of deadlines, or of what a transfer means.
"""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol

import paramiko
from msgspec import Struct
from paramiko.common import cMSG_CHANNEL_REQUEST

from opsbook.ssh.transport import PACKET_SPARE, FleetTransport

LONGEST = 1024 * 1024
"""Bytes of an answer; a longer one is no SFTP."""
SEND_S = 0.5
"""Seconds without room to send after which patience is asked again."""
_SAID = 1024
"""Bytes of what a server says of a refusal."""
_READ = 256 * 1024
_PIECE = 32 * 1024
"""Bytes of one write: what every server takes."""
_LONGEST_PIECE = 255 * 1024
"""Bytes of one write where the server takes more: OpenSSH's limit."""


class Kind(IntEnum):
    """Requests and answers, by their numbers in the protocol."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    FSETSTAT = 10
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """Why a request was refused."""

    OK = 0
    END = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    UNSUPPORTED = 8


READ, WRITE, CREATE, EXCLUSIVE = 1, 2, 8, 32
"""How a file is opened."""
POSIX_RENAME = b"posix-rename@openssh.com"
STATVFS = b"statvfs@openssh.com"
LIMITS = b"limits@openssh.com"


class StatusError(Exception):
    """The server refused a request."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class SessionEndedError(Exception):
    """The channel has ended, or what arrives on it is no SFTP."""


class Attributes(Struct, frozen=True, kw_only=True):
    """What a server says of a file; what it leaves out is 0."""

    size: int = 0
    uid: int = 0
    gid: int = 0
    mode: int = 0
    """With the bits of its type."""


def number(value: int) -> bytes:
    """Write a number of 32 bits."""
    return value.to_bytes(4, "big")


def long(value: int) -> bytes:
    """Write a number of 64 bits."""
    return value.to_bytes(8, "big")


def text(value: bytes) -> bytes:
    """Write bytes with their length before them."""
    return number(len(value)) + value


def attributes(*, mode: int | None = None, owner: tuple[int, int] | None = None) -> bytes:
    """Write what a file is to be given."""
    flags = (2 if owner is not None else 0) | (4 if mode is not None else 0)
    ids = number(owner[0]) + number(owner[1]) if owner is not None else b""
    return number(flags) + ids + (number(mode) if mode is not None else b"")


class Patience(Protocol):
    """How long to wait. Both functions raise when it is time to stop, and what they raise is not caught here."""

    wake: threading.Event
    """Set when something has arrived, or when it is time to look again."""

    def check(self) -> None:
        """Return if there is time left."""

    def wait(self) -> None:
        """Return when something may have happened, with `wake` clear."""


class SftpSession:
    """One SFTP session on an open channel."""

    def __init__(self, transport: FleetTransport, channel: paramiko.Channel, patience: Patience) -> None:
        self._transport = transport
        self._channel = channel
        self._patience = patience
        self._numbers = itertools.count(1)
        self._arrived = bytearray()
        self._asked: set[int] = set()
        """Requests without an answer yet: what nobody asked for is not kept."""
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._limits: int | None = None
        self.extensions: frozenset[bytes] = frozenset()

    def begin(self) -> None:
        """Ask for SFTP and agree on the version. A refused subsystem closes the channel.

        Raises:
            SessionEndedError: there is no SFTP.
        """
        self._channel.settimeout(SEND_S)
        self._channel.in_buffer.set_event(self._patience.wake)
        request = paramiko.Message()
        request.add_byte(cMSG_CHANNEL_REQUEST)
        request.add_int(self._channel.remote_chanid)
        request.add_string("subsystem")
        request.add_boolean(True)  # noqa: FBT003  paramiko's signature
        request.add_string("sftp")
        self._transport._send_user_message(request)  # noqa: SLF001
        self._send(number(5) + bytes((Kind.INIT,)) + number(3))
        kind, body = self._message()
        if kind != Kind.VERSION:
            raise SessionEndedError("it does not answer as SFTP does")
        words = _texts(body[4:])
        self.extensions = frozenset(words[::2])

    def ask_limits(self) -> None:
        """Ask how much a write may hold, where the server can say; `piece` takes the answer."""
        if LIMITS in self.extensions:
            self._limits = self.request(Kind.EXTENDED, text(LIMITS))

    def piece(self, handle: bytes) -> int:
        """Return how many bytes a write may hold: one packet, or as many as the server says that it takes."""
        head = 4 + 1 + 4 + 4 + len(handle) + 8 + 4
        piece = max(1, min(_PIECE, self._channel.out_max_packet_size - PACKET_SPARE - head))
        if self._limits is None:
            return piece
        try:
            body = self.answer_to(self._limits, expect=Kind.EXTENDED_REPLY)
        except StatusError:
            return piece
        _, _, most = _longs(body, 3)
        return max(piece, min(_LONGEST_PIECE, int(most)))

    def request(self, kind: Kind, *fields: bytes | memoryview) -> int:
        """Send a request; return its number."""
        return self.requests(kind, [fields])[0]

    def requests(self, kind: Kind, each: Iterable[Sequence[bytes | memoryview]]) -> list[int]:
        """Send several requests of a kind at once; return their numbers."""
        numbers: list[int] = []
        parts: list[bytes | memoryview] = []
        for fields in each:
            numbers.append(next(self._numbers))
            self._asked.add(numbers[-1])
            parts += (number(5 + sum(map(len, fields))), bytes((kind,)), number(numbers[-1]), *fields)
        self._send(b"".join(parts))
        return numbers

    def next_answer(self) -> tuple[int, int, bytes]:
        """Return the next answer, to whatever request: its number, its kind, its body."""
        kind, body = self._message()
        asked = int.from_bytes(body[:4], "big")
        if asked not in self._asked:
            raise SessionEndedError("it answers what nobody asked")
        self._asked.remove(asked)
        return asked, kind, body[4:]

    def answer_to(self, chosen: int, *, expect: Kind) -> bytes:
        """Return the answer to one request; others that come before are kept.

        Raises:
            StatusError: it was refused.
        """
        while chosen not in self._answers:
            got, kind, body = self.next_answer()
            self._answers[got] = kind, body
        kind, body = self._answers.pop(chosen)
        if kind == Kind.STATUS:
            check(body)
        if kind != expect:
            raise SessionEndedError(f"an answer of the kind {kind} where {expect.name} belongs")
        return body

    def ask(self, kind: Kind, *fields: bytes, expect: Kind = Kind.STATUS) -> bytes:
        """Send a request and return its answer.

        Raises:
            StatusError: it was refused.
        """
        return self.answer_to(self.request(kind, *fields), expect=expect)

    def stat(self, path: bytes) -> Attributes | None:
        """Return what a path leads to, links followed; None where there is nothing.

        Raises:
            StatusError: it cannot be looked at.
        """
        try:
            return _attributes(self.ask(Kind.STAT, text(path), expect=Kind.ATTRS))
        except StatusError as error:
            if error.code == Code.NO_SUCH_FILE:
                return None
            raise

    def open(self, path: bytes, flags: int, *, mode: int | None = None) -> bytes:
        """Open a file and return its handle.

        Raises:
            StatusError: it cannot be opened.
        """
        body = self.ask(Kind.OPEN, text(path), number(flags), attributes(mode=mode), expect=Kind.HANDLE)
        handles = _texts(body)
        if not handles:
            raise SessionEndedError("it opens a file without a handle")
        return handles[0]

    def look(self, handle: bytes) -> Attributes:
        """Return what an open file is."""
        return _attributes(self.ask(Kind.FSTAT, text(handle), expect=Kind.ATTRS))

    def free(self, folder: bytes) -> int | None:
        """Return the bytes free for this user where a folder is; None where the server does not say."""
        if STATVFS not in self.extensions:
            return None
        body = self.ask(Kind.EXTENDED, text(STATVFS), text(folder), expect=Kind.EXTENDED_REPLY)
        _, unit, _, _, available = _longs(body, 5)
        return int(unit * available)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._patience.check()
            try:
                sent = self._transport.send_data(self._channel, view) if len(view) > _PIECE else 0
                sent = sent or self._channel.send(view)  # type: ignore[arg-type]  # it takes whatever has a length and slices
            except TimeoutError:
                continue
            except OSError as error:
                raise SessionEndedError(str(error)) from error
            if not sent:
                raise SessionEndedError("the channel is closed")
            view = view[sent:]

    def _message(self) -> tuple[int, bytes]:
        while True:
            arrived = len(self._arrived)
            if arrived > 4:  # noqa: PLR2004  the length of a length
                length = int.from_bytes(self._arrived[:4], "big")
                if not 0 < length <= LONGEST:
                    raise SessionEndedError("what arrives is something else (does a login script print something?)")
                if arrived >= 4 + length:
                    kind, body = self._arrived[4], bytes(self._arrived[5 : 4 + length])
                    del self._arrived[: 4 + length]
                    return kind, body
            self._fill()

    def _fill(self) -> None:
        while not self._channel.recv_ready():
            ended = self._channel.closed or self._channel.eof_received
            if ended and not self._channel.recv_ready():
                raise SessionEndedError("the channel is closed")
            self._patience.wait()
        self._arrived += self._channel.recv(_READ)


def check(status: bytes) -> None:
    """Return if a status says that all is well.

    Raises:
        StatusError: it does not.
    """
    code = int.from_bytes(status[:4], "big")
    if code != Code.OK:
        said = _texts(status[4:])
        raise StatusError(code, said[0][:_SAID].decode(errors="replace") if said else "")


def data_of(body: bytes) -> memoryview:
    """Return the bytes an answer of the kind DATA carries."""
    return memoryview(body)[4 : 4 + int.from_bytes(body[:4], "big")]


def _longs(body: bytes, count: int) -> tuple[int, ...]:
    """Read numbers of 64 bits; those that are missing are 0."""
    return struct.unpack(f">{count}Q", body[: 8 * count].ljust(8 * count, b"\0"))


def _texts(body: bytes) -> list[bytes]:
    found, position = [], 0
    while position + 4 <= len(body):
        length = int.from_bytes(body[position : position + 4], "big")
        found.append(body[position + 4 : position + 4 + length])
        position += 4 + length
    return found


def _attributes(body: bytes) -> Attributes:
    flags, position, found = int.from_bytes(body[:4], "big"), 4, {}
    for flag, names, width in ((1, ("size",), 8), (2, ("uid", "gid"), 4), (4, ("mode",), 4)):
        for name in names if flags & flag else ():
            found[name] = int.from_bytes(body[position : position + width], "big")
            position += width
    return Attributes(**found)
