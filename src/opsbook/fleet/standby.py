"""Has shells wait for the next call while none is in flight, and ends them when none came for a while.

A call that follows at once finds none begun: what is started here never competes with what was asked for. Nothing is
started once the run is stopping. How a shell waits, and whether one may, is known by its connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from opsbook.fleet.crew import side_by_side
from opsbook.ssh.standby import FRESH_S

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection

PAUSE_S = 0.01
"""Seconds after a call in which the next one of a loop has begun."""
STARTERS = 8
START_S = 10.0
"""Seconds one shell may take to start."""


class StandbyKeeper:
    """Looks after the waiting shells of one pool's connections."""

    def __init__(self, connections: Callable[[], Iterable[Connection]], stopping: Callable[[], bool]) -> None:
        self._connections = connections
        self._stopping = stopping
        self._changed = threading.Condition()
        self._calls = 0
        self._begun = 0
        """How often a call began: whoever sees it grow has to stop."""

    def begin(self) -> None:
        """A call begins."""
        with self._changed:
            self._calls += 1
            self._begun += 1
            self._changed.notify_all()

    def end(self) -> None:
        """A call is over."""
        with self._changed:
            self._calls -= 1
            begun, idle = self._begun, not self._calls
        if idle and any(connection.standby.proven for connection in self._connections()):
            with suppress(RuntimeError):  # no more threads: then no shell waits
                threading.Thread(target=self._keep, args=(begun,), name="opsbook-standby", daemon=True).start()

    def _keep(self, begun: int) -> None:
        """Start what is wanted, and end what was not needed, until the next call begins."""
        if self._is_disturbed(begun, PAUSE_S):
            return
        wanted = [connection for connection in self._connections() if connection.standby.wanted]
        deadline = time.monotonic() + FRESH_S
        side_by_side(lambda one: self._start(one, begun), wanted, threads=STARTERS, deadline=deadline)
        if self._is_disturbed(begun, FRESH_S):
            return
        for connection in self._connections():
            connection.standby.drop()

    def _is_disturbed(self, begun: int, seconds: float) -> bool:
        """Wait; whether a call began meanwhile."""
        with self._changed:
            return self._changed.wait_for(lambda: self._begun != begun, seconds)

    def _start(self, connection: Connection, begun: int) -> None:
        from opsbook.ssh.exchange import start_standby  # noqa: PLC0415  paramiko came with the first connection

        if self._begun == begun and connection.alive and not self._stopping():
            start_standby(connection, seconds=START_S)
