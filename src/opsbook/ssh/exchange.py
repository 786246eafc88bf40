"""One channel on one connection: opened under a deadline, spoken to, and drained without waiting on either stream.

Nothing waits without a deadline, and however much a target says, every step here is bounded, so that a deadline or a
cancel is always noticed. What the bytes mean is not known here.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from opsbook.errors import ConnectError
from opsbook.ssh.channel import close, guarded, never, open_session, session
from opsbook.ssh.connection import Connection
from opsbook.ssh.hearing import STDERR, STDOUT, ignore
from opsbook.ssh.script import awaiting
from opsbook.ssh.standby import Waiting

_WINDOW_S = 0.2
"""Seconds between looks at a cancel while the target takes nothing."""
_MOMENT_S = 0.1
"""Seconds output that flows may wait for more: who takes each piece of it costs more than all the rest."""
_PIECE = 64 * 1024
LITTLE = 16 * 1024
"""Bytes that a socket takes without waiting."""
_READ, _READS = 64 * 1024, 16
"""Bytes taken at once, which stay in the processor's cache, and how often before other things are looked at."""
Sink = Callable[[bytes], None]


class Wake:
    """What paramiko's buffers set when something arrives. Only the waiter clears it, so no arrival is missed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the waiter."""
        self._event.set()

    def clear(self) -> None:
        """Do nothing: a buffer that was read empty must not silence the other one."""

    def wait(self, seconds: float) -> None:
        """Wait until something happens, at most so many seconds."""
        self._event.wait(max(0.0, seconds))
        self._event.clear()


class Exchange:
    """An open channel."""

    def __init__(
        self, connection: Connection, channel: paramiko.Channel, wake: Wake, *, deadline: float, shell: str = ""
    ) -> None:
        self.connection = connection
        self.shell = shell
        """The name of the shell that already waits here for its script; empty where none does."""
        self._deadline = deadline
        self.wake = wake
        self.on_stdout: Sink = _ignore
        self.on_stderr: Sink = _ignore
        self._channel = channel
        self._posted: list[bytes] = []
        """What is to be sent when there is room for it: one, or none. Whoever takes it out sends it."""
        self._size = 0
        self._left = ignore
        self._held = False
        self._flows = False
        self._much = channel.in_window_size // 2
        """Bytes that do not wait for more: where there is room for as many meanwhile."""
        self._hearer = connection.transport.hear(channel, wake.set)
        self._hearer.on_room = self._room_came
        channel.in_buffer.set_event(wake)  # type: ignore[arg-type]  # it is closed with the channel

    def request(self, command: str, *, cancelled: Callable[[], bool] = never) -> None:
        """Send `exec` without asking for a reply: paramiko waits for one without any deadline.

        Raises:
            OSError: the link is lost, or was closed because it took nothing until the deadline or a cancel.
        """
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self._channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(False)  # noqa: FBT003  paramiko's signature
        message.add_string(command)
        with _as_os_error(), guarded(self.connection, deadline=self._deadline, cancelled=cancelled):
            self.connection.transport._send_user_message(message)  # noqa: SLF001

    def send(self, data: bytes, *, seconds: float, cancelled: Callable[[], bool] = never) -> None:
        """Send all of `data`.

        Raises:
            TimeoutError: it was not taken in time, or before the cancel.
            OSError: the channel is closed, or the link is lost, or was closed because it took nothing.
        """
        deadline = time.monotonic() + max(0.1, seconds)
        sent = 0
        with _as_os_error(), guarded(self.connection, deadline=deadline, cancelled=cancelled):
            while sent < len(data):
                left = deadline - time.monotonic()
                if left <= 0 or cancelled():
                    raise TimeoutError
                self._channel.settimeout(min(left, _WINDOW_S))
                with suppress(TimeoutError):
                    sent += self._channel.send(data[sent : sent + _PIECE])

    def post(self, data: bytes, *, left: Callable[[], None], cancelled: Callable[[], bool] = never) -> None:
        """Have a little data sent as soon as there is room for it; `left` is called, on any thread, when it has left.

        The target gives room when it has begun to run the command. The connection's reader answers that at once, and
        nobody has to be woken for it; where there is not room enough for all of it, `stuck` says so.

        Raises:
            OSError: the link is lost, or was closed because it took nothing until the deadline or a cancel.
        """
        self._size, self._left = len(data), left
        self._posted.append(data)
        with _as_os_error(), guarded(self.connection, deadline=self._deadline, cancelled=cancelled):
            self._room_came()  # there may be some already

    def unpost(self) -> bytes:
        """Take back what was posted; empty when it has left."""
        try:
            return self._posted.pop()
        except IndexError:
            return b""

    @property
    def stuck(self) -> bool:
        """Whether what was posted will not be sent by itself: it is to be taken back and sent."""
        return self._held and bool(self._posted)

    def _room_came(self) -> None:
        room = self._channel.out_window_size
        if not room or not self._posted:
            return
        if self._size > room:
            self._held = True
            self.wake.set()
            return
        data = self.unpost()
        if data:
            self.connection.transport.send_data(self._channel, memoryview(data))
            self._left()

    def pump(self) -> bool:
        """Take some of what has arrived on each stream; whether there was any."""
        self._flows = False
        for stream, sink in ((STDOUT, self.on_stdout), (STDERR, self.on_stderr)):
            for _ in range(_READS):
                data = self._hearer.take(stream, most=_READ)
                if not data:
                    break
                self._flows = True
                sink(data)
                with suppress(EOFError, paramiko.SSHException):  # the end of a link shows by itself
                    self.connection.transport.taken(self._channel, len(data))
        return self._flows

    def rest(self, seconds: float) -> None:
        """Wait until something happens, at most so many seconds; while output flows, for a lot of it or a moment."""
        if not self._flows:
            self.wake.wait(seconds)
        elif self._hearer.waiting < self._much:
            self._hearer.enough = self._much
            self.wake.wait(min(seconds, _MOMENT_S))
            self._hearer.enough = 1

    def drain(self, *, silence_s: float, most_s: float) -> bool:
        """Take the output that is still on its way when the end is known; whether that came to an end too.

        A child left behind may hold the streams open for ever, silent or not: the waiting has an end of its own.
        """
        limit = time.monotonic() + most_s
        quiet = time.monotonic() + silence_s
        while True:
            over = self.closed or self._channel.eof_received  # asked first: nothing arrives after it
            if self.pump():
                quiet = time.monotonic() + silence_s
            elif over:
                return True
            else:
                self.wake.wait(min(quiet, limit) - time.monotonic())
            if time.monotonic() >= min(quiet, limit):
                return False

    @property
    def closed(self) -> bool:
        """Whether the target closed the channel, or the link is gone."""
        return self._channel.closed

    @property
    def ended(self) -> bool:
        """Whether the target told how the command ended, or cannot any more."""
        return self.closed or self._channel.exit_status_ready() or self.signal is not None

    @property
    def code(self) -> int | None:
        """The exit code, if the target told one."""
        known = self._channel.exit_status_ready() and self._channel.exit_status >= 0
        return self._channel.exit_status if known else None

    @property
    def signal(self) -> str | None:
        """The signal that ended the command, if the target told one."""
        return self._hearer.signal or None


