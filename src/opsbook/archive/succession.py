"""What came after a run that stopped: which one goes on with it, at most one, and which one acknowledged what it left.

Their ids lie in the folder of the run before. Whoever resumes a run holds the file while the new run is claimed. An id
whose run never came to be counts for nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsbook.archive.files import archive_errors, open_or_create, write_whole
from opsbook.archive.layout import DEPTH, RunFolder, is_run_id, run_folder
from opsbook.errors import BusyError, RefusedError

NAME = "resumed-by"
ACKNOWLEDGED = "acknowledged-by"


def successor(folder: RunFolder) -> str | None:
    """Return the id of the run that goes on with this one; None when there is none."""
    return _named(folder, NAME)


def acknowledged_by(folder: RunFolder) -> str | None:
    """Return the id of the run that acknowledged what this one left in the middle; None when there is none."""
    return _named(folder, ACKNOWLEDGED)


def taken_up_by(folder: RunFolder) -> tuple[str, ...]:
    """Return the ids of the runs that took up what this one left: went on with it, or acknowledged it."""
    return tuple(run_id for run_id in (successor(folder), acknowledged_by(folder)) if run_id is not None)


def note_acknowledged(folder: RunFolder, by: str) -> None:
    """Note that a run acknowledged what this one left in the middle. Of a run that is not there nothing is noted.

    Raises:
        ArchiveError: it could not be written.
    """
    if folder.record.is_file():
        with archive_errors(f"write {folder.path / ACKNOWLEDGED}"):
            write_whole(folder.path / ACKNOWLEDGED, f"{by}\n".encode())


def _named(folder: RunFolder, name: str) -> str | None:
    try:
        run_id = (folder.path / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    is_there = is_run_id(run_id) and run_folder(_root(folder), run_id).record.is_file()
    return run_id if is_there else None


@contextmanager
def succeeding(folder: RunFolder, run_id: str) -> Iterator[None]:
    """Make a run the one that goes on with another, if it comes to be within the block.

    Raises:
        BusyError: somebody else resumes it at this moment.
        RefusedError: it was resumed before.
        ArchiveError: its folder cannot be written.
    """
    with archive_errors(f"write {folder.path / NAME}"):
        descriptor = open_or_create(folder.path / NAME)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"run {folder.run_id} is being resumed at this moment") from None
        refuse_resumed(folder)
        with archive_errors(f"write {folder.path / NAME}"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{run_id}\n".encode(), 0)
            os.fsync(descriptor)
        yield
    finally:
        os.close(descriptor)


def refuse_resumed(folder: RunFolder) -> None:
    """Return if no run goes on with this one yet.

    Raises:
        RefusedError: one does: that is the one to be resumed.
    """
    newer = successor(folder)
    if newer is not None:
        raise RefusedError(f"run {folder.run_id} was resumed already, by {newer}", f"opsbook resume {newer}")


def _root(folder: RunFolder) -> Path:
    return folder.path.parents[DEPTH - 1]
