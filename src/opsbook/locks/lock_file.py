"""One lock: a file that is held (flock), and in it who holds it.

The system frees the file however its holder ends; what stands in it stays, and tells who was the last. A file is never
deleted, so that all who want one lock want the same file. Knows no runs and no archive.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from opsbook.locks.wait import Wait

_LONGEST = 64 * 1024


class Holder(Struct, frozen=True, kw_only=True):
    """Who holds a lock, or held it last."""

    run_id: str
    archive: str = ""
    """The archive that run is in."""
    user: str
    host: str
    pid: int
    since: datetime
    place: str
    """What is locked: an address, or a name."""
    targets: tuple[str, ...] = ()
    """What that run calls the address."""
    inherited: str = ""
    """The run that had left this target in the middle before, which this one resumes."""

    @property
    def sentence(self) -> str:
        """Say who it is: `run 20261120T113958Z-patch-7f3a2c of maya on ops1, since 2026-11-20 11:39:58 UTC`."""
        return f"run {self.run_id} of {self.user} on {self.host}, since {self.since.astimezone(UTC):%F %T} UTC"


class LockFile:
    """A lock this process may take. Used by one thread at a time."""

    def __init__(self, file: Path, *, mode: int) -> None:
        self.file = file
        self._mode = mode
        self._descriptor = -1

    def take(self, wait: Wait | None = None) -> bool:
        """Take the lock, now or before the wait is over; whether that succeeded.

        Raises:
            OSError: the file cannot be opened.
        """
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    os.close(descriptor)
                    return False
                if not wait.for_file(descriptor):
                    return False
            except OSError:
                os.close(descriptor)
                raise
            if self._is_current(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # somebody has cleaned the folder: the lock is the file that is there now

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW
        with suppress(FileNotFoundError):
            return os.open(self.file, flags)  # without O_CREAT: in a sticky folder that asks who owns the file
        descriptor = os.open(self.file, flags | os.O_CREAT, self._mode)
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, self._mode)
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.file))
        except OSError:
            return False

    def read(self) -> Holder | None:
        """Return who holds the lock, or did last; None where that is nobody, or cannot be read."""
        return read_holder(self.file)

    def write(self, holder: Holder | None) -> None:
        """Say who holds the lock; None for nobody. Only for who has taken it. Is on disk after `sync`.

        Raises:
            OSError: it cannot be written.
        """
        data = b"" if holder is None else msgspec.json.encode(holder) + b"\n"
        if os.pwrite(self._descriptor, data, 0) != len(data):
            raise OSError(f"{self.file} was written in part")
        os.ftruncate(self._descriptor, len(data))

    def sync(self) -> None:
        """Put what stands in the file on disk.

        Raises:
            OSError: it cannot be written.
        """
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the lock."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_holder(file: Path) -> Holder | None:
    """Return who a lock's file names; None where it names nobody, or cannot be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        line = stream.read(_LONGEST).partition(b"\n")[0]
    try:
        return msgspec.json.decode(line, type=Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def is_held(file: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe is not waited for
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
