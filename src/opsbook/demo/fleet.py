"""The demo fleet as a whole: its folder, its keys, its inventory, and its machines from start to close.

Everything is in one folder with mode 0700: the client's key, the known host keys, the inventory, and a folder for each
machine. While the fleet is up its machines are reached like any others; after `close` nothing it started is left
running, and the folder is the caller's to keep or to remove.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from opsbook.demo.catalogue import MACHINES, MachineSpec
from opsbook.demo.keys import load_key, make_private_key, write_private
from opsbook.demo.machine import make_machine
from opsbook.demo.processes import LOGIN, kill_strays
from opsbook.demo.server import ADDRESS, MachineServer
from opsbook.errors import UsageError

_SAFE_PATH = re.compile(r"[\w/.@+,~-]+")
"""What a path may hold that goes, unquoted, into PATH, an inventory and SSH options."""
_CLOSE_S = 1.8
"""How long the machines, all at once, may take to end."""


class DemoHost(Struct, frozen=True, kw_only=True):
    """One machine of the fleet, as a client sees it."""

    name: str
    port: int
    groups: tuple[str, ...]
    folder: Path
    """Its home folder. A file `fail-apt` in it makes its next upgrades fail."""


class DemoFleet:
    """Eight simulated machines on loopback, reachable over SSH until `close`. Made by `start`."""

    def __init__(self, folder: Path, servers: Sequence[tuple[MachineSpec, MachineServer]]) -> None:
        self._folder = folder
        self._servers = servers
        self.inventory = folder / "inventory.ini"
        self.known_hosts = folder / "known_hosts"
        self.identity = folder / "identity"
        self.hosts = tuple(
            DemoHost(name=spec.name, port=server.port, groups=spec.groups, folder=folder / "hosts" / spec.name)
            for spec, server in servers
        )

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Start the fleet in a folder that is empty or does not exist yet; it answers when this returns.

        Raises:
            UsageError: the folder cannot be used, there is no `sh`, or no port on the loopback address.
        """
        folder = _prepare_folder(folder)
        shell = shutil.which("sh", path="/bin:/usr/bin")
        if shell is None:
            raise UsageError("the demo fleet needs a POSIX shell, and there is no sh", hint="install one as /bin/sh")
        client_text = make_private_key()
        client_key = load_key(client_text).asbytes()
        servers: list[tuple[MachineSpec, MachineServer]] = []
        known_hosts = ""
        try:
            for spec in MACHINES:
                home = folder / "hosts" / spec.name
                make_machine(home, spec)
                key = load_key(make_private_key())
                server = MachineServer(name=spec.name, folder=home, host_key=key, client_key=client_key, shell=shell)
                servers.append((spec, server))
                known_hosts += f"[{ADDRESS}]:{server.port} {key.get_name()} {key.get_base64()}\n"
            fleet = cls(folder, servers)
            write_private(fleet.identity, client_text)
            write_private(fleet.known_hosts, known_hosts)
            write_private(fleet.inventory, _inventory_text(fleet))
            for _, server in servers:
                server.start()
        except OSError as error:
            _end(folder, servers)
            raise UsageError(
                f"the demo fleet cannot start: {error}",
                hint=f"it needs {len(MACHINES)} free TCP ports on {ADDRESS} and a folder it may write to",
            ) from error
        return fleet

    def close(self) -> None:
        """End every link and every process the fleet started. Takes at most two seconds; a second call does nothing."""
        servers, self._servers = self._servers, ()
        if servers:
            _end(self._folder, servers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _end(folder: Path, servers: Sequence[tuple[MachineSpec, MachineServer]]) -> None:
    """Stop all machines at once, then look for what escaped them."""
    deadline = time.monotonic() + _CLOSE_S
    for _, server in servers:
        server.stop()
    for _, server in servers:
        server.join(max(0.0, deadline - time.monotonic()))
    kill_strays(folder / "hosts")


def _prepare_folder(folder: Path) -> Path:
    """Return the folder's whole path, when it is empty, ours alone, and can stand in PATH and in an inventory."""
    folder = folder.resolve()
    if not _SAFE_PATH.fullmatch(str(folder)):
        raise UsageError(
            f"the demo fleet cannot live in {folder}",
            hint="choose a folder whose path has no spaces, colons, quotes or other special characters",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="choose a new or an empty folder for the demo fleet")
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", hint="choose another folder") from error
    return folder


def _inventory_text(fleet: DemoFleet) -> str:
    """Return the Ansible inventory of the fleet: the machines by stack, the roles across stacks, how to log in."""
    stacks = {host.groups[0]: [h for h in fleet.hosts if h.groups[0] == host.groups[0]] for host in fleet.hosts}
    roles = {role: [h.name for h in fleet.hosts if role in h.groups[1:]] for h in fleet.hosts for role in h.groups[1:]}
    lines = ["# The demo fleet: simulated machines, here as long as `opsbook demo` runs."]
    for stack, hosts in stacks.items():
        lines += ["", f"[{stack}]"]
        lines += [f"{host.name} ansible_host={ADDRESS} ansible_port={host.port}" for host in hosts]
    for role, names in roles.items():
        lines += ["", f"[{role}]", *names]
    lines += [
        "",
        "[all:vars]",
        f"ansible_user={LOGIN}",
        f"ansible_ssh_private_key_file={fleet.identity}",
        f"ansible_ssh_common_args='-o UserKnownHostsFile={fleet.known_hosts} -o IdentitiesOnly=yes'",
    ]
    return "\n".join(lines) + "\n"
