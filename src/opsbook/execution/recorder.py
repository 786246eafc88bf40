"""The recorder: the only writer of a run's journal, host logs and fold. One thread, fed by a queue.

It takes what has gathered in the queue, writes it in order, syncs once for all who asked (a group commit), and only
then tells them; what nobody asked about is on disk a moment later. Observers get the entries as they were recorded,
each on its own thread with a bounded queue: one that is slow loses output lines before anything else, and never holds
up the run.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct

from opsbook.archive.fold import RecordFold
from opsbook.archive.growth import RecordGrowth
from opsbook.archive.journal import Journal
from opsbook.archive.layout import RunFolder
from opsbook.archive.links import FIRST
from opsbook.errors import ArchiveError
from opsbook.execution import host_logs
from opsbook.execution.host_logs import HostLogs
from opsbook.execution.output_streams import OutputStreams
from opsbook.execution.pump import Pump, output_size
from opsbook.model.event import (
    CellOutput,
    Entry,
    Event,
    Intent,
    MetricRecorded,
    RunEnded,
    TargetOutput,
)
from opsbook.model.protocol import Observer
from opsbook.model.run import Incident
from opsbook.redaction import Redactor

_BATCH = 1000
_QUEUE = 10_000
SYNC_S = 0.5
"""Seconds after which what was written is put on disk at the latest, whoever asks: what a power cut may take."""
DISK_S = 60.0
"""Seconds the archive's disk may take to answer."""
_SCANNED = 2 * 1024 * 1024
"""Bytes of a run that are looked through, all in all, when further secrets become known while it lasts."""
_OUTPUT = 16 * 1024 * 1024
"""Characters of output that may wait to be recorded: a disk slower than the targets slows them down."""


class _Item(Struct, frozen=True, kw_only=True):
    """Something to record, and whom to tell that it is: `done` gets the sentence that says why not, or nothing."""

    event: Event | None
    durable: bool = False
    done: Callable[[str], None] | None = None
    last: bool = False
    """Whether it is how the run ended: tried also where nothing more could be recorded, and nothing follows it."""
    scans: bool = False
    """Whether what was written is to be masked again, with what is known by now."""


