"""Faults made on purpose: a loopback TCP proxy that misbehaves as networks do, ports that refuse, another sshd.

All proxies of a test live on one thread (`Network`). What happens to a connection is said beforehand (`Fault`), or
while it stands (`Proxy.freeze`, `end`, `cut`). Nothing is left open when a network closes: leaks are errors here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from conftest import Sshd, _await_port, find_sshd, free_port

from opsbook.model.event import TargetOutput

KEEPALIVE_S = 0.5
ROOM_S = 12.0
"""What a loaded machine may add to any deadline."""
GARBAGE = b"HTTP/1.1 400 Bad Request\r\nServer: not-ssh\r\n\r\n" * 50
_T = TypeVar("_T")
_PIECE = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""


class Way(StrEnum):
    UP = "up"
    """From the client to the server."""
    DOWN = "down"


class End(StrEnum):
    RESET = "reset"
    """The client gets a reset; the server an end of stream, so that it takes in all that had arrived."""
    CLOSE = "close"
    """Both get an end of stream."""
    FREEZE = "freeze"
    """Both keep an open connection on which nothing comes any more."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one connection from its beginning. The default passes everything on."""

    at_once: End | None = None
    """How it ends as soon as it is accepted; FREEZE: accepted, and never a word."""
    says: bytes = b""
    """What the client hears in the server's place; then nothing more."""
    delay_s: float = 0.0
    """Seconds before the server is connected to: so long its banner is late."""
    drip_s: float = 0.0
    """Seconds between one byte to the client and the next."""
    cut_up: int | None = None
    """Bytes to the server until the end comes."""
    cut_down: int | None = None
    """Bytes to the client until the end comes."""
    end: End = End.RESET


SOUND = Fault()
DROPPED = Fault(at_once=End.CLOSE)
"""What sshd does to a connection beyond its MaxStartups."""


def cut_after(way: Way, count: int, end: End) -> Fault:
    """An end after so many bytes that way."""
    return Fault(cut_up=count, end=end) if way is Way.UP else Fault(cut_down=count, end=end)


class _Link:
    """One accepted connection and the one to the server behind it."""

    def __init__(self, client: socket.socket, fault: Fault) -> None:
        self._sockets = {Way.UP: client, Way.DOWN: socket.socket()}
        """By the way whose bytes are read from it."""
        self._fault = fault
        self._left = {Way.UP: fault.cut_up, Way.DOWN: fault.cut_down}
        self.carried = dict.fromkeys(Way, 0)
        """Bytes that went through."""
        self._end = fault.end
        self._gates = {way: asyncio.Event() for way in Way}
        for way, sock in self._sockets.items():
            sock.settimeout(0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._gates[way].set()
        self._ended: set[Way] = set()
        self._over = asyncio.Event()

    async def live(self, upstream: tuple[str, int]) -> None:
        """Carry everything both ways until it ends, of itself or by a fault."""
        try:
            if self._fault.at_once is not None:
                self.stop(self._fault.at_once)
            elif self._fault.says:
                await asyncio.get_running_loop().sock_sendall(self._sockets[Way.UP], self._fault.says)
            else:
                await asyncio.sleep(self._fault.delay_s)
                await asyncio.get_running_loop().sock_connect(self._sockets[Way.DOWN], upstream)
                await self._carry_both()
                return
            await self._over.wait()
        except OSError:
            pass  # one of the two is gone, and so is the link
        finally:
            for sock in self._sockets.values():
                sock.close()

    async def _carry_both(self) -> None:
        ways = [asyncio.ensure_future(self._carry(way)) for way in Way]
        try:
            await self._over.wait()
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, way: Way) -> None:
        loop = asyncio.get_running_loop()
        source, sink = self._sockets[way], self._sockets[Way.DOWN if way is Way.UP else Way.UP]
        size = 1 if self._fault.drip_s and way is Way.DOWN else _PIECE
        with suppress(OSError):
            while data := await self._read(source, way, size):
                left = self._left[way]
                await loop.sock_sendall(sink, data if left is None else data[:left])
                self.carried[way] += len(data)
                if left is not None:
                    self._left[way] = max(0, left - len(data))
                    if left <= len(data):
                        self.stop(self._end)
                if size == 1:
                    await asyncio.sleep(self._fault.drip_s)
            sink.shutdown(socket.SHUT_WR)
            self._ended.add(way)
            if len(self._ended) < len(Way):
                return  # the other way may go on
        self._over.set()

    async def _read(self, source: socket.socket, way: Way, size: int) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(source, size)
        await self._gates[way].wait()
        return data

    def stop(self, end: End) -> None:
        """Bring the end about now."""
        if end is End.FREEZE:
            self.freeze(*Way)
            return
        if end is End.RESET:
            with suppress(OSError):
                self._sockets[Way.UP].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._over.set()

    def freeze(self, *ways: Way) -> None:
        for way in ways:
            self._gates[way].clear()

    def thaw(self) -> None:
        for gate in self._gates.values():
            gate.set()

    def half_close(self, way: Way) -> None:
        with suppress(OSError):
            self._sockets[Way.DOWN if way is Way.UP else Way.UP].shutdown(socket.SHUT_WR)

    def cut(self, way: Way, left: int, end: End) -> None:
        self._left[way], self._end = left, end


