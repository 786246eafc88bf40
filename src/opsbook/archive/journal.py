"""The journal: `events.jsonl`, append-only, one event a line, each line carrying the hash of the one before.

A line is on disk when `append` with `durable` returns; the others follow with it. A reader stops at the first line
that is torn or does not follow from the one before, and keeps what it had.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from opsbook.archive.files import archive_errors, open_or_create, write_all
from opsbook.archive.links import FIRST, digest_of
from opsbook.archive.masking import Tell, write_masked
from opsbook.archive.reading import open_regular
from opsbook.errors import ArchiveError
from opsbook.model.event import CellOutput, Entry, Event, Intent, OnceEnded, RunStarted, SecretUsed, TargetEnded
from opsbook.model.run import Incident, RunRecord
from opsbook.redaction import Redactor

_UNSCANNED = "killed before its last scan"
_NEAR = 4096
"""Characters at the end of one stream and the beginning of the other that are looked at together."""
_TORN = "a secret"
"""What one is called that stood in two lines."""


class Journal:
    """The one writer of one journal: its file is on disk, and empty where it is there already."""

    def __init__(self, file: Path, redactor: Redactor) -> None:
        self._file = file
        self._redactor = redactor
        self._distrusted = False
        """Whether it has lines that were written before all secrets were known."""
        self._encoder = msgspec.json.Encoder()
        self._seq = 0
        self._prev = FIRST
        with archive_errors(f"begin {file}"):
            self._descriptor = open_or_create(file, flags=os.O_APPEND)
            if os.fstat(self._descriptor).st_size:
                os.close(self._descriptor)
                raise FileExistsError(errno.EEXIST, "it has lines already")

    def append(self, events: Sequence[Event], *, durable: bool, are_masked: bool = False) -> list[Entry]:
        """Write events and return them as recorded: numbered, timed and redacted. All or none.

        With `are_masked` what cells say was masked before, as the streams it is part of.

        Raises:
            ArchiveError: they could not be written.
        """
        entries, lines = [], []
        seq, prev = self._seq, self._prev
        for event in events:
            seq += 1
            is_masked = are_masked and isinstance(event, CellOutput)
            clean = event if is_masked else _masked(event, self._redactor)
            entry = Entry(seq=seq, at=datetime.now(UTC), prev=prev, event=clean)
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

    def distrust(self) -> None:
        """Remember that another secret is known from now on: the lines written so far may hold it."""
        self._distrusted = self._seq > 0

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return os.fstat(self._descriptor).st_size

    def mask_again(self, redactor: Redactor, tell: Tell, *, insist: bool) -> None:
        """Mask what was written before all secrets were known, chain the lines anew, and tell where one stood.

        Nobody has been told the journal's head yet: the archive's chain vouches for what it is at the end of the run.
        With `insist` the file is written over where it cannot be replaced, and what stays in clear is told as well;
        without, it is looked through once more at the end: a value may have come in two pieces, one of them later.

        Raises:
            ArchiveError: it could not be masked; without `insist` that may be tried again.
        """
        if not self._distrusted:
            return
        entries = list(read_journal(self._file))
        if len(entries) != self._seq:
            raise ArchiveError(f"cannot mask {self._file}: it is not as it was written")
        clean = _masked_as_streams([entry.event for entry in entries], redactor)
        found, prev, lines = dict[str, Incident](), FIRST, bytearray()
        for entry, event in zip(entries, clean, strict=True):
            if event != entry.event:
                said = redactor.places(self._encoder.encode(entry.event).decode())
                for name in [name for name, _ in said] or [_TORN]:
                    found.setdefault(name, Incident(secret=name, file=self._file.name, line=entry.seq))
            line = self._encoder.encode(replace(entry, event=event, prev=prev))
            prev = digest_of(line)
            lines += line + b"\n"
        if found:
            write_masked(self._file, lines, found.values(), tell, insist=insist)
            with archive_errors(f"open {self._file}"):
                before, self._descriptor = self._descriptor, open_or_create(self._file, flags=os.O_APPEND)
                os.close(before)
            self._prev = prev
        self._distrusted = not insist

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
        out, err = _side_by_side(clean.stdout, clean.stderr, redactor)
        err, out = _side_by_side(err, out, redactor)
        is_masked = event.masked or (out, err) != (event.stdout, event.stderr)
        return replace(clean, stdout=out, stderr=err, masked=is_masked)
    if isinstance(event, OnceEnded) and isinstance(clean, OnceEnded):
        return replace(clean, masked=event.masked or clean.value != event.value)
    return clean


def _side_by_side(first: str, second: str, redactor: Redactor) -> tuple[str, str]:
    """Return two masked texts with what begins at the end of the first and ends in the second masked in both."""
    if not (first and second):
        return first, second
    end, begin = redactor.pieces([first[-_NEAR:], second[:_NEAR]], ("first", "second"))
    return first[:-_NEAR] + end, begin + second[_NEAR:]


def _masked_as_streams(events: Sequence[Event], redactor: Redactor) -> Iterator[Event]:
    """Yield events as they may be kept; what one cell said is looked at as one text, and so is each of its streams."""
    said: dict[str, list[CellOutput]] = {}
    for event in events:
        if isinstance(event, CellOutput):
            said.setdefault(event.cell_id, []).append(event)
    texts = {
        cell_id: iter(redactor.pieces([event.text for event in told], [event.stream for event in told]))
        for cell_id, told in said.items()
    }
    for event in events:
        if isinstance(event, CellOutput):
            yield replace(event, text=next(texts[event.cell_id]))
        else:
            yield _masked(event, redactor)


def read_journal(file: Path) -> Iterator[Entry]:
    """Yield a journal's entries, as far as the chain holds. An event of a newer kind is passed over."""
    try:
        stream = open_regular(file)
    except OSError:
        return
    with stream:
        yield from (entry for _, entry in read_entries(stream) if entry is not None)


def read_entries(lines: Iterable[bytes], prev: str = FIRST) -> Iterator[tuple[str, Entry | None]]:
    """Yield the hash of each line that follows from the one before, and its entry; None for one of a newer kind."""
    for line in lines:
        body = line.removesuffix(b"\n")
        try:
            raw = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if body == line or not isinstance(raw, dict) or raw.get("prev") != prev:
            return
        prev = digest_of(body)
        try:
            yield prev, msgspec.convert(raw, Entry)
        except (msgspec.ValidationError, UnicodeDecodeError):
            yield prev, None


def has_started(file: Path) -> bool:
    """Whether a journal tells that its run started, as its first lines do."""
    return any(isinstance(entry.event, RunStarted) for entry in read_journal(file))


def late_secrets(file: Path) -> tuple[str, ...]:
    """Return the references of the secrets that a run did not know from its start, as its journal tells."""
    events = (entry.event for entry in read_journal(file))
    return tuple(dict.fromkeys(event.reference for event in events if isinstance(event, SecretUsed) and event.late))


def unscanned(file: Path) -> str:
    """Say what a run that was killed, and so never looked through again, may show in clear; empty where nothing."""
    names = ", ".join(late_secrets(file))
    return names and f"{_UNSCANNED}: what it wrote before it knew {names} may stand in its files in clear"


def left_unscanned(record: RunRecord) -> str:
    """Return what a record that was read back says of that; empty where the run was looked through at its end."""
    return next((note for note in record.notes if note.startswith(_UNSCANNED)), "")


def changed_targets(file: Path) -> frozenset[str]:
    """Return the targets that a changing command had left for, as a journal tells."""
    events = (entry.event for entry in read_journal(file))
    return frozenset(event.target for event in events if isinstance(event, Intent))
