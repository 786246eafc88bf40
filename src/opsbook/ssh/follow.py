"""A durable command on one connection: started or found again, heard out, ended when it has to be.

One `Progress` lasts over all connections a command needs: it knows how many bytes of each stream have arrived, so
that nothing is lost or doubled when the link is. A lost link is a result like others here (`lost`); to try again is
for whoever holds the connections.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh import durable
from opsbook.ssh.capture import Capture
from opsbook.ssh.connection import Connection
from opsbook.ssh.exchange import Exchange, Wake, opened
from opsbook.ssh.fence import Fence
from opsbook.ssh.question import ask
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script, prepare
from opsbook.ssh.sudo import Barred, Passage
from opsbook.ssh.sweep import LOOK_S, look_for, read_left, tell
from opsbook.ssh.terms import Terms

STOP_S = 4.5
"""Seconds the end of a command may take: TERM, KILL a second later, and the way there and back."""
_BY_SIGNAL = 128
"""A shell says that a signal ended a command by adding this to its number."""
_NEVER = {
    "never": (TargetState.UNREACHABLE, "the link was lost before it began; it never started and will not"),
    "late": (TargetState.UNREACHABLE, "it came too late to begin; it never started and will not"),
    "nowhere": (TargetState.FAILED, "there is no folder for its output on the target; nothing ran"),
    "alone": (TargetState.FAILED, "the target has neither setsid nor perl to detach it; nothing ran"),
}
_GONE = "it died without an exit code: killed, or the machine went down"
_MOST_WORDS = 4096
"""Bytes of what is said before the command that are kept."""


class Progress:
    """How far a durable command was heard, over all its links."""

    def __init__(self, on_output: Callable[[str, str], None], *, timeout_s: float, idle_s: float | None) -> None:
        self.timeout_s = timeout_s
        self.idle_s = idle_s
        self.deadline = time.monotonic() + timeout_s
        self.cancelled = threading.Event()
        self.folder = ""
        """Where its spool is, as the target told."""
        self.read = False
        """Whether the target told how it ended, so that nothing it keeps is needed any more."""
        self.unheard = 0
        """How often in a row the target's shell ended without a word of the command."""
        self.refused = False
        """Whether sudo does not let the follower through: asking again would only say the password again."""
        self.out = 0
        self.err = 0
        self._stdout = Capture(lambda lines: on_output("stdout", lines))
        self._stderr = Capture(lambda lines: on_output("stderr", lines))

    def hear_stdout(self, data: bytes) -> None:
        """Take bytes of the command's stdout."""
        self.out += len(data)
        self._stdout.feed(data)

    def hear_stderr(self, data: bytes) -> None:
        """Take bytes of the command's stderr."""
        self.err += len(data)
        self._stderr.feed(data)

    def result(self, state: TargetState, reason: str, *, code: int | None = None) -> CommandResult:
        """Return what was heard, as a result; more may follow if it is `lost`."""
        if state is not TargetState.LOST:
            self.close()
        return CommandResult(
            state=state,
            exit_code=code,
            reason=reason,
            stdout=self._stdout.text,
            stderr=self._stderr.text,
            truncated=bool(self._stdout.dropped or self._stderr.dropped),
        )

    def close(self) -> None:
        """No more will be heard: hand on the last lines."""
        self._stdout.close()
        self._stderr.close()


