"""One simulated machine on the wire: its port, its connections, and what happens to them in a reboot.

One thread owns the listening socket and the machine's state; it waits in one selector for clients, for the tools' word
that the machine reboots, for the fleet's word that all is over, and for the next thing that is due. It listens on
127.0.0.1 and nowhere else.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import paramiko

from opsbook.demo.machine import boot_machine, control_path, finish_boot
from opsbook.demo.processes import ProcessTable, kill_strays
from opsbook.demo.transport import Connection

ADDRESS = "127.0.0.1"
_DARK_S = 1.5
"""How long a rebooting machine refuses connections."""
_BOOT_S = 1.0
"""How long it then says that it is starting."""
_LOGIN_S = 30.0
"""How long a client may take to log in."""
_END_S = 1.0
"""How long killed processes and cut links may take to be gone."""


class MachineServer:
    """Serves one machine's folder over SSH until it is stopped."""

    def __init__(self, *, name: str, folder: Path, host_key: paramiko.PKey, client_key: bytes, shell: str) -> None:
        self._folder = folder
        self._host_key = host_key
        self._client_key = client_key
        self._processes = ProcessTable(shell=shell, folder=folder)
        self._connections: list[Connection] = []
        self._listen_at: float | None = None
        self._up_at: float | None = None
        self._stopping = False
        self._listener = _bind(0)
        self.port: int = self._listener.getsockname()[1]
        # Open for reading and writing: a writer never waits for a reader, and the end of one is not the end of all.
        self._control = os.open(control_path(folder), os.O_RDWR | os.O_NONBLOCK)
        self._wake_read, self._wake_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"demo-{name}", daemon=True)

    def start(self) -> None:
        """Listen, and serve on a thread of its own."""
        self._listen()
        self._thread.start()

    def stop(self) -> None:
        """Ask the machine to end: its links, its processes, its port. Returns at once."""
        self._stopping = True
        if self._thread.is_alive():
            os.write(self._wake_write, b"x")

    def join(self, timeout: float) -> None:
        """Wait until the machine has ended, at most `timeout` seconds, and let its descriptors go."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return
        self._listener.close()
        self._selector.close()
        for descriptor in (self._control, self._wake_read, self._wake_write):
            os.close(descriptor)

    def _run(self) -> None:
        """Wait for what happens next until the machine is stopped, then end everything it has."""
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._next_due()):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj == self._control and b"reboot" in os.read(self._control, 4096):
                        self._reboot()
                        break  # the listener that the other keys may speak of is gone
                self._do_what_is_due()
        finally:
            self._go_dark()

    def _next_due(self) -> float | None:
        """Return the seconds until something is due, or None when nothing is."""
        times = [moment for moment in (self._listen_at, self._up_at) if moment is not None]
        times += [link.opened_at + _LOGIN_S for link in self._connections if not link.is_authenticated()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _do_what_is_due(self) -> None:
        """Answer again after a reboot, be up a little later, and cut off who did not log in."""
        now = time.monotonic()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen_at, self._up_at = None, now + _BOOT_S
            self._processes.reopen()
            self._listen()
        if self._up_at is not None and now >= self._up_at:
            self._up_at = None
            finish_boot(self._folder)
        for link in self._connections:
            if not link.is_authenticated() and now >= link.opened_at + _LOGIN_S:
                link.drop()
        self._connections = [link for link in self._connections if link.is_alive()]

    def _listen(self) -> None:
        """Take connections."""
        self._listener.listen(socket.SOMAXCONN)
        self._listener.settimeout(0)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        """Take one connection and let it talk on a thread of its own."""
        try:
            client, _ = self._listener.accept()
        except OSError:  # the client went again, or there are no descriptors left
            return
        try:
            client.settimeout(None)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Connection(client, host_key=self._host_key, client_key=self._client_key, processes=self._processes)
            link.serve()
        except (OSError, RuntimeError, paramiko.SSHException):  # gone already; no thread to be had
            client.close()
            return
        self._connections.append(link)

    def _reboot(self) -> None:
        """Pull the plug, write what a boot changes, and be reachable again a little later, on the same port."""
        self._go_dark()
        kill_strays(self._folder)
        self._listen_at = self._up_at = None
        # A machine whose files somebody removed cannot boot: it stays dark, as a real one would.
        with suppress(OSError, ValueError):
            # Held without listening, so that connections are refused and nobody else is given the port.
            self._listener = _bind(self.port)
            boot_machine(self._folder)
            self._listen_at = time.monotonic() + _DARK_S

    def _go_dark(self) -> None:
        """Close the port, cut every link, and end every process, in this order, as a machine that loses power does."""
        with suppress(KeyError):
            self._selector.unregister(self._listener)
        self._listener.close()
        for link in self._connections:
            link.cut()
        for link in self._connections:
            link.drop()
        self._connections = []
        self._processes.end_all(deadline=time.monotonic() + _END_S)


def _bind(port: int) -> socket.socket:
    """Return a socket bound to this port of the loopback address; 0 takes any that is free."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
    except OSError:
        listener.close()
        raise
    return listener
