"""The journal: `events.jsonl`, append-only, one event a line, each line carrying the hash of the one before.

A line is on disk when `append` with `durable` returns; the others follow with it. A reader stops at the first line
that is torn or does not follow from the one before, and keeps what it had.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from opsbook.archive.files import archive_errors, create, sync_folder
from opsbook.model.event import Entry, Event
from opsbook.redaction import Redactor

FIRST = "0" * 64


class Journal:
    """The one writer of one journal."""

    def __init__(self, file: Path, redactor: Redactor) -> None:
        self._redactor = redactor
        self._encoder = msgspec.json.Encoder()
        self._seq = 0
        self._prev = FIRST
        with archive_errors(f"create {file}"):
            self._descriptor = create(file, flags=os.O_APPEND)
            sync_folder(file.parent)  # an intent on disk is worth nothing in a file that is not

    def append(self, events: Sequence[Event], *, durable: bool) -> list[Entry]:
        """Write events and return them as recorded: numbered, timed and redacted. All or none.

        Raises:
            ArchiveError: they could not be written.
        """
        entries, lines = [], []
        seq, prev = self._seq, self._prev
        for event in events:
            seq += 1
            entry = Entry(seq=seq, at=datetime.now(UTC), prev=prev, event=self._redactor.clean(event))
            line = self._encoder.encode(entry)
            prev = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
            entries.append(entry)
        with archive_errors("append to the journal"):
            self._write(b"".join(lines))
            if durable:
                os.fsync(self._descriptor)
        self._seq, self._prev = seq, prev
        return entries

    def _write(self, data: bytes) -> None:
        """Write all of it, or leave the file as it was."""
        before = os.fstat(self._descriptor).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def close(self) -> None:
        """Put everything on disk and close."""
        with archive_errors("close the journal"):
            os.fsync(self._descriptor)
            os.close(self._descriptor)


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
            prev = hashlib.sha256(body).hexdigest()
            try:
                yield msgspec.convert(raw, Entry)
            except (msgspec.ValidationError, UnicodeDecodeError):
                continue