class Follow:
    """One link's share of a durable command. `cancel` may be called from any thread at any time."""

    def __init__(
        self, connection: Connection, script: Script, progress: Progress, *, spool: str, terms: Terms, starting: bool
    ) -> None:
        self._connection = connection
        self._script = script
        self._progress = progress
        self._spool = spool
        self._terms = terms
        self._starting = starting
        self._wake = Wake()

    def cancel(self) -> None:
        """Ask for its end: the remote processes get TERM, then KILL."""
        self._progress.cancelled.set()
        self._wake.set()

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Start the command or find it again, and hear it out.

        Raises:
            ConnectError: no channel could be opened: nothing was sent, and trying again is safe.
        """
        progress, marker = self._progress, _new_marker()
        if self._starting:
            script = durable.launch(self._script, self._spool, marker=marker)
        else:
            script = durable.follow(self._script, self._spool, marker=marker, out=progress.out, err=progress.err)
        with opened(self._connection, deadline=progress.deadline, wake=self._wake) as exchange:
            before_send()
            if self._starting and progress.cancelled.is_set():
                return progress.result(TargetState.CANCELLED, "cancelled before it was sent")
            hearing = _Hearing(exchange, script, progress, marker=marker, terms=self._terms)
            barred = hearing.begin(progress.deadline, progress.cancelled.is_set)
            if barred is not None:
                return self._barred(barred)
            stop = self._hear_out(hearing)
            code = exchange.code
        if stop is not None:
            return self._end(*stop)
        if hearing.ended is None and not hearing.told and code is not None:
            progress.unheard += 1
            reason = f"the shell there ended with exit code {code} before it told of the command"
            return progress.result(TargetState.LOST, f"{reason}{hearing.last_words}")
        progress.unheard = 0
        return self._judge(hearing.ended)

    def _barred(self, barred: Barred) -> CommandResult:
        """It did not get through sudo: nothing began; but a command that began before goes on."""
        if self._starting:
            return self._progress.result(barred.state, barred.reason)
        if barred.state in {TargetState.CANCELLED, TargetState.TIMED_OUT}:
            how = (
                "cancelled"
                if barred.state is TargetState.CANCELLED
                else f"timed out after {self._progress.timeout_s:g} s"
            )
            return self._end(barred.state, how)
        self._progress.refused = barred.state is TargetState.BECOME
        return self._progress.result(TargetState.LOST, f"it cannot be reached again: {barred.reason}")

    def _hear_out(self, hearing: _Hearing) -> tuple[TargetState, str] | None:
        """Take what comes until it ends or the link does; return why it has to be ended, if it has to."""
        while not hearing.over:
            arrived = hearing.exchange.pump()
            if self._progress.cancelled.is_set():
                return TargetState.CANCELLED, "cancelled"
            now, idle = time.monotonic(), self._progress.idle_s
            idle_at = float("inf") if idle is None else hearing.heard_at + idle
            if now >= self._progress.deadline:
                return TargetState.TIMED_OUT, f"timed out after {self._progress.timeout_s:g} s"
            if now >= idle_at:
                return TargetState.TIMED_OUT, f"timed out: idle, it said nothing for {idle:g} s"
            if not arrived:
                self._wake.wait(min(self._progress.deadline, idle_at) - now)
        hearing.exchange.drain(silence_s=1.0, most_s=10.0)
        return None

    def _judge(self, ended: durable.Ended | None) -> CommandResult:
        progress = self._progress
        if ended is None:
            return progress.result(TargetState.LOST, "the link was lost; the command may still be running")
        if ended.how == "late" and not self._starting:
            return progress.result(TargetState.LOST, "the target answered what it was not asked")
        if ended.how in _NEVER:
            return progress.result(*_NEVER[ended.how])
        progress.read = True
        if ended.code is None:
            return progress.result(TargetState.FAILED, _GONE + self._escaped())
        if ended.code == 0:
            return progress.result(TargetState.OK, "", code=0)
        return progress.result(TargetState.FAILED, _signal_reason(ended.code), code=ended.code)

    def _end(self, state: TargetState, how: str) -> CommandResult:
        """End the command on a channel of its own, hear its last words, and say what came of it."""
        progress, marker = self._progress, _new_marker()
        script = durable.follow(self._script, self._spool, marker=marker, out=progress.out, err=progress.err, end=True)
        ended = None
        deadline = time.monotonic() + STOP_S
        try:
            with opened(self._connection, deadline=deadline, wake=self._wake) as exchange:
                hearing = _Hearing(exchange, script, progress, marker=marker, terms=self._terms)
                if hearing.begin(deadline, lambda: False) is None:
                    while not hearing.over and time.monotonic() < deadline:
                        if not exchange.pump():
                            self._wake.wait(deadline - time.monotonic())
                    exchange.drain(silence_s=0.5, most_s=1.0)
                    ended = hearing.ended
        except ConnectError:
            pass
        if ended is None:
            where = progress.folder or f"spool {self._spool}"
            return progress.result(state, f"{how}; it could not be ended and may still be running ({where})")
        if ended.how == "never":
            return progress.result(state, f"{how}; it never started")
        progress.read = True
        return progress.result(state, how + self._escaped(), code=ended.code)

    def _escaped(self) -> str:
        answer = ask(self._connection, look_for(self._spool), like=self._script, terms=self._terms, seconds=LOOK_S)
        left = None if answer is None else read_left(answer)
        return tell(left or ())


class Removal:
    """The end of a spool whose result was read. It is short, and no cancel keeps it from leaving nothing behind."""

    def __init__(self, connection: Connection, script: Script, *, terms: Terms, seconds: float) -> None:
        self._connection = connection
        self._script = script
        self._terms = terms
        self._seconds = seconds

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Remove it, if that can be done now."""
        before_send()
        script, seconds = self._script, self._seconds
        gone = ask(self._connection, script.text, like=script, terms=self._terms, seconds=seconds)
        return CommandResult(state=TargetState.FAILED if gone is None else TargetState.OK)

    def cancel(self) -> None:
        """Go on: what is cancelled is what it was the spool of."""


