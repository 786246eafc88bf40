"""One target of one call, as an operation sees it: connects, keeps the intent ahead, and can be cancelled.

Nothing leaves here unless the call it belongs to still allows it, asked at the last moment. Knows nothing of other
targets.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from opsbook.errors import ChannelError, ConnectError, RefusedError
from opsbook.fleet.durable import forget, see_through
from opsbook.fleet.operation import Job, Operation, new_marker, new_spool
from opsbook.fleet.session import Session
from opsbook.model.event import Intent, TargetOutput
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import ChannelRefusedError, CommandResult
from opsbook.ssh.script import COMMAND_VARIABLE, Script
from opsbook.ssh.terms import Terms

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection


class CallClosedError(RefusedError):
    """The call starts nothing new: its limit was passed, or the run is stopping."""


class _StaleError(ConnectError):
    """A kept connection was dead, and nothing had been sent on it."""


class Call(Protocol):
    """The call a worker works for."""

    number: int
    cell_id: str | None
    session: Session
    operation: Operation
    cancelled: threading.Event

    def check_open(self) -> None:
        """Return if something new may still leave, else raise CallClosedError."""

    def mark_sent(self, worker: Worker, *, first: bool, changing: bool) -> None:
        """Note that something leaves now; raise CallClosedError if it may not."""

    def digest(self, name: str) -> str:
        """Return what identifies the call on a target."""


class Worker:
    """Implements `Work` (see operation)."""

    def __init__(self, call: Call, target: Target, *, earlier: Intent | None = None) -> None:
        self._call = call
        self._session = call.session
        self.target = target
        self.earlier = earlier
        """See `Work.earlier`."""
        self._lock = threading.Lock()
        self._cancel_command = _nothing
        self.sent = False
        """Whether anything was sent here: what is under way goes on when the call closes."""
        self.busy = False
        """Whether a command is under way here."""
        self.lasting = False
        """Whether a durable one is seen through, also while its link is down."""
        self.changed = False
        self._spools: list[tuple[Script, str]] = []
        """What durable commands that are over have left on the target."""

    @property
    def how_far(self) -> str:
        """Say what a cancel found here while no command ran."""
        if self.changed:
            return "cancelled; what was sent before may still take effect"
        return "cancelled while waiting" if self.sent else "cancelled before it was sent"

    def run(
        self,
        script: Script,
        *,
        timeout_s: float,
        changing: bool,
        connect_s: float | None = None,
        boot_id: str | None = None,
        idle_s: float | None = None,
    ) -> CommandResult:
        """See `Work.run`."""

        def command(connection: Connection) -> Job:
            from opsbook.ssh.command import Command  # noqa: PLC0415  paramiko comes with the first connection

            marker = new_marker()
            return Command(
                connection,
                self._named(script, marker),
                marker=marker,
                timeout_s=timeout_s,
                idle_s=idle_s,
                on_output=self._said,
                terms=self.terms,
                watched=changing or "\n" in script.text.strip(),
            )

        return self.do(command, changing=changing, connect_s=connect_s, boot_id=boot_id)

    def run_durable(
        self, script: Script, *, timeout_s: float, idle_s: float | None = None, spool: str | None = None
    ) -> CommandResult:
        """See `Work.run_durable`."""
        from opsbook.ssh.follow import Progress  # noqa: PLC0415  paramiko comes with the first connection

        name = spool or new_spool()
        named = self._named(script, name)
        progress = Progress(self._said, timeout_s=timeout_s, idle_s=idle_s)
        self.lasting = True
        try:
            result = see_through(self, named, progress, spool=name, starting=spool is None)
        finally:
            self.lasting = False
        if progress.read:
            self._spools.append((named, name))
        return result

    def close(self) -> None:
        """The result is reported: what the target keeps of it goes, once the result is on disk.

        Were it to go before, a runner that died in between would find neither and take it for never begun.
        """
        spools, self._spools = self._spools, []
        if not spools:
            return
        try:
            self._session.settle()
        except (ChannelError, RefusedError):
            return
        for script, spool in spools:
            with suppress(Exception):  # the result is known, and what is left there goes in time
                forget(self, script, spool)

    @property
    def terms(self) -> Terms:
        """On what terms commands go through sudo here."""
        reference = self.target.become.password or self._session.options.sudo_password
        if reference is None:
            return Terms()
        place, secrets = (self.target.name, reference), self._session.secrets
        return Terms(password=partial(secrets.sudo_password, *place), refused=partial(secrets.bar_sudo, *place))

    def _named(self, script: Script, command_id: str) -> Script:
        """Return a script that knows its target, and whose processes can be told by their environment."""
        names = {"OPSBOOK_TARGET": self.target.name, COMMAND_VARIABLE: command_id}
        return replace(script, environment={**names, **script.environment})

    def do(
        self,
        make: Callable[[Connection], Job],
        *,
        changing: bool,
        connect_s: float | None = None,
        boot_id: str | None = None,
        spool: str | None = None,
        continuing: bool = False,
    ) -> CommandResult:
        """See `Work.do`. A pooled connection that turns out to be dead before anything was sent is replaced once."""

        def before_send() -> None:
            if continuing:
                self.busy = True
            else:
                self._before_send(boot_id, spool, changing=changing)

        try:
            return self._do_once(make, before_send, connect_s)
        except _StaleError:
            return self._do_once(make, before_send, connect_s)

    def _do_once(
        self, make: Callable[[Connection], Job], before_send: Callable[[], None], connect_s: float | None
    ) -> CommandResult:
        connection, fresh = self._session.pool.connection(self.target, timeout_s=connect_s)
        job = make(connection)
        with self._lock:
            self._cancel_command = job.cancel
        if self._call.cancelled.is_set():
            job.cancel()
        try:
            return job.run(before_send)
        except ChannelRefusedError:
            raise  # others work on this connection
        except ConnectError as error:
            if fresh:
                raise
            self._session.pool.drop(self.target, connection)
            raise _StaleError(str(error), error.state) from error
        finally:
            if self.changed:
                connection.standby.note_change()
            self.busy = False
            with self._lock:
                self._cancel_command = _nothing

    def _before_send(self, boot_id: str | None, spool: str | None, *, changing: bool) -> None:
        """Let a command leave: not when the call has closed meanwhile, and a changing one with its intent on disk."""
        first = not self.sent or (changing and not self.changed)
        if first:
            self._call.check_open()
        if changing:
            self._session.intend(
                Intent(
                    call=self._call.number,
                    cell_id=self._call.cell_id,
                    target=self.target.name,
                    digest=self._call.digest(self.target.name),
                    kind=self._call.operation.kind,
                    boot_id=boot_id,
                    spool=spool,
                )
            )
        self._call.mark_sent(self, first=first, changing=changing)

    def disconnect(self) -> None:
        """See `Work.disconnect`."""
        self._session.pool.drop(self.target)

    def pause(self, seconds: float) -> bool:
        """See `Work.pause`."""
        return self._call.cancelled.wait(seconds)

    def cancel(self) -> None:
        """End the command that runs now, if one does."""
        with self._lock:
            cancel = self._cancel_command
        cancel()

    def _said(self, stream: str, text: str) -> None:
        output = TargetOutput(call=self._call.number, target=self.target.name, stream=stream, text=text)
        self._session.report(output)


def meaning_of(error: Exception, worker: Worker) -> tuple[TargetState, str]:
    """Say what an error makes of its target, and why."""
    match error:
        case ConnectError():
            return TargetState(error.state), str(error)
        case CallClosedError() if worker.changed:  # a step of it has left, and nobody waits for what it comes to
            return TargetState.CANCELLED, worker.how_far
        case RefusedError():
            return TargetState.SKIPPED, str(error)
        case OSError(errno=errno.EMFILE | errno.ENFILE) if not worker.sent:
            return TargetState.UNREACHABLE, "nothing was sent: too many open files here; --parallel takes fewer at once"
        case _:
            return TargetState.FAILED, f"internal error: {type(error).__name__}: {error}"


def _nothing() -> None:
    """No command runs."""
