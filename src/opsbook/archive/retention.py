"""Which runs may be taken away and which stay: by their age, unless somebody still needs them.

A run stays while it runs, while somebody holds it (a lock that names it, a note about it), while what it left in the
middle of its targets is not settled, and while a run that stays needs it: one that goes on from it, one it was resumed
or acknowledged by. What cannot be read, or is not what its run left, is evidence and stays. Takes nothing away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from opsbook.archive.history import ArchivedRun, iter_runs
from opsbook.archive.journal import changed_targets
from opsbook.archive.layout import DEPTH, RunFolder, is_alive
from opsbook.archive.succession import taken_up_by
from opsbook.archive.verify import Verdict, run_verifier
from opsbook.model.outcome import name_ranges
from opsbook.model.run import SCHEMA, RunRecord, RunState

_CUT_SHORT = {RunState.INTERRUPTED, RunState.TIMED_OUT, RunState.LOST, RunState.UNKNOWN}
"""How a run ends that may have left targets in the middle."""


class Keep(Struct, frozen=True, kw_only=True):
    """How long runs are kept after their end, in seconds; None for ever."""

    succeeded_s: float | None = None
    failed_s: float | None = None
    """Of those that did not succeed, however they ended."""


class Candidate(Struct, frozen=True, kw_only=True):
    """One run that is older than it would have to be."""

    run_id: str
    runbook: str
    status: RunState
    ended_at: datetime
    size: int
    """Bytes of its files."""
    stays: str = ""
    """Why it is not taken away all the same; empty when it is."""
    taken_up_by: tuple[str, ...] = ()
    """The runs that took up what it left."""


class Damaged(Struct, frozen=True, kw_only=True):
    """One folder that cannot be read as a run, or is not what its run left."""

    run_id: str
    problem: str


class Judgement(Struct, frozen=True, kw_only=True):
    """What is to become of the runs of an archive, the oldest first."""

    candidates: tuple[Candidate, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    young: int = 0
    """How many runs are not old enough yet."""
    private: int = 0
    """How many are somebody else's alone, who may prune them."""

    @property
    def leaving(self) -> tuple[Candidate, ...]:
        """Those that go."""
        return tuple(one for one in self.candidates if not one.stays)

    @property
    def staying(self) -> tuple[Candidate, ...]:
        """Those that are old enough, and stay."""
        return tuple(one for one in self.candidates if one.stays)


class _Seen:
    """One readable run, and why it stays as far as that is known."""

    def __init__(self, run: ArchivedRun, record: RunRecord) -> None:
        self.folder = run.folder
        self.status = record.status
        self.runbook = Path(record.runbook.path).stem
        self.ended_at = record.ended_at or record.started_at
        self.resumed_from = record.resumed_from
        self.checking = record.checking
        self.newer_schema = record.schema_version > SCHEMA
        self.successors = taken_up_by(run.folder)
        self.stays = ""
        self.young = False

    @property
    def may_go_on(self) -> bool:
        """Whether it runs, or could be resumed."""
        return self.status is not RunState.SUCCEEDED and not self.checking


def judge_runs(root: Path, keep: Keep, *, now: datetime, held: Mapping[str, str]) -> Judgement:
    """Decide about every run of an archive; `held` says of some why they have to stay.

    Raises:
        ArchiveError: the chain cannot be read.
    """
    seen: dict[str, _Seen] = {}
    damaged, private = [], 0
    for run in iter_runs(root):
        if run.is_private:
            private += 1
        elif run.record is None:
            damaged.append(Damaged(run_id=run.folder.run_id, problem=run.problem))
        else:
            seen[run.folder.run_id] = _Seen(run, run.record)
    for run_id, one in seen.items():
        one.young = not _is_old(one, keep, now)
        one.stays = "it is young" if one.young else held.get(run_id) or _own_reason(one, seen)
    _keep_the_needed(seen)
    wrong = _altered(root, [run_id for run_id, one in seen.items() if not one.stays])
    for run_id, problem in wrong.items():
        seen[run_id].stays = problem
    _keep_the_needed(seen)
    damaged += [Damaged(run_id=run_id, problem=problem) for run_id, problem in wrong.items()]
    old = [one for run_id, one in sorted(seen.items()) if not one.young and run_id not in wrong]
    return Judgement(
        candidates=tuple(map(_candidate, old)),
        damaged=tuple(sorted(damaged, key=lambda one: one.run_id)),
        young=sum(one.young for one in seen.values()),
        private=private,
    )


def _is_old(one: _Seen, keep: Keep, now: datetime) -> bool:
    kept_s = keep.succeeded_s if one.status is RunState.SUCCEEDED else keep.failed_s
    return kept_s is not None and (now - one.ended_at).total_seconds() > kept_s


def _own_reason(one: _Seen, seen: Mapping[str, _Seen]) -> str:
    """Say why a run stays whatever became of others; nothing when it may go."""
    if is_alive(one.folder):
        return "it is running"
    if one.newer_schema:
        return "a newer opsbook wrote it: prune with that one"
    if problem := _no_way_to(one.folder):
        return problem
    if one.status not in _CUT_SHORT or one.checking or one.successors:
        return ""
    changed = frozenset[str]().union(*(changed_targets(folder.journal) for folder in _line(one, seen)))
    if not changed:
        return ""
    return f"it was stopped in the middle of {name_ranges(sorted(changed))}: resume it, or --acknowledge it in a run"


def _no_way_to(folder: RunFolder) -> str:
    """Say why a folder cannot be taken away, whoever needs it; nothing when it can."""
    if any(place.is_symlink() for place in folder.path.parents[: DEPTH - 1]):
        return "a folder above it is a link"
    if not all(os.access(place, os.W_OK | os.X_OK) for place in (folder.path, folder.path.parent)):
        return "its folder is somebody else's"
    return ""


def _line(one: _Seen, seen: Mapping[str, _Seen]) -> Iterator[RunFolder]:
    """Yield a run, the one it went on from, and so on."""
    passed: set[str] = set()
    following: _Seen | None = one
    while following is not None and following.folder.run_id not in passed:
        passed.add(following.folder.run_id)
        yield following.folder
        following = seen.get(following.resumed_from or "")


def _keep_the_needed(seen: Mapping[str, _Seen]) -> None:
    """Keep what a run that stays needs: what it goes on from, and what says that others need not."""
    todo = [run_id for run_id, one in seen.items() if one.stays]
    while todo:
        run_id = todo.pop()
        one = seen[run_id]
        needed = [(other, f"it took up what run {run_id}, which stays, had left") for other in one.successors]
        if one.resumed_from is not None and one.may_go_on:
            needed.append((one.resumed_from, f"run {run_id}, which stays, goes on from it"))
        for other, why in needed:
            if other in seen and not seen[other].stays:
                seen[other].stays = why
                todo.append(other)


def _altered(root: Path, run_ids: list[str]) -> dict[str, str]:
    """Return those of some runs that are not what the chain says they left, and why."""
    verify = run_verifier(root) if run_ids else lambda _: None
    found = map(verify, run_ids)
    return {one.run_id: one.what for one in found if one is not None and one.verdict is Verdict.WRONG}


def _candidate(one: _Seen) -> Candidate:
    return Candidate(
        run_id=one.folder.run_id,
        runbook=one.runbook,
        status=one.status,
        ended_at=one.ended_at,
        size=size_of(one.folder.path),
        stays=one.stays,
        taken_up_by=one.successors,
    )


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder; no link is followed."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += size_of(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total
