"""Channels: taken where there is room for one more, opened under a deadline, guarded while sending, given back.

A refused channel, a lost link, a deadline and a cancel are told apart, and all of them come before anything was sent.
What is said on a channel is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import paramiko

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.connection import Connection
from opsbook.ssh.result import ChannelRefusedError

CHANNEL_S = 15.0
"""Seconds a target may take to open a channel."""
HUNG_S = 0.8
"""Seconds after it was time to stop in which a sending that still hangs loses its connection."""
CLOSING_S = 3.0
"""Seconds the end of a channel may take to leave."""
UNTOLD = "Unable to open channel."
"""What paramiko raises of two refusals at a time: it has one place to keep why, and the first who asks takes it."""
_LOOK_S = 0.1
"""Seconds between looks at what is being sent."""
_SLOT_S = 0.5
"""Seconds between looks at a cancel while other jobs hold the connection."""


class CalledOffError(Exception):
    """It was cancelled while it waited for its turn; nothing was sent."""


def never() -> bool:
    """Nobody cancels."""
    return False


class _Sending:
    """Something on its way into a socket: guarded while it is entered."""

    def __init__(self, guard: _Guard, connection: Connection, deadline: float, cancelled: Callable[[], bool]) -> None:
        self.connection = connection
        self._guard = guard
        self._deadline = deadline
        self._cancelled = cancelled
        self._stop_at: float | None = None

    def __enter__(self) -> None:
        self._guard.add(self)

    def __exit__(self, *_: object) -> None:
        self._guard.discard(self)

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

    def add(self, sending: _Sending) -> None:
        """Look after a sending."""
        with self._lock:
            self._sendings.add(sending)
            if not self._looking:
                with suppress(RuntimeError):  # no more threads, or the process is ending: it goes unguarded
                    threading.Thread(target=self._look, name="opsbook-sending", daemon=True).start()
                    self._looking = True

    def discard(self, sending: _Sending) -> None:
        """It has left."""
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


def guarded(
    connection: Connection, *, deadline: float, cancelled: Callable[[], bool] = never
) -> AbstractContextManager[None]:
    """Close the connection when what is done within hangs although it is time to stop.

    A full socket takes nothing more, and paramiko waits there without any deadline.
    """
    return _Sending(_guard, connection, deadline, cancelled)


@contextmanager
def session(
    connection: Connection, *, deadline: float, cancelled: Callable[[], bool] = never, standby: bool = False
) -> Iterator[tuple[paramiko.Channel, str]]:
    """Open a session channel when there is room for one more on the connection, and close it in the end.

    With `standby` it may be the one on which a shell waits; then the name of that is there too.

    Raises:
        ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
        CalledOffError: it was cancelled before there was room.
    """
    channel, name = _take(connection, deadline, cancelled, standby=standby)
    try:
        yield channel, name
    finally:
        close(connection, channel)
        connection.slots.give_back()


def close(connection: Connection, channel: paramiko.Channel) -> None:
    """Close a channel, unless it is."""
    if channel.closed:
        return
    closing = guarded(connection, deadline=time.monotonic() + CLOSING_S)
    with closing, suppress(OSError, EOFError, paramiko.SSHException):  # over a link that is gone nobody is told
        channel.close()


def _take(
    connection: Connection, deadline: float, cancelled: Callable[[], bool], *, standby: bool
) -> tuple[paramiko.Channel, str]:
    """Take a slot and open a channel; one that is refused waits for another of ours to end, if there is any."""
    slots = connection.slots
    while True:
        _take_slot(connection, deadline, cancelled)
        try:
            waiting = connection.standby.take() if standby else None
            return waiting or (open_session(connection, deadline, cancelled), "")
        except ChannelRefusedError:
            alone = not _makes_way(connection) and not slots.shrink()
            slots.give_back()
            if alone:
                raise
        except BaseException:
            slots.give_back()
            raise


def _take_slot(connection: Connection, deadline: float, cancelled: Callable[[], bool]) -> None:
    while not connection.slots.take(min(_SLOT_S, max(0.0, deadline - time.monotonic()))):
        if cancelled():
            raise CalledOffError
        if time.monotonic() >= deadline:
            raise ChannelRefusedError("it was busy with other commands of this run", TargetState.UNREACHABLE)


def _makes_way(connection: Connection) -> bool:
    """End the shell that waits, for good: there is no room for it. Whether one did."""
    if not connection.standby.drop():
        return False
    connection.standby.bar()
    return True


def open_session(connection: Connection, deadline: float, cancelled: Callable[[], bool] = never) -> paramiko.Channel:
    """Open a session channel, without a look at how many there are; the caller closes it.

    Raises:
        ConnectError: it could not be opened; `ChannelRefusedError` where the connection still stands.
    """
    seconds = min(CHANNEL_S, max(0.1, deadline - time.monotonic()))
    try:
        with guarded(connection, deadline=time.monotonic() + seconds, cancelled=cancelled):
            return connection.transport.open_session(timeout=seconds)
    except paramiko.ChannelException as error:
        raise ChannelRefusedError(f"one more command was refused: {error.text}", TargetState.UNREACHABLE) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        if connection.alive and str(error) == UNTOLD:
            raise ChannelRefusedError("one more command was refused", TargetState.UNREACHABLE) from error
        message = f"no channel could be opened: {str(error) or 'the connection ended'}"
        raise ConnectError(message, TargetState.UNREACHABLE) from error
