"""From events to a record: the one way a run's cells, targets and metrics come to be what the record says.

The runner folds while it runs; a reader folds the journal of a run whose process died. Nothing is guessed: a state is
set by an event or stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain

import msgspec
from msgspec.structs import replace

from opsbook.model import event as e
from opsbook.model.outcome import Ending, Outcome, name_ranges, outcome, telling_line
from opsbook.model.run import CellRecord, CellState, RunRecord, RunTargets, SecretUse, TargetOutcome
from opsbook.model.target import JsonValue, TargetState

_UNKNOWN = "a command was sent here and nobody knows how it ended"
_NOT_REACHED = "the cell ended before anything was sent here"


class RecordFold:
    """Builds the record of one run, event by event."""

    def __init__(self, claimed: RunRecord) -> None:
        self._claimed = claimed
        self._cells = {cell.id: cell for cell in claimed.cells}
        self._targets: dict[str, TargetOutcome] = dict(claimed.targets.results)
        self._sent: dict[tuple[int, str], e.Intent] = {}
        """Intents without a result, by call and target."""
        self._due: set[tuple[str | None, str]] = set()
        """Cells, and the targets they were about to change and have told nothing of."""
        self._left_out: dict[str, set[str]] = {}
        """What the targets were left out of and have not done since, by its digest."""
        self._before: dict[str, TargetOutcome] = {}
        """What the targets had come to when the cell that runs was first begun."""
        self._again: _Attempt | None = None
        """The cell that runs, where it is tried again."""
        self._caught = ""
        """What the last call that passed its limit raised."""
        self.ended: e.RunEnded | None = None
        """How the run said that it ended."""
        self._metrics: dict[str, JsonValue] = dict(claimed.metrics)
        self._secrets: dict[tuple[str, str, str | None], SecretUse] = {}
        self._new_keys: dict[tuple[str, str], list[str]] = {}
        """Who showed a host key nobody had seen before, by its fingerprint and the file it was recorded in."""
        self.last_at: datetime = claimed.started_at

    def apply(self, entry: e.Entry) -> None:
        """Take one event in."""
        self.last_at = entry.at
        match entry.event:
            case e.CellStarted() as started:
                self._start_cell(started, at=entry.at)
            case e.CellEnded() as ended:
                self._end_cell(ended)
            case e.WavesPlanned(cell_id=cell_id, waves=waves):
                self._expect(chain.from_iterable(waves), due_in=(cell_id,))
            case e.CallStarted(cell_id=cell_id, targets=names, counted=True, read_only=read_only):
                self._expect(names, due_in=() if read_only else (cell_id,))
            case e.Intent() as intent:
                self._sent[intent.call, intent.target] = intent
            case e.TargetEnded() as ended:
                self._end_target(ended)
            case e.CallEnded() | e.RunEnded() | e.ReplayBlocked() as ended:
                self._end(ended)
            case e.MetricRecorded() | e.SecretUsed() | e.HostKeyRecorded() as told:
                self._keep(told, at=entry.at)
            case _:
                pass

    def _expect(self, names: Iterable[str], *, due_in: tuple[str | None, ...] = ()) -> None:
        for name in names:
            self._targets.setdefault(name, TargetOutcome())
            self._due.update((cell_id, name) for cell_id in due_in)

    def _end(self, ended: e.CallEnded | e.RunEnded | e.ReplayBlocked) -> None:
        if isinstance(ended, e.RunEnded):
            self.ended = ended
        elif isinstance(ended, e.ReplayBlocked):
            self._lose(ended.targets, ended.cell_id, why=f"{_UNKNOWN}, in the run this one goes on with")
        elif ended.error:
            self._caught = ended.error

    def _end_target(self, ended: e.TargetEnded) -> None:
        self._sent.pop((ended.call, ended.target), None)
        if not ended.counted:
            return
        self._due.discard((ended.cell_id, ended.target))
        made_up = self._makes_up(ended)
        self._targets[ended.target] = _after(self._targets.get(ended.target, TargetOutcome()), ended, made_up=made_up)
        if self._again is not None and self._again.cell_id == ended.cell_id:
            self._again.take(ended, made_up=made_up)
        cell = self._cells.get(ended.cell_id or "")
        if cell is not None:
            self._cells[cell.id] = replace(cell, targets=_gravest(cell.targets, ended))

    def unproven(self, event: e.Event) -> e.Event:
        """Return something the journal cannot hold as it is to be told: a change whose end no resumed run will know."""
        if not isinstance(event, e.TargetEnded) or (event.call, event.target) not in self._sent:
            return event
        why = f"it ended as {event.state.value.replace('_', ' ')}, and that could not be recorded: no resumed run knows"
        return replace(event, state=TargetState.LOST, exit_code=None, reason=why)

    def _makes_up(self, ended: e.TargetEnded) -> bool:
        """Whether a target has done by now all the changes it was left out of."""
        left = self._left_out.setdefault(ended.target, set())
        if ended.state is TargetState.SKIPPED:
            left.add(ended.digest)
        elif ended.state is TargetState.OK and not ended.read_only:
            left.discard(ended.digest)
        return not left

    def _start_cell(self, started: e.CellStarted, *, at: datetime) -> None:
        if started.attempt == 1:
            self._before = dict(self._targets)
            self._change_cell(started.cell_id, started_at=at)
        self._again = _Attempt(started.cell_id, self._before) if started.attempt > 1 else None
        self._change_cell(started.cell_id, state=CellState.RUNNING, attempts=started.attempt, error=None)

    def _end_cell(self, ended: e.CellEnded) -> None:
        told = ("state", "duration_s", "error", "reason", "output_cut", "output_lost")
        self._change_cell(ended.cell_id, **{name: getattr(ended, name) for name in told})
        self._settle_attempt(ended)
        if ended.state is CellState.OK:  # whom it did not come to it did not want to
            self._due = {due for due in self._due if due[0] != ended.cell_id}

    def _settle_attempt(self, ended: e.CellEnded) -> None:
        """Let what a cell came to when it was tried again stand for what it came to before, once it has ended well."""
        again, self._again = self._again, None
        if again is None or again.cell_id != ended.cell_id or ended.state is not CellState.OK:
            return
        for name, now in again.targets.items():
            known = self._targets.get(name, now)
            if known.cell_id == ended.cell_id:
                self._targets[name] = replace(now, duration_s=known.duration_s)
        cell = self._cells.get(ended.cell_id)
        if cell is not None:
            self._cells[cell.id] = replace(cell, targets={**cell.targets, **again.states})

    def _keep(self, told: e.MetricRecorded | e.SecretUsed | e.HostKeyRecorded, *, at: datetime) -> None:
        if isinstance(told, e.MetricRecorded):
            self._metrics[told.name] = told.value
        elif isinstance(told, e.HostKeyRecorded):
            self._new_keys.setdefault((told.fingerprint, told.file), []).append(told.target)
        else:
            key = (told.reference, told.used_for, told.cell_id)
            unused = SecretUse(reference=key[0], used_for=key[1], cell_id=key[2], first_at=at, times=0)
            known = self._secrets.get(key, unused)
            self._secrets[key] = replace(known, times=known.times + 1)

    def _change_cell(self, cell_id: str, **changes: object) -> None:
        known = self._cells.get(cell_id)
        if known is not None:
            self._cells[cell_id] = replace(known, **changes)

    @property
    def cells(self) -> tuple[CellRecord, ...]:
        """The cells as they stand."""
        return tuple(self._cells.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened that is no cell's and no target's result, for people."""
        return tuple(
            f"new host key of {name_ranges(sorted(names))}: {fingerprint}, recorded in {file}; compare it"
            for (fingerprint, file), names in self._new_keys.items()
        )

    def judge(self, ending: Ending) -> Outcome:
        """Say how the run has ended, from what was seen."""
        return outcome(self.cells, self._targets, replace(ending, limit_passed=self._caught))

    def close(self) -> None:
        """Nothing more will come: a target that was sent a command nobody saw the end of is lost (SEMANTICS 18).

        A cell nobody saw the end of is interrupted. A target that a cell did not come to any more was left out, however
        well it had gone there before.
        """
        for cell in self.cells:
            if cell.state is CellState.RUNNING:
                self._change_cell(cell.id, state=CellState.INTERRUPTED)
        for cell_id, name in self._due:
            if self._targets[name].state is TargetState.OK:
                left_out = {"state": TargetState.SKIPPED, "exit_code": None, "reason": _NOT_REACHED, "cell_id": cell_id}
                self._targets[name] = replace(self._targets[name], **left_out)
        self._due.clear()
        for intent in self._sent.values():
            why = _UNKNOWN
            if intent.spool is not None:
                why += f"; it was durable: opsbook/{intent.spool} in its user's ~/.local/state keeps what it says"
            self._expect((intent.target,))
            self._lose((intent.target,), intent.cell_id, why=why)
        self._sent.clear()

    def _lose(self, names: Iterable[str], cell_id: str | None, *, why: str) -> None:
        """Nobody knows what became of these; a target no call counts against stays as it is."""
        for name in names:
            if name in self._targets:
                lost = {"state": TargetState.LOST, "exit_code": None, "reason": why, "cell_id": cell_id}
                self._targets[name] = replace(self._targets[name], **lost)

    def record(self, judged: Outcome, ended_at: datetime) -> RunRecord:
        """Return the record of a run that has ended."""
        seconds = (ended_at - self._claimed.started_at).total_seconds()
        return replace(
            self._claimed,
            status=judged.status,
            reason=judged.reason,
            exit_code=int(judged.exit_code),
            cells=self.cells,
            targets=self._run_targets(),
            metrics=self._metrics,
            secret_uses=tuple(self._secrets.values()),
            notes=(*self._claimed.notes, *self.notes),
            ended_at=ended_at,
            duration_s=round(seconds, 3),
        )

    def _run_targets(self) -> RunTargets:
        return replace(self._claimed.targets, results=dict(self._targets))


