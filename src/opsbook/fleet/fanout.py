"""One operation on many targets at once: who runs, who waits, who is skipped, and when to stop.

At most `parallel` targets work at a time, each on a daemon thread, so that nothing can hold the process at its end. The
main thread only waits, and is the one that raises. One target's error is that target's result; the others go on.
After every result the limits are looked at: once passed, nothing new starts and the rest are skipped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import asdict, replace

from opsbook.errors import ChannelError, ConnectError, RefusedError
from opsbook.fleet.limit import Limit
from opsbook.fleet.operation import Operation, new_marker
from opsbook.fleet.result import TargetResult
from opsbook.fleet.session import Session
from opsbook.model.event import CallEnded, CallStarted, Intent, TargetEnded, TargetOutput
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import ChannelRefusedError, CommandResult
from opsbook.ssh.script import Script, prepare

DRAIN_S = 8.0
"""Seconds the workers may take to end after they were told to."""


class CallOptions(Struct, frozen=True, kw_only=True):
    """How one call treats its targets."""

    parallel: int
    counted: bool = True
    """False for `check=False`."""
    include_failed: bool = False
    hard_stop: bool = False
    wave: int | None = None
    waves: int | None = None


class Fanout:
    """One call under way."""

    def __init__(
        self,
        session: Session,
        targets: Iterable[Target],
        operation: Operation,
        limits: tuple[Limit, ...],
        options: CallOptions,
    ) -> None:
        self.session = session
        self.operation = operation
        self.options = options
        self.number = session.next_call()
        self.cell_id = session.cell_id
        self.cancelled = threading.Event()
        """Set when what runs has to end."""
        self._targets = tuple(targets)
        self._limits = limits
        self._digests = {target.name: operation.digest(target) for target in self._targets}
        self._waiting: deque[Target] = deque()
        self._closed = ""
        """Why nothing new starts any more."""
        self._changed = threading.Condition()
        self._results: dict[str, TargetResult] = {}
        self._open = {target.name for target in self._targets}
        self._working: dict[str, _Worker] = {}
        self._interrupted = False
        self._fatal: Exception | None = None
        self._refused: RefusedError | None = None
        """What the runner said when it did not let a command leave."""

    def run(self) -> dict[str, TargetResult]:
        """Work through all targets and return their results, in the fleet's order.

        Raises:
            ChannelError: the runner is gone.
            KeyboardInterrupt: the run is to stop; every remote command was ended or has ended.
        """
        names = tuple(target.name for target in self._targets)
        self.session.report(self._started(names))
        self._line_up()
        self.session.enter(self)
        error = "stopped"
        try:
            if self.session.stopping:
                self.cancel(hard=True)
            self._work()
            error = ""
        finally:
            self.session.leave(self)
            if self._fatal is None:
                self.session.report(CallEnded(call=self.number, cell_id=self.cell_id, error=error))
        if self._fatal is not None:
            raise self._fatal
        if self._interrupted:
            raise KeyboardInterrupt
        if self._refused is not None:
            raise self._refused
        return self._results_in_order(names)

    def _line_up(self) -> None:
        """Decide who is reached at all: nobody once a limit is passed, and none of the quarantined (SEMANTICS 1, 3)."""
        changing = not self.operation.read_only and not self.options.include_failed
        out = self.session.quarantined if changing else set()
        with self._changed:
            self._waiting.extend(target for target in self._targets if target.name not in out)
            self.skip(
                [target for target in self._targets if target.name in out], "an earlier change did not end well here"
            )
            if self.options.counted and any(limit.passed for limit in self._limits):
                self._close("the limit was reached")

    def _results_in_order(self, names: tuple[str, ...]) -> dict[str, TargetResult]:
        """Return the results as the fleet names them, and behind them those of waves that will not come."""
        return {name: self._results[name] for name in dict.fromkeys((*names, *self._results))}

    def cancel(self, *, hard: bool) -> None:
        """Start nothing new; with `hard`, end what runs. Called from the channel's thread."""
        with self._changed:
            self._interrupted = True
            self._close("the run is stopping")
            self._changed.notify_all()
        if hard:
            self._end_running()
            self._settle_unsent()

    def skip(self, targets: Iterable[Target], reason: str) -> None:
        """Record targets this call will not reach."""
        for target in targets:
            self._settle(target, CommandResult(state=TargetState.SKIPPED, reason=reason), 0.0)

    def _started(self, names: tuple[str, ...]) -> CallStarted:
        return CallStarted(
            call=self.number,
            cell_id=self.cell_id,
            kind=self.operation.kind,
            text=self.operation.text,
            targets=names,
            read_only=self.operation.read_only,
            counted=self.options.counted,
            wave=self.options.wave,
            waves=self.options.waves,
        )

    def _work(self) -> None:
        for _ in range(min(self.options.parallel, len(self._waiting))):
            threading.Thread(target=self._take_turns, name=f"opsbook-call-{self.number}", daemon=True).start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._open or self._fatal is not None)
        except KeyboardInterrupt:
            self.cancel(hard=True)
            with self._changed:
                self._changed.wait_for(lambda: not self._open, timeout=DRAIN_S)
            raise

    def _take_turns(self) -> None:
        """Work on one target after the other until none waits: one worker thread's life."""
        while True:
            with self._changed:
                if not self._waiting or self._fatal is not None:
                    return
                target = self._waiting.popleft()
                worker = _Worker(self, target)
                self._working[target.name] = worker
            begun = time.monotonic()
            try:
                result = self._perform(worker)
                self._settle(target, result, time.monotonic() - begun)
            except Exception as error:  # noqa: BLE001  a worker that dies in silence would leave the main thread waiting
                self._give_up(error)
            finally:
                with self._changed:
                    self._working.pop(target.name, None)
                    self._changed.notify_all()

    def _perform(self, worker: _Worker) -> CommandResult:
        try:
            return self.operation.perform(worker)
        except ConnectError as error:
            return CommandResult(state=TargetState(error.state), reason=str(error))
        except _ClosedError as error:
            return CommandResult(state=TargetState.SKIPPED, reason=str(error))
        except RefusedError as error:
            self._refused = error
            return CommandResult(state=TargetState.SKIPPED, reason=str(error))
        except ChannelError:
            raise
        except Exception as error:  # noqa: BLE001  the border of one target: its error is its result, the others go on
            return CommandResult(state=TargetState.FAILED, reason=f"internal error: {type(error).__name__}: {error}")

    def _settle(self, target: Target, result: CommandResult, seconds: float) -> None:
        """Report a result, then count it, then let others see it. A target's first result is the one that holds."""
        with self._changed:
            if target.name in self._results:
                return
            self._results[target.name] = TargetResult(target=target.name, duration_s=seconds, **asdict(result))
        try:
            self.session.report(self._ended(target, result, seconds))
        except ChannelError as error:
            self._give_up(error)
            return
        with self._changed:
            self._open.discard(target.name)
            if result.state.is_failure:
                self._count_failure(target)
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        """The runner is gone, or this code is broken: start nothing more and let the main thread say so."""
        with self._changed:
            self._fatal = self._fatal or error
            self._closed = self._closed or str(error)
            self._waiting.clear()
            self._changed.notify_all()

    def _ended(self, target: Target, result: CommandResult, seconds: float) -> TargetEnded:
        return TargetEnded(
            call=self.number,
            cell_id=self.cell_id,
            target=target.name,
            kind=self.operation.kind,
            digest=self.digest(target.name),
            duration_s=round(seconds, 3),
            read_only=self.operation.read_only,
            counted=self.options.counted,
            **asdict(result),
        )

    def _count_failure(self, target: Target) -> None:
        if not self.options.counted:
            return
        if not self.operation.read_only:
            self.session.quarantined.add(target.name)
        for limit in self._limits:
            limit.note(target.name)
        if any(limit.passed for limit in self._limits):
            self._close("the limit was reached")
            if self.options.hard_stop:
                self._end_running()

    def _close(self, reason: str) -> None:
        """Start nothing new: skip those who wait, and those whose wave will not come."""
        self._closed = self._closed or reason
        left = list(self._waiting)
        self._waiting.clear()
        if any(limit.passed for limit in self._limits):
            left += [target for limit in self._limits for target in limit.give_up()]
        self.skip(left, reason)

    def check_open(self) -> None:
        """Return if something new may still leave.

        Raises:
            _ClosedError: the limit was passed meanwhile, or the run is stopping.
        """
        with self._changed:
            if self._closed:
                raise _ClosedError(self._closed)

    def mark_sent(self, worker: _Worker, *, first: bool, changing: bool) -> None:
        """Note that something leaves now, unless the call has closed: one step, so that no cancel comes between."""
        with self._changed:
            if first:
                self.check_open()
            worker.sent, worker.changed = True, worker.changed or changing

    def digest(self, name: str) -> str:
        """Return what identifies this call on a target; empty for one of another wave."""
        return self._digests.get(name, "")

    def _end_running(self) -> None:
        self.cancelled.set()
        with self._changed:
            workers = list(self._working.values())
        for worker in workers:
            worker.cancel()

    def _settle_unsent(self) -> None:
        """Give up the targets nothing was sent to yet, such as those still connecting: nobody has to wait for them."""
        with self._changed:
            unsent = [worker.target for worker in self._working.values() if not worker.sent]
        for target in unsent:
            self._settle(target, CommandResult(state=TargetState.CANCELLED, reason="cancelled before it was sent"), 0.0)


