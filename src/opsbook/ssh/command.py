"""One command on one connection, from its channel to the truth about how it ended.

Nothing waits without a deadline. Both streams are drained by one waiter. An exit code is reported only when the target
told it; a signal, a lost link, a deadline and a cancel are told apart. What was sent is never sent again here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from opsbook.model.target import TargetState
from opsbook.ssh.capture import Capture
from opsbook.ssh.channel import CalledOffError
from opsbook.ssh.connection import Connection
from opsbook.ssh.exchange import LITTLE, Exchange, Wake, opened
from opsbook.ssh.fence import Fence
from opsbook.ssh.question import ask
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import STOP, Script, ahead, prepare
from opsbook.ssh.sudo import Passage
from opsbook.ssh.sweep import LOOK_S, end_all, look_for, read_left, tell
from opsbook.ssh.terms import Terms

STOP_S = 3.0
"""Seconds a command may take to end after it was told to: TERM, KILL a second later, and the way back."""
STILL = "; it did not end when it was told to and may still be running"
LINGER_S = 1.0
"""Seconds of silence after the exit code that end the waiting for more output."""
LINGER_MOST_S = 10.0
"""Seconds output may go on after the exit code."""


class Command:
    """A command that is about to run. `cancel` may be called from any thread at any time."""

    def __init__(
        self,
        connection: Connection,
        script: Script,
        *,
        marker: str,
        timeout_s: float,
        on_output: Callable[[str, str], None],
        idle_s: float | None = None,
        terms: Terms | None = None,
        watched: bool = True,
    ) -> None:
        self._connection = connection
        self._script = script
        self._marker = marker
        self._terms = terms or Terms()
        self._prepared = prepare(
            script,
            marker=marker,
            password=self._terms.password is not None,
            watched=watched,
            proving=connection.standby.needs_proof,
        )
        self._proof = Fence(f"{self._prepared.proof}\n".encode()) if self._prepared.proof else None
        """What looks for the proof, until it has come."""
        self._shell = ""
        """The name of the shell it runs in, where that had been waiting for it."""
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._deadline = time.monotonic() + timeout_s
        self._heard_at = float("inf")
        """When it gave its last sign of life; none is waited for before the script has left."""
        self._wake = Wake()
        self._cancelled = threading.Event()
        self._ended = False
        """Whether it ended when it was told to."""
        self._stdout = Capture(lambda lines: on_output("stdout", lines))
        self._stderr = Capture(lambda lines: on_output("stderr", lines))

    def cancel(self) -> None:
        """Ask for its end: the remote processes get TERM, then KILL."""
        self._cancelled.set()
        self._wake.set()

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Open a channel, call `before_send` (whatever it raises is raised, and nothing was sent), run, return.

        Raises:
            ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
        """
        cancelled = self._cancelled.is_set
        self._connection.standby.note_use()
        try:
            with opened(
                self._connection,
                deadline=self._deadline,
                wake=self._wake,
                cancelled=cancelled,
                standby=self._prepared.can_wait,
            ) as exchange:
                before_send()
                if cancelled():
                    raise CalledOffError  # noqa: TRY301  it was not sent either
                if time.monotonic() >= self._deadline:
                    reason = f"timed out after {self._timeout_s:g} s before it was sent; nothing ran"
                    return CommandResult(state=TargetState.TIMED_OUT, reason=reason)
                result, stopped = self._converse(exchange)
        except CalledOffError:
            return CommandResult(state=TargetState.CANCELLED, reason="cancelled before it was sent")
        return self._look_after(result) if stopped else result

    def _converse(self, exchange: Exchange) -> tuple[CommandResult, bool]:
        """Say what to run, and hear it out; return also whether it was stopped and is to be looked after."""
        payload = self._prepared.payload
        try:
            if exchange.shell:
                self._shell, payload = exchange.shell, ahead(payload)
            else:
                exchange.request(self._prepared.command, cancelled=self._cancelled.is_set)
            if self._prepared.ready:
                passage = Passage(exchange, self._prepared, self._terms, deadline=self._deadline)
                barred = passage.open(self._cancelled.is_set)
                self._stderr.feed(passage.said)
                if barred is not None:
                    return self._finish(barred.state, barred.reason), False
            exchange.on_stdout, exchange.on_stderr = self._hear_stdout, self._hear_stderr
        except OSError as error:
            if exchange.code is None and exchange.signal is None:
                return self._unsent(error), False
        unsent = self._send(exchange, payload)
        return self._await_end(exchange) if unsent is None else (unsent, False)

    def _send(self, exchange: Exchange, payload: bytes, *, at_once: bool = False) -> CommandResult | None:
        """Send the script, or leave that to the connection's reader; return what it comes to if it will not get there.

        `at_once`: it is not left to the reader.
        """
        cancelled = self._cancelled.is_set
        try:
            if len(payload) <= LITTLE and not at_once:
                exchange.post(payload, left=self._note_life, cancelled=cancelled)
            else:
                exchange.send(payload, seconds=self._deadline - time.monotonic(), cancelled=cancelled)
                self._note_life()
        except OSError as error:
            if isinstance(error, TimeoutError) or (exchange.code is None and exchange.signal is None):
                return self._unsent(error)
        return None

    def _unsent(self, error: OSError) -> CommandResult:
        """Say why not all of it was sent. It is read whole before it starts, so where we ended it nothing ran."""
        if self._cancelled.is_set():
            return self._finish(TargetState.CANCELLED, "cancelled while it was being sent; nothing ran")
        if isinstance(error, TimeoutError) or time.monotonic() >= self._deadline:
            reason = f"timed out after {self._timeout_s:g} s while it was being sent; nothing ran"
            return self._finish(TargetState.TIMED_OUT, reason)
        return self._finish(TargetState.LOST, f"the link was lost while sending: {error}")

    def _await_end(self, exchange: Exchange) -> tuple[CommandResult, bool]:
        while True:
            exchange.pump()
            if exchange.ended:
                break
            why = self._why_stop()
            if why is not None and exchange.unpost():
                return self._finish(why[0], f"{why[1]} while it was being sent; nothing ran"), False
            if why is not None:
                return self._stop(exchange, *why)
            unsent = self._send(exchange, exchange.unpost(), at_once=True) if exchange.stuck else None
            if unsent is not None:
                return unsent, False
            exchange.rest(min(self._deadline, self._idle_deadline) - time.monotonic())
        if exchange.code is None and exchange.signal is None and exchange.unpost():
            return self._unsent(OSError("the connection ended")), False
        held = not exchange.drain(silence_s=LINGER_S, most_s=LINGER_MOST_S)
        return self._judge(exchange, held=held), False

    def _why_stop(self) -> tuple[TargetState, str] | None:
        """Say why it has to end now, if it has to."""
        if self._cancelled.is_set():
            return TargetState.CANCELLED, "cancelled"
        now = time.monotonic()
        if now >= self._deadline:
            return TargetState.TIMED_OUT, f"timed out after {self._timeout_s:g} s"
        if now >= self._idle_deadline:
            return TargetState.TIMED_OUT, f"timed out: idle, it said nothing for {self._idle_s:g} s"
        return None

    @property
    def _idle_deadline(self) -> float:
        return float("inf") if self._idle_s is None else self._heard_at + self._idle_s

    def _stop(self, exchange: Exchange, state: TargetState, how: str) -> tuple[CommandResult, bool]:
        """End the remote processes, and say what came of it; return also whether there is more to ask."""
        if not self._prepared.watched:
            with suppress(OSError):
                exchange.send(STOP, seconds=1.0)  # there may be a watcher after all
            return self._finish(state, how), True  # they are ended by their id when the channel is closed
        self._ended = self._tell_to_stop(exchange)
        held = self._ended and not exchange.drain(silence_s=STOP_S, most_s=STOP_S)
        left = "; a process it started still holds its output" if held else ""
        return self._finish(state, how + left, code=exchange.code, signal=exchange.signal), True

    def _tell_to_stop(self, exchange: Exchange) -> bool:
        """Send the word, and again a second later: busybox's `head` may have read the first along with the script."""
        begun = time.monotonic()
        again = begun
        while time.monotonic() < begun + STOP_S and not exchange.ended:
            if time.monotonic() >= again:
                again += 1.0 if again == begun else STOP_S
                try:
                    exchange.send(STOP, seconds=1.0)
                except OSError:
                    break  # the link is gone, or it ended just now
            if not exchange.pump():
                self._wake.wait(min(again, begun + STOP_S) - time.monotonic())
        return exchange.code is not None or exchange.signal is not None

    def _look_after(self, result: CommandResult) -> CommandResult:
        """Ask what of a stopped command is still there, and end what no watcher has ended."""
        ending = not self._ended
        if not self._connection.alive:
            return _with_reason(result, STILL if ending else "")
        text = end_all(self._marker, self._shell) if ending else look_for(self._marker, twice=True)
        answer = ask(self._connection, text, like=self._script, terms=self._terms, seconds=STOP_S if ending else LOOK_S)
        left = None if answer is None else read_left(answer)
        if left is None:
            return _with_reason(result, STILL if ending else "")
        return _with_reason(result, tell(left))

    def _note_life(self) -> None:
        self._heard_at = time.monotonic()

    def _hear_stdout(self, data: bytes) -> None:
        self._note_life()
        self._stdout.feed(data)

    def _hear_stderr(self, data: bytes) -> None:
        self._note_life()
        if self._proof is not None:
            data = self._proof.feed(data)
            if self._proof.found:
                self._connection.standby.proven = True
                data, self._proof = data + self._proof.behind, None
        self._stderr.feed(data)

    def _judge(self, exchange: Exchange, *, held: bool) -> CommandResult:
        """Say how it ended, from what the target told."""
        code, signal = exchange.code, exchange.signal
        if signal is not None:
            return self._finish(TargetState.FAILED, f"killed by signal {signal}", signal=signal)
        if code is None:
            return self._finish(TargetState.LOST, "the link was lost; the command may still be running")
        reason = "a process it left behind still holds its output" if held and code == 0 else ""
        return self._finish(TargetState.OK if code == 0 else TargetState.FAILED, reason, code=code)

    def _finish(
        self, state: TargetState, reason: str, *, code: int | None = None, signal: str | None = None
    ) -> CommandResult:
        if self._proof is not None:
            self._stderr.feed(self._proof.rest())
        self._stdout.close()
        self._stderr.close()
        return CommandResult(
            state=state,
            exit_code=code,
            signal=signal,
            reason=reason,
            stdout=self._stdout.text,
            stderr=self._stderr.text,
            truncated=bool(self._stdout.dropped or self._stderr.dropped),
        )


def _with_reason(result: CommandResult, more: str) -> CommandResult:
    return replace(result, reason=result.reason + more)
