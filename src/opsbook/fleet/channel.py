"""The kernel's end of the control channel: two threads, one that writes and one that reads, and nobody else.

A descriptor inherited from the runner carries JSON lines both ways. Reports are queued and sent in order; a request
waits for its answer, with a deadline. When the runner is gone every call raises, so nothing more is sent to any target.
"""

from __future__ import annotations

import fcntl
import itertools
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

import opsbook
from opsbook.errors import BusyError, ChannelError, ExitCode, RefusedError, SecretError
from opsbook.model import message as m
from opsbook.model.event import Event, Intent
from opsbook.secrets.resolve import COMMAND_S

ANSWER_S = 30.0
"""Seconds an answer may take: a disk that syncs slower than this is broken."""
_WAITING = 8 * 1024 * 1024
"""Bytes that may wait to be sent; beyond that whoever reports waits too, and so does what it reads from."""
_PORTION = 1024 * 1024
"""Bytes that are sent at once."""

_Answer = m.Welcome | m.Recalled | m.Ack | m.Refusal | m.SecretValue


class _Pending:
    """A request that has not been answered."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: _Answer | None = None


class _Outbox:
    """Lines that wait to be sent, in order: bounded by their size, not their number, because some are megabytes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._closed = False

    def put(self, line: bytes) -> bool:
        """Add a line; False when there was no room for it in time, or nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(line), timeout=ANSWER_S)
            if self._closed or not self._has_room(line):
                return False
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()
            return True

    def put_first(self, line: bytes) -> None:
        """Add a line that waits for nothing and comes before all that wait."""
        with self._changed:
            self._lines.appendleft(line)
            self._size += len(line)
            self._changed.notify_all()

    def _has_room(self, line: bytes) -> bool:
        return not self._lines or self._size + len(line) <= _WAITING

    def close(self) -> None:
        """Take nothing more, and let nobody wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> bytes:
        """Return the next lines, when there are any."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines)
            taken = [self._lines.popleft()]
            size = len(taken[0])
            while self._lines and size < _PORTION:
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._size -= size
            self._changed.notify_all()
        return b"\n".join(taken) + b"\n"


class ChannelClient:
    """Implements the `Channel` role (model.protocol) over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tickets = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._lost = ""
        self._listener: Callable[[bool], bool] | None = None
        self._outgoing = _Outbox()
        for work, name in ((self._write, "opsbook-channel-out"), (self._read, "opsbook-channel-in")):
            threading.Thread(target=work, name=name, daemon=True).start()
        answer = self._ask(lambda ticket: m.Hello(ticket=ticket, version=opsbook.__version__))
        if not isinstance(answer, m.Welcome):
            raise ChannelError("the runner did not welcome this kernel")
        self.welcome: m.Welcome = answer

    @classmethod
    def on_descriptor(cls, descriptor: int) -> ChannelClient:
        """Take over an inherited descriptor; programs the notebook starts do not inherit it.

        Raises:
            ChannelError: nobody is at the other end.
        """
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            sock = socket.socket(fileno=descriptor)
        except (OSError, ValueError) as error:
            raise ChannelError(f"the runner's channel is not there: {error}") from error
        return cls(sock)

    def report(self, event: Event) -> None:
        """Queue an event; see `Channel.report`."""
        self._send(m.Report(event=event))

    def intend(self, intent: Intent) -> None:
        """Wait until an intent is on disk; see `Channel.intend`."""
        answer = self._ask(lambda ticket: m.IntentRequest(ticket=ticket, intent=intent))
        if isinstance(answer, m.Refusal):
            raise RefusedError(answer.reason)

    def lock(self, cell_id: str | None, targets: dict[str, str], *, wait_s: float) -> None:
        """Wait until targets are this run's alone; see `Channel.lock`. Whoever is interrupted meanwhile wants none."""
        tickets: list[int] = []

        def make(ticket: int) -> m.LockRequest:
            tickets.append(ticket)
            return m.LockRequest(ticket=ticket, cell_id=cell_id, targets=targets)

        try:
            answer = self._ask(make, seconds=ANSWER_S + wait_s)
        except BaseException:
            with suppress(ChannelError):
                self._send(m.LockGivenUp(ticket=tickets[0]))
            raise
        if isinstance(answer, m.Refusal):
            raise (BusyError if answer.code is ExitCode.BUSY else RefusedError)(answer.reason)

    def recall(self, recall: m.Recall) -> m.Recalled:
        """Ask what is known of a call; see `Channel.recall`."""
        answer = self._ask(lambda ticket: msgspec.structs.replace(recall, ticket=ticket))
        if not isinstance(answer, m.Recalled):
            raise ChannelError("the runner does not know what was done before")
        return answer

    def reveal(self, reference: str, *, used_for: str, cell_id: str | None) -> str:
        """Ask for a secret's value; see `Channel.reveal`."""
        answer = self._ask(
            lambda ticket: m.SecretRequest(ticket=ticket, reference=reference, used_for=used_for, cell_id=cell_id),
            seconds=ANSWER_S + COMMAND_S,
        )
        if isinstance(answer, m.SecretValue):
            return answer.value
        raise SecretError(answer.reason if isinstance(answer, m.Refusal) else "the runner gave no value")

    def close_cell(self, cell_id: str | None) -> None:
        """Wait until all that was reported is recorded; see `Channel.close_cell`."""
        self._ask(lambda ticket: m.CellDone(ticket=ticket, cell_id=cell_id))

    def settle(self) -> None:
        """Wait until all that was reported is on disk; see `Channel.settle`."""
        answer = self._ask(lambda ticket: m.Settle(ticket=ticket))
        if isinstance(answer, m.Refusal):
            raise RefusedError(answer.reason)

    def on_cancel(self, listener: Callable[[bool], bool]) -> None:
        """Register who ends what is running; see `Channel.on_cancel`."""
        self._listener = listener

    def _ask(self, make: Callable[[int], m.FromKernel], *, seconds: float = ANSWER_S) -> _Answer:
        ticket, pending = next(self._tickets), _Pending()
        with self._lock:
            self._pending[ticket] = pending
        self._send(make(ticket))
        pending.done.wait(seconds)
        with self._lock:
            self._pending.pop(ticket, None)
        if pending.answer is None:
            raise ChannelError(self._lost or f"the runner did not answer within {seconds:g} s")
        return pending.answer

    def _send(self, message: m.FromKernel) -> None:
        if self._lost or not self._outgoing.put(msgspec.json.encode(message)):
            raise ChannelError(self._lost or f"the runner took nothing for {ANSWER_S:g} s")

    def _write(self) -> None:
        while True:
            lines = self._outgoing.take()
            try:
                self._sock.sendall(lines)
            except OSError as error:
                self._lose(f"the runner is gone: {error}")
                return

    def _read(self) -> None:
        decoder: msgspec.json.Decoder[m.ToKernel] = msgspec.json.Decoder(m.ToKernel)
        try:
            with self._sock.makefile("rb") as lines:
                for line in lines:
                    self._take(decoder.decode(line))
        except (OSError, msgspec.DecodeError) as error:
            self._lose(f"the runner is gone: {error}")
        self._lose("the runner is gone: nothing more is sent")

    def _take(self, message: m.ToKernel) -> None:
        if isinstance(message, m.Cancel):
            in_flight = self._listener(message.hard) if self._listener else False
            self._outgoing.put_first(msgspec.json.encode(m.Cancelling(in_flight=in_flight)))
            return
        with self._lock:
            pending = self._pending.get(message.ticket)
        if pending is not None:
            pending.answer = message
            pending.done.set()

    def _lose(self, why: str) -> None:
        """Fail everyone who waits, now and from now on; nothing new starts, and what runs is left to end by itself."""
        with self._lock:
            self._lost = self._lost or why
            waiting = list(self._pending.values())
        self._outgoing.close()
        for pending in waiting:
            pending.done.set()
        if self._listener:
            self._listener(False)  # noqa: FBT003  the role's signature
