"""Runs handed on to other people's tools: laid out as each of them wants it, with names that never collide.

A folder that was exported to before is brought up to date; one that holds anything else is left alone. Every file is
replaced as a whole, and holds what the archive's copy holds, which was masked there. What was exported stays when its
run is pruned.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from opsbook.archive.catalogue import head_as_post, name_in_catalogue
from opsbook.archive.files import archive_errors, write_whole
from opsbook.archive.history import ArchivedRun, iter_runs
from opsbook.archive.journal import left_unscanned
from opsbook.archive.layout import RunFolder, is_alive
from opsbook.archive.lc_wrapper import write_lc_logs
from opsbook.archive.query import Between
from opsbook.archive.reading import read_regular
from opsbook.errors import UsageError
from opsbook.model.run import RunRecord

MARK = ".opsbook-export.json"
"""The file by which a folder is known to be ours; hidden, as these tools pass over what is."""
LARGEST = 1024**3
"""Bytes of a copy that is handed on."""
_READ_WRITE = 0o666


class Layout(StrEnum):
    """Whose tools are to find the runs."""

    NBSEARCH = "nbsearch"
    """Executed copies by day, byte for byte."""
    COMMUTER = "commuter"
    """The same, each with what Commuter's discovery page shows."""
    KNOWLEDGE_REPO = "knowledge-repo"
    """The same, each with the header of a post."""
    LC_WRAPPER = "lc-wrapper"
    """What cells said, as the logs of NII's wrapper kernel, and copies beside them whose cells name their logs."""


class _Mark(Struct, frozen=True, kw_only=True):
    """What the mark says."""

    layout: str
    version: int = 1


class _Cell(Struct, frozen=True, kw_only=True):
    """What every cell has."""

    cell_type: str
    source: str | list[str]


class _Notebook(Struct, frozen=True, kw_only=True):
    """What every notebook has."""

    cells: list[_Cell]
    metadata: dict[str, Any]


class Left(Struct, frozen=True, kw_only=True):
    """A run that was not handed on, though it has ended."""

    run_id: str
    why: str


class Exported(Struct, frozen=True, kw_only=True):
    """What an export came to."""

    layout: Layout
    folder: str
    written: int
    unchanged: int
    left: tuple[Left, ...]


def export_runs(
    root: Path, folder: Path, layout: Layout, *, between: Between, watch: Callable[[int], None] | None = None
) -> Exported:
    """Hand on the runs that began between two points of time and have ended; `watch` is told how many were looked at.

    Raises:
        UsageError: the folder is not ours, or lies in the archive.
        ArchiveError: it cannot be written.
    """
    claim_folder(root, folder, layout.value)
    written, unchanged, left = 0, 0, []
    for number, run in enumerate(iter_runs(root)):
        if watch is not None:
            watch(number)
        if not _is_meant(run, between):
            continue
        try:
            if _hand_on(run, folder.absolute(), layout):
                written += 1
            else:
                unchanged += 1
        except (OSError, ValueError, RecursionError) as error:
            left.append(Left(run_id=run.folder.run_id, why=_why(run, error)))
    return Exported(layout=layout, folder=str(folder), written=written, unchanged=unchanged, left=tuple(left))


def claim_folder(root: Path, folder: Path, layout: str) -> None:
    """Make a folder ours, or make sure that it is.

    Raises:
        UsageError: it holds something else, or lies in the archive.
        ArchiveError: it cannot be made.
    """
    if folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{folder} lies in the archive itself", "name a folder outside of it")
    mark = folder / MARK
    with archive_errors(f"write {folder}"):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
        held = _read_mark(mark)
        if held is None and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty, and was not exported to before", "name an empty folder")
        if held is not None and held.layout != layout:
            raise UsageError(f"{folder} was exported to for {held.layout}", "one folder for each")
        if held is None:
            write_public(mark, msgspec.json.encode(_Mark(layout=layout)) + b"\n", like=folder)


def write_public(file: Path, data: bytes, *, like: Path) -> None:
    """Replace a file as a whole, open to whoever the export's own folder is open to.

    Raises:
        ArchiveError: it could not be written; the file is as it was.
    """
    mode = stat.S_IMODE(like.stat().st_mode)
    missing = [place for place in file.parents if place.is_relative_to(like) and not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        place.chmod(mode)
    write_whole(file, data)
    file.chmod(mode & _READ_WRITE)


def _read_mark(mark: Path) -> _Mark | None:
    try:
        return msgspec.json.decode(read_regular(mark), type=_Mark)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _is_meant(run: ArchivedRun, between: Between) -> bool:
    """Whether a run has ended, and began when it should have."""
    if run.record is None:
        return True  # it is told that it cannot be handed on
    began = run.record.started_at.timestamp()
    early = between.since is not None and began < between.since
    late = between.until is not None and began >= between.until
    return not (early or late or is_alive(run.folder))


def _hand_on(run: ArchivedRun, folder: Path, layout: Layout) -> bool:
    """Write what a layout wants of one run where it is not there yet; whether that had to be.

    Raises:
        OSError, ValueError, RecursionError: the copy is none.
        ArchiveError: it could not be written.
    """
    if run.record is None or left_unscanned(run.record):
        raise ValueError(run.problem)
    if layout is Layout.LC_WRAPPER:
        return bool(write_lc_logs(run, folder, lambda file, data: write_public(file, data, like=folder)))
    before = run.folder.copy.lstat()
    file = folder / _day_of(run.folder) / run.folder.copy.name
    if file.is_file() and file.stat().st_mtime_ns == before.st_mtime_ns:
        return False
    data = _laid_out(read_regular(run.folder.copy, most=LARGEST), run.record, layout)
    with archive_errors(f"write {file}"):
        if file.is_file() and file.read_bytes() == data:
            return False
        write_public(file, data, like=folder)
        os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))
    return True


def _day_of(folder: RunFolder) -> Path:
    return folder.path.parent.relative_to(folder.path.parents[3])


def _laid_out(data: bytes, record: RunRecord, layout: Layout) -> bytes:
    """Return the bytes of a copy as a layout wants them."""
    document: dict[str, Any] = json.loads(data)
    msgspec.convert(document, _Notebook)
    if layout is Layout.NBSEARCH:
        return data
    if layout is Layout.COMMUTER:
        name_in_catalogue(document, record)
    else:
        head_as_post(document, record)
    text = json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True)
    return text.encode("utf-8", "replace") + b"\n"


def _why(run: ArchivedRun, error: Exception) -> str:
    """Say why a run was not handed on."""
    if run.record is None:
        return f"{run.unread_as}: {run.problem}"
    if unscanned := left_unscanned(run.record):
        return unscanned
    if isinstance(error, FileNotFoundError):
        return "it has no executed copy"
    if isinstance(error, OSError):
        return f"its executed copy cannot be read: {error.strerror or error}"
    return "its executed copy is no notebook"
