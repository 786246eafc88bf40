"""Where a run's files lie, and the claim that makes a run id one's own.

    archive/2026/11/20/20261120T113958Z-patch-7f3a2c/
        patch--20261120T113958Z-7f3a2c.ipynb    the executed copy
        runbook.ipynb                           the runbook as it was, byte for byte
        run.json  events.jsonl  lock  hosts/NAME.log

Names are generated here and nowhere else. The claim is the making of the folder: only one can succeed. A run is alive
while its lock file is held, whatever its record says; the system frees the lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from opsbook.archive.files import archive_errors, create, is_shared, make_folder, new_folder, refuse_link, sync_folder
from opsbook.errors import ArchiveError, BusyError
from opsbook.locks.lock_file import is_held

RECORD = "run.json"
JOURNAL = "events.jsonl"
SOURCE = "runbook.ipynb"
LOCK = "lock"
RESERVE = ".reserve"
HOSTS = "hosts"
DEPTH = 4
"""Folders above a run's that may be new with it: day, month, year, and the archive itself."""
_RUN_ID = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}Z-[a-z0-9][a-z0-9._-]{0,63}-[0-9a-f]{6}")


class RunFolder(Struct, frozen=True, kw_only=True):
    """The folder of one run."""

    run_id: str
    path: Path

    @property
    def record(self) -> Path:
        """The record."""
        return self.path / RECORD

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / JOURNAL

    @property
    def source(self) -> Path:
        """The runbook's own bytes: those whose sha256 is in the record."""
        return self.path / SOURCE

    @property
    def reserve(self) -> Path:
        """Room kept for the end of the run, while it lasts."""
        return self.path / RESERVE

    @property
    def copy(self) -> Path:
        """The executed copy; its name is unique among all runs."""
        stamp, _, rest = self.run_id.partition("-")
        name, _, tail = rest.rpartition("-")
        return self.path / f"{name}--{stamp}-{tail}.ipynb"

    def host_log(self, target: str) -> Path:
        """The log of what a target said."""
        slug = _slug(target, 100)
        # two names may come to the same file name; a name that had to be changed carries a sign of its own
        mark = "" if slug == target else f"-{hashlib.sha256(target.encode('utf-8', 'replace')).hexdigest()[:8]}"
        return self.path / HOSTS / f"{slug}{mark}.log"


def new_run_id(name: str, now: datetime) -> str:
    """Return a run id: sortable by time, readable, unique.

    >>> new_run_id("Patch Day", datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC))[:27]
    '20261120T113958Z-patch-day-'
    """
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{_slug(name, 64)}-{secrets.token_hex(3)}"


def _slug(text: str, longest: int) -> str:
    """Return a name that is safe in any path: lower case letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:longest].rstrip("-._") or "run"


def is_run_id(text: str) -> bool:
    """Whether a text has the form of a run id."""
    return bool(_RUN_ID.fullmatch(text))


def run_folder(root: Path, run_id: str) -> RunFolder:
    """Return where a run's files lie."""
    match = _RUN_ID.fullmatch(run_id)
    if not match:
        raise ValueError(run_id)
    return RunFolder(run_id=run_id, path=root / match[1] / match[2] / match[3] / run_id)


class Claim:
    """A run id that is this process's own, for as long as the process lives."""

    def __init__(self, folder: RunFolder, *, shared: bool = False) -> None:
        self.folder = folder
        with archive_errors(f"create {folder.path}"):
            make_folder(folder.path.parent, shared=shared or is_shared(folder.path.parents[DEPTH - 1]))
            for place in folder.path.parents[: DEPTH - 1]:
                refuse_link(place)  # the archive itself may be one
            try:
                new_folder(folder.path, shared=shared)
            except FileExistsError:
                raise BusyError(f"run {folder.run_id} exists already") from None
            try:
                new_folder(folder.path / HOSTS, shared=shared)
                self._lock = create(folder.path / LOCK)
                fcntl.flock(self._lock, fcntl.LOCK_EX)  # a reader may look at it for a moment
                for place in (folder.path, *list(folder.path.parents)[:DEPTH]):
                    sync_folder(place)
                self._place = _identity(folder.path)
            except OSError:
                shutil.rmtree(folder.path, ignore_errors=True)
                raise

    def check_place(self) -> None:
        """Make sure that the run's folder is still the one that was made.

        Raises:
            ArchiveError: it was deleted, moved, or replaced by another or a link.
        """
        with archive_errors(f"find {self.folder.path}"):
            if _identity(self.folder.path) != self._place:
                raise ArchiveError(f"{self.folder.path} is not the folder this run made", "it was moved or replaced")

    def abandon(self) -> None:
        """Take the claim back: nothing ran."""
        shutil.rmtree(self.folder.path, ignore_errors=True)

    def release(self) -> None:
        """Let go of the lock: the run is over."""
        os.close(self._lock)


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from any other in its place; a link is not what it leads to."""
    status = folder.lstat()
    return status.st_dev, status.st_ino


def is_alive(folder: RunFolder) -> bool:
    """Whether the process that claimed a run still lives."""
    return is_held(folder.path / LOCK)
