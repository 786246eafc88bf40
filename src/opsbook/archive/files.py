"""How the archive writes: closed to strangers, whole, and on disk before anybody is told so.

Folders are 0700 and files 0600, whatever the umask; in an archive shared by a group they are 2770 and 0660. A file
follows the folder it lies in. It is replaced as a whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opsbook.errors import ArchiveError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
SHARED_FILE_MODE = 0o660
SHARED_FOLDER_MODE = 0o2770
_LOOK_S = 0.005
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}


@contextmanager
def archive_errors(what: str) -> Iterator[None]:
    """Turn an operating system error into an ArchiveError that says what could not be done, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"cannot {what}: {error.strerror or error}", _hint(error.errno)) from error


def _hint(number: int | None) -> str:
    if number in _FULL:
        return "the disk or the quota is full: make room, or name another archive with --archive"
    if number in _CLOSED:
        return 'the folder is not yours: --archive names another; archive_mode = "group" is for one that is shared'
    if number in _GONE:
        return "is the archive still there, and a folder? --archive names another"
    if number == errno.EROFS:
        return "the file system is mounted read-only; --archive names another folder"
    return "is the disk well? --archive names another folder"


def make_folder(folder: Path, *, shared: bool = False) -> None:
    """Create a folder and its parents, each private, or shared with the group."""
    if folder.is_dir():
        return
    make_folder(folder.parent, shared=shared)
    with suppress(FileExistsError):
        new_folder(folder, shared=shared)
        sync_folder(folder.parent)  # what is put on disk in it is worth nothing without its own name


def is_shared(root: Path) -> bool:
    """Whether an archive is one that a group writes to: what all need in it is the group's, whoever makes it."""
    try:
        mode = root.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def refuse_link(folder: Path) -> None:
    """Refuse a folder of the archive that only leads to one: what is written there would lie somewhere else.

    Raises:
        ArchiveError: it is a link.
    """
    if folder.is_symlink():
        raise ArchiveError(f"{folder} is a link, and no folder of the archive", "put a folder in its place")


def new_folder(folder: Path, *, shared: bool = False) -> None:
    """Create one folder, private or shared with the group.

    Raises:
        FileExistsError: it is there already.
    """
    folder.mkdir(mode=FOLDER_MODE)
    folder.chmod(SHARED_FOLDER_MODE if shared else FOLDER_MODE)


def create(file: Path, *, flags: int = 0) -> int:
    """Open a new file for writing and return its descriptor. Its group may write where the folder's group may."""
    mode = _file_mode(file.parent.stat())
    access = 0 if flags & os.O_RDWR else os.O_WRONLY
    descriptor = os.open(file, access | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | flags, mode)
    os.fchmod(descriptor, mode)
    return descriptor


def _file_mode(folder: os.stat_result) -> int:
    return SHARED_FILE_MODE if folder.st_mode & stat.S_IWGRP else FILE_MODE


def open_or_create(file: Path, *, flags: int = 0) -> int:
    """Open a file to read and write, which is made when it is not there; return its descriptor."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(file, os.O_RDWR | os.O_NOFOLLOW | flags)
        with suppress(FileExistsError):
            descriptor = create(file, flags=os.O_RDWR | flags)
            sync_folder(file.parent)
            return descriptor


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of it."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def lock(descriptor: int, how: int, *, seconds: float) -> bool:
    """Lock a file (`fcntl.LOCK_EX` or `LOCK_SH`) within so many seconds; whether it is.

    A lock cannot be waited for with a deadline, so it is looked for again and again.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        else:
            return True


def append(file: Path, data: bytes) -> None:
    """Append to a file, which is made when it is not there; neither it nor its folder may be a link."""
    flags = os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = os.open(file.name, flags, dir_fd=folder)
    except FileNotFoundError:
        mode = _file_mode(os.fstat(folder))
        descriptor = os.open(file.name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
        os.fchmod(descriptor, mode)
    finally:
        os.close(folder)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def drafted(file: Path, data: bytes | bytearray) -> Iterator[None]:
    """Write what a file is to hold beside it, and put it in its place when the block ends well: room is sure before.

    Raises:
        ArchiveError: it could not be written; the file is as it was.
    """
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with archive_errors(f"write {file}"):
            descriptor = create(draft)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        yield
        with archive_errors(f"write {file}"):
            draft.replace(file)
            sync_folder(file.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def write_over(file: Path, data: bytes | bytearray) -> None:
    """Replace a file that must not stay as it is: as a whole, or where there is no room for that, in its own bytes.

    Raises:
        ArchiveError: neither could be done; the file is as it was.
    """
    try:
        write_whole(file, data)
    except ArchiveError:
        with archive_errors(f"write over {file}"):
            descriptor = os.open(file, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                size = os.fstat(descriptor).st_size
                if len(data) > size:  # room is sure before a byte is changed
                    os.posix_fallocate(descriptor, size, len(data) - size)
                write_all(descriptor, data)
                os.ftruncate(descriptor, len(data))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_whole(file: Path, data: bytes | bytearray) -> None:
    """Replace a file as a whole, and return when it is on disk.

    Raises:
        ArchiveError: it could not be written; the file is as it was.
    """
    with drafted(file, data):
        pass
