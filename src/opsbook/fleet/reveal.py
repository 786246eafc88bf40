"""Secrets as a notebook's fleet has them: from the runner, or, in plain Jupyter, resolved in this process.

Each value that is handed out is told with what it is used for. A password is asked for once however many targets need
it, and said no more to whom it was refused by: a third time might lock the account. No value is kept but passwords.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from getpass import getpass

from opsbook.errors import SecretError
from opsbook.model.protocol import Channel
from opsbook.secrets.resolve import Resolver

REST_S = 10.0
"""Seconds a password that could not be had is not asked for again."""
_NOTEBOOK = "notebook"


class _Password:
    """One password: who needs it first asks for it, and all who wait meanwhile share what comes of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value = ""
        self.error: SecretError | None = None
        self.failed_at = float("-inf")


class Revealer:
    """Gives one session its secrets. Safe to use from the author's own threads."""

    def __init__(self, channel: Channel | None, environment: Mapping[str, str], cell: Callable[[], str | None]) -> None:
        """Reveal by a runner's channel, if there is one; `environment` are the references of variables, by name."""
        self._channel = channel
        self._environment = environment
        self._cell = cell
        self._resolver = Resolver(_ask_here)
        self._using = threading.local()
        self._lock = threading.Lock()
        self._passwords: dict[tuple[str, str], _Password] = {}
        self._barred: set[tuple[str, str]] = set()
        """Targets whose sudo has refused a password, and its reference."""

    @contextmanager
    def using(self, used_for: str) -> Iterator[None]:
        """Tell what the secrets are used for that this thread reveals in the block."""
        self._using.what = used_for
        try:
            yield
        finally:
            del self._using.what

    def reveal(self, reference: str) -> str:
        """Return what a secret's reference stands for.

        Raises:
            SecretError: it cannot be resolved.
            ChannelError: the runner is gone.
        """
        if self._channel is None:
            return self._resolver.resolve(reference)
        used_for = getattr(self._using, "what", _NOTEBOOK)
        return self._channel.reveal(reference, used_for=used_for, cell_id=self._cell())

    def set_environment(self) -> None:
        """Set the variables of this process that are secrets: what it starts from now on has them too.

        Raises:
            SecretError: one cannot be resolved.
        """
        for name, reference in self._environment.items():
            with self.using(f"[env] {name}"):
                os.environ[name] = self.reveal(reference)

    def login_password(self, reference: str) -> str:
        """Return the password to log in with.

        Raises:
            SecretError: the reference cannot be resolved.
        """
        return self._password(reference, "login")

    def sudo_password(self, target: str, reference: str) -> str:
        """Return the password for sudo on a target.

        Raises:
            SecretError: the reference cannot be resolved, or the password was refused there before.
        """
        if (target, reference) in self._barred:
            raise SecretError("it was refused here before and is not sent again")
        return self._password(reference, "sudo")

    def bar_sudo(self, target: str, reference: str) -> None:
        """Give a password no more to a target's sudo, which has refused it."""
        self._barred.add((target, reference))

    def _password(self, reference: str, used_for: str) -> str:
        with self._lock:
            known = self._passwords.setdefault((reference, used_for), _Password())
        with known.lock:
            if not known.value and time.monotonic() - known.failed_at > REST_S:
                try:
                    with self.using(used_for):
                        known.value, known.error = self.reveal(reference), None
                except SecretError as error:
                    known.error, known.failed_at = error, time.monotonic()
            if known.error is not None:
                raise SecretError(known.error.message, known.error.hint)
            return known.value


def _ask_here(question: str) -> str:
    """Ask whoever sits before this notebook, or terminal, without showing what is typed."""
    try:
        return getpass(f"{question}: ")
    except (EOFError, OSError, RuntimeError):
        raise SecretError(f"{question!r} has to be typed, and nobody can be asked here") from None
