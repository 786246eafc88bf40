"""The chain of heads: `chain.jsonl` in the archive's root, a line for each run that began, ended, or was pruned.

A line carries the hashes of the run's files as they were then, and the hash of the line before, so that a run that is
changed, rewritten or taken away later shows. Lines are appended one at a time, whoever runs; what a writer that died
left of a line is dropped by the next one, which says so in its own.
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from opsbook.archive.files import archive_errors, lock, open_or_create, write_all
from opsbook.archive.links import FIRST, digest_of
from opsbook.errors import ArchiveError
from opsbook.model.vocabulary import OpenVocabulary

CHAIN = "chain.jsonl"
LOCK_S = 60.0
"""Seconds to wait for others that append at the same time."""
_BLOCK = 4096


class ChainKind(OpenVocabulary):
    """What a line tells of its run."""

    CLAIMED = "claimed"
    ENDED = "ended"
    PRUNED = "pruned"
    """It is about to be taken away, as retention has it."""
    UNKNOWN = "unknown"
    """Written by a newer opsbook."""


class Heads(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """sha256 of what a run's folder holds; empty for a file that is not there."""

    record: str
    runbook: str = ""
    journal: str = ""
    """The hash of its last line, which stands for all before."""
    copy: str = ""


class ChainLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the chain."""

    seq: int
    at: datetime
    run_id: str
    kind: ChainKind
    heads: Heads
    prev: str
    """sha256 of the line before, without its newline; 64 zeros on the first."""
    replaces: int = 0
    """The number of an earlier line of the same run, whose files could not all be put in their places."""
    dropped: int = 0
    """Bytes of a torn line that stood behind the line before and were dropped."""
    by: str = ""
    """Who pruned it."""


def append_line(
    root: Path, *, run_id: str, kind: ChainKind, heads: Heads, replaces: int = 0, by: str = ""
) -> ChainLine:
    """Append a line, and return it when it is on disk.

    Raises:
        ArchiveError: it could not be written; the chain is as it was.
    """
    file = root / CHAIN
    with archive_errors(f"append to {file}"):
        descriptor = open_or_create(file, flags=os.O_APPEND)
        try:
            _lock(descriptor, file, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            last, torn = _last_line(descriptor, size)
            if torn:
                os.ftruncate(descriptor, size - torn)
            line = ChainLine(
                seq=_seq(last, descriptor) + 1,
                at=datetime.now(UTC),
                run_id=run_id,
                kind=kind,
                heads=heads,
                prev=digest_of(last) if last else FIRST,
                replaces=replaces,
                dropped=torn,
                by=by,
            )
            _write(descriptor, msgspec.json.encode(line) + b"\n", keep=size - torn)
        finally:
            os.close(descriptor)
    return line


def read_chain(root: Path) -> bytes:
    """Return the chain's bytes, no line of it half written by somebody who lives; empty when there is none.

    Raises:
        ArchiveError: it cannot be read.
    """
    file = root / CHAIN
    with archive_errors(f"read {file}"):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return b""
        with os.fdopen(descriptor, "rb") as stream:
            _lock(descriptor, file, fcntl.LOCK_SH)
            return stream.read()


def was_claimed(root: Path, run_id: str) -> bool:
    """Whether the chain knows a run."""
    mark = msgspec.json.encode(run_id)
    return any(mark in line for line in read_chain(root).splitlines())


def _lock(descriptor: int, file: Path, how: int) -> None:
    """Hold the chain until the descriptor is closed or the lock let go."""
    if not lock(descriptor, how, seconds=LOCK_S):
        raise ArchiveError(f"{file} was held by another process for {LOCK_S:g} s")


def _last_line(descriptor: int, size: int) -> tuple[bytes, int]:
    """Return the last whole line, and how many bytes stand behind it."""
    taken = _BLOCK
    while True:
        start = max(0, size - taken)
        tail = os.pread(descriptor, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        before = whole.rfind(b"\n", 0, -1)
        if start == 0 or before >= 0:
            return whole[before + 1 : -1], len(tail) - len(whole)
        taken *= 4


def _seq(last: bytes, descriptor: int) -> int:
    """Return the number of the last line: its own, or where it does not say, its place."""
    if not last:
        return 0
    try:
        return msgspec.json.decode(last, type=ChainLine).seq
    except (msgspec.DecodeError, UnicodeDecodeError):
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).count(b"\n")


def _write(descriptor: int, data: bytes, *, keep: int) -> None:
    """Write all of it, or leave the file with the bytes to keep."""
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, keep)
        raise
