"""The shell that waits on a connection for the next script, so that a command need not wait for its shell to start.

Starting the shell is most of what a short command costs a target. One that waits runs one script and ends, as any other
does, with streams and an end of its own: only the time of its start differs. So it must not be older than the last
change made over its connection, nor than a minute. It is started only where a command has shown that our command line
is what runs there: behind a forced command every start would be one more run of that. Who starts it is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import paramiko

FRESH_S = 60.0
"""Seconds a shell may have waited."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A shell that waits."""

    channel: paramiko.Channel
    name: str
    """What tells its process from every other on the target."""
    changes: int
    """How many changes there were when its start began."""
    close: Callable[[], None]
    begun: float = field(default_factory=time.monotonic)


class Standby:
    """What one connection knows of its waiting shell. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Waiting | None = None
        self._used = False
        self._barred = False
        self.proven = False
        """Whether a command has shown that our command line is what runs here, in a shell that can wait."""
        self.changes = 0

    @property
    def needs_proof(self) -> bool:
        """Whether the next command should show it: whoever sends one command alone pays nothing for the next."""
        return self._used and not self.proven and not self._barred

    @property
    def wanted(self) -> bool:
        """Whether a shell would be of use, and none waits."""
        return self.proven and not self._barred and (self._waiting is None or not self._is_fit(self._waiting))

    def note_use(self) -> None:
        """A command ran here."""
        self._used = True

    def note_change(self) -> None:
        """Something was changed over this connection: a shell from before may know what holds no more."""
        with self._lock:
            self.changes += 1

    def put(self, waiting: Waiting) -> None:
        """Keep a shell until it is needed."""
        with self._lock:
            before, self._waiting = self._waiting, waiting
        if before is not None:
            before.close()

    def take(self) -> tuple[paramiko.Channel, str] | None:
        """Return the shell that waits, with its name, if there is one that may still be used."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        if self._is_fit(waiting):
            return waiting.channel, waiting.name
        waiting.close()
        return None

    def drop(self) -> bool:
        """End the shell that waits; whether there was one."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close()
        return waiting is not None

    def bar(self) -> None:
        """Have none wait here any more: the server has no room for it."""
        self._barred = True

    def _is_fit(self, waiting: Waiting) -> bool:
        over = waiting.channel.closed or waiting.channel.eof_received or waiting.channel.exit_status_ready()
        return not over and waiting.changes == self.changes and time.monotonic() < waiting.begun + FRESH_S
