"""Reaching a host: TCP over all its addresses at once, a channel of a jump host, or a proxy command.

All of it stands under one deadline: neither a resolver, nor a dead address, nor a jump host that does not answer can
make it longer. What comes back is a wire; nothing was said on it yet.
"""

from __future__ import annotations

import errno
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opsbook.ssh.route import Route
from opsbook.ssh.transport import ProxySocket, QuickSocket, Wire

if TYPE_CHECKING:
    import paramiko

_T = TypeVar("_T")
STAGGER_S = 0.25
"""Seconds an address has before the next one is tried beside it."""
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_Address = tuple[Any, ...]


def time_left(deadline: float) -> float:
    """Return the seconds left, or raise TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def reach(route: Route, via: paramiko.Transport | None, deadline: float, *, silence_s: float) -> Wire:
    """Return a wire to a host; over `via`, its jump host's connection, where it is behind one.

    `silence_s` is how long what was sent may stay unacknowledged before the system gives a TCP connection up.

    Raises:
        OSError, SSHException: it cannot be reached.
    """
    if via is not None:
        seconds = time_left(deadline)
        channel = via.open_channel("direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=seconds)
        return Wire(channel)
    if route.proxy_command is not None:
        return ProxySocket(route.proxy_command, withheld=route.withheld)
    sock = _connect(_addresses(route, deadline), route, deadline)
    _tune(sock, silence_s)
    return QuickSocket(sock)


def _tune(sock: socket.socket, silence_s: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probe = max(1, round(silence_s / 4))
    for option, value in (
        ("TCP_KEEPIDLE", probe),
        ("TCP_KEEPINTVL", probe),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", round(silence_s * 1000)),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _addresses(route: Route, deadline: float) -> Sequence[_Address]:
    """Return a host's addresses, the families by turns; a resolver knows no deadline, so it gets a thread."""
    family = _FAMILIES.get(route.family, socket.AF_UNSPEC)
    ask = partial(socket.getaddrinfo, route.host, route.port, family, socket.SOCK_STREAM)
    try:
        return ask(flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = bounded(ask, time_left(deadline))
    except ValueError:  # not even text a resolver could be asked
        raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from None
    first = [address for address in found if address[0] == found[0][0]]
    second = [address for address in found if address[0] != found[0][0]]
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


def bounded(work: Callable[[], _T], seconds: float) -> _T:
    """Return what a function returns that may hang, or raise TimeoutError; a thread is left behind then."""
    answers: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:  # noqa: BLE001  it is raised where the answer is waited for
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return cast("_T", value)


def _connect(addresses: Sequence[_Address], route: Route, deadline: float) -> socket.socket:
    """Return a connection to whichever address answers first."""
    waiting, failure = list(addresses), OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    try:
                        selector.register(_start(waiting.pop(0), route), selectors.EVENT_WRITE)
                    except OSError as error:
                        failure = error
                        continue
                left = time_left(deadline)
                for sock in _ready(selector, min(left, STAGGER_S) if waiting else left):
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    selector.unregister(sock)
                    if not code:
                        return sock
                    sock.close()
                    failure = OSError(code, os.strerror(code))
        finally:
            for key in list(selector.get_map().values()):
                cast("socket.socket", key.fileobj).close()
    raise failure


def _ready(selector: selectors.BaseSelector, seconds: float) -> Iterator[socket.socket]:
    """Wait for attempts that came to something."""
    return (cast("socket.socket", key.fileobj) for key, _ in selector.select(seconds))


def _start(address: _Address, route: Route) -> socket.socket:
    """Begin to connect to one address."""
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        if route.bind_address is not None:
            sock.bind((route.bind_address, 0))
        sock.settimeout(0)
        with suppress(BlockingIOError):
            sock.connect(place)
    except OSError:
        sock.close()
        raise
    return sock
