"""Connections kept for the life of the notebook: one to each target, opened when first needed.

paramiko is imported here, at the first connection, and not before.
"""

from __future__ import annotations

import resource
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opsbook.model.message import RunOptions
from opsbook.model.target import Target

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection
    from opsbook.ssh.hostkeys import KnownHosts

HANDSHAKES = 8
"""Handshakes under way at one endpoint at a time: sshd drops more than ten by default."""
MOST_DESCRIPTORS = 16_384
SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"


class Pool:
    """Hands out connections. Safe to share between threads."""

    def __init__(self, options: RunOptions) -> None:
        _allow_descriptors()
        self._options = options
        self._lock = threading.Lock()
        self._open: dict[str, Connection] = {}
        self._doors: dict[str, threading.Lock] = {}
        self._gates: dict[str, threading.Semaphore] = {}
        self._known: dict[tuple[str, ...], KnownHosts] = {}

    def connection(self, target: Target, *, timeout_s: float | None = None) -> tuple[Connection, bool]:
        """Return a live connection to a target, and whether it was opened just now.

        Raises:
            ConnectError: it cannot be reached.
        """
        from opsbook.ssh.connection import connect  # noqa: PLC0415  paramiko takes 0.15 s to import
        from opsbook.ssh.hostkeys import HostKeyPolicy  # noqa: PLC0415

        with self._lock:
            door = self._doors.setdefault(target.name, threading.Lock())
            gate = self._gates.setdefault(target.address, threading.Semaphore(HANDSHAKES))
        with door:
            known = self._open.get(target.name)
            if known is not None and known.alive:
                return known, False
            with gate:
                made = connect(
                    target,
                    self._known_hosts(target),
                    HostKeyPolicy(self._options.host_keys),
                    timeout_s=timeout_s or self._options.connect_timeout_s,
                )
            self._open[target.name] = made
            return made, True

    def drop(self, target: Target, connection: Connection | None = None) -> None:
        """Close the connection to a target, this one if one is named: the next command opens another."""
        with self._lock:
            known = self._open.get(target.name)
            if known is None or (connection is not None and known is not connection):
                return
            del self._open[target.name]
        known.close()

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            known, self._open = list(self._open.values()), {}
        for connection in known:
            connection.close()

    def _known_hosts(self, target: Target) -> KnownHosts:
        from opsbook.ssh.hostkeys import KnownHosts  # noqa: PLC0415

        own = (target.known_hosts,) if target.known_hosts else self._options.known_hosts or ("~/.ssh/known_hosts",)
        files = (*own, SYSTEM_KNOWN_HOSTS)
        with self._lock:
            if files not in self._known:
                self._known[files] = KnownHosts(Path(file).expanduser() for file in files)
            return self._known[files]


def _allow_descriptors() -> None:
    """Allow as many open files as the system would let us have, within reason: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
