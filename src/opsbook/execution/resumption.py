"""What a run that stopped needs to go on: what is known of it, its runbook, and its targets (SEMANTICS 16, 20, 21).

Everything is taken from the archive; a file or an inventory that says otherwise by now is refused, unless somebody
insists. Nothing is started here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from opsbook.archive.history import ArchivedRun, read_run
from opsbook.archive.journal import left_unscanned, read_journal
from opsbook.archive.layout import DEPTH, RunFolder, is_alive, run_folder
from opsbook.archive.links import inspect_lines
from opsbook.archive.succession import acknowledged_by, refuse_resumed
from opsbook.errors import BusyError, RefusedError, RunbookError, UsageError
from opsbook.execution.replay import Replay
from opsbook.execution.request import Resumption
from opsbook.model.event import SecretUsed
from opsbook.model.outcome import name_ranges
from opsbook.model.run import SCHEMA, RunRecord, RunState
from opsbook.model.target import Inventory
from opsbook.runbook.notebook import Cell, Runbook, read_runbook

_INSIST = "--accept-changes goes on all the same"


class LocalCells(Struct, frozen=True, kw_only=True):
    """The cells a resumed run executes on this machine, by their labels and where they stand."""

    before: tuple[str, ...] = ()
    """Before the place where the run stopped: these have run to their end already."""
    at: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def retrying(runbook: Runbook) -> Replay:
    """Return what a run that resumes none knows: nothing, but of cells that may be tried again what they did."""
    return Replay(retried=(cell.id for cell in runbook.code_cells if cell.rules.retries))


def resumable(run: ArchivedRun, *, insist: bool) -> RunRecord:
    """Return the record of a run that can be resumed.

    Raises:
        UsageError: it cannot: it succeeded, changed nothing that could be gone on with, or is damaged.
        BusyError: it still runs.
        RefusedError: another run goes on with it already; or somebody acknowledged what it left, and nobody insists.
    """
    run_id, record = run.folder.run_id, run.record
    if record is None:
        raise UsageError(run.unread, "opsbook archive verify says more")
    if is_alive(run.folder):
        raise BusyError(f"run {run_id} still runs", f"opsbook stop {run_id} ends it")
    again = f"opsbook run {record.runbook.path}"
    name = Path(record.runbook.path)
    reasons = (
        (record.schema_version > SCHEMA, "was written by a newer opsbook", "resume it with that one"),
        (record.checking, "was a dry run", again),
        (record.status is RunState.SUCCEEDED, "succeeded: there is nothing to go on with", f"{again} runs it again"),
        (name.suffix != ".ipynb", "was one command", f"opsbook {name} PATTERN --failed-from {run_id} -- COMMAND"),
    )
    for holds, why, hint in reasons:
        if holds:
            raise UsageError(f"run {run_id} {why}", hint)
    refuse_resumed(run.folder)
    by = acknowledged_by(run.folder)
    if by is not None and not insist:
        why = f"run {by} acknowledged what run {run_id} left in the middle: since then others may change its targets"
        raise RefusedError(why, f"look at them first; {_INSIST}")
    return record


def go_on(run: ArchivedRun, record: RunRecord, *, insist: bool, resend: bool) -> tuple[Runbook, Resumption]:
    """Return the runbook a resumed run executes, and what is known of what was done.

    Raises:
        UsageError: a journal or the kept runbook is gone or damaged, or the run came to the end of its runbook.
        RefusedError: cells were changed that have run already, and nobody insists.
    """
    kept, now = runbook_of(run, record)
    retried = [cell.id for cell in (now or kept).code_cells if cell.rules.retries]
    replay = what_is_known(run, record, resend=resend, insist=insist, retried=retried)
    runbook, notes = runbook_to_run(kept, now, replay, insist=insist)
    said = left_unscanned(record)
    told = (f"run {run.folder.run_id} was {said}",) if said else ()
    secrets = _secrets_of(run, record)
    return runbook, Resumption(folder=run.folder, replay=replay, notes=(*notes, *told), secrets=secrets)


def _secrets_of(run: ArchivedRun, record: RunRecord) -> tuple[str, ...]:
    """Return the references of the secrets a run was given; where its end is not recorded, its journal knows."""
    if record.ended_at is not None:
        return tuple(dict.fromkeys(use.reference for use in record.secret_uses))
    events = (entry.event for entry in read_journal(run.folder.journal))
    return tuple(dict.fromkeys(event.reference for event in events if isinstance(event, SecretUsed)))


def what_is_known(run: ArchivedRun, record: RunRecord, *, resend: bool, insist: bool, retried: Iterable[str]) -> Replay:
    """Return what the journals of a run, and of those it goes on with, tell.

    Raises:
        UsageError: one of them is gone or damaged, or the run came to the end of its runbook.
    """
    replay = Replay(source=run.folder.run_id, resend=resend, insist=insist, retried=retried)
    for folder, claimed in reversed(list(_lineage(run, record))):
        _check_journal(folder)
        replay.inherit(read_journal(folder.journal), claimed.cells)
    if replay.stopped_in is None and record.status is RunState.FAILED:  # one that was only cut off can still be ended
        run_id = run.folder.run_id
        hint = f"opsbook run {record.runbook.path} --failed-from {run_id} runs it on the targets that failed"
        raise UsageError(f"every cell of run {run_id} ended ok: there is nothing to go on with", hint)
    return replay


def _lineage(run: ArchivedRun, record: RunRecord) -> Iterable[tuple[RunFolder, RunRecord]]:
    """Yield a run and those it goes on with, the newest first."""
    yield run.folder, record
    root, seen = run.folder.path.parents[DEPTH - 1], {run.folder.run_id}
    before = record.resumed_from
    while before is not None and before not in seen:
        seen.add(before)
        folder = run_folder(root, before)
        earlier = read_run(folder)
        if earlier.record is None:
            raise UsageError(
                f"run {before}, which {run.folder.run_id} goes on with, cannot be read: {earlier.problem}",
                "without it nobody knows what was done: look at the targets, and run the runbook anew",
            )
        yield folder, earlier.record
        before = earlier.record.resumed_from


def _check_journal(folder: RunFolder) -> None:
    """Refuse a journal with a line missing or changed. One that ends in the middle of a line was cut off, no more."""
    try:
        with folder.journal.open("rb") as stream:
            problem = next((line.problem for line in inspect_lines(stream) if line.problem), "")
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    if problem:
        hint = f"opsbook archive verify {folder.run_id} says more; what was done on the targets is not known for sure"
        raise UsageError(f"the journal of run {folder.run_id} is damaged: {problem}", hint)


def runbook_of(run: ArchivedRun, record: RunRecord) -> tuple[Runbook, Runbook | None]:
    """Return the runbook as it ran, and as it is now where its file is another one by now.

    Raises:
        RunbookError: the run's own copy of it cannot be read.
        RefusedError: a secret was masked in that copy, and the file is another one by now.
    """
    shape, name = record.shape, Path(record.runbook.path)
    path = name if shape is None or not shape.folder else Path(shape.folder) / name.name
    if record.runbook.masked:
        return _file_that_ran(run, record, path), None
    kept = replace(read_runbook(run.folder.source), path=path)
    if kept.sha256 != record.runbook.sha256:
        raise RunbookError(f"the runbook kept with run {run.folder.run_id} was changed", "opsbook archive verify")
    try:
        now = read_runbook(path)
    except RunbookError:
        return kept, None  # it is gone, or no runbook any more
    return kept, None if now.sha256 == kept.sha256 else now


def _file_that_ran(run: ArchivedRun, record: RunRecord, path: Path) -> Runbook:
    """Return the runbook's own file, as long as it is what ran: the bytes kept with the run are not."""
    why = f"a secret was masked in the runbook kept with run {run.folder.run_id}, and {path}"
    hint = "put the file back as it was (without the secret it is another runbook), or run it anew"
    try:
        runbook = read_runbook(path)
    except RunbookError as error:
        raise RefusedError(f"{why} cannot be read: {error}", hint) from None
    if runbook.sha256 != record.runbook.sha256:
        raise RefusedError(f"{why} was changed since", hint)
    return runbook


