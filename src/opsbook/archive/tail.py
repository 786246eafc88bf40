"""Files of a run read as they grow: each time what is new since the time before.

A run replaces its journal and its host logs where something in them is to be masked after all, or writes over them. Who
follows goes on where it was before: by the entries' numbers, or by lines. That it is another file shows in what stands
before that place: a number (inode) is soon given away again. Knows nothing of what is said.
"""

from __future__ import annotations

import os
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from opsbook.archive.journal import read_entries
from opsbook.archive.links import FIRST, digest_of
from opsbook.archive.reading import open_regular
from opsbook.model.event import Entry

_PORTION = 256 * 1024
"""Bytes of a log that are read at once."""
_KNOWN = 256
"""Bytes of a log that are remembered, to tell whether it was replaced."""


class JournalTail:
    """One journal."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place = 0
        self._size = 0
        """Bytes of the line before that place."""
        self._prev = FIRST
        self.seq = 0
        """The number of the last entry that was read."""

    def entries(self) -> Iterator[Entry]:
        """Yield the entries that are new, as far as the chain holds. An event of a newer kind is passed over."""
        try:
            stream = open_regular(self._file)
        except OSError:
            return
        with stream:
            stream.seek(self._place - self._size)
            if self._place and digest_of(stream.read(self._size).removesuffix(b"\n")) != self._prev:
                self._place, self._size, self._prev = 0, 0, FIRST
            stream.seek(self._place)
            for prev, entry in read_entries(stream, self._prev):
                before, self._place, self._prev = self._place, stream.tell(), prev
                self._size = self._place - before
                if entry is not None and entry.seq > self.seq:
                    self.seq = entry.seq
                    yield entry

    @property
    def has_more(self) -> bool:
        """Whether there is something behind the last entry that is none, or does not follow from it."""
        try:
            return self._file.stat().st_size > self._place
        except OSError:
            return False


class LogTail:
    """One target's log. Is opened for each look at it alone: there may be more targets than descriptors."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode = 0
        self._place = 0
        self._before = b""
        """What stands before that place."""
        self._lines = 0
        self._decoder = getincrementaldecoder("utf-8")("surrogateescape")

    def peek(self, size: int) -> bytes:
        """Return what comes next, at most so many bytes, without passing it."""
        if not size:
            return b""
        stream = self._open()
        if stream is None:
            return b""
        with stream:
            return stream.read(size)

    def portions(self, most: int | None = None, *, ends: bool = True) -> Iterator[str]:
        """Yield what comes next, in portions, and pass it: so many bytes, or all there is.

        Bytes that are no text become surrogate escapes; unless it `ends` here, half a character waits for its rest.
        """
        stream = self._open()
        if stream is None:
            return
        with stream:
            left = most
            while data := stream.read(_PORTION if left is None else min(left, _PORTION)):
                self._place += len(data)
                self._before = (self._before + data[-_KNOWN:])[-_KNOWN:]
                self._lines += data.count(b"\n")
                left = None if left is None else left - len(data)
                yield self._decoder.decode(data)
        if ends:
            yield self._decoder.decode(b"", final=True)

    def _open(self) -> BinaryIO | None:
        """Open the log where it was left; None where there is nothing new in it."""
        try:
            status = self._file.lstat()
            if status.st_ino == self._inode and status.st_size == self._place:
                return None
            stream = open_regular(self._file)
        except OSError:
            return None
        self._inode = os.fstat(stream.fileno()).st_ino
        stream.seek(self._place - len(self._before))
        if stream.read(len(self._before)) != self._before:
            stream.seek(0)
            self._lines = sum(bool(stream.readline()) for _ in range(self._lines))
            half, self._place = self._before.rpartition(b"\n")[2], stream.tell()
            self._before = half if stream.read(len(half)) == half else b""  # the beginning of a line was passed as well
            self._place += len(self._before)
        stream.seek(self._place)
        return stream
