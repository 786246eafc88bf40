"""How a file that people keep (a notebook, a note) is written: whole or not at all, and open to whom it was open.

Unlike the archive's files these belong to a checkout: their modes are the user's own. Knows nothing of what they hold.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from opsbook.errors import RunbookError


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole; what a link leads to is replaced, not the link.

    Raises:
        RunbookError: it could not be written; it is as it was.
    """
    try:
        place = path.resolve(strict=True)
        draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        try:
            _write_new(draft, data, mode=place.stat().st_mode & 0o7777)
            draft.replace(place)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        _sync(place.parent)
    except OSError as error:
        raise RunbookError(f"cannot write {path}: {error.strerror}", "it is as it was") from error


def create_file(path: Path, data: bytes) -> None:
    """Make a file that was not there.

    Raises:
        RunbookError: something is there already, or it could not be written; nothing of it is left.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            _write_new(draft, data)
            os.link(draft, path)  # unlike a renaming it never takes another's place
        finally:
            with suppress(OSError):
                draft.unlink()
        _sync(path.parent)
    except OSError as error:
        raise RunbookError(f"cannot write {path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write a new file and put it on disk; without a mode it is what the user's umask makes of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        if mode is not None:
            os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
