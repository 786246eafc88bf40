"""Waiting for a lock: for so long, until it is there, and not a moment longer than somebody wants it.

The system is asked on a thread of its own, because nothing can call a waiting thread back; one nobody waits for any
more lets go of what it gets.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time

GRACE_S = 0.5
"""Seconds a lock is worth waiting for in any case: somebody may only be looking at it, or just be ending."""


class Wait:
    """The time one request has for all its locks together. Any thread may give it up."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._changed = threading.Condition()
        self._is_over = False

    def give_up(self) -> None:
        """End it: nobody wants the lock any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def given_up(self) -> bool:
        """Whether it was given up."""
        return self._is_over

    def for_file(self, descriptor: int) -> bool:
        """Return whether the file's lock came in time. If not, the descriptor is closed, now or when it comes."""
        turn = _Turn(descriptor, self._changed)
        threading.Thread(target=turn.take, name="opsbook-lock", daemon=True).start()
        with self._changed:
            left = self._deadline - time.monotonic()
            self._changed.wait_for(lambda: turn.came or self._is_over, timeout=max(0.0, left))
            turn.wanted = turn.came
            return turn.came


class _Turn:
    """One file's lock, asked for; guarded by the wait's condition."""

    def __init__(self, descriptor: int, changed: threading.Condition) -> None:
        self._descriptor = descriptor
        self._changed = changed
        self.came = False
        self.wanted = True

    def take(self) -> None:
        """Block until the system gives the lock."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(self._descriptor)  # there is no lock to be had here: whoever waits gets none in time
            return
        with self._changed:
            self.came = self.wanted
            if not self.wanted:
                os.close(self._descriptor)
            self._changed.notify_all()
