"""Which run goes on with a run that stopped: its id lies in the folder of the one before, and there is at most one.

Whoever resumes a run holds the file while the new run is claimed. An id whose run never came to be counts for nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsbook.archive.files import archive_errors, open_or_create
from opsbook.archive.layout import DEPTH, RunFolder, is_run_id, run_folder
from opsbook.errors import BusyError, RefusedError

NAME = "resumed-by"


def successor(folder: RunFolder) -> str | None:
    """Return the id of the run that goes on with this one; None when there is none."""
    try:
        run_id = (folder.path / NAME).read_text(encoding="ascii", errors="replace").strip()
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
