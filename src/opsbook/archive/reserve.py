"""Room on the disk that is kept from the claim to the end of a run, so that the last words of it fit on a full one.

It is given back right before they are written. What another process takes in that moment cannot be helped.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from opsbook.archive.files import archive_errors, create, write_all

_STEP = 64 * 1024
"""Bytes by which a reserve grows at least, so that it seldom has to."""
_UNABLE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Reserve:
    """A file of nothing in a run's folder."""

    def __init__(self, file: Path, size: int) -> None:
        """Take `size` bytes.

        Raises:
            ArchiveError: there is no room for them.
        """
        self._file = file
        self._size = 0
        self._needed = 0
        with archive_errors(f"reserve room in {file.parent}"):
            self._descriptor = create(file)
        try:
            self.grow(size)
        except BaseException:
            self.release()
            raise

    def grow(self, by: int) -> None:
        """Take so many bytes more.

        Raises:
            ArchiveError: there is no room for them.
        """
        self._needed += by
        if self._needed > self._size:
            wanted = -(-self._needed // _STEP) * _STEP
            with archive_errors(f"reserve room in {self._file.parent}"):
                _take(self._descriptor, self._size, wanted - self._size)
            self._size = wanted

    def release(self) -> None:
        """Give everything back. Harmless when that was done."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1
        with suppress(OSError):
            self._file.unlink()


def _take(descriptor: int, start: int, size: int) -> None:
    """Make the system set blocks aside; where it cannot, fill them."""
    try:
        os.posix_fallocate(descriptor, start, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNABLE:
            raise
        os.lseek(descriptor, start, os.SEEK_SET)
        for _ in range(0, size, _STEP):
            write_all(descriptor, bytes(_STEP))
        os.fsync(descriptor)
