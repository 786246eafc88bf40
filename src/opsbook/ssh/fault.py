"""Why a connection did not come about: every exception of the system and of paramiko as a target state, in one place.

Also says how often an attempt that ended so is worth making: a server that hangs up before it has said who it is has
too much to do (MaxStartups); who refuses may be starting; a wrong key stays wrong.
"""

from __future__ import annotations

import errno
import socket

import paramiko

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.transport import Wire

ONCE, FEW, MANY = 1, 3, 1_000_000
"""How many attempts: MANY ends with the time there is."""
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_HUNG_UP = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}
_PASSING = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
_CHANNEL_PROHIBITED = 1
_SHOWN = 80


class FaultError(Exception):
    """An attempt failed: what a target's result says, and how many attempts that is worth."""

    def __init__(self, what: str, *, state: str = TargetState.UNREACHABLE, attempts: int = ONCE) -> None:
        super().__init__(what, state, attempts)
        self.error = ConnectError(what, state)
        self.attempts = attempts


def ended(transport: paramiko.Transport) -> Exception:
    """Return why a transport is over, as an exception that is mapped here; its thread may have met any other."""
    error = transport.get_exception()
    if error is None:
        return EOFError()
    if isinstance(error, paramiko.SSHException | EOFError | OSError):
        return error
    return paramiko.SSHException(f"what it sent cannot be understood ({type(error).__name__}: {error})")


def of_reaching(error: Exception, where: str, *, within_s: float) -> FaultError:
    """Map what happened before the first byte."""
    if isinstance(error, socket.gaierror):
        passing = error.errno == socket.EAI_AGAIN
        host = where.rpartition(":")[0]
        return FaultError(f"cannot resolve {host}: {error.strerror}", attempts=FEW if passing else ONCE)
    if isinstance(error, paramiko.ChannelException):
        prohibited = error.code == _CHANNEL_PROHIBITED
        what = "may not be reached" if prohibited else "cannot be reached"
        return FaultError(
            f"{where} {what} from the jump host: {error.text.lower()}", attempts=ONCE if prohibited else FEW
        )
    if isinstance(error, paramiko.SSHException) and "Timeout" in str(error):
        return _late(where, within_s)
    return _of_link(error, where, within_s=within_s)


def of_handshake(error: Exception, where: str, wire: Wire, *, within_s: float) -> FaultError:
    """Map what happened before anybody was to log in."""
    if isinstance(error, paramiko.SSHException) and "SSH protocol banner" in str(error):
        error = EOFError()  # whatever it was that ended the reading
    fault = _of_link(error, where, within_s=within_s)
    wire.close()
    said = wire.last_words or ("" if wire.opening.startswith(b"SSH-") else _first_line(wire.opening))
    if said:
        fault = FaultError(f"{fault.error} ({said})", attempts=fault.attempts)
    fault.attempts = min(fault.attempts, wire.patience)
    return fault


def of_login(error: Exception, where: str, *, within_s: float) -> FaultError:
    """Map what happened while logging in, where nothing is tried again: accounts get locked that way."""
    if isinstance(error, paramiko.AuthenticationException):
        return FaultError(f"could not log in: {error}", state=TargetState.AUTH)
    fault = _of_link(error, where, within_s=within_s)
    fault.attempts = ONCE
    return fault


def _of_link(error: Exception, where: str, *, within_s: float) -> FaultError:
    if isinstance(error, TimeoutError) and error.errno is None:
        return _late(where, within_s)
    if isinstance(error, paramiko.BadHostKeyException):
        return FaultError(str(error), state=TargetState.HOSTKEY)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return FaultError(f"{where} has no algorithm in common with opsbook: {error}")
    if isinstance(error, paramiko.SSHException):
        return FaultError(f"{where} ended the connection: {str(error) or 'no reason given'}")
    if isinstance(error, EOFError):
        return FaultError(f"{where} ended the connection before it was made", attempts=MANY)
    if isinstance(error, OSError):
        if error.errno in NO_DESCRIPTORS:
            raise error  # says nothing of the target
        attempts = MANY if error.errno in _HUNG_UP else FEW if error.errno in _PASSING else ONCE
        return FaultError(f"{where}: {(error.strerror or str(error)).lower()}", attempts=attempts)
    raise error


def _late(where: str, within_s: float) -> FaultError:
    return FaultError(f"no answer from {where} within {within_s:g} s")


def _first_line(data: bytes) -> str:
    """Return the first line a server said, as far as a screen can bear it."""
    line = data.partition(b"\n")[0][:_SHOWN].decode(errors="replace")
    return "".join(char for char in line if char.isprintable()).strip()
