"""How many handshakes may be under way at once.

sshd drops connections while more than ten are not yet logged in. A pass runs out, and sooner where nothing was heard
of the host at all: hosts that are dead share the gate with those that are well, and do not keep them waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT_S = 0.4
"""Seconds a host has for its first word."""
PASS_S = 3.0
"""Seconds after its first word until a handshake counts no more."""


class Gate:
    """Lets a number through at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._inside: dict[object, float] = {}

    @contextmanager
    def pass_through(self) -> Iterator[Callable[[], None]]:
        """Wait for a place and hold it; what this gives is to be called when the host has said something."""
        ticket = object()

        def answered() -> None:
            with self._changed:
                if ticket in self._inside:
                    self._inside[ticket] = time.monotonic() + PASS_S

        with self._changed:
            while (wait := self._wait_s()) > 0:
                self._changed.wait(wait)
            self._inside[ticket] = time.monotonic() + SILENT_S
        try:
            yield answered
        finally:
            with self._changed:
                del self._inside[ticket]
                self._changed.notify()

    def _wait_s(self) -> float:
        """Return how long it may take until a place is free, were nobody to leave; 0 when one is."""
        now = time.monotonic()
        valid = sorted(end for end in self._inside.values() if end > now)
        return valid[-self._most] - now if len(valid) >= self._most else 0.0
