"""The seal of an index: what its file was when it was written last, so that whatever else becomes of it is noticed.

Beside the database lies a checksum for each of its pages, and the stamp of the file, which any writing changes: a file
with another stamp is compared as a whole before it is asked, one with the same some pages more at each look, as disks
forget without a trace. SQLite's log has checksums of its own. Who uses a seal holds the lock of the index.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from array import array
from contextlib import suppress
from pathlib import Path

from opsbook.archive.files import FILE_MODE, write_all

BESIDE = "-seal"
"""What the seal's name has more than the database's."""
PAGE = 4096
"""Bytes of a page."""
LOOKS = 64
"""Looks in which the whole of a file is compared that nobody touched."""
_LEAST = 2048
"""Pages that are compared at a look, at least."""
_STRIDE = 256
"""Pages that are read at once."""
_BLANK = zlib.crc32(bytes(PAGE))
"""The checksum of a page that was never written: SQLite leaves one out, a gibibyte from the beginning."""
_HEAD = struct.Struct("=Q120s")
"""The page that is compared next, and the stamp."""
_LOG_HEAD, _FRAME_HEAD = 32, 24


class Seal:
    """The seal of one index."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._beside = file.with_name(file.name + BESIDE)
        self._log = file.with_name(file.name + "-wal")
        self._sums = array("I")
        self._next, stamp = 0, b""
        with suppress(OSError, struct.error, ValueError):
            data = self._beside.read_bytes()
            self._next, stamp = _HEAD.unpack_from(data)
            self._sums.frombytes(data[_HEAD.size :])
        self._is_sure = stamp.rstrip(b"\0") == file_seal(file).encode()
        """Whether nobody else wrote the file."""

    @classmethod
    def of_new(cls, file: Path) -> Seal:
        """Return the seal of an index that is still to be written."""
        seal = cls(file)
        seal._is_sure = True
        return seal

    def check(self, connection: sqlite3.Connection) -> None:
        """Make sure that an index is as it was written: the whole file where somebody touched it, else some of it.

        Raises:
            sqlite3.DatabaseError: it is not.
        """
        self.settle(connection)  # what a process wrote that was killed stands in the log alone
        count = len(self._sums)
        if count * PAGE != _size_of(self._file):
            raise sqlite3.DatabaseError("the index and its seal do not belong together")
        first = self._next if self._is_sure and self._next < count else 0
        last = min(count, first + max(_LEAST, -(-count // LOOKS))) if self._is_sure else count
        self._compare(first, last)
        self._is_sure = True
        self._next = last
        self._write(file_seal(self._file))

    def settle(self, connection: sqlite3.Connection) -> None:
        """Bring what was written from the log into the database, and seal it."""
        pages, count = _pages_of(self._log)
        if not count:
            return
        del self._sums[count:]
        self._sums.extend([_BLANK] * (count - len(self._sums)))
        for number, checksum in pages.items():
            if number <= count:
                self._sums[number - 1] = checksum
        self._write("", sums=True)  # one that is killed while it writes the database leaves no stamp
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if self._is_sure and not busy:
            self._write(file_seal(self._file))

    def settle_much(self, connection: sqlite3.Connection, *, most: int) -> None:
        """Do that when the log has more than so many bytes."""
        if _size_of(self._log) > most:
            self.settle(connection)

    def _compare(self, first: int, last: int) -> None:
        with self._file.open("rb") as stream:
            stream.seek(first * PAGE)
            for start in range(first, last, _STRIDE):
                expected = self._sums[start : min(last, start + _STRIDE)]
                data = memoryview(stream.read(len(expected) * PAGE))
                found = array("I", [zlib.crc32(data[at : at + PAGE]) for at in range(0, len(data), PAGE)])
                if found != expected:
                    raise sqlite3.DatabaseError("a page of the index is not as it was written")

    def _write(self, stamp: str, *, sums: bool = False) -> None:
        """Write the seal, its checksums only where they have changed; a seal that cannot be written is none."""
        with suppress(OSError):
            descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
            try:
                write_all(descriptor, _HEAD.pack(self._next, stamp.encode()))
                if sums:
                    write_all(descriptor, self._sums.tobytes())
                    os.ftruncate(descriptor, _HEAD.size + len(self._sums) * self._sums.itemsize)
            finally:
                os.close(descriptor)


def file_seal(file: Path) -> str:
    """Return what changes when a file does; empty when there is none."""
    try:
        status = file.lstat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_size}:{status.st_ino}"


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _pages_of(log: Path) -> tuple[dict[int, int], int]:
    """Return the checksums of the pages that a log has, by their numbers, and how many the database then has.

    The form is that of https://sqlite.org/fileformat2.html#walformat; what was not committed counts for nothing.
    """
    pages: dict[int, int] = {}
    pending: dict[int, int] = {}
    count = 0
    with suppress(FileNotFoundError), log.open("rb") as stream:
        salts = stream.read(_LOG_HEAD)[16:24]
        whole = _FRAME_HEAD + PAGE
        while len(frame := stream.read(whole)) == whole and frame[8:16] == salts:
            pending[int.from_bytes(frame[:4], "big")] = zlib.crc32(memoryview(frame)[_FRAME_HEAD:])
            if committed := int.from_bytes(frame[4:8], "big"):
                pages.update(pending)
                pending.clear()
                count = committed
    return pages, count