class _Worker:
    """One target of one call: the `Work` an operation gets."""

    def __init__(self, fanout: Fanout, target: Target) -> None:
        self._fanout = fanout
        self._session = fanout.session
        self.target = target
        self._lock = threading.Lock()
        self._cancel_command = _nothing
        self.sent = False
        """Whether anything was sent here: what is under way goes on when the call closes."""
        self.changed = False

    def run(
        self,
        script: Script,
        *,
        timeout_s: float,
        changing: bool,
        connect_s: float | None = None,
        boot_id: str | None = None,
    ) -> CommandResult:
        """See `Work.run`. A pooled connection that turns out to be dead before anything was sent is replaced once."""
        try:
            return self._run_once(script, timeout_s, changing=changing, connect_s=connect_s, boot_id=boot_id)
        except _StaleError:
            return self._run_once(script, timeout_s, changing=changing, connect_s=connect_s, boot_id=boot_id)

    def _run_once(
        self, script: Script, timeout_s: float, *, changing: bool, connect_s: float | None, boot_id: str | None
    ) -> CommandResult:
        from opsbook.ssh.command import Command  # noqa: PLC0415  paramiko comes with the first connection

        connection, fresh = self._session.pool.connection(self.target, timeout_s=connect_s)
        named = replace(script, environment={"OPSBOOK_TARGET": self.target.name, **script.environment})
        prepared = prepare(named, marker=new_marker())
        command = Command(connection, prepared, timeout_s=timeout_s, on_output=self._said)
        with self._lock:
            self._cancel_command = command.cancel
        if self._fanout.cancelled.is_set():
            command.cancel()
        try:
            return command.run(lambda: self._before_send(boot_id, changing=changing))
        except ChannelRefusedError:
            raise  # others work on this connection
        except ConnectError as error:
            if fresh:
                raise
            self._session.pool.drop(self.target, connection)
            raise _StaleError(str(error), error.state) from error
        finally:
            with self._lock:
                self._cancel_command = _nothing

    def _before_send(self, boot_id: str | None, *, changing: bool) -> None:
        """Let a command leave: not when the call has closed meanwhile, and a changing one with its intent on disk."""
        first = not self.sent or (changing and not self.changed)
        if first:
            self._fanout.check_open()
        if changing:
            self._intend(boot_id)
        self._fanout.mark_sent(self, first=first, changing=changing)

    def disconnect(self) -> None:
        """See `Work.disconnect`."""
        self._session.pool.drop(self.target)

    def pause(self, seconds: float) -> bool:
        """See `Work.pause`."""
        return self._fanout.cancelled.wait(seconds)

    def cancel(self) -> None:
        """End the command that runs now, if one does."""
        with self._lock:
            cancel = self._cancel_command
        cancel()

    def _intend(self, boot_id: str | None) -> None:
        self._session.intend(
            Intent(
                call=self._fanout.number,
                cell_id=self._fanout.cell_id,
                target=self.target.name,
                digest=self._fanout.digest(self.target.name),
                kind=self._fanout.operation.kind,
                boot_id=boot_id,
            )
        )

    def _said(self, stream: str, text: str) -> None:
        self._session.report(TargetOutput(call=self._fanout.number, target=self.target.name, stream=stream, text=text))


class _ClosedError(RefusedError):
    """This call starts nothing new."""


class _StaleError(ConnectError):
    """A kept connection was dead, and nothing had been sent on it."""


def _nothing() -> None:
    """No command runs."""
