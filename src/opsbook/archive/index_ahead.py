"""Files of runs that are about to be read, asked of the disk beforehand: it works while one core takes others apart.

What comes of it stays with the system, in memory it would use anyway, and is never needed: nothing here can fail.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice

from opsbook.archive.layout import LOCK, RunFolder

_AHEAD = 128
"""Runs that are asked for before they are read."""
_TOGETHER = 16
"""Runs that one thread asks for, one after the other: a disk is quickest when it may choose among some threads."""
_MOST = 4 * 1024 * 1024
"""Bytes of one file that are asked for."""


def reading_ahead(folders: Iterable[RunFolder]) -> Generator[RunFolder, None, None]:
    """Yield the folders of runs, while the files of the next ones are asked for."""
    left = iter(folders)
    first = list(islice(left, _TOGETHER + 1))
    if len(first) <= _TOGETHER or not hasattr(os, "posix_fadvise"):
        yield from chain(first, left)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  an index that is kept up needs none

    left, waiting = chain(first, left), deque[RunFolder]()
    pool = ThreadPoolExecutor(_AHEAD // _TOGETHER, thread_name_prefix="opsbook-ahead")
    try:
        while together := list(islice(left, _TOGETHER)):
            pool.submit(_ask_for, together)
            waiting.extend(together)
            while len(waiting) >= _AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


def _ask_for(folders: Sequence[RunFolder]) -> None:
    for folder in folders:
        for file in (folder.record, folder.copy):
            with suppress(OSError):
                descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(descriptor, 0, _MOST, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)
        for file in (folder.journal, folder.path / LOCK):
            with suppress(OSError):
                file.lstat()
