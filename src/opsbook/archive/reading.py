"""Files of an archive read as what they are to be: regular, where they are, and of a size memory has room for.

A link is not followed, and what is no file (a pipe somebody put there) is not waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

LARGEST = 64 * 1024 * 1024
"""Bytes that are ever read at once."""


def open_regular(file: Path) -> BinaryIO:
    """Open a file to read it.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return os.fdopen(descriptor, "rb")


def read_regular(file: Path, *, most: int = LARGEST) -> bytes:
    """Return what a file holds.

    Raises:
        OSError: it cannot be read, is no regular file, or holds more than `most` bytes.
    """
    with open_regular(file) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most // 2**20} MiB", str(file))
    return data
