"""A fleet of one target to move files to and from, an sshd with SFTP, and a proxy that cuts and freezes."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from conftest import Sshd, _await_port, find_sshd, free_port

from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import Session
from opsbook.model.event import Event
from opsbook.model.message import RunOptions
from opsbook.model.target import Become, Inventory, Target

ODD = "a file ünïcode ☃ 'quoted' \"$HOME\" -n.txt"
BIG = os.urandom(1_000_000) * 6
ROOT = os.getuid() == 0
LIMITED = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes another program, whose files do not grow beyond a size."""


@contextmanager
def sftp_server(keys: Sshd, folder: Path, *, limit: int | None = None, extra: str = "") -> Iterator[Sshd]:
    """A real sshd with SFTP; with a limit no file it writes may grow larger."""
    port = free_port()
    key = " ".join((keys.folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.*]:* {key}\n")
    shutil.copy(keys.identity, folder / "client")
    (folder / "client").chmod(0o600)
    (folder / "config").write_text(
        f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {port}\nHostKey {keys.folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {keys.folder}/authorized\nUsePAM no\nUseDNS no\nStrictModes no\n"
        f"PasswordAuthentication no\nSubsystem sftp internal-sftp\nSetEnv HOME={folder}\n{extra}\n"
    )

    command = [find_sshd(), "-D", "-f", str(folder / "config")]
    server = subprocess.Popen(
        command if limit is None else [sys.executable, "-c", LIMITED, str(limit), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(server, port, folder / "config")
        yield Sshd(folder=folder, port=port, pid=server.pid)
    finally:
        server.terminate()
        server.wait(10)


class Notebook:
    """A session on targets of one server, and what it reported."""

    def __init__(self, keys: Sshd, *, port: int | None = None, count: int = 1, become: Become | None = None) -> None:
        self.events: list[Event] = []
        targets = tuple(
            Target(
                name=f"web{number}",
                host=f"127.0.0.{number + 20}" if port is None else "127.0.0.1",
                port=port or keys.port,
                user=keys.user,
                identity_files=(str(keys.identity),),
                become=become or Become(),
            )
            for number in range(1, count + 1)
        )
        self.session = Session(
            inventory=Inventory(targets=targets),
            selected=None,
            options=RunOptions(known_hosts=(str(keys.known_hosts),), connect_timeout_s=10, command_timeout_s=60),
            channel=None,
        )
        self.session.report = self.events.append  # type: ignore[method-assign]
        self.session.intend = self.events.append  # type: ignore[method-assign,assignment]
        self.targets = targets
        self.fleet = Fleet(self.session, targets)

    def sent(self) -> list[str]:
        """The kinds of what was announced before it left."""
        return [event.kind for event in self.events if type(event).__name__ == "Intent"]


@contextmanager
def opened(keys: Sshd, **how: object) -> Iterator[Notebook]:
    made = Notebook(keys, **how)
    try:
        yield made
    finally:
        made.session.pool.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reason(result: object) -> str:
    (one,) = result  # type: ignore[misc]
    return one.reason


def state(result: object) -> str:
    (one,) = result  # type: ignore[misc]
    return one.state.value


class Proxy:
    """Passes one connection after the other on to the server; the first one meets a fault."""

    def __init__(self, port: int, *, after: int = 0, slow_s: float = 0.0) -> None:
        self._port = port
        self._after = after
        """Bytes to the server after which the fault comes; 0 for never."""
        self._slow_s = slow_s
        self.fault: Callable[[Proxy], None] = Proxy.cut
        self.up = 0
        """Bytes of the first connection that went to the server."""
        self.frozen = threading.Event()
        self.deaf = threading.Event()
        """Nothing of what the server says comes through any more."""
        self._first = True
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # so that a frozen link is soon full
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            to = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, to]
            first, self._first = self._first, False
            self._start(partial(self._pass, client, to, first=first, up=True))
            self._start(partial(self._pass, to, client, first=first, up=False))

    def _pass(self, source: socket.socket, to: socket.socket, *, first: bool, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16 * 1024):
                if first and self.frozen.is_set():
                    return
                if first and up:
                    self.up += len(data)
                    time.sleep(self._slow_s)
                if first and not up and self.deaf.is_set():
                    continue
                if first and up and self._after and self.up >= self._after:
                    self.fault(self)
                to.sendall(data)
        if not (first and self.frozen.is_set()):
            for end in (source, to):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End everything that stands."""
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for sock in self._sockets:
            sock.close()


@contextmanager
def proxied(server: Sshd, fault: Callable[[Proxy], None] = Proxy.cut, **how: float) -> Iterator[tuple[Notebook, Proxy]]:
    proxy = Proxy(server.port, **how)  # type: ignore[arg-type]
    proxy.fault = fault
    try:
        with opened(server, port=proxy.port) as notebook:
            yield notebook, proxy
    finally:
        proxy.close()


def freeze(proxy: Proxy) -> None:
    proxy.frozen.set()
