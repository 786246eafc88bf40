"""The frame of a transfer: one job on an SFTP channel of its own, from its slot to the truth about how it ended.

One deadline and one cancel hold for all of it, also while the link hangs: then the connection is closed. A lost link, a
refusal, a deadline and a cancel are told apart. Knows nothing of what is transferred.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import paramiko
from msgspec import Struct

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.channel import CalledOffError, guarded, session
from opsbook.ssh.connection import Connection
from opsbook.ssh.result import CommandResult
from opsbook.ssh.sftp import Code, SessionEndedError, SftpSession, StatusError

CLEAN_S = 0.6
"""Seconds to take back what was written, after it was time to stop: less than what hangs is given."""
SETTLE_S = 0.2
"""Seconds in which a connection that ended says so."""
BROKEN = (SessionEndedError, OSError, EOFError, paramiko.SSHException)
"""What a session raises when it is over before its time."""


class Term(Struct, frozen=True, kw_only=True):
    """Until when it may take: the moment, by the monotonic clock, and the seconds the author gave for all of it."""

    deadline: float
    timeout_s: float

    @classmethod
    def of(cls, timeout_s: float) -> Term:
        """Return the term that begins now."""
        return cls(deadline=time.monotonic() + timeout_s, timeout_s=timeout_s)


class StoppedError(Exception):
    """It is time to stop."""

    def __init__(self, state: TargetState, how: str) -> None:
        super().__init__(state, how)
        self.state = state
        self.how = how


class TransferError(Exception):
    """The transfer cannot be done; says why."""


class Clock:
    """Implements `sftp.Patience`: one deadline, a cancel, and some time to clean up behind either."""

    def __init__(self, term: Term) -> None:
        self.wake = threading.Event()
        self._timeout_s = term.timeout_s
        self.deadline = term.deadline
        self._cancelled = False
        self._last: float | None = None

    @property
    def left(self) -> float:
        """Seconds to the deadline; not below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def is_cancelled(self) -> bool:
        """Whether it was to stop before its time."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop; from any thread."""
        self._cancelled = True
        self.wake.set()

    def clean_up(self) -> None:
        """Give what is left to do its own short time, whatever happened before."""
        self._last = time.monotonic() + CLEAN_S

    @property
    def stop(self) -> StoppedError | None:
        """Why it is time to stop, if it is, whatever is left to clean up."""
        if self._cancelled:
            return StoppedError(TargetState.CANCELLED, "cancelled")
        if time.monotonic() >= self.deadline:
            return StoppedError(TargetState.TIMED_OUT, f"timed out after {self._timeout_s:g} s")
        return None

    def check(self) -> None:
        """See `sftp.Patience.check`."""
        stop = self.stop
        if self._last is None and stop is not None:
            raise stop
        if self._last is not None and time.monotonic() >= self._last:
            raise stop or StoppedError(TargetState.TIMED_OUT, "no answer")

    def wait(self) -> None:
        """See `sftp.Patience.wait`."""
        self.check()
        self.wake.wait(max(0.0, (self.deadline if self._last is None else self._last) - time.monotonic()))
        self.wake.clear()


class Transfer(ABC):
    """A job on an SFTP channel of its own. `cancel` may be called from any thread at any time."""

    def __init__(self, connection: Connection, *, term: Term) -> None:
        self._connection = connection
        self.clock = Clock(term)
        self.sent = False
        """Whether it was let go."""

    def cancel(self) -> None:
        """Ask for its end; what was written is taken back."""
        self.clock.cancel()

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Open a channel, call `before_send` (whatever it raises is raised, and nothing was sent), transfer, return.

        Raises:
            ConnectError: nothing was sent, and trying again is safe.
        """
        clock, connection = self.clock, self._connection
        try:
            with (
                session(connection, deadline=clock.deadline, cancelled=clock.is_cancelled) as (channel, _),
                guarded(connection, deadline=clock.deadline, cancelled=clock.is_cancelled),
            ):
                return self._result(SftpSession(connection.transport, channel, clock), before_send)
        except CalledOffError:
            return CommandResult(state=TargetState.CANCELLED, reason="cancelled before it was sent")

    def _result(self, sftp: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """Do it, and say how it ended."""
        try:
            sftp.begin()
            return self.do(sftp, before_send)
        except TransferError as error:
            return CommandResult(state=TargetState.FAILED, reason=str(error) + self.remains)
        except StatusError as error:
            return CommandResult(state=TargetState.FAILED, reason=said(error) + self.remains)
        except StoppedError as stop:
            return self._stopped(stop)
        except BROKEN as error:
            return self._cut(str(error))

    def _stopped(self, stop: StoppedError) -> CommandResult:
        how = stop.how if self.sent else f"{stop.how} before it was sent"
        return CommandResult(state=stop.state, reason=how + self.remains)

    def _cut(self, how: str) -> CommandResult:
        """Say what a session that ended too early means."""
        stop = self.clock.stop
        if stop is not None:
            return self._stopped(stop)
        self._connection.transport.join(SETTLE_S)  # it closes its channels before it says that it is dead itself
        if not self._connection.alive:
            if not self.sent:
                raise ConnectError("the link was lost before anything was sent", TargetState.UNREACHABLE)
            return CommandResult(state=self.cut_state, reason="the link was lost" + self.remains)
        if not self.sent:
            reason = f"there is no SFTP: {how} (sshd_config names it as `Subsystem sftp`)"
            return CommandResult(state=TargetState.FAILED, reason=reason)
        return CommandResult(state=TargetState.FAILED, reason=f"SFTP ended there: {how}{self.remains}")

    @property
    def cut_state(self) -> TargetState:
        """What it comes to when the link is lost."""
        return TargetState.UNREACHABLE

    @property
    def remains(self) -> str:
        """Say what is known of what was under way."""
        return ""

    @abstractmethod
    def do(self, session: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """Do it, once the session stands."""

    def let_go(self, before_send: Callable[[], None]) -> None:
        """Ask whether it may be sent, at the last moment."""
        before_send()
        self.clock.check()
        self.sent = True


def said(error: StatusError) -> str:
    """Say why a server refused, in plain words where its code has any."""
    words = {Code.NO_SUCH_FILE: "no such file or folder", Code.PERMISSION_DENIED: "permission denied"}
    plain = words[Code(error.code)] if error.code in set(words) else ""
    return plain or error.text or f"code {error.code}"
