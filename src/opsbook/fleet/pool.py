"""Connections kept for the life of the notebook: one to each target, and one to each jump host on the way.

Each is opened when it is first needed; what is under way when the pool is closed is not kept. paramiko is imported
here, at the first connection, and not before.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from opsbook.errors import ConnectError
from opsbook.fleet.crew import side_by_side
from opsbook.model.event import HostKeyRecorded
from opsbook.model.message import RunOptions
from opsbook.model.target import Target, TargetState
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
ACCEPT_NEW = "accept-new"
CLOSED = "the connections were closed meanwhile; nothing was sent"


class _Door:
    """One at a time connects to a host; who waited meanwhile shares what came of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.attempts = 0
        self.failure: ConnectError | None = None
        self.failed_at = float("-inf")


class Pool:
    """Hands out connections. Safe to share between threads."""

    def __init__(
        self,
        options: RunOptions,
        reveal: Callable[[str], str] = resolve,
        report: Callable[[HostKeyRecorded], None] = lambda _: None,
    ) -> None:
        """Make an empty pool.

        `reveal` gives the value a password's reference stands for; `report` hears of every key that was recorded.
        """
        _allow_descriptors()
        self._options = options
        self._reveal = reveal
        self._report = report
        self._reported: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._open: dict[str | Route, Connection] = {}
        self._doors: dict[str | Route, _Door] = {}
        self._routes: dict[str, tuple[Target, Route]] = {}
        self._means: tuple[Dialer, Atlas] | None = None
        self._closings = 0

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

    def address(self, target: Target) -> str:
        """Return where a target is, however it is called: `host:port`, and the jump host it is behind."""
        try:
            return self._route(target).endpoint
        except ConnectError:
            return target.address  # nobody gets there by it

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

    @property
    def connections(self) -> list[Connection]:
        """The connections to targets."""
        with self._lock:
            return [made for key, made in self._open.items() if isinstance(key, str)]

    def drop(self, target: Target, connection: Connection | None = None) -> None:
        """Close the connection to a target, this one if one is named: the next command opens another."""
        with self._lock:
            known = self._open.get(target.name)
            if known is None or (connection is not None and known is not connection):
                return
            del self._open[target.name]
        known.close()

    def give_up(self) -> None:
        """Let nobody who is connecting now log in any more; who connects later may. Returns at once."""
        with self._lock:
            means = self._means
        if means is not None:
            _close_all(means[0].give_up(), time.monotonic())

    def close(self) -> None:
        """Close every connection, also those under way, those to jump hosts last, in bounded time."""
        with self._lock:
            self._closings += 1
            known, self._open = self._open, {}
            means = self._means
        deadline = time.monotonic() + CLOSE_S
        if means is not None:
            _close_all(means[0].give_up(), deadline)
            means[0].close()
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
            given_up, closings = self._equipped()[0].given_up, self._closings
            try:
                made = self._equipped()[0].dial(route, timeout_s=seconds, via=via)
            except ConnectError as error:
                door.failure = error
                if self._equipped()[0].given_up == given_up:
                    door.failed_at = time.monotonic()
                raise
            finally:
                door.attempts += 1
            with self._lock:
                kept = self._closings == closings
                if kept:
                    self._open[key] = made
        if not kept:
            made.close()
            raise ConnectError(CLOSED, TargetState.UNREACHABLE)
        self._tell_of_new_key(key if isinstance(key, str) else route.address, route, made)
        return made, True

    def _tell_of_new_key(self, name: str, route: Route, made: Connection) -> None:
        """Report a host key that this run has recorded, once for each that shows it."""
        if made.trusted or self._options.host_keys != ACCEPT_NEW or not route.known_hosts:
            return
        with self._lock:
            told = (name, made.fingerprint) in self._reported
            self._reported.add((name, made.fingerprint))
        if not told:
            self._report(
                HostKeyRecorded(
                    target=name, address=route.address, fingerprint=made.fingerprint, file=route.known_hosts[0]
                )
            )

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


class _Closable(Protocol):
    def close(self) -> None: ...


def _close_all(connections: Iterable[_Closable], deadline: float) -> None:
    """Close side by side: one that hangs holds none of the others, nor the caller after the deadline."""
    side_by_side(lambda one: one.close(), connections, threads=CLOSERS, deadline=deadline)


def _allow_descriptors() -> None:
    """Allow as many open files as the system would let us have, within reason: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