class Recorder:
    """Records one run."""

    def __init__(
        self,
        folder: RunFolder,
        redactor: Redactor,
        fold: RecordFold,
        observers: Iterable[Observer],
        *,
        make_room: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Begin the journal; `make_room` is asked for the bytes the record may need more, before an event is recorded.

        Raises:
            ArchiveError: the journal cannot be made.
        """
        self._redactor = redactor
        self._make_room = make_room
        self._growth = RecordGrowth()
        self._over = False
        """Whether the journal has its last line."""
        self._farewell: list[Entry] = []
        """How the run ended, as it was said last: shown when nothing can change it any more."""
        self._sync_by: float | None = None
        """When what was written has to be on disk (monotonic); None while nothing waits for that."""
        self._journal = Journal(folder.journal, redactor)
        self._host_logs = HostLogs(folder, most=host_logs.HOST_LOGS)
        self._streams = OutputStreams(redactor)
        self._scannable = _SCANNED
        """Bytes that may still be looked through before the end."""
        self._knew = redactor.known
        """How many secrets were known when the last batch was begun."""
        self._pumps = [Pump(observer) for observer in observers]
        self._queue: queue.Queue[_Item | None] = queue.Queue(_QUEUE)
        self._room = threading.Condition()
        self._waiting = 0
        """Characters of output in the queue."""
        self.fold = fold
        """What the run has come to; to be read after `settle` or `close`."""
        self.failure = ""
        """Why the journal can no longer be written."""
        self.incidents: tuple[Incident, ...] = ()
        """Where secrets had been written in clear; to be read after `scan`."""
        self._thread = threading.Thread(target=self._work, name="opsbook-recorder", daemon=True)
        self._thread.start()

    def submit(self, event: Event) -> None:
        """Record an event. Waits only when thousands are waiting already, or megabytes of output."""
        size = output_size(event)
        if size:
            with self._room:
                self._room.wait_for(lambda: not self._waiting or self._waiting + size <= _OUTPUT, timeout=DISK_S)
                self._waiting += size
        self._queue.put(_Item(event=event))

    def commit(self, event: Event | None, done: Callable[[str], None]) -> None:
        """Record an event and call `done` when it, and all before it, is on disk."""
        self._queue.put(_Item(event=event, durable=True, done=done))

    def mark(self, done: Callable[[str], None]) -> None:
        """Call `done` when all that was submitted before is recorded."""
        self._queue.put(_Item(event=None, done=done))

    def settle(self) -> None:
        """Return when all that was submitted is recorded."""
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.mark(told.put)
        self._await(told)

    def write_now(self, event: Event) -> None:
        """Record an event and return when no end of this process can take it away; a power cut might, for a moment.

        Raises:
            ArchiveError: it could not be written.
        """
        self.submit(event)
        self.settle()
        if self.failure:
            raise ArchiveError(self.failure)

    def commit_now(self, event: Event) -> None:
        """Record an event and return when it is on disk.

        Raises:
            ArchiveError: it could not be written.
        """
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.commit(event, told.put)
        why = self._await(told)
        if why:
            raise ArchiveError(why)

    def end(self, event: RunEnded) -> None:
        """Record how the run ended, also in a journal that could not be written before.

        Nothing is recorded after that, unless this is called again.

        Raises:
            ArchiveError: it could not be written.
        """
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queue.put(_Item(event=event, durable=True, done=told.put, last=True))
        why = self._await(told)
        if why:
            raise ArchiveError(why)

    def scan(self) -> None:
        """Mask what was written before all secrets of the run were known, and return when that is done."""
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queue.put(_Item(event=None, done=told.put, scans=True))
        self._await(told)

    @property
    def head(self) -> str:
        """The hash of the journal's last line; to be read after `end`."""
        return self._journal.head

    def _await(self, told: queue.SimpleQueue[str]) -> str:
        """Return what the recorder says; a disk that does not answer is one that cannot be written."""
        try:
            return told.get(timeout=DISK_S)
        except queue.Empty:
            self.failure = self.failure or f"the archive did not answer within {DISK_S:g} s"
            return self.failure

    @property
    def notes(self) -> tuple[str, ...]:
        """What the record should say besides; to be read after `settle` or `close`."""
        return tuple(filter(None, [*self.fold.notes, self._host_logs.note]))

    def close(self) -> None:
        """Record what waits, put it on disk, and let the observers finish."""
        self._queue.put(None)
        self._thread.join(DISK_S)
        for pump in self._pumps:
            pump.close()

    def _work(self) -> None:
        over = False
        while not over:
            items = self._next()
            over = None in items
            self._record([item for item in items if item is not None])
            with self._room:
                self._waiting -= sum(output_size(item.event) for item in items if item is not None)
                self._room.notify_all()
        self._show(self._farewell)
        try:
            self._journal.close()
        except ArchiveError as error:
            self.failure = self.failure or str(error)

    def _next(self) -> list[_Item | None]:
        """Return what has gathered, when there is something; nothing when it is time to sync what was written."""
        due = None if self.failure or self._over else self._sync_by
        left = None if due is None else max(0, due - time.monotonic())
        try:
            items = [self._queue.get(timeout=left)]
        except queue.Empty:
            return []
        while len(items) < _BATCH and not self._queue.empty():
            items.append(self._queue.get())
        return items

    def _record(self, items: list[_Item]) -> None:
        """Write a batch, sync if anyone asked for it, then tell."""
        last = [item for item in items if item.last]
        others = [item for item in items if not item.last]
        try:
            self._take(others)
        except Exception as error:  # noqa: BLE001  without this thread everybody who waits for it would hang
            self.failure = self.failure or f"what happens cannot be recorded: {type(error).__name__}"
        for item in others:
            _tell(item, self.failure)
        for item in last:
            self._over = True
            why, self._farewell = self._attempt([item], durable=True)
            _tell(item, why)

    def _take(self, items: list[_Item]) -> None:
        self._note_what_is_known()
        if self.failure:
            self._show(self._witness(self._masked(items)))
        elif not self._over:  # the hash of its last line may be in the archive's chain already
            is_due = self._sync_by is not None and time.monotonic() >= self._sync_by
            self.failure, seen = self._attempt(items, durable=is_due or any(item.durable for item in items))
            self._show(seen)
        if any(item.scans for item in items):
            self._mask_again(insist=True)

    def _masked(self, items: list[_Item]) -> list[Event]:
        return self._streams.masked(item.event for item in items if item.event is not None)

    def _attempt(self, items: list[_Item], *, durable: bool) -> tuple[str, list[Entry]]:
        """Write events; return why they could not be written, or nothing, and what is to be shown of them."""
        why, seen, events = "", list[Entry](), list[Event]()
        self._sync_by = None if durable else self._sync_by or time.monotonic() + SYNC_S
        try:
            events = self._masked(items)
            seen = self._write(events, durable=durable)
        except ArchiveError as error:
            why, seen = str(error), self._witness(events)
        except Exception as error:  # noqa: BLE001  without this thread everybody who waits for it would hang
            why = f"the journal cannot be written: {type(error).__name__}"  # what it says may hold a secret
        return why, seen

    def _note_what_is_known(self) -> None:
        """Where a secret became known, look through what was written without it: at once, or if it is much at the end.

        A run that is killed before its end has that much masked.
        """
        known = self._redactor.known
        if known != self._knew:
            self._journal.distrust()
            self._host_logs.distrust()
            self._knew = known
            size = self._journal.size + self._host_logs.size
            if size <= self._scannable:
                self._scannable -= size
                self._mask_again(insist=False)

    def _mask_again(self, *, insist: bool) -> None:
        """Mask what was written before all secrets were known; with `insist` the run fails where that does."""
        found = list[Incident]()
        for place in (self._journal, self._host_logs):
            try:
                place.mask_again(self._redactor, found.append, insist=insist)
            except ArchiveError as error:
                self.failure = self.failure or (str(error) if insist else "")
        self.incidents += tuple(found)

    def _show(self, entries: list[Entry]) -> None:
        for pump in self._pumps:
            for entry in entries:
                pump.push(entry)

    def _witness(self, events: list[Event]) -> list[Entry]:
        """Take in what happened though the journal cannot hold it; what was merely intended was not let go."""
        entries = []
        for event in events:
            if not isinstance(event, Intent) and self._fits(event):
                entries.append(self._unrecorded(self.fold.unproven(event)))
                self.fold.apply(entries[-1])
        return entries

    def _fits(self, event: Event) -> bool:
        """Whether there is room for an event in the record: a metric is as long as its author makes it."""
        if isinstance(event, MetricRecorded):
            try:
                self._make_room(self._growth.of(event))
            except ArchiveError:
                return False
        return True

    def _write(self, events: list[Event], *, durable: bool) -> list[Entry]:
        """Write a batch and fold it in; return its entries in the order things happened, for the observers."""
        said = [event for event in events if isinstance(event, TargetOutput)]
        kept = [event for event in events if not isinstance(event, TargetOutput)]
        self._make_room(sum(map(self._growth.of, kept)))
        self._host_logs.append(said)
        entries = self._journal.append(kept, durable=durable, are_masked=True)
        for entry in entries:
            self.fold.apply(entry)
        recorded = iter(entries)
        return [self._unrecorded(e) if isinstance(e, TargetOutput) else next(recorded) for e in events]

    def _unrecorded(self, event: Event) -> Entry:
        """Return an event as an entry without a number, because the journal does not hold it: what targets say."""
        said = isinstance(event, TargetOutput | CellOutput)  # and masked already, as the stream it is part of
        clean = event if said else self._redactor.clean(event)
        return Entry(seq=0, at=datetime.now(UTC), prev=FIRST, event=clean)


def _tell(item: _Item, why: str) -> None:
    if item.done is not None:
        with suppress(Exception):  # whoever asked may be gone
            item.done(why)
