"""Taking runs away, so that it can be stopped anywhere: first the chain has a line, then the folder moves and goes.

A run moves out of its place in one step, into `.trash/` beside the years, where nobody looks for runs; what a pruning
that was stopped left there, the next one deletes. Its lock is held meanwhile, and so is the file by which it would be
resumed: a run that came to life, or was resumed, since it was judged is left alone. No link is followed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct

from opsbook.archive.chain import ChainKind, Heads, append_line
from opsbook.archive.files import archive_errors, is_shared, lock, make_folder, open_or_create, refuse_link
from opsbook.archive.layout import DEPTH, LOCK, RunFolder, run_folder
from opsbook.archive.links import digest_of
from opsbook.archive.reading import read_regular
from opsbook.archive.retention import Candidate
from opsbook.archive.succession import NAME as RESUMED_BY
from opsbook.archive.succession import taken_up_by
from opsbook.errors import BusyError

TRASH = ".trash"
_GLANCE_S = 2.0
"""Seconds a lock may be held by somebody who only looks at it."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Pruned(Struct, frozen=True, kw_only=True):
    """What became of one run that was to be taken away."""

    run_id: str
    problem: str = ""
    """Why it is still there, in its place or in the trash; empty when it is gone."""


def prune_runs(
    root: Path, runs: Sequence[Candidate], *, by: str, watch: Callable[[int], None] | None = None
) -> tuple[Pruned, ...]:
    """Take runs away, in the order given: one before those that took up what it left. `watch` is told how many went.

    What an earlier pruning left in the trash goes, too.

    Raises:
        BusyError: somebody else is pruning this archive.
        ArchiveError: the chain cannot be written: nothing more was taken away.
    """
    if not runs and not (root / TRASH).exists():
        return ()
    with _trash(root) as trash:
        left = ((name, _delete(name, trash)) for name in set(os.listdir(trash)) - {LOCK})  # noqa: PTH208  a descriptor
        done = [Pruned(run_id=name.rpartition(".")[0] or name, problem=problem) for name, problem in left if problem]
        for number, run in enumerate(runs):
            if watch is not None:
                watch(number)
            done.append(Pruned(run_id=run.run_id, problem=_prune(root, run, trash, by=by)))
    return tuple(done)


@contextmanager
def _trash(root: Path) -> Iterator[int]:
    """Open the trash, for as long as nobody else prunes."""
    place = root / TRASH
    with ExitStack() as stack:
        with archive_errors(f"prune {root}"):
            make_folder(place, shared=is_shared(root))
            refuse_link(place)
            held = open_or_create(place / LOCK)
            stack.callback(os.close, held)
            if not lock(held, fcntl.LOCK_EX, seconds=_GLANCE_S):
                raise BusyError(f"somebody else is pruning {root}")
            trash = os.open(place, _FOLDER)
            stack.callback(os.close, trash)
        yield trash


def _prune(root: Path, run: Candidate, trash: int, *, by: str) -> str:
    """Take one run away; return what kept it."""
    folder = run_folder(root, run.run_id)
    with ExitStack() as stack:
        try:
            day = _open_day(root, folder, stack)
            if not _hold(folder, stack):
                return "it is running, or is being resumed"
            if taken_up_by(folder) != run.taken_up_by:
                return "another run took up what it left meanwhile"
            heads = Heads(record=digest_of(read_regular(folder.record)))
        except OSError as error:
            return f"{error.strerror or error}"
        append_line(root, run_id=folder.run_id, kind=ChainKind.PRUNED, heads=heads, by=by)
        name = f"{folder.run_id}.{secrets.token_hex(4)}"
        try:
            os.rename(folder.run_id, name, src_dir_fd=day, dst_dir_fd=trash)
            os.fsync(day)
            os.fsync(trash)
        except OSError as error:
            return f"{error.strerror or error}"
    problem = _delete(name, trash)
    _remove_empty(root, folder)
    return problem


def _open_day(root: Path, folder: RunFolder, stack: ExitStack) -> int:
    """Open the folder of a run's day; no folder of the archive on the way may be a link."""
    place = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, place)
    for name in folder.path.parent.relative_to(root).parts:
        place = os.open(name, _FOLDER, dir_fd=place)
        stack.callback(os.close, place)
    return place


def _hold(folder: RunFolder, stack: ExitStack) -> bool:
    """Make sure that a run is not alive, and that nobody resumes it, until the stack is closed; whether that is so."""
    for name in (LOCK, RESUMED_BY):
        descriptor = open_or_create(folder.path / name, flags=os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        if not lock(descriptor, fcntl.LOCK_EX, seconds=_GLANCE_S):
            return False
    return True


def _delete(name: str, trash: int) -> str:
    """Delete what lies in the trash; return what kept it there."""
    try:
        if stat.S_ISDIR(os.lstat(name, dir_fd=trash).st_mode):
            shutil.rmtree(name, dir_fd=trash)
        else:
            os.unlink(name, dir_fd=trash)
    except OSError as error:
        return f"it is in {TRASH}/{name}, and cannot be deleted: {error.strerror or error}"
    return ""


def _remove_empty(root: Path, folder: RunFolder) -> None:
    """Remove the folders of the run's day, month and year that are empty now; one of today may be about to be used."""
    today = datetime.now(UTC)
    newest = {root / f"{today:%Y/%m/%d}", root / f"{today - timedelta(days=1):%Y/%m/%d}"}
    spared = {place for day in newest for place in (day, *day.parents)}
    with suppress(OSError):
        for place in folder.path.parents[: DEPTH - 1]:
            if place in spared:
                return
            place.rmdir()
