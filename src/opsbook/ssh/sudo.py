"""The way of one command through sudo (SEMANTICS 8).

The password goes out only after our own prompt, and to a host whose key was known; the script only after the shell
behind sudo has said that it is there. Until then every end is certain: nothing of the script was sent. Neither prompt
nor marker, nor what sudo says on the way of a password that was taken, becomes part of a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from opsbook.errors import SecretError
from opsbook.model.target import TargetState
from opsbook.ssh.exchange import Exchange
from opsbook.ssh.script import Prepared
from opsbook.ssh.terms import Terms

_SEND_S = 5.0
_MOST_WORDS = 1024 * 1024
_LONG = 200


class Barred(Struct, frozen=True, kw_only=True):
    """A command that will not get through; nothing of it was sent."""

    state: TargetState
    reason: str


class Passage:
    """One command before sudo."""

    def __init__(self, exchange: Exchange, prepared: Prepared, terms: Terms, *, deadline: float) -> None:
        self._exchange = exchange
        self._ready = f"{prepared.ready}\n".encode()
        self._prompts = tuple(prompt.encode() for prompt in prepared.prompts)
        self._terms = terms
        self._deadline = deadline
        self._patience = 0.0
        self._heard = b""
        self._answered = False
        self._answered_at = 0

    def open(self, cancelled: Callable[[], bool]) -> Barred | None:
        """Wait until the shell behind sudo is there; say why it will not be."""
        self._exchange.on_stderr = self._hear
        self._patience = min(self._deadline, time.monotonic() + self._terms.patience_s)
        while True:
            arrived = self._exchange.pump()
            if self._ready in self._heard:
                return None
            barred = self._answer() if self._prompted else self._why_barred(cancelled)
            if barred is not None:
                return barred
            if not arrived:
                self._exchange.wake.wait(self._patience - time.monotonic())

    @property
    def said(self) -> bytes:
        """What was said on stderr on the way, without what is ours."""
        before, ready, after = self._heard.partition(self._ready)
        if ready:
            return (b"" if self._answered else before) + after
        for word in (*self._prompts, self._ready.rstrip(), self._ready.partition(b"-ready")[0]):
            before = before.replace(word, b"")
        return before

    def _hear(self, data: bytes) -> None:
        self._heard += data

    @property
    def _prompted(self) -> bool:
        """Whether sudo asks, and waits: nothing follows its prompt, as it does where a shell traces our line."""
        return len(self._heard) > self._answered_at and self._heard.endswith(self._prompts)

    def _answer(self) -> Barred | None:
        if self._answered:
            self._terms.refused()
            return _become("sudo did not accept the password")
        if not self._exchange.connection.trusted:
            return _become("sudo asks for the password, and none is sent to a host whose key was not known before")
        try:
            password = self._terms.password() if self._terms.password is not None else ""
        except SecretError as error:
            return _become(f"sudo asks for the password: {error}")
        if not password or "\n" in password or "\0" in password:
            return _become("sudo asks for the password, and the one that is given is not one line of text")
        try:
            self._exchange.send(password.encode() + b"\n", seconds=_SEND_S)
        except (OSError, UnicodeEncodeError):
            return _become("the password could not be handed to sudo")
        self._answered, self._answered_at = True, len(self._heard)
        self._patience = min(self._deadline, time.monotonic() + self._terms.patience_s)
        return None

    def _why_barred(self, cancelled: Callable[[], bool]) -> Barred | None:
        """Say why the command will not get behind sudo, if that is certain now."""
        if cancelled():
            return Barred(state=TargetState.CANCELLED, reason="cancelled before it was sent")
        if self._exchange.ended:
            return self._ended()
        if len(self._heard) > _MOST_WORDS:
            return _become("sudo says more than it should")
        if time.monotonic() < self._patience:
            return None
        return self._overdue()

    def _overdue(self) -> Barred:
        if self._patience >= self._deadline:
            reason = "timed out before sudo had let it through; nothing ran"
            return Barred(state=TargetState.TIMED_OUT, reason=reason)
        waited = f"within {self._terms.patience_s:g} s"
        if self._answered or not self._prompts:
            return _become(f"sudo did not go on {waited}")
        return _become(f"sudo neither asked for the password nor went on {waited}")

    def _ended(self) -> Barred | None:
        """Say what ended it: its last words may still be on their way."""
        if self._exchange.drain(silence_s=1.0, most_s=2.0) and self._ready in self._heard:
            return None  # it was let through and ended at once: sending will fail and say so
        if not self._exchange.connection.alive:
            return Barred(state=TargetState.UNREACHABLE, reason="the link was lost before it was sent; nothing ran")
        words = [line.strip() for line in self.said.decode("utf-8", "replace").split("\n") if line.strip()]
        # what it says first is why; what follows may be about its own plug-ins
        last = next((line for line in words if line.startswith("sudo: ")), words[-1] if words else "")
        if len(last) > _LONG:  # it quotes what it was to execute, which is ours
            last = f"{last[:100]} … {last[-50:]}"
        if self._answered:
            self._terms.refused()
        asked = "" if self._prompts else "; no password for it was given"
        refused = "after the password was sent" if self._answered else "did not let the command through"
        return _become(f"sudo {'ended ' if self._answered else ''}{refused}: {last or 'it said nothing'}{asked}")


def _become(reason: str) -> Barred:
    return Barred(state=TargetState.BECOME, reason=reason)
