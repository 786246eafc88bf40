"""Runs read back: newest first, each with the truth about whether it still runs.

A record that says `running` is believed only while the run's lock is held; else the journal tells how far it got and
the state is `interrupted`. A folder that cannot be read is passed on as damaged, one whose files are somebody else's
alone as private, and neither ever hides the others.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from opsbook.archive.fold import RecordFold, decode_record
from opsbook.archive.journal import read_journal, unscanned
from opsbook.archive.layout import RECORD, RunFolder, is_alive, is_run_id, run_folder
from opsbook.archive.reading import read_regular
from opsbook.errors import UsageError
from opsbook.model.outcome import Outcome
from opsbook.model.run import RunRecord, RunState

LAST = "last"
LAST_FAILED = "last-failed"


_STAMP = len("20261120T113958Z")


class _Beginning(Struct):
    started_at: datetime


class ArchivedRun(Struct, frozen=True, kw_only=True):
    """One run of the archive. `record` is None when it is damaged, or private to somebody else; `problem` says how."""

    folder: RunFolder
    record: RunRecord | None = None
    problem: str = ""
    is_private: bool = False
    """Whether its files are somebody else's alone: it is a good run, for all that is known here."""

    @property
    def unread_as(self) -> str:
        """What it is called where it has no record."""
        return "private" if self.is_private else "damaged"

    @property
    def unread(self) -> str:
        """Say why there is no record."""
        return f"run {self.folder.run_id} is {self.unread_as}: {self.problem}"


def iter_runs(root: Path) -> Iterator[ArchivedRun]:
    """Yield the archive's runs, newest first."""
    return map(read_run, iter_folders(root))


def iter_folders(root: Path) -> Iterator[RunFolder]:
    """Yield the folders of the archive's runs, newest first, a link in the place of one included."""
    for year in filter(_is_number, _folders(root)):
        for month in _folders(year):
            for day in _folders(month):
                named = [run for run in _folders(day) if is_run_id(run.name)]
                for _, runs in groupby(named, key=lambda run: run.name[:_STAMP]):
                    for run in _latest_first(list(runs)):
                        yield RunFolder(run_id=run.name, path=run)


def _latest_first(runs: list[Path]) -> list[Path]:
    """Order runs of one second, which their names do not, by when their records say that they began."""
    return runs if len(runs) == 1 else sorted(runs, key=_began, reverse=True)


def _began(run: Path) -> float:
    try:
        return msgspec.json.decode(read_regular(run / RECORD), type=_Beginning).started_at.timestamp()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # passed on as damaged
        return 0.0


def _is_number(folder: Path) -> bool:
    return folder.name.isdecimal()


def _folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return [place / name for name in sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)]
    except OSError:
        return []


def read_run(folder: RunFolder) -> ArchivedRun:
    """Read one run as it is now. A link in its place is not followed: it leads to what is no run of this archive."""
    try:
        if folder.path.is_symlink():
            return ArchivedRun(folder=folder, problem="its folder is a link")
        record = decode_record(read_regular(folder.record))
    except OSError as error:
        if private := why_private(folder):
            return ArchivedRun(folder=folder, problem=private, is_private=True)
        missing = isinstance(error, FileNotFoundError)
        unbegun = missing and is_unbegun(folder) and not is_alive(folder)
        problem = "it was killed before it began: nothing ran" if unbegun else f"no record: {error.strerror}"
        return ArchivedRun(folder=folder, problem=problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return ArchivedRun(folder=folder, problem=f"damaged record: {error}")
    if record.status is RunState.RUNNING:
        record = _as_it_stands(folder, record)
    return ArchivedRun(folder=folder, record=record)


def why_private(folder: RunFolder) -> str:
    """Say whose alone the files of a run are, where that is somebody else; empty as a rule."""
    try:
        os.close(os.open(folder.record, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
    except PermissionError:
        place = folder.record if os.path.lexists(folder.record) else folder.path
        with suppress(OSError):
            owner = place.lstat().st_uid
            return "" if owner == os.geteuid() else f"its files are {_name_of(owner)}'s alone"
    except OSError:
        pass
    return ""


def _name_of(owner: int) -> str:
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"


def is_unbegun(folder: RunFolder) -> bool:
    """Whether a folder is that of a claim which was never finished: no kernel was started, and nothing was sent."""
    return not folder.record.exists() and not (folder.journal.exists() and folder.journal.stat().st_size)


def _as_it_stands(folder: RunFolder, claimed: RunRecord) -> RunRecord:
    """Fold the journal of a run whose record was never finished."""
    alive = is_alive(folder)
    fold = RecordFold(claimed)
    for entry in read_journal(folder.journal):
        fold.apply(entry)
    if not alive:
        fold.close()
    seen = fold.record(Outcome(status=claimed.status, exit_code=0), fold.last_at)
    if alive:
        return replace(seen, ended_at=None, duration_s=None, exit_code=None)
    seen = replace(seen, notes=(*seen.notes, *filter(None, [unscanned(folder.journal)])))
    if fold.ended is not None:  # it was killed between its last event and its record
        last = fold.ended
        return replace(seen, status=last.status, reason=last.reason, exit_code=last.exit_code)
    why = "its process ended without finishing the record"
    return replace(seen, status=RunState.INTERRUPTED, reason=why, exit_code=None)


def find_run(root: Path, text: str) -> ArchivedRun:
    """Return the run a person means: its id, the unique beginning or end of one, `last`, or `last-failed`.

    Of the last ones those are passed over that are private to somebody else.

    Raises:
        UsageError: no run, or more than one, is meant.
    """
    if is_run_id(text) and run_folder(root, text).path.is_dir():
        return read_run(run_folder(root, text))
    if text in {LAST, LAST_FAILED}:
        for run in iter_runs(root):
            if (text == LAST and not run.is_private) or (run.record is not None and _has_failed(run.record)):
                return run
        if text == LAST:
            raise UsageError(f"there is no run yet in {root}", "--archive looks elsewhere")
        raise UsageError(f"no run has failed in {root}", "opsbook runs lists them; --archive looks elsewhere")
    ids = [folder for folder in iter_folders(root) if _means(folder.run_id, text)]
    if not ids:
        raise UsageError(f"no run {text!r} in {root}", "opsbook runs lists them; 'last' is the newest")
    if len(ids) > 1:
        raise UsageError(f"{len(ids)} runs match {text!r}", f"among them {ids[0].run_id} and {ids[1].run_id}")
    return read_run(ids[0])


def _means(run_id: str, text: str) -> bool:
    return bool(text) and (run_id.startswith(text) or run_id.endswith(f"-{text}"))


def _has_failed(record: RunRecord) -> bool:
    """Whether a run that was meant to do something did not: a dry run was not."""
    return record.status not in _FINE and not record.checking


_FINE = {RunState.SUCCEEDED, RunState.RUNNING}