class Proxy:
    """One listening port in front of a server. Its first connections meet the faults in turn, later ones `then`."""

    host = "127.0.0.1"

    def __init__(self, network: Network, upstream: tuple[str, int], faults: tuple[Fault, ...], then: Fault) -> None:
        self._network = network
        self._upstream = upstream
        self._faults = faults
        self._then = then
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._listener = socket.create_server((self.host, 0), backlog=512)
        self._listener.settimeout(0)
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        """Connections so far."""

    async def listen(self) -> None:
        """Accept for ever."""
        try:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
                fault = self._faults[self.accepted] if self.accepted < len(self._faults) else self._then
                self.accepted += 1
                link = _Link(client, fault)
                task = asyncio.ensure_future(link.live(self._upstream))
                self._links[task] = link
                task.add_done_callback(lambda done: self._links.pop(done, None))
        finally:
            self._listener.close()
            links = list(self._links)
            for task in links:
                task.cancel()
            await asyncio.gather(*links, return_exceptions=True)

    def freeze(self, *ways: Way) -> None:
        """Let nothing through on the connections that stand: both ways unless one is named. New ones are sound."""
        self._on_links(lambda link: link.freeze(*(ways or Way)))

    def thaw(self) -> None:
        """Let everything through again, what was held up first."""
        self._on_links(lambda link: link.thaw())

    def end(self, end: End = End.RESET) -> None:
        """End the connections that stand."""
        self._on_links(lambda link: link.stop(end))

    def half_close(self, way: Way) -> None:
        """Tell one side that the other says nothing more."""
        self._on_links(lambda link: link.half_close(way))

    def cut(self, way: Way, left: int, end: End = End.RESET) -> None:
        """End the connections that stand when `left` more bytes went that way."""
        self._on_links(lambda link: link.cut(way, left, end))

    def carried(self, way: Way) -> int:
        """Bytes that went that way on the connections that stand."""
        counts: list[int] = []
        self._on_links(lambda link: counts.append(link.carried[way]))
        return sum(counts)

    def _on_links(self, act: Callable[[_Link], None]) -> None:
        async def all_of_them() -> None:
            for link in list(self._links.values()):
                act(link)

        self._network.call(all_of_them())


class Network:
    """The thread that all proxies of a test live on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxies: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def proxy(self, port: int, *faults: Fault, then: Fault = SOUND, host: str = "127.0.0.1") -> Proxy:
        """Listen on a port of our own in front of a server."""

        async def start() -> Proxy:
            made = Proxy(self, (host, port), faults, then)
            self._proxies.append(asyncio.ensure_future(made.listen()))
            return made

        return self.call(start())

    def close(self) -> None:
        async def end_all() -> None:
            for task in self._proxies:
                task.cancel()
            await asyncio.gather(*self._proxies, return_exceptions=True)

        self.call(end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@contextmanager
def full_port() -> Iterator[int]:
    """A port that does not even accept: its backlog is full, so that the kernel drops who asks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
        time.sleep(0.1)
        try:
            yield port
        finally:
            for one in waiting:
                one.close()


@contextmanager
def another_sshd(sshd: Sshd, folder: Path, *lines: str) -> Iterator[int]:
    """A second server with the keys of the first and settings of its own: its port."""
    port = free_port()
    settings = [
        *lines,
        f"ListenAddress 0.0.0.0\nAllowUsers *@127.0.0.0/8\nPort {port}\nHostKey {sshd.folder}/host\nPidFile none",
        f"AuthorizedKeysFile {sshd.folder}/authorized\nUsePAM no\nUseDNS no\nStrictModes no",
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\nSetEnv HOME={sshd.folder}",
    ]
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")
    with (folder / "sshd_log").open("wb") as log:
        command = [find_sshd(), "-D", "-e", "-f", str(folder / "sshd_config")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _await_port(server, port, folder / "sshd_log")
            yield port
        finally:
            server.terminate()
            server.wait(10)


def here(act: Callable[[], None]) -> Callable[[TargetOutput], None]:
    """What to do at the moment a target says `here`."""

    def listen(output: TargetOutput) -> None:
        if "here" in output.text:
            act()

    return listen
