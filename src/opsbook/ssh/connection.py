"""One connection to one target: reached, its host key checked, logged in, all under one deadline.

Every way this can fail becomes a `ConnectError` whose state is one of unreachable, auth and hostkey: nothing was sent
to the target then. No authentication is tried before the host key was accepted.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import paramiko

from opsbook.errors import ConnectError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.hostkeys import HostKeyPolicy, KnownHosts
from opsbook.ssh.transport import FleetTransport, QuickSocket

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
MAX_KEYS = 5
"""sshd allows six attempts before it hangs up."""
KEEPALIVE_S = 15
CHANNELS = 8
"""Commands on one connection at a time: sshd allows ten sessions."""


class Connection:
    """A logged-in connection. Commands open their own channels on it."""

    def __init__(self, target: Target, transport: FleetTransport, sock: QuickSocket) -> None:
        self.target = target
        self.transport = transport
        self.channels = threading.BoundedSemaphore(CHANNELS)
        """Taken by each command under way."""
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
            _prefer_known_kinds(transport, known.kinds(target.host, target.port))
            _handshake(transport, deadline)
            key = transport.get_remote_server_key()
            known.check(target.host, target.port, key.get_name(), key.asbytes(), policy)
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
    for family, kind, protocol, _, address in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM):
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
            key = load_key(file)
            if isinstance(key, str):
                refused.append(f"{file}: {key}")
            else:
                yield file, key
        return
    tried = 0
    for agent_key in agent_keys()[:MAX_KEYS]:
        tried += 1
        yield "agent", agent_key
    for file in DEFAULT_KEYS[: MAX_KEYS - tried]:
        key = load_key(os.path.expanduser(file))  # noqa: PTH111  a string is what is cached
        if not isinstance(key, str):
            yield file, key


@lru_cache(maxsize=64)
def load_key(file: str) -> paramiko.PKey | str:
    """Return the private key in a file, or why it cannot be used. Read once, however many targets need it."""
    try:
        return paramiko.PKey.from_path(Path(file))
    except FileNotFoundError:
        return "no such file"
    except paramiko.PasswordRequiredException:
        return "has a passphrase; add it to an agent"
    except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
        return str(error) or type(error).__name__


@lru_cache(maxsize=1)
def agent_keys() -> tuple[paramiko.PKey, ...]:
    """Return the keys of the running SSH agent, asked for once."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return ()
    try:
        return tuple(paramiko.Agent().get_keys())
    except paramiko.SSHException:
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
        raise ConnectError(f"{where}: {(error.strerror or str(error)).lower()}", unreachable) from error
