"""Connections kept for the life of the notebook: one to each target, and one to each jump host on the way.

Each is opened when it is first needed. paramiko is imported here, at the first connection, and not before.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from opsbook.errors import ConnectError
from opsbook.model.message import RunOptions
from opsbook.model.target import Target
from opsbook.secrets.resolve import resolve

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection, Dialer
    from opsbook.ssh.route import Atlas, Route

MOST_DESCRIPTORS = 16_384
HOP_REST_S = 2.0
"""Seconds a jump host that failed is left alone: all that are behind it fail with it, not one after the other."""
CLOSE_S = 2.0
"""Seconds that closing everything may take."""
CLOSERS = 16
JUMP_HOST = "jump host "


class _Door:
    """One at a time connects to a host; who waited meanwhile shares what came of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.attempts = 0
        self.failure: ConnectError | None = None
        self.failed_at = float("-inf")


class Pool:
    """Hands out connections. Safe to share between threads."""

    def __init__(self, options: RunOptions, reveal: Callable[[str], str] = resolve) -> None:
        """Make an empty pool; `reveal` gives the value a password's reference stands for."""
        _allow_descriptors()
        self._options = options
        self._reveal = reveal
        self._lock = threading.Lock()
        self._open: dict[str | Route, Connection] = {}
        self._doors: dict[str | Route, _Door] = {}
        self._routes: dict[str, tuple[Target, Route]] = {}
        self._means: tuple[Dialer, Atlas] | None = None

    def connection(self, target: Target, *, timeout_s: float | None = None) -> tuple[Connection, bool]:
        """Return a live connection to a target, and whether it was opened just now.

        `timeout_s` can only shorten what the run allows for connecting.

        Raises:
            ConnectError: it cannot be reached.
        """
        known = self._open.get(target.name)
        if known is not None and known.alive:
            return known, False
        route = self._route(target)
        most = self._options.connect_timeout_s
        return self._through_door(target.name, route, most if timeout_s is None else min(timeout_s, most))

    def knock(self, target: Target) -> Connection:
        """Return a connection that knows the target's host key and is not logged in: for the caller to close.

        Jump hosts on the way are logged in to, and kept.

        Raises:
            ConnectError: it cannot be reached, or its key was refused.
        """
        route, seconds = self._route(target), self._options.connect_timeout_s
        via = None if route.via is None else lambda: self._hop(route, seconds)
        return self._equipped()[0].dial(route, timeout_s=seconds, via=via, log_in=False)

    @property
    def jump_hosts(self) -> dict[str, Connection]:
        """The connections to jump hosts, by their address."""
        with self._lock:
            return {key.address: made for key, made in self._open.items() if not isinstance(key, str)}

    def drop(self, target: Target, connection: Connection | None = None) -> None:
        """Close the connection to a target, this one if one is named: the next command opens another."""
        with self._lock:
            known = self._open.get(target.name)
            if known is None or (connection is not None and known is not connection):
                return
            del self._open[target.name]
        known.close()

    def close(self) -> None:
        """Close every connection, those to jump hosts last, in bounded time."""
        with self._lock:
            known, self._open = self._open, {}
            means = self._means
        if means is not None:
            means[0].close()
        deadline = time.monotonic() + CLOSE_S
        _close_all([made for key, made in known.items() if isinstance(key, str)], deadline)
        _close_all([made for key, made in known.items() if not isinstance(key, str)], deadline)

    def _equipped(self) -> tuple[Dialer, Atlas]:
        """Return what dials and what knows the way, made at the first connection."""
        from opsbook.ssh.connection import Dialer  # noqa: PLC0415  paramiko takes 0.15 s to import
        from opsbook.ssh.hostkeys import HostKeyPolicy  # noqa: PLC0415
        from opsbook.ssh.route import Atlas  # noqa: PLC0415

        with self._lock:
            if self._means is None:
                options = self._options
                policy = HostKeyPolicy(options.host_keys)
                dialer = Dialer(policy=policy, keepalive_s=options.keepalive_s, reveal=self._reveal)
                self._means = dialer, Atlas(options)
            return self._means

    def _route(self, target: Target) -> Route:
        """Return the way to a target, looked up once."""
        known = self._routes.get(target.name)
        if known is None or known[0] != target:
            known = target, self._equipped()[1].route(target)
            self._routes[target.name] = known
        return known[1]

    def _through_door(self, key: str | Route, route: Route, seconds: float) -> tuple[Connection, bool]:
        """Return the connection kept under a key, or make it."""
        with self._lock:
            door = self._doors.setdefault(key, _Door())
        attempts = door.attempts
        with door.lock:
            known = self._open.get(key)
            if known is not None and known.alive:
                return known, False
            if door.failure is not None and (attempts != door.attempts or _rests(key, door)):
                raise ConnectError(door.failure.message, door.failure.state)
            door.failure = None
            via = None if route.via is None else lambda: self._hop(route, seconds)
            try:
                made = self._equipped()[0].dial(route, timeout_s=seconds, via=via)
            except ConnectError as error:
                door.failure, door.failed_at = error, time.monotonic()
                raise
            finally:
                door.attempts += 1
            with self._lock:
                self._open[key] = made
            return made, True

    def _hop(self, route: Route, seconds: float) -> Connection:
        """Return a live connection to the jump host on a way, shared by all who go through it."""
        hop = route.via
        if hop is None:
            raise ValueError(route)
        try:
            return self._through_door(hop, hop, seconds)[0]
        except ConnectError as error:
            if error.message.startswith(JUMP_HOST):
                raise
            raise ConnectError(f"{JUMP_HOST}{hop.address}: {error}", error.state) from error


def _rests(key: str | Route, door: _Door) -> bool:
    """Whether a jump host failed just now."""
    return not isinstance(key, str) and time.monotonic() - door.failed_at < HOP_REST_S


def _close_all(connections: Iterable[Connection], deadline: float) -> None:
    """Close side by side: one that hangs holds none of the others, nor the caller after the deadline."""
    waiting: SimpleQueue[Connection] = SimpleQueue()
    for connection in connections:
        waiting.put(connection)

    def work(until: float = float("inf")) -> None:
        with suppress(Empty):
            while time.monotonic() < until:
                waiting.get_nowait().close()

    threads = []
    try:
        for _ in range(min(CLOSERS, waiting.qsize())):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # at exit Python 3.12 starts none
        work(deadline)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _allow_descriptors() -> None:
    """Allow as many open files as the system would let us have, within reason: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
