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

from opsbook.errors import ChannelError, RefusedError
from opsbook.fleet import dry_run
from opsbook.fleet.limit import Limit
from opsbook.fleet.operation import Operation
from opsbook.fleet.recall import line_of_call, recall
from opsbook.fleet.result import TargetResult, recalled_result
from opsbook.fleet.session import Session
from opsbook.fleet.worker import CallClosedError, Worker, meaning_of
from opsbook.model.event import CallEnded, CallStarted, TargetEnded
from opsbook.model.message import Recalled
from opsbook.model.outcome import count_states
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import CommandResult

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
    fresh: bool = False
    """Whether a resumed run asks again instead of answering from before."""
    idempotent: bool = False
    """Whether a resumed run may do it again without knowing how it ended."""


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
        self._begun = time.monotonic()
        self.cancelled = threading.Event()
        """Set when what runs has to end."""
        self._targets = tuple(targets)
        self._limits = limits
        self._digests = {target.name: operation.digest(target) for target in self._targets}
        self._waiting: deque[Target] = deque()
        self._line = line_of_call() if session.channel is not None else 0
        self._known = Recalled(ticket=0)
        """What an earlier run, or attempt, knows of this call."""
        self._closed = ""
        """Why nothing new starts any more."""
        self._changed = threading.Condition()
        self._results: dict[str, TargetResult] = {}
        self._open = {target.name for target in self._targets}
        self._working: dict[str, Worker] = {}
        self._interrupted = False
        self._fatal: Exception | None = None
        self._refused: RefusedError | None = None
        """What the runner said when it did not let a command leave."""

    def run(self) -> dict[str, TargetResult]:
        """Work through all targets and return their results, in the fleet's order.

        Raises:
            BusyError: another run holds a target of a changing call; a `RefusedError` when one left it in the middle.
            ChannelError: the runner is gone.
            KeyboardInterrupt: the run is to stop; every remote command was ended or has ended.
        """
        names = tuple(target.name for target in self._targets)
        if self.changing:
            self.session.lock((*self._targets, *(target for limit in self._limits for target in limit.ahead)))
        self.session.report(self._started(names))
        error = "stopped"
        self.session.enter(self)
        try:
            self._recall()
            self._line_up()
            if self.session.stopping:
                self.cancel(hard=True)
            self._work()
            error = self.limit_passed.sentence if self.limit_passed else ""
        except RefusedError as refused:
            error = str(refused)
            raise
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

    @property
    def limit_passed(self) -> Limit | None:
        """The limit this call counts against that was passed, if one was."""
        return next((limit for limit in self._limits if limit.passed), None) if self.options.counted else None

    @property
    def changing(self) -> bool:
        """Whether this call may change its targets."""
        return not self.operation.read_only

    def _recall(self) -> None:
        """Ask what is known of this call, and take over what is (SEMANTICS 16-19)."""
        options = self.options
        self._known = recall(
            self.session,
            self.operation,
            self._digests,
            cell_id=self.cell_id,
            line=self._line,
            fresh=options.fresh,
            idempotent=options.idempotent,
        )
        for target in self._targets:
            ended = self._known.answers.get(target.name)
            if ended is not None:
                told = replace(ended, call=self.number, cell_id=self.cell_id, counted=options.counted, replayed=True)
                self._settle(target, recalled_result(ended, self._known.source), told)

    def _line_up(self) -> None:
        """Decide who is reached at all: nobody once a limit is passed, and none of the quarantined (SEMANTICS 1, 3)."""
        if self.session.options.checking and not dry_run.is_sent(self.operation):
            self._leave_out()
            return
        out = set[str]() if self.operation.read_only or self.options.include_failed else self.session.quarantined
        open_ = [target for target in self._targets if target.name in self._open]
        with self._changed:
            self._waiting.extend(target for target in open_ if target.name not in out)
            reason = self._closed or ("the limit was reached" if self.limit_passed else "")
            left = self._close(reason) if reason else []
        self.skip([target for target in open_ if target.name in out], "an earlier change did not end well here")
        self.skip(left, self._closed)

    def _leave_out(self) -> None:
        """Send nothing, and show what would have been sent where."""
        names = tuple(target.name for target in self._targets)
        self.skip(self._targets, dry_run.REASON)
        if names:
            would = dry_run.WouldDo(
                kind=self.operation.kind,
                text=self.operation.text,
                targets=names,
                wave=self.options.wave,
                waves=self.options.waves,
            )
            self.session.show(would)

    def _results_in_order(self, names: tuple[str, ...]) -> dict[str, TargetResult]:
        """Return the results as the fleet names them, and behind them those of waves that will not come."""
        return {name: self._results[name] for name in dict.fromkeys((*names, *self._results))}

    def cancel(self, *, hard: bool) -> None:
        """Start nothing new; with `hard`, end what runs. Called from the channel's thread."""
        with self._changed:
            self._interrupted = True
            left = self._close("the run is stopping")
            self._changed.notify_all()
        if hard:
            self._end_running()
        self.skip(left, self._closed)
        if hard:
            self._settle_idle()

    def skip(self, targets: Iterable[Target], reason: str) -> None:
        """Record targets this call will not reach."""
        for target in targets:
            self._settle(target, *self._made(target, CommandResult(state=TargetState.SKIPPED, reason=reason)))

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
            line=self._line,
        )

    def _work(self) -> None:
        try:
            self._start_workers(min(self.options.parallel, len(self._waiting)))
            self._await_end()
        except KeyboardInterrupt:
            self.cancel(hard=True)
            with self._changed:
                self._changed.wait_for(lambda: not self._open, timeout=DRAIN_S)
            self.session.live.refresh(self._standing(), seconds=time.monotonic() - self._begun)
            raise

    def _await_end(self) -> None:
        """Wait until all is over, and show meanwhile where the targets are, in a notebook without a runner."""
        live = self.session.live
        live.begin()
        while not self._is_over(live.every_s):
            live.refresh(self._standing(), seconds=time.monotonic() - self._begun)

    def _is_over(self, seconds: float | None) -> bool:
        """Wait, `seconds` at most, and say whether there is nothing more to wait for."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open or self._fatal is not None, timeout=seconds)

    def _standing(self) -> str:
        """Say how many targets are where."""
        with self._changed:
            running = sum(name not in self._results for name in self._working)
            states = [result.state for result in self._results.values()]
            return count_states(states, running=running, waiting=len(self._waiting))

    def _start_workers(self, count: int) -> None:
        """Start the worker threads; as many as the system gives will do, unless that is none."""
        for started in range(count):
            try:
                threading.Thread(target=self._take_turns, name=f"opsbook-call-{self.number}", daemon=True).start()
            except RuntimeError as error:
                if not started:
                    self._give_up(error)
                return

    def _take_turns(self) -> None:
        """Work on one target after the other until none waits: one worker thread's life."""
        while True:
            with self._changed:
                if not self._waiting or self._fatal is not None:
                    return
                target = self._waiting.popleft()
                worker = Worker(self, target, earlier=self._known.pending.get(target.name))
                self._working[target.name] = worker
            begun = time.monotonic()
            try:
                result = self._perform(worker)
                self._settle(target, *self._made(target, result, time.monotonic() - begun), worker)
            except Exception as error:  # noqa: BLE001  a worker that dies in silence would leave the main thread waiting
                self._give_up(error)
            finally:
                with self._changed:
                    self._working.pop(target.name, None)
                    self._changed.notify_all()

    def _perform(self, worker: Worker) -> CommandResult:
        try:
            return self.operation.perform(worker)
        except ChannelError:
            raise
        except Exception as error:  # noqa: BLE001  the border of one target: its error is its result, the others go on
            if isinstance(error, RefusedError) and not isinstance(error, CallClosedError):
                self._refused = error
            state, reason = meaning_of(error, worker)
            return CommandResult(state=state, reason=reason)

    def _settle(self, target: Target, result: TargetResult, ended: TargetEnded, worker: Worker | None = None) -> None:
        """Report a result, then count it, then let others see it. A target's first result is the one that holds.

        Nothing is reported under the lock: a runner that is slow to listen must not hold up who cancels.
        """
        with self._changed:
            if target.name in self._results:
                return
            self._results[target.name] = result
        try:
            self.session.report(ended)
        except ChannelError as error:
            self._give_up(error)
            return
        left: list[Target] = []
        with self._changed:
            if result.state.is_failure:
                left = self._count_failure(target)  # before any tidying up, which may take its time on one that failed
            self._changed.notify_all()
        self.skip(left, self._closed)
        if worker is not None:
            worker.close()
        with self._changed:
            self._open.discard(target.name)
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        """The runner is gone, or this code is broken: start nothing more and let the main thread say so."""
        with self._changed:
            self._fatal = self._fatal or error
            self._closed = self._closed or str(error)
            self._waiting.clear()
            self._changed.notify_all()

    def _made(self, target: Target, result: CommandResult, seconds: float = 0.0) -> tuple[TargetResult, TargetEnded]:
        """Return a result as the notebook gets it, and as it is reported."""
        ended = TargetEnded(
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
        return TargetResult(target=target.name, duration_s=seconds, **asdict(result)), ended

    def _count_failure(self, target: Target) -> list[Target]:
        """Count a target that failed; return those that are left out for it."""
        if not self.options.counted:
            return []
        if not self.operation.read_only:
            self.session.quarantined.add(target.name)
        for limit in self._limits:
            limit.note(target.name)
        if not self.limit_passed:
            return []
        left = self._close("the limit was reached")
        if self.options.hard_stop:
            self._end_running()
        return left

    def _close(self, reason: str) -> list[Target]:
        """Start nothing new; return those to be skipped: who waits, and those whose wave will not come."""
        self._closed = self._closed or reason
        left = list(self._waiting)
        self._waiting.clear()
        if any(limit.passed for limit in self._limits):
            left += [target for limit in self._limits for target in limit.give_up()]
        self._open.update(target.name for target in left)  # the call is over when they are reported too
        return left

    def check_open(self) -> None:
        """Return if something new may still leave.

        Raises:
            CallClosedError: the limit was passed meanwhile, or the run is stopping.
        """
        with self._changed:
            if self._closed:
                raise CallClosedError(self._closed)

    def mark_sent(self, worker: Worker, *, first: bool, changing: bool) -> None:
        """Note that something leaves now, unless the call has closed: one step, so that no cancel comes between."""
        with self._changed:
            if first or self.cancelled.is_set():
                self.check_open()
            worker.sent, worker.busy, worker.changed = True, True, worker.changed or changing

    def digest(self, name: str) -> str:
        """Return what identifies this call on a target; empty for one of another wave."""
        return self._digests.get(name, "")

    def _end_running(self) -> None:
        self.cancelled.set()
        with self._changed:
            workers = list(self._working.values())
        for worker in workers:
            worker.cancel()

    def _settle_idle(self) -> None:
        """Give up the targets no command runs on, such as those still connecting: nobody has to wait for them."""
        with self._changed:
            idle = [one for one in self._working.values() if not (one.busy or (one.lasting and one.changed))]
        for worker in idle:
            result = CommandResult(state=TargetState.CANCELLED, reason=worker.how_far)
            self._settle(worker.target, *self._made(worker.target, result))
