"""Ids that callers give to runs (`--run-id`): each is claimed by at most one run of an archive (SEMANTICS 15).

`ids/HASH.json` names the run an id belongs to. The file is locked from before it is read until the run is claimed and
its beginning is on disk, so of any number who come at once one runs. An id whose run never started is free again: the
process of that run is gone, and no journal of it tells that it started, so that no kernel was started and nothing sent;
so is that of a run that changed nothing because others held what it needed (exit code 75).
A run that did start and was taken out of the archive keeps its id: the chain remembers it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from opsbook.archive.chain import was_claimed
from opsbook.archive.files import archive_errors, is_shared, lock, make_folder, open_or_create, refuse_link, write_all
from opsbook.archive.history import ArchivedRun, read_run
from opsbook.archive.journal import has_started
from opsbook.archive.layout import is_alive, is_run_id, run_folder
from opsbook.archive.links import digest_of
from opsbook.errors import ArchiveError, BusyError, ExitCode, UsageError

IDS = "ids"
LONGEST = 200
"""Characters an id may have."""
PATIENCE_S = 10.0
"""Seconds to wait for another process that is claiming the same id."""


class _Owner(Struct, frozen=True, kw_only=True):
    """What the file of an id says."""

    id: str
    run_id: str
    request: str
    """The hash of what was asked for: the same id for anything else is a mistake."""


class Identity:
    """One id, locked by this process until it is let go."""

    def __init__(self, root: Path, text: str, *, shared: bool) -> None:
        """Lock the id.

        Raises:
            UsageError: the text cannot be an id.
            BusyError: another process is claiming it, and does not come to an end.
            ArchiveError: its file cannot be made.
        """
        if not text.strip() or len(text) > LONGEST or not text.isprintable():
            hint = f"it has up to {LONGEST} characters, in one line, and is not empty"
            raise UsageError(f"--run-id {text[:LONGEST]!r} cannot be an id", hint)
        self._root = root
        self._text = text
        with archive_errors(f"claim a run id in {root}"):
            make_folder(root / IDS, shared=shared or is_shared(root))
            refuse_link(root / IDS)
            self._descriptor = open_or_create(root / IDS / f"{digest_of(text.encode())[:32]}.json")
            if not lock(self._descriptor, fcntl.LOCK_EX, seconds=PATIENCE_S):
                self.release()
                raise BusyError(f"another process is claiming the run id {text!r}")

    def release(self) -> None:
        """Let the id go. Harmless when that was done."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def first_run(self, request: bytes) -> ArchivedRun | None:
        """Return the run that has this id; None when it is free.

        Raises:
            UsageError: that run was asked for something else.
            ArchiveError: what the archive knows of it cannot be read.
        """
        owner = self._owner()
        if owner is None:
            return None
        folder = run_folder(self._root, owner.run_id)
        if not folder.journal.exists() and was_claimed(self._root, owner.run_id):
            gone = f"run {owner.run_id} had the id {self._text!r}, and its journal is in the archive no more"
            raise ArchiveError(gone, "give another --run-id")
        if not is_alive(folder) and not has_started(folder.journal):
            return None
        first = read_run(folder)
        if first.record is not None and first.record.exit_code == ExitCode.BUSY:
            return None  # it was told to come again later: nothing was changed
        if owner.request != digest_of(request):
            raise UsageError(
                f"--run-id {self._text!r} belongs to {owner.run_id}, which was asked for something else",
                "another runbook, parameter, -t or --check is another run: give it another id",
            )
        return first

    def give_to(self, run_id: str, request: bytes) -> None:
        """Write down whose id this is from now on.

        Raises:
            ArchiveError: it could not be written.
        """
        owner = _Owner(id=self._text, run_id=run_id, request=digest_of(request))
        with archive_errors("claim the run id"):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            write_all(self._descriptor, msgspec.json.encode(owner) + b"\n")
            os.fsync(self._descriptor)

    def _owner(self) -> _Owner | None:
        """Return what the file says; None when nobody has finished a line in it, so that nobody can have started."""
        with archive_errors("read the run id's claim"):
            data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if not data.endswith(b"\n"):
            return None
        try:
            owner = msgspec.json.decode(data, type=_Owner)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            owner = None
        if owner is None or owner.id != self._text or not is_run_id(owner.run_id):
            raise ArchiveError(f"the claim of the run id {self._text!r} in {self._root / IDS} is damaged")
        return owner
