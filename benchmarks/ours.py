"""opsbook's own fleet, as a notebook uses it."""

from __future__ import annotations

import importlib
import pkgutil

import opsbook.ssh
import opsbook.ssh.command
import opsbook.ssh.connection
import opsbook.ssh.hostkeys
from job import Job
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.message import RunOptions
from opsbook.model.target import Inventory, Target


class Ours:
    """A session and a fleet on it."""

    def __init__(self, job: Job) -> None:
        targets = tuple(
            Target(name=host, host=host, port=job.port, user=job.user, identity_files=(job.key,)) for host in job.hosts
        )
        options = RunOptions(
            host_keys="strict", known_hosts=(job.known_hosts,), ssh_config="none", parallel=job.parallel
        )
        self._session = Session(inventory=Inventory(targets=targets), selected=None, options=options, channel=None)
        self._fleet = Fleet(self._session, targets)

    def run(self, command: str) -> list[tuple[int | None, int]]:
        """See `client.Peer`."""
        return [(one.exit_code, len(one.stdout)) for one in self._fleet.run(command, read_only=True)]

    def change(self, command: str) -> None:
        """Run a command that may change something: it can be ended, and costs more for that."""
        self._fleet.run(command)

    def put(self, local: str, remote: str) -> None:
        """See `client.Peer`."""
        self._fleet.put(local, remote)

    def close(self) -> None:
        """See `client.Peer`."""
        self._session.pool.close()


def open_peer(job: Job) -> Ours:
    """Return the peer, with all imported that the first connection would import."""
    for module in pkgutil.iter_modules(opsbook.ssh.__path__, "opsbook.ssh."):
        importlib.import_module(module.name)
    return Ours(job)
