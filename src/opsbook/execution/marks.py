"""What runs that are over have left in the middle: the names that still stand in the locks they held (SEMANTICS 23).

A name is a mark only where that run's own record and journal say so: it was stopped, lost or timed out, and a changing
command had left for the target. A run that can no longer be read has left everything it names. Takes no lock but to
clear a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from opsbook.archive.history import read_run
from opsbook.archive.journal import changed_targets
from opsbook.archive.layout import is_run_id, run_folder
from opsbook.archive.succession import note_acknowledged, successor
from opsbook.errors import ArchiveError, RefusedError
from opsbook.locks.folder import LockFolder
from opsbook.locks.lock_file import Holder, is_held
from opsbook.locks.wait import GRACE_S, Wait
from opsbook.model.lock import LockState, Standing
from opsbook.model.outcome import name_ranges
from opsbook.model.run import RunState

ORDERLY = frozenset({RunState.SUCCEEDED, RunState.FAILED})
"""A run that ended like this leaves nothing in the middle, whatever it was that it found there."""


def leaves(status: RunState, *, changed: bool, inherited: bool) -> bool:
    """Whether a run that ended like this has left a target in the middle; `inherited` where it was so before."""
    if status in ORDERLY:
        return False
    return inherited or (changed and status is not RunState.REFUSED)


class Marks:
    """Judges marks, each run's record and journal read once. A run may take its own ancestors'."""

    def __init__(self, ancestors: frozenset[str] = frozenset()) -> None:
        self._ancestors = ancestors
        self._known: dict[tuple[str, str], _Left | None] = {}

    def problem(self, holder: Holder, names: Iterable[str]) -> str:
        """Say why the targets whose lock names this holder, and is not held, are not to be changed; else nothing."""
        if not self._ancestors.isdisjoint({holder.run_id, holder.inherited}) or not self.is_mark(holder):
            return ""
        listed, run = list(names), holder.run_id
        verb = "was" if len(listed) == 1 else "were"
        left = f"{name_ranges(listed)} {verb} left in the middle by run {run}"
        return f"{left}{self._way_out(holder)} --acknowledge {run}"

    def _way_out(self, holder: Holder) -> str:
        """Say what there is besides acknowledging it."""
        if self._read(holder) is None:
            return f", which cannot be read in {holder.archive} any more;"
        newer = successor(run_folder(Path(holder.archive), holder.run_id))
        if newer is None:
            return "; resume it, or"
        return f"; run {newer} went on with it and did not settle that;"

    def is_mark(self, holder: Holder) -> bool:
        """Whether the run that a free lock names has left that target in the middle."""
        left = self._read(holder)
        if left is None:
            return True
        changed = not left.changed.isdisjoint(holder.targets)
        return leaves(left.status, changed=changed, inherited=bool(holder.inherited))

    def _read(self, holder: Holder) -> _Left | None:
        """Return how a run ended and what it changed; None where that cannot be read."""
        key = holder.archive, holder.run_id
        if key not in self._known:
            self._known[key] = _read_run(*key)
        return self._known[key]


class _Left:
    """How a run ended, and the targets that a changing command had left for."""

    def __init__(self, status: RunState, changed: frozenset[str]) -> None:
        self.status = status
        self.changed = changed


def _read_run(archive: str, run_id: str) -> _Left | None:
    if not is_run_id(run_id):
        return None
    folder = run_folder(Path(archive), run_id)
    record = read_run(folder).record
    if record is None:
        return None
    if record.status in ORDERLY:
        return _Left(record.status, frozenset())
    return _Left(record.status, changed_targets(folder.journal))


def refuse_marked(folder: LockFolder, addresses: Mapping[str, str], marks: Marks) -> None:
    """Refuse to change targets, given with their addresses, that a run has left in the middle. Takes no lock.

    Raises:
        RefusedError: one of them was.
    """
    by_run: dict[str, tuple[Holder, list[str]]] = {}
    for name, address in addresses.items():
        holder = folder.look(address)
        if holder is not None and not folder.is_held(address) and marks.problem(holder, [name]):
            by_run.setdefault(holder.run_id, (holder, []))[1].append(name)
    for holder, names in by_run.values():
        raise RefusedError(marks.problem(holder, names), "opsbook locks lists what was left in the middle")


def standing(folder: LockFolder) -> tuple[Standing, ...]:
    """Return the locks that are held, and those of targets that were left in the middle. Takes none."""
    marks, found = Marks(), []
    for lock, holder in folder.named():
        held = is_held(lock.file)
        if held or (holder.targets and marks.is_mark(holder)):
            known = {name: getattr(holder, name) for name in Standing.__struct_fields__ if name != "state"}
            found.append(Standing(state=LockState.HELD if held else LockState.LEFT, **known))
    return tuple(sorted(found, key=lambda one: (one.state, one.run_id, one.targets)))


def clear_marks(folder: LockFolder, run_ids: frozenset[str]) -> tuple[str, ...]:
    """Take back what these runs have marked; return the names they gave those targets."""
    cleared: list[str] = []
    for lock, holder in folder.named():
        if run_ids.isdisjoint({holder.run_id, holder.inherited}) or not lock.take(Wait(GRACE_S)):
            continue
        try:
            if lock.read() == holder:
                lock.write(None)
                cleared += holder.targets
        finally:
            lock.close()
    return tuple(cleared)


def acknowledge(folder: LockFolder, run_id: str, archive: Path, *, by: str) -> tuple[str, ...]:
    """Take back what a run has marked, noted in its folder as far as that can be written; return its targets' names.

    The run is looked for in an archive, and in those its marks name.
    """
    places = {archive, *(Path(holder.archive) for _, holder in folder.named() if holder.run_id == run_id)}
    for place in places if is_run_id(run_id) else ():
        with suppress(ArchiveError):  # it may be somebody else's, or gone
            note_acknowledged(run_folder(place, run_id), by)
    return clear_marks(folder, frozenset({run_id}))


def ancestors(archive: Path, run_id: str | None) -> frozenset[str]:
    """Return a run, the run that one resumed, and so on."""
    found: set[str] = set()
    while run_id is not None and run_id not in found:
        found.add(run_id)
        record = read_run(run_folder(archive, run_id)).record if is_run_id(run_id) else None
        run_id = record.resumed_from if record is not None else None
    return frozenset(found)
