"""Carries what was recorded to one observer, on a thread of its own and through a bounded queue.

An observer that is slow loses output before anything else; one that hangs is given up, and no error of one reaches the
run.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress

from opsbook.model.event import CellOutput, Entry, Event, TargetEnded, TargetOutput
from opsbook.model.protocol import Observer

_QUEUE = 10_000
_PATIENCE_S = 2.0
"""Seconds an observer may hold the recorder up, once."""
_OUTPUT_SEEN = 4 * 1024 * 1024
"""Characters of output that may wait for an observer; what is more it does not see."""


class Pump:
    """One observer, and what waits for it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._hangs = False
        self._lock = threading.Lock()
        self._waiting = 0
        """Characters of output in the queue."""
        self._queue: queue.Queue[Entry | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._work, name="opsbook-observer", daemon=True)
        self._thread.start()

    def push(self, entry: Entry) -> None:
        """Hand an entry on; output is dropped when the observer cannot keep up, anything else waits for it once."""
        if self._hangs:
            return
        is_output, size = isinstance(entry.event, TargetOutput | CellOutput), output_size(entry.event)
        if is_output and self._waiting + size > _OUTPUT_SEEN:
            return
        try:
            self._count(size)
            self._queue.put(entry, block=not is_output, timeout=_PATIENCE_S)
        except queue.Full:
            self._count(-size)
            self._hangs = not is_output  # a view that hangs must not hold the run; the journal has it all

    def _count(self, size: int) -> None:
        with self._lock:
            self._waiting += size

    def close(self) -> None:
        """Let the observer see what waits, then say goodbye."""
        if not self._hangs:
            with suppress(queue.Full):
                self._queue.put(None, timeout=_PATIENCE_S)
                self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._count(-output_size(entry.event))
            with suppress(Exception):  # an observer's error is its own: it never reaches the run
                self._observer.observe(entry)
        with suppress(Exception):
            self._observer.close()


def output_size(event: Event | None) -> int:
    """Return how many characters of output an event carries."""
    if isinstance(event, TargetOutput | CellOutput):
        return len(event.text)
    return len(event.stdout) + len(event.stderr) if isinstance(event, TargetEnded) else 0
