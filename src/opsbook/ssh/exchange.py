"""One channel on one connection: opened under a deadline, spoken to, and drained without waiting on either stream.

Nothing waits without a deadline, and however much a target says, every step here is bounded, so that a deadline or a
cancel is always noticed. What the bytes mean is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.connection import Connection
from opsbook.ssh.result import ChannelRefusedError

CHANNEL_S = 15.0
"""Seconds a target may take to open a channel."""
HUNG_S = 0.8
"""Seconds after it was time to stop in which a sending that still hangs loses its connection."""
_CLOSING_S = 3.0
"""Seconds the end of a channel may take to leave."""
_LOOK_S = 0.1
"""Seconds between looks at what is being sent."""
_WINDOW_S = 0.2
"""Seconds between looks at a cancel while the target takes nothing."""
_PIECE = 64 * 1024
_READ = 256 * 1024
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


def _never() -> bool:
    return False


class _Sending:
    """Something on its way into a socket."""

    def __init__(self, connection: Connection, deadline: float, cancelled: Callable[[], bool]) -> None:
        self.connection = connection
        self._deadline = deadline
        self._cancelled = cancelled
        self._stop_at: float | None = None

    @property
    def hangs(self) -> bool:
        """Whether it goes on although it was time to stop."""
        now = time.monotonic()
        if self._stop_at is None and (now >= self._deadline or self._cancelled()):
            self._stop_at = now
        return self._stop_at is not None and now >= self._stop_at + HUNG_S


class _Guard:
    """Closes a connection on which a sending hangs: paramiko waits for a full socket without any deadline.

    One thread looks after all of them, and is there only while something is being sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sendings: set[_Sending] = set()
        self._looking = False

    @contextmanager
    def over(
        self, connection: Connection, *, deadline: float, cancelled: Callable[[], bool] = _never
    ) -> Iterator[None]:
        """Guard what is sent within."""
        sending = _Sending(connection, deadline, cancelled)
        with self._lock:
            self._sendings.add(sending)
            if not self._looking:
                with suppress(RuntimeError):  # no more threads, or the process is ending: it goes unguarded
                    threading.Thread(target=self._look, name="opsbook-sending", daemon=True).start()
                    self._looking = True
        try:
            yield
        finally:
            with self._lock:
                self._sendings.discard(sending)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                hanging = [sending for sending in self._sendings if sending.hangs]
                self._sendings.difference_update(hanging)
                self._looking = bool(self._sendings or hanging)
                if not self._looking:
                    return
            for sending in hanging:  # each end may take a while
                threading.Thread(target=sending.connection.close, name="opsbook-hung", daemon=True).start()


_guard = _Guard()


class Exchange:
    """An open channel."""

    def __init__(self, connection: Connection, channel: paramiko.Channel, wake: Wake, *, deadline: float) -> None:
        self.connection = connection
        self._deadline = deadline
        self.wake = wake
        self.on_stdout: Sink = _ignore
        self.on_stderr: Sink = _ignore
        self._channel = channel
        channel.in_buffer.set_event(wake)  # type: ignore[arg-type]
        channel.in_stderr_buffer.set_event(wake)  # type: ignore[arg-type]

    def request(self, command: str, *, cancelled: Callable[[], bool] = _never) -> None:
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
        with _as_os_error(), _guard.over(self.connection, deadline=self._deadline, cancelled=cancelled):
            self.connection.transport._send_user_message(message)  # type: ignore[attr-defined]  # noqa: SLF001

    def send(self, data: bytes, *, seconds: float, cancelled: Callable[[], bool] = _never) -> None:
        """Send all of `data`.

        Raises:
            TimeoutError: it was not taken in time, or before the cancel.
            OSError: the channel is closed, or the link is lost, or was closed because it took nothing.
        """
        deadline = time.monotonic() + max(0.1, seconds)
        sent = 0
        with _as_os_error(), _guard.over(self.connection, deadline=deadline, cancelled=cancelled):
            while sent < len(data):
                left = deadline - time.monotonic()
                if left <= 0 or cancelled():
                    raise TimeoutError
                self._channel.settimeout(min(left, _WINDOW_S))
                with suppress(TimeoutError):
                    sent += self._channel.send(data[sent : sent + _PIECE])

    def pump(self) -> bool:
        """Take some of what has arrived on each stream; whether there was any."""
        arrived = False
        if self._channel.recv_ready():
            self.on_stdout(self._channel.recv(_READ))
            arrived = True
        if self._channel.recv_stderr_ready():
            self.on_stderr(self._channel.recv_stderr(_READ))
            arrived = True
        return arrived

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
        return self.connection.transport.exit_signals.get(self._channel.get_id())


@contextmanager
def opened(connection: Connection, *, deadline: float, wake: Wake) -> Iterator[Exchange]:
    """Open a channel when there is room for one more on the connection, and close it in the end.

    Raises:
        ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
    """
    slots = connection.slots
    channel = _take_channel(connection, deadline)
    transport, number = connection.transport, channel.get_id()
    transport.on_exit[number] = wake.set
    try:
        yield Exchange(connection, channel, wake, deadline=deadline)
    finally:
        closing = _guard.over(connection, deadline=time.monotonic() + _CLOSING_S)
        with closing, suppress(OSError, EOFError, paramiko.SSHException):  # over a link that is gone nobody is told
            channel.close()
        transport.on_exit.pop(number, None)
        transport.exit_signals.pop(number, None)
        slots.give_back()


def _take_channel(connection: Connection, deadline: float) -> paramiko.Channel:
    """Take a slot and open a channel; one that is refused waits for another of ours to end, if there is any."""
    slots = connection.slots
    while True:
        if not slots.take(max(0.1, deadline - time.monotonic())):
            raise ChannelRefusedError("it was busy with other commands of this run", TargetState.UNREACHABLE)
        try:
            return _open(connection, deadline)
        except ChannelRefusedError:
            alone = not slots.shrink()
            slots.give_back()
            if alone:
                raise
        except BaseException:
            slots.give_back()
            raise


def _open(connection: Connection, deadline: float) -> paramiko.Channel:
    seconds = min(CHANNEL_S, max(0.1, deadline - time.monotonic()))
    try:
        with _guard.over(connection, deadline=time.monotonic() + seconds):
            return connection.transport.open_session(timeout=seconds)
    except paramiko.ChannelException as error:
        raise ChannelRefusedError(f"one more command was refused: {error.text}", TargetState.UNREACHABLE) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        message = f"no channel could be opened: {str(error) or 'the connection ended'}"
        raise ConnectError(message, TargetState.UNREACHABLE) from error


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Let paramiko's own errors be what the operating system's are: the link is gone."""
    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise OSError(str(error) or "the connection ended") from error


def _ignore(_: bytes) -> None:
    """Nobody listens."""
