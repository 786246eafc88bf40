"""One connection to one target: reached, its host key checked, logged in, all under one deadline.

Every way this can fail becomes a `ConnectError` whose state is one of unreachable, auth and hostkey: nothing was sent
to the target then. No authentication is tried before the host key was accepted.
"""

from __future__ import annotations

import errno
import getpass
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import paramiko

from opsbook.errors import ConnectError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.transport import FleetTransport, QuickSocket

_T = TypeVar("_T")
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
MAX_KEYS = 5
"""sshd allows six attempts before it hangs up."""
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
KEEPALIVE_S = 15
AGENT_S = 3.0
CHANNELS = 8
"""Commands on one connection at a time: sshd allows ten sessions."""


class Slots:
    """How many commands may be under way on one connection; fewer once the server has refused one more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, timeout_s: float) -> bool:
        """Wait for a free slot and take it; whether one came free in time."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._taken < self._most, timeout_s)
            self._taken += free
            return free

    def give_back(self) -> None:
        """Free a slot."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    def shrink(self) -> bool:
        """Allow no more than are taken besides the caller's; whether there are any."""
        with self._changed:
            others = self._taken - 1
            self._most = max(1, min(self._most, others))
            return others > 0


class Connection:
    """A logged-in connection. Commands open their own channels on it."""

    def __init__(self, target: Target, transport: FleetTransport, sock: QuickSocket) -> None:
        self.target = target
        self.transport = transport
        self.slots = Slots(CHANNELS)
        self._sock = sock

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return self.transport.is_active()

    def close(self) -> None:
        """End the connection at once."""
        self._sock.close()  # first: the reader thread would else wait for its next look at the connection
        self.transport.close()


def connect(target: Target, known: KnownHosts, policy: HostKeyPolicy, *, timeout_s: float) -> Connection:
    """Connect and log in.

    Raises:
        ConnectError: with the target state it comes to.
    """
    deadline = time.monotonic() + timeout_s
    with _mapped(target, timeout_s):
        sock = QuickSocket(_reach(target, deadline))
        try:
            transport = FleetTransport(sock)
            transport.set_keepalive(KEEPALIVE_S)
            _prefer_known_kinds(transport, known.kinds(target.host, target.port or 22))
            _handshake(transport, deadline)
            key = transport.get_remote_server_key()
            known.check(target.host, target.port or 22, key.get_name(), key.asbytes(), policy)
            _log_in(transport, target, deadline)
        except BaseException:
            sock.close()
            raise
    sock.eager = False
    return Connection(target, transport, sock)


def _left(deadline: float) -> float:
    """Return the seconds left, or raise when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reach(target: Target, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers."""
    failure: OSError = ConnectionError("no address")
    for family, kind, protocol, _, address in _addresses(target, deadline):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 30_000),
        ):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return sock
    raise failure


def _addresses(target: Target, deadline: float) -> list[Any]:
    """Return the addresses of a host; a name is looked up on a thread, because a resolver knows no deadline."""
    try:
        return socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        look_up = partial(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
        return _bounded(look_up, _left(deadline))


def _bounded(work: Callable[[], _T], seconds: float) -> _T:
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


def _prefer_known_kinds(transport: paramiko.Transport, kinds: Sequence[str]) -> None:
    """Ask for the host key types that are known, so that a known host is not taken for a changed one."""
    options = transport.get_security_options()
    rsa = ("rsa-sha2-512", "rsa-sha2-256") if "ssh-rsa" in kinds else ()
    wanted = [kind for kind in options.key_types if kind in kinds or kind in rsa]
    options.key_types = (*wanted, *(kind for kind in options.key_types if kind not in wanted))


def _handshake(transport: paramiko.Transport, deadline: float) -> None:
    done = threading.Event()
    transport.start_client(event=done)
    if not done.wait(_left(deadline)):
        raise TimeoutError
    if not transport.is_active():
        raise transport.get_exception() or paramiko.SSHException("the connection ended during the handshake")


def _log_in(transport: paramiko.Transport, target: Target, deadline: float) -> None:
    user = target.user or getpass.getuser()
    refused: list[str] = []
    for name, key in _identities(target, refused):
        transport.auth_timeout = _left(deadline)
        try:
            if not transport.auth_publickey(user, key):
                return
            refused.append(f"{name} (more is asked for)")
        except paramiko.BadAuthenticationType as error:
            raise ConnectError(f"{user} cannot log in with a key: {error}", TargetState.AUTH) from error
        except paramiko.AuthenticationException:
            if not transport.is_active():
                raise
            refused.append(name)
    tried = ", ".join(refused) if refused else "no key was found"
    raise ConnectError(f"{user} could not log in (tried: {tried})", TargetState.AUTH)


def _identities(target: Target, refused: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield the keys to try: those the target names, or the agent's and the usual files."""
    if target.identity_files:
        for file in target.identity_files:
            try:
                key = load_key(file)
            except UnusableKeyError as error:
                refused.append(f"{file}: {error}")
            else:
                yield file, key
        return
    tried = 0
    for agent_key in agent_keys()[:MAX_KEYS]:
        tried += 1
        yield "agent", agent_key
    for file in DEFAULT_KEYS[: MAX_KEYS - tried]:
        with suppress(UnusableKeyError):
            yield file, load_key(os.path.expanduser(file))  # noqa: PTH111  a string is what is cached


class UnusableKeyError(Exception):
    """A private key's file cannot be used; says why."""


@lru_cache(maxsize=64)
def load_key(file: str) -> paramiko.PKey:
    """Return the private key in a file; read once, however many targets need it.

    Raises:
        UnusableKeyError: it cannot be used now.
    """
    try:
        return paramiko.PKey.from_path(Path(file))
    except FileNotFoundError:
        raise UnusableKeyError("no such file") from None
    except paramiko.PasswordRequiredException:
        raise UnusableKeyError("has a passphrase; add it to an agent") from None
    except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            raise  # our own want, not the key's
        raise UnusableKeyError(str(error) or type(error).__name__) from error


@lru_cache(maxsize=1)
def agent_keys() -> tuple[paramiko.PKey, ...]:
    """Return the keys of the running SSH agent, asked for once."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return ()
    try:
        return _bounded(lambda: tuple(paramiko.Agent().get_keys()), AGENT_S)
    except (paramiko.SSHException, OSError):
        return ()


@contextmanager
def _mapped(target: Target, timeout_s: float) -> Iterator[None]:
    """Turn what the network and paramiko raise into the target state it means. The one place that knows."""
    where, unreachable = target.address, TargetState.UNREACHABLE
    try:
        yield
    except ConnectError:
        raise
    except TimeoutError as error:
        raise ConnectError(f"no answer from {where} within {timeout_s:g} s", unreachable) from error
    except socket.gaierror as error:
        raise ConnectError(f"cannot resolve {target.host}: {error.strerror}", unreachable) from error
    except paramiko.BadHostKeyException as error:
        raise ConnectError(str(error), TargetState.HOSTKEY) from error
    except paramiko.AuthenticationException as error:
        raise ConnectError(f"could not log in: {error}", TargetState.AUTH) from error
    except (paramiko.SSHException, EOFError) as error:
        raise ConnectError(f"{where} ended the connection: {str(error) or 'end of stream'}", unreachable) from error
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise  # says nothing of the target
        raise ConnectError(f"{where}: {(error.strerror or str(error)).lower()}", unreachable) from error
