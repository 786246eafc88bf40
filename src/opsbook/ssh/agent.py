"""The SSH agent: its keys, listed once for many targets, and its signatures, one at a time.

One connection to an agent serves all targets. Nothing here waits longer than a login has time; an agent that does not
answer has no keys, and one that has just not signed is not asked again for a while. Private keys never come here.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

import paramiko

AGENT_S = 3.0
"""Seconds an agent may take to list its keys."""
LIST_AGE_S = 10.0
"""Seconds a list is good for: one serves all targets of a call, and a key that is added later is seen."""
SIGN_S = 10.0
"""Seconds an agent may take to sign, and as many to come to it: it may ask its owner first."""
REST_S, PATIENCE_S = 10.0, 1.0
"""Seconds an agent that did not sign is left alone, once it had so many to do it: its owner may be away."""
CLOSE_S = 1.0
_LIST, _LISTED, _SIGN, _SIGNED = 11, 12, 13, 14
_SHA2 = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}
_LONGEST = 1 << 20


class UnsignedError(paramiko.SSHException):
    """The agent was asked for a signature and let the time go by."""


class AgentKey(paramiko.PKey):
    """A key an agent holds: it can be shown, and it signs over there, by a deadline."""

    def __init__(self, agent: Agent, blob: bytes, comment: str, deadline: float) -> None:
        self.agent = agent
        self.deadline = deadline
        self.blob = blob
        self.comment = comment
        self.name = paramiko.Message(blob).get_text()
        self.public_blob = None

    def asbytes(self) -> bytes:
        """Return the public key, or the certificate."""
        return self.blob

    def get_name(self) -> str:
        """Return the key's type."""
        return self.name

    def can_sign(self) -> bool:
        """Whether it signs: always, as far as can be known here."""
        return True

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> bytes:  # type: ignore[override]
        """Return the agent's signature."""
        kind = (algorithm or "").removesuffix("-cert-v01@openssh.com")
        return self.agent.sign(self.blob, data, _SHA2.get(kind, 0), self.deadline)


class Agent:
    """One agent, by its socket's path. Safe to share between threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._link: socket.socket | None = None
        self._listed: tuple[tuple[bytes, str], ...] = ()
        self._listed_at = float("-inf")
        self._rests_until = float("-inf")

    def keys(self, deadline: float) -> tuple[AgentKey, ...]:
        """Return the keys, asked for once in a while; none when the agent does not answer. They sign by the deadline.

        Half the time there is may be spent on the way to the agent, and half of the rest on its answer.
        """
        if self._is_old() and self._lock.acquire(timeout=_half(deadline)):
            try:
                if self._is_old():
                    self._list(min(AGENT_S, _half(deadline)))
            finally:
                self._lock.release()
        return tuple(AgentKey(self, blob, comment, deadline) for blob, comment in self._listed)

    def _is_old(self) -> bool:
        now = time.monotonic()
        return now - self._listed_at > LIST_AGE_S and now > self._rests_until

    def _list(self, seconds: float) -> None:
        try:
            answer = self._ask(bytes([_LIST]), _LISTED, seconds)
            self._listed = tuple((answer.get_binary(), answer.get_text()) for _ in range(answer.get_int()))
        except (OSError, paramiko.SSHException, ValueError):
            self._hang_up()
            self._listed = ()
        self._listed_at = time.monotonic()

    def sign(self, blob: bytes, data: bytes, flags: int, deadline: float) -> bytes:
        """Return a signature, by a deadline.

        Raises:
            SSHException: the agent does not sign with this key; UnsignedError when it did not answer in time.
        """
        request = paramiko.Message()
        request.add_byte(bytes([_SIGN]))
        request.add_string(blob)
        request.add_string(data)
        request.add_int(flags)
        if not self._lock.acquire(timeout=min(SIGN_S, _left(deadline))):
            raise UnsignedError("the agent is busy with other signatures")
        begun = time.monotonic()
        try:
            if begun < self._rests_until:
                raise UnsignedError("the agent did not sign just now for another target")
            return self._ask(request.asbytes(), _SIGNED, min(SIGN_S, _left(deadline))).get_binary()
        except TimeoutError as error:
            self._hang_up()
            if time.monotonic() - begun > PATIENCE_S:
                self._rests_until = time.monotonic() + REST_S
            raise UnsignedError("the agent did not sign in time") from error
        except OSError as error:
            self._hang_up()
            raise paramiko.SSHException(f"the agent did not sign: {error}") from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Hang up; the next question calls again."""
        if self._lock.acquire(timeout=CLOSE_S):
            try:
                self._hang_up()
            finally:
                self._lock.release()

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None

    def _ask(self, request: bytes, expected: int, seconds: float) -> paramiko.Message:
        """Send a request and return the answer, behind its number."""
        deadline = time.monotonic() + seconds
        fresh = self._link is None
        try:
            kind, answer = self._exchange(request, deadline)
        except ConnectionError:
            if fresh:
                raise
            self._hang_up()  # it was started anew since it was last asked
            kind, answer = self._exchange(request, deadline)
        if kind != expected:
            raise paramiko.SSHException("the agent refused")
        return paramiko.Message(answer)

    def _exchange(self, request: bytes, deadline: float) -> tuple[int, bytes]:
        if self._link is None:
            self._link = socket.socket(socket.AF_UNIX)
            self._link.settimeout(max(0.01, deadline - time.monotonic()))
            self._link.connect(self._path)
        self._link.settimeout(max(0.01, deadline - time.monotonic()))
        self._link.sendall(struct.pack(">I", len(request)) + request)
        (size,) = struct.unpack(">I", self._receive(self._link, 4, deadline))
        if not 0 < size <= _LONGEST:
            raise ConnectionError("it speaks another language")
        answer = self._receive(self._link, size, deadline)
        return answer[0], answer[1:]

    @staticmethod
    def _receive(link: socket.socket, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            link.settimeout(max(0.01, deadline - time.monotonic()))
            piece = link.recv(size - len(data))
            if not piece:
                raise ConnectionError("it hung up")
            data += piece
        return data

    def __del__(self) -> None:
        with suppress(OSError):
            self._hang_up()


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _half(deadline: float) -> float:
    return _left(deadline) / 2
