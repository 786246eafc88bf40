"""References resolved: `env:NAME`, `file:PATH`, `cmd:COMMAND`.

A value is handed to whoever asked and kept nowhere. No error carries a value, nor a command's output.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from opsbook.errors import SecretError
from opsbook.redaction import INLINE, SHORTEST

COMMAND_S = 30.0


def resolve(reference: str) -> str:
    """Return what a reference stands for, without its last newline.

    Raises:
        SecretError: it cannot be resolved, or its value is too short to be masked safely.
    """
    if reference.startswith(INLINE):
        return _from_inventory(reference.removeprefix(INLINE))
    scheme, colon, place = reference.partition(":")
    if not colon or not place.strip():
        raise SecretError("a secret is given by reference, not by value", "such as env:NAME, file:PATH, cmd:COMMAND")
    resolvers = {"env": _from_environ, "file": _from_file, "cmd": _from_command}
    if scheme not in resolvers:
        raise SecretError(f"opsbook cannot resolve {scheme}: references", f"known: {', '.join(resolvers)}")
    value = resolvers[scheme](place).removesuffix("\n").removesuffix("\r")
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


def _from_file(place: str) -> str:
    try:
        return Path(place).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text, or not a path"
        raise SecretError(f"cannot read the secret in {place}: {reason}") from None


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