@contextmanager
def opened(
    connection: Connection,
    *,
    deadline: float,
    wake: Wake,
    cancelled: Callable[[], bool] = never,
    standby: bool = False,
) -> Iterator[Exchange]:
    """Open a channel when there is room for one more on the connection, and close it in the end.

    With `standby` it may be the one on which a shell waits (see `Exchange.shell`).

    Raises:
        ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
        CalledOffError: it was cancelled before there was room.
    """
    with session(connection, deadline=deadline, cancelled=cancelled, standby=standby) as (channel, shell):
        exchange = Exchange(connection, channel, wake, deadline=deadline, shell=shell)
        try:
            yield exchange
        finally:
            connection.transport.unhear(channel)


def start_standby(connection: Connection, *, seconds: float) -> None:
    """Have a shell wait for the connection's next script; where that cannot be, it is not tried again."""
    standby = connection.standby
    changes, name = standby.changes, f"opsbook-{secrets.token_hex(12)}"
    deadline = time.monotonic() + seconds
    try:
        channel = open_session(connection, deadline)
    except ConnectError:
        standby.bar()
        return

    def end() -> None:
        connection.transport.unhear(channel)
        close(connection, channel)

    try:
        Exchange(connection, channel, Wake(), deadline=deadline).request(awaiting(name))
    except OSError:
        end()
    else:
        standby.put(Waiting(channel=channel, name=name, changes=changes, close=end))


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Let paramiko's own errors be what the operating system's are: the link is gone."""
    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise OSError(str(error) or "the connection ended") from error


def _ignore(_: bytes) -> None:
    """Nobody listens."""
