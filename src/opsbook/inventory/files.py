"""An inventory's files read: their bytes, what kind of file they are, and the text in them.

Invariant: a file is read whole or refused, and only when it is a plain one of a bounded size. This module knows no
format.
"""

from __future__ import annotations

import stat
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.values import VAULT

MAX_BYTES = 16 * 1024 * 1024


class SealedError(InventoryError):
    """A file is encrypted as a whole."""


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        InventoryError: it cannot be read, is too large or not UTF-8; a `SealedError` when it is encrypted.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InventoryError(f"{path}:{line}: the file is not UTF-8 text", "save it as UTF-8") from error
    if text.startswith(VAULT):
        raise SealedError(
            f"{path}: the file is encrypted by ansible-vault, so that nobody can tell what it sets",
            "decrypt it, encrypt its values one by one (!vault), or keep secrets elsewhere",
        )
    return text


def is_executable(path: Path) -> bool:
    """Whether a plain file may be run by anybody; False for what cannot be looked at."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def explain(error: OSError | ValueError) -> str:
    """Return why a file or folder cannot be read, in the system's words."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _read_bytes(path: Path) -> bytes:
    """Return a file's bytes, after looking at what kind of file it is."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InventoryError(f"{path}: this is a directory, not a file", "name a file in it")
        if not stat.S_ISREG(mode):
            raise InventoryError(f"{path}: this is not a regular file", "save it into a file first")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InventoryError(f"{path}: there is no such file", "check the path") from error
    except (OSError, ValueError) as error:
        raise InventoryError(f"{path}: the file cannot be read: {explain(error)}", "check its permissions") from error
    if len(data) > MAX_BYTES:
        raise InventoryError(f"{path}: the file is larger than {MAX_BYTES // 1024**2} MiB", "split it into several")
    return data
