"""References resolved: `env:NAME`, `file:PATH`, `cmd:COMMAND`, `vault:PATH#KEY`, and what a person types for `prompt:`.

A value is handed to whoever asked. What was typed, or came from a pipe, is kept to the end of the run, in memory alone,
because it is to be had once. No error carries a value, nor a command's output.
"""

from __future__ import annotations

import os
import select
import shlex
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from opsbook.errors import SecretError
from opsbook.redaction import INLINE, PROMPT
from opsbook.secret_forms import SHORTEST
from opsbook.secrets.vault import read_vault

COMMAND_S = 30.0
STREAM_S = 30.0
"""Seconds in which a pipe that a secret comes from has to end."""
_LONGEST = 1024 * 1024
"""Bytes of a secret that comes from a pipe."""
FRESH_S = 60.0
"""Seconds in which a command's value from before the run serves the first who asks: some tokens do not last."""
_COMMAND = "cmd:"


def resolve(reference: str) -> str:
    """Return what a reference stands for, without its last newline.

    Raises:
        SecretError: it cannot be resolved, or its value is too short to be masked safely.
    """
    if reference.startswith(INLINE):
        return _from_inventory(reference.removeprefix(INLINE))
    scheme, colon, place = reference.partition(":")
    if reference.startswith(PROMPT):
        hint = "start on a terminal (parameters are asked for before the run), or give another, such as env:NAME"
        raise SecretError(f"{reference} has to be typed at a terminal, and there is nobody to ask here", hint)
    if not colon or not place.strip():
        raise SecretError("a secret is given by reference, not by value", "such as env:NAME, file:PATH, cmd:COMMAND")
    resolvers = {"env": _from_environ, "file": _from_file, "cmd": _from_command, "vault": read_vault}
    if scheme not in resolvers:
        raise SecretError(f"opsbook cannot resolve {scheme}: references", f"known: {', '.join(resolvers)}, prompt")
    return _usable(reference, resolvers[scheme](place).removesuffix("\n").removesuffix("\r"))


class Resolver:
    """Resolves for one run, or one notebook in Jupyter. Safe to share between threads."""

    def __init__(self, ask: Callable[[str], str] | None = None) -> None:
        """Resolve with `ask` to put a question to somebody and return what was typed, unseen; None asks nobody."""
        self._ask = ask
        self._typed: dict[str, str] = {}
        self._early: dict[str, tuple[str, float]] = {}
        """What commands gave before the run, and when (monotonic)."""
        self._lock = Lock()

    def resolve(self, reference: str) -> str:
        """Return what a reference stands for.

        Raises:
            SecretError: it cannot be resolved, nobody types it, or its value is too short to be masked safely.
        """
        if reference.startswith(PROMPT):
            return self._typed_for(reference)
        if is_stream(reference):  # it gives its value once
            with self._lock:
                if reference not in self._typed:
                    self._typed[reference] = resolve(reference)
                return self._typed[reference]
        value, at = self._early.pop(reference, ("", 0.0))
        return value if value and time.monotonic() - at < FRESH_S else resolve(reference)

    def resolve_early(self, reference: str) -> str:
        """Return what a reference stands for before it is used; a command is not run again for its first use.

        Raises:
            SecretError: as for `resolve`.
        """
        value = self.resolve(reference)
        if reference.startswith(_COMMAND):
            self._early[reference] = value, time.monotonic()
        return value

    def ask_now(self, *references: str | None) -> None:
        """Ask for those that have to be typed, if there is anybody to ask.

        Raises:
            SecretError: what was typed is too short to be masked safely.
        """
        for reference in references:
            if self._ask is not None and reference is not None and reference.startswith(PROMPT):
                self._typed_for(reference)

    def ask_no_more(self) -> None:
        """Put no question to anybody from now on: the run begins."""
        self._ask = None

    def _typed_for(self, reference: str) -> str:
        with self._lock:
            if reference in self._typed:
                return self._typed[reference]
            if self._ask is None:
                return resolve(reference)
            question = reference.removeprefix(PROMPT).strip() or "Secret"
            self._typed[reference] = _usable(reference, self._ask(question))
            return self._typed[reference]


def is_exposed(reference: str) -> bool:
    """Whether a reference names a file that everybody on this machine can read."""
    scheme, _, place = reference.partition(":")
    if scheme != "file":
        return False
    try:
        file = Path(place).expanduser().resolve()
        ways = all(folder.stat().st_mode & stat.S_IXOTH for folder in file.parents)
        return ways and bool(file.stat().st_mode & stat.S_IROTH)
    except (OSError, RuntimeError, ValueError):
        return False


def _usable(reference: str, value: str) -> str:
    """Return a value that can be masked and carried, or refuse it."""
    if len(value) < SHORTEST:
        raise SecretError(f"{reference} is shorter than {SHORTEST} characters and could not be masked safely")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SecretError(f"{reference} is not UTF-8 text") from None
    return value


def _from_inventory(value: str) -> str:
    if len(value) < SHORTEST:
        raise SecretError(f"a password in the inventory is shorter than {SHORTEST} characters")
    return value


def _from_environ(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise SecretError(f"the environment variable {name} is not set") from None


def is_stream(reference: str) -> bool:
    """Whether a reference names what can be read once: a pipe, a device."""
    scheme, _, place = reference.partition(":")
    try:
        return scheme == "file" and not stat.S_ISREG(Path(place).expanduser().stat().st_mode)
    except (OSError, RuntimeError, ValueError):
        return False


def _from_file(place: str) -> str:
    try:
        file = Path(place).expanduser()
        return file.read_text(encoding="utf-8") if not is_stream(f"file:{place}") else _from_stream(file)
    except TimeoutError:
        raise SecretError(f"nothing came from {place} in {STREAM_S:g} s") from None
    except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text, or not a path"
        raise SecretError(f"cannot read the secret in {place}: {reason}") from None


def _from_stream(file: Path) -> str:
    """Read what a pipe or a device gives until its end; one that gives nothing must not hold a run up for ever."""
    ends, said = time.monotonic() + STREAM_S, bytearray()
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        while ready.poll(max(0.0, ends - time.monotonic()) * 1000) and len(said) <= _LONGEST:
            portion = os.read(descriptor, _LONGEST)
            if not portion:
                return said.decode()
            said += portion
    finally:
        os.close(descriptor)
    raise TimeoutError if len(said) <= _LONGEST else ValueError


def _from_command(line: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  the reference is the runbook author's, and no shell reads it
            shlex.split(line), check=True, capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise SecretError(f"the secret's command took longer than {COMMAND_S:g} s: {line}") from None
    except subprocess.CalledProcessError as error:
        raise SecretError(f"the secret's command failed with exit code {error.returncode}: {line}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it, or what it prints, is not text"
        raise SecretError(f"the secret's command cannot be run: {line} ({reason})") from None
    return done.stdout
