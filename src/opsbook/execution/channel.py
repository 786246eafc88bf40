"""The runner's end of the control channel: one thread reads, one writes.

What the notebook reports goes to the recorder in the order it came. An intent is acknowledged when it is on disk, and
refused when it cannot be, when the run is stopping, and always in a dry run. A secret is resolved here, told to the
redactor and to the journal, and only then sent.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from opsbook.errors import ExitCode, SecretError
from opsbook.execution.locks import RunLocks
from opsbook.execution.recorder import Recorder
from opsbook.execution.replay import Replay
from opsbook.model import message as m
from opsbook.model.event import ReplayBlocked, SecretUsed
from opsbook.redaction import Redactor, shown_reference


class ChannelServer:
    """Serves one kernel."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        redactor: Redactor,
        welcome: m.Welcome,
        resolve: Callable[[str], str],
        locks: RunLocks,
        replay: Replay,
    ) -> None:
        self._recorder = recorder
        self._redactor = redactor
        self._welcome = welcome
        self._resolve = resolve
        self._locks = locks
        self._replay = replay
        self._ours, self.theirs = socket.socketpair()
        """`theirs` is the end the kernel inherits; close it here once the kernel has it."""
        self._outgoing: queue.SimpleQueue[m.ToKernel | None] = queue.SimpleQueue()
        self._cancelling: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.stopping = threading.Event()
        """Set when the run is to stop: no further intent is granted until it is cleared."""
        self.greeted = threading.Event()
        """Set when the notebook has loaded opsbook."""
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._read, "opsbook-channel-in"), (self._write, "opsbook-channel-out"))
        ]
        for thread in self._threads:
            thread.start()

    def cancel(self, *, hard: bool, answer_s: float) -> bool:
        """Ask the notebook to stop; whether it answered in time that it is ending remote commands itself."""
        while not self._cancelling.empty():
            self._cancelling.get()
        self._outgoing.put(m.Cancel(hard=hard))
        try:
            return self._cancelling.get(timeout=answer_s)
        except queue.Empty:
            return False

    def close(self) -> None:
        """End the channel: nothing more is granted."""
        self._locks.give_up()
        self._outgoing.put(None)
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._ours.close()

    def _read(self) -> None:
        decoder: msgspec.json.Decoder[m.FromKernel] = msgspec.json.Decoder(m.FromKernel)
        with suppress(OSError), self._ours.makefile("rb") as lines:
            for line in lines:
                try:
                    self._take(decoder.decode(line))
                except msgspec.DecodeError:
                    break  # not our notebook side: grant nothing more

    def _take(self, message: m.FromKernel) -> None:
        match message:
            case m.Report(event=event):
                self._replay.note(event, datetime.now(UTC))
                self._recorder.submit(event)
            case m.IntentRequest():
                self._intend(message)
            case m.Recall():
                self._recall(message)
            case m.LockRequest() | m.LockGivenUp():
                self._lock(message)
            case m.CellDone(ticket=ticket):
                self._recorder.mark(lambda _: self._outgoing.put(m.Ack(ticket=ticket)))
            case m.Settle(ticket=ticket):
                self._recorder.commit(None, lambda why: self._answer(ticket, why))
            case m.SecretRequest():
                threading.Thread(target=self._reveal, args=(message,), daemon=True).start()
            case m.Hello(ticket=ticket):
                self.greeted.set()
                self._outgoing.put(msgspec.structs.replace(self._welcome, ticket=ticket))
            case m.Cancelling(in_flight=in_flight):
                self._cancelling.put(in_flight)

    def _intend(self, request: m.IntentRequest) -> None:
        if why := self._nothing_leaves:
            self._answer(request.ticket, why)
            return
        self._replay.note(request.intent, datetime.now(UTC))
        self._locks.note_change(request.intent.target)
        self._recorder.commit(request.intent, lambda why: self._answer(request.ticket, why))

    def _lock(self, message: m.LockRequest | m.LockGivenUp) -> None:
        if isinstance(message, m.LockGivenUp):
            self._locks.give_up(message.ticket)
        elif why := self._nothing_leaves:
            self._answer(message.ticket, why)
        else:
            self._locks.ask(message, self._outgoing.put)

    @property
    def _nothing_leaves(self) -> str:
        """Say why no changing command may leave now; nothing when it may."""
        if self._welcome.options.checking:
            return "this is a dry run"
        return "the run is stopping" if self.stopping.is_set() else ""

    def _answer(self, ticket: int, why: str) -> None:
        self._outgoing.put(m.Refusal(ticket=ticket, reason=why) if why else m.Ack(ticket=ticket))

    def _recall(self, recall: m.Recall) -> None:
        """Say what is known of a call. Where the run cannot go on, nothing that changes a target leaves any more."""
        known = self._replay.ask(recall)
        if known.blocked:
            blocked = self._replay.blocked
            code, targets = (ExitCode.UNKNOWN, ()) if blocked is None else (blocked.exit_code, blocked.targets)
            event = ReplayBlocked(cell_id=recall.cell_id, exit_code=code, reason=known.blocked, targets=targets)
            self._recorder.submit(event)
            self.stopping.set()
        self._outgoing.put(known)

    def _reveal(self, request: m.SecretRequest) -> None:
        try:
            value = self._resolve(request.reference)
        except SecretError as error:
            self._outgoing.put(m.Refusal(ticket=request.ticket, reason=str(error)))
            return
        shown = shown_reference(request.reference)
        late = self._redactor.add(value, name=shown)
        use = SecretUsed(reference=shown, used_for=request.used_for, cell_id=request.cell_id, late=late)
        self._recorder.submit(use)
        answer = m.SecretValue(ticket=request.ticket, value=value)
        self._recorder.mark(lambda _: self._outgoing.put(answer))  # the journal knows, should we be killed now

    def _write(self) -> None:
        encoder = msgspec.json.Encoder()
        while (message := self._outgoing.get()) is not None:
            try:
                self._ours.sendall(encoder.encode(message) + b"\n")
            except OSError:
                return  # the kernel is gone; whoever watches it will say so