def runbook_to_run(
    kept: Runbook, now: Runbook | None, replay: Replay, *, insist: bool
) -> tuple[Runbook, tuple[str, ...]]:
    """Return the runbook that is to run, and what a reader of the record should know of it.

    That is the file as it is now, as long as nothing was changed before the place where the run stopped.

    Raises:
        RefusedError: something was, and nobody insists.
    """
    if now is None:
        return kept, ()
    changed = _changed_before(kept, now, replay)
    if changed and not insist:
        raise RefusedError(f"cells before the place where the run stopped were changed: {_names(changed)}", _INSIST)
    behind = [cell for cell in _changed(kept, now) if cell.label not in changed]
    notes = [f"changed before the place where it stopped (--accept-changes): {_names(changed)}"] if changed else []
    notes += [f"changed since: {_names(dict.fromkeys(cell.label for cell in behind))}"] if behind else []
    return now, tuple(notes)


def _changed(kept: Runbook, now: Runbook) -> list[Cell]:
    """List the code cells that are not what they were, those that are gone included."""
    then = {cell.id: _essence(cell) for cell in kept.code_cells}
    there = {cell.id for cell in now.code_cells}
    gone = [cell for cell in kept.code_cells if cell.id not in there]
    return [cell for cell in now.code_cells if then.get(cell.id) != _essence(cell)] + gone


