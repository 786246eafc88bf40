"""How the archive writes: private, whole, and on disk before anybody is told so.

Folders are 0700 and files 0600, whatever the umask. A file is replaced as a whole or not at all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opsbook.errors import ArchiveError

FILE_MODE = 0o600
FOLDER_MODE = 0o700


@contextmanager
def archive_errors(what: str) -> Iterator[None]:
    """Turn an operating system error into an ArchiveError that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"cannot {what}: {error.strerror or error}", "is the disk full, or the folder not yours?"
        ) from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each private."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.chmod(FOLDER_MODE)


def create(file: Path, *, flags: int = 0) -> int:
    """Open a new private file for writing and return its descriptor."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | flags, FILE_MODE)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def append(file: Path, data: bytes) -> None:
    """Append to a private file, which is made when it is not there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, FILE_MODE)
    try:
        os.fchmod(descriptor, FILE_MODE)
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(file: Path, data: bytes) -> None:
    """Replace a file as a whole, and return when it is on disk.

    Raises:
        ArchiveError: it could not be written; the file is as it was.
    """
    with archive_errors(f"write {file}"):
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(create(draft), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        sync_folder(file.parent)