class _Attempt:
    """What a further attempt of a cell comes to, as if there had been none before."""

    def __init__(self, cell_id: str, before: Mapping[str, TargetOutcome]) -> None:
        self.cell_id = cell_id
        self._before = before
        self.targets: dict[str, TargetOutcome] = {}
        self.states: dict[str, TargetState] = {}

    def take(self, ended: e.TargetEnded, *, made_up: bool) -> None:
        known = self.targets.get(ended.target) or self._before.get(ended.target, TargetOutcome())
        self.targets[ended.target] = _after(known, ended, made_up=made_up)
        self.states = _gravest(self.states, ended)


def _gravest(states: dict[str, TargetState], ended: e.TargetEnded) -> dict[str, TargetState]:
    """Return a cell's targets after one more call: the gravest state stays."""
    if _weight(ended.state) <= _weight(states.get(ended.target, TargetState.NOT_RUN)):
        return states
    return {**states, ended.target: ended.state}


def _after(known: TargetOutcome, ended: e.TargetEnded, *, made_up: bool) -> TargetOutcome:
    """Return a target's outcome after one more call: a failure stays, the latest of several; so does being left out.

    That ends where the call has `made_up` for all it was left out of: another change is no such thing.
    """
    spent = round(known.duration_s + ended.duration_s, 3)
    before, now = _weight(known.state), _weight(ended.state)
    done_after_all = made_up and known.state is TargetState.SKIPPED and ended.state is TargetState.OK
    if not (now > before or (now == before and ended.state.is_failure) or done_after_all):
        return replace(known, duration_s=spent)
    return TargetOutcome(
        state=ended.state,
        exit_code=ended.exit_code,
        reason=telling_line(ended.state, ended.reason, ended.stderr),
        cell_id=ended.cell_id,
        duration_s=spent,
    )


def _weight(state: TargetState) -> int:
    """Rank what is worth knowing: that nobody knows, that it failed, that it was left out, that it went well."""
    if state is TargetState.LOST:
        return 4
    if state.is_failure:
        return 3
    return {TargetState.SKIPPED: 2, TargetState.OK: 1}.get(state, 0)


def decode_record(data: bytes) -> RunRecord:
    """Read a record's bytes.

    Raises:
        msgspec.ValidationError: it is not a record.
    """
    return msgspec.json.decode(data, type=RunRecord)