def _changed_before(kept: Runbook, now: Runbook, replay: Replay) -> tuple[str, ...]:
    """Name the cells before the stop that are not what or where they were, and the one it stopped in if it is gone."""
    count = len(replay.passed)
    then, there = kept.code_cells[:count], now.code_cells[:count]
    pairs = zip(then, there, strict=False)
    labels = [old.label for old, new in pairs if _essence(old) != _essence(new)]
    labels += [cell.label for cell in then[len(there) :]]
    stopped = next((cell for cell in kept.code_cells if cell.id == replay.stopped_in), None)
    if stopped is not None and replay.knows(stopped.id) and stopped.id not in {cell.id for cell in now.code_cells}:
        labels.append(stopped.label)
    return tuple(dict.fromkeys(labels))


def _essence(cell: Cell) -> tuple[object, ...]:
    return cell.id, cell.source, cell.tags, cell.frozen


def targets_to_use(
    record: RunRecord, inventory: Inventory | None, *, insist: bool, drop: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the targets a resumed run is given, and what a reader of the record should know of them.

    Raises:
        RefusedError: one is gone or has another address, and nobody insists.
    """
    known = {target.name: target for target in inventory.targets} if inventory is not None else {}
    given = record.targets
    gone = [name for name in given.selected if name not in known]
    if gone and not drop:
        raise RefusedError(f"not in the inventory any more: {name_ranges(gone)}", "--drop-missing goes on without")
    moved = [name for name, place in given.addresses.items() if name in known and known[name].address != place]
    if moved and not insist:
        first = moved[0]
        what = f"{name_ranges(moved)}, such as {first}: then {given.addresses[first]}, now {known[first].address}"
        raise RefusedError(f"the inventory gives another address for {what}", _INSIST)
    notes = [f"gone from the inventory (--drop-missing): {name_ranges(gone)}"] if gone else []
    notes += [f"at another address (--accept-changes): {name_ranges(moved)}"] if moved else []
    return tuple(name for name in given.selected if name in known), tuple(notes)


def local_cells(runbook: Runbook, replay: Replay) -> LocalCells:
    """Return which cells will run on this machine: not those that are set-up, left out, or shell for targets."""
    works = [cell for cell in runbook.code_cells if not (cell.is_skipped or cell.fans_out or cell.sets_up)]
    passed = set(replay.passed)
    return LocalCells(
        before=tuple(cell.label for cell in works if cell.id in passed),
        at=tuple(cell.label for cell in works if cell.id == replay.stopped_in),
        after=tuple(cell.label for cell in works if cell.id not in passed and cell.id != replay.stopped_in),
    )


def _names(labels: Iterable[str]) -> str:
    return ", ".join(f'"{label}"' for label in labels)
