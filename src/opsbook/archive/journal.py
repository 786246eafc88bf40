"""The journal: `events.jsonl`, append-only, one event a line, each line carrying the hash of the one before.

A line is on disk when `append` with `durable` returns; the others follow with it. A reader stops at the first line
that is torn or does not follow from the one before, and keeps what it had.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from opsbook.archive.files import archive_errors, open_or_create, write_all
from opsbook.archive.links import FIRST, digest_of
from opsbook.model.event import Entry, Event, OnceEnded, RunStarted, TargetEnded
from opsbook.redaction import Redactor


class Journal:
    """The one writer of one journal: its file is on disk, and empty where it is there already."""

    def __init__(self, file: Path, redactor: Redactor) -> None:
        self._redactor = redactor
        self._encoder = msgspec.json.Encoder()
        self._seq = 0
        self._prev = FIRST
        with archive_errors(f"begin {file}"):
            self._descriptor = open_or_create(file, flags=os.O_APPEND)
            if os.fstat(self._descriptor).st_size:
                os.close(self._descriptor)
                raise FileExistsError(errno.EEXIST, "it has lines already")

    def append(self, events: Sequence[Event], *, durable: bool) -> list[Entry]:
        """Write events and return them as recorded: numbered, timed and redacted. All or none.

        Raises:
            ArchiveError: they could not be written.
        """
        entries, lines = [], []
        seq, prev = self._seq, self._prev
        for event in events:
            seq += 1
            entry = Entry(seq=seq, at=datetime.now(UTC), prev=prev, event=_masked(event, self._redactor))
            line = self._encoder.encode(entry)
            prev = digest_of(line)
            lines.append(line + b"\n")
            entries.append(entry)
        with archive_errors("append to the journal"):
            self._write(b"".join(lines))
            self._seq, self._prev = seq, prev
            if durable:
                os.fsync(self._descriptor)
        return entries

    def _write(self, data: bytes) -> None:
        """Write all of it, or leave the file as it was; a file that nobody can find any more takes nothing."""
        status = os.fstat(self._descriptor)
        if status.st_nlink == 0:
            raise OSError(errno.ENOENT, "it was deleted")
        try:
            write_all(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, status.st_size)
            raise

    @property
    def head(self) -> str:
        """The hash of the last line, which stands for all before; empty when there is none."""
        return self._prev if self._seq else ""

    def close(self) -> None:
        """Put everything on disk and close."""
        with archive_errors("close the journal"):
            os.fsync(self._descriptor)
            os.close(self._descriptor)


def _masked(event: Event, redactor: Redactor) -> Event:
    """Return an event as it may be kept, with a sign where what was said, or returned, is not what it was."""
    clean: Event = redactor.clean(event)
    if isinstance(event, TargetEnded) and isinstance(clean, TargetEnded):
        return replace(clean, masked=event.masked or (clean.stdout, clean.stderr) != (event.stdout, event.stderr))
    if isinstance(event, OnceEnded) and isinstance(clean, OnceEnded):
        return replace(clean, masked=event.masked or clean.value != event.value)
    return clean


def read_journal(file: Path) -> Iterator[Entry]:
    """Yield a journal's entries, as far as the chain holds. An event of a newer kind is passed over."""
    prev = FIRST
    try:
        stream = file.open("rb")
    except OSError:
        return
    with stream:
        for line in stream:
            body = line.removesuffix(b"\n")
            try:
                raw = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return
            if body == line or not isinstance(raw, dict) or raw.get("prev") != prev:
                return
            prev = digest_of(body)
            try:
                yield msgspec.convert(raw, Entry)
            except (msgspec.ValidationError, UnicodeDecodeError):
                continue


def has_started(file: Path) -> bool:
    """Whether a journal tells that its run started, as its first lines do."""
    return any(isinstance(entry.event, RunStarted) for entry in read_journal(file))