class _Hearing:
    """What a follower on the target says: the command's own bytes between our marks."""

    def __init__(self, exchange: Exchange, script: Script, progress: Progress, *, marker: str, terms: Terms) -> None:
        self.exchange = exchange
        self.heard_at = time.monotonic()
        self._progress = progress
        self._terms = terms
        self._prepared = prepare(script, marker=f"{marker}-sudo", password=terms.password is not None, tethered=True)
        self._out = Fence(f"{marker}\n".encode())
        self._err = Fence(f"{marker} ".encode())
        self._last = Fence(f"{marker} ".encode())
        self._said = b""
        self.told = b""
        """Where the spool is, once the target has said so: all that follows is the command's."""

    def begin(self, deadline: float, cancelled: Callable[[], bool]) -> Barred | None:
        """Send the follower on its way; say why it does not get through sudo. A lost link shows later.

        What is not sent whole never begins, so a cancel meanwhile is certain.
        """
        try:
            self.exchange.request(self._prepared.command, cancelled=cancelled)
            if self._prepared.ready:
                passage = Passage(self.exchange, self._prepared, self._terms, deadline=deadline)
                barred = passage.open(cancelled)
                if barred is not None:
                    return barred
            self.exchange.on_stdout, self.exchange.on_stderr = self._hear_stdout, self._hear_stderr
            self.exchange.send(self._prepared.payload, seconds=deadline - time.monotonic(), cancelled=cancelled)
        except OSError:  # the link is gone, or what reads there is: nothing will be told
            if cancelled():
                reason = "cancelled while it was being sent; nothing ran"
                return Barred(state=TargetState.CANCELLED, reason=reason)
        return None

    @property
    def over(self) -> bool:
        """Whether the follower has said all it will."""
        return self.ended is not None or self.exchange.ended

    @property
    def ended(self) -> durable.Ended | None:
        """What the target said of the command's end, if it did."""
        first, end, _ = self._err.behind.partition(b"\n") if not self.told else (b"", b"", b"")
        if end:
            return durable.read_end(first.decode("utf-8", "replace"))
        last, end, _ = self._last.behind.partition(b"\n")
        return durable.read_end(last.decode("utf-8", "replace")) if end else None

    @property
    def last_words(self) -> str:
        """The last line that was said instead of ours, to be put behind a reason."""
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ""

    def _hear_stdout(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        if self._out.found:
            self._progress.hear_stdout(data)
            return
        self._out.feed(data)
        if self._out.found:
            self._progress.hear_stdout(self._out.behind)

    def _hear_stderr(self, data: bytes) -> None:
        """Keep what lies between the line that names the spool and the one that tells the end."""
        self.heard_at = time.monotonic()
        if self.told:
            self._progress.hear_stderr(self._last.feed(data))
            return
        self._said = (self._said + self._err.feed(data))[-_MOST_WORDS:]
        told, end, rest = self._err.behind.partition(b"\n")
        if end and told.startswith(b"/"):
            self.told = told
            self._progress.folder = told.decode("utf-8", "replace")
            self._progress.hear_stderr(self._last.feed(rest))


def _signal_reason(code: int) -> str:
    """Say which signal an exit code of a shell may stand for."""
    try:
        name = signal.Signals(code - _BY_SIGNAL).name.removeprefix("SIG")
    except ValueError:
        return ""
    return f"exit code {code}, as of a command killed by signal {name}"


def _new_marker() -> str:
    return f"opsbook-{secrets.token_hex(12)}"
