"""How far a run has got: the fold over its entries that every view of a running run shares.

The same entries in the same order give the same state; no clock is asked, so a target's time runs from entry to
entry. Entries that fit nothing change nothing. It keeps the last lines of output and the calls of the current cell,
so its size does not grow with the run's length. Knows no terminal; its owner guards it against threads.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

import msgspec
from msgspec import Struct

from opsbook.model.event import (
    CallEnded,
    CallStarted,
    CellEnded,
    CellStarted,
    Entry,
    Intent,
    LockAwaited,
    RunEnded,
    RunStarted,
    StopRequested,
    TargetEnded,
    TargetOutput,
    WavesPlanned,
)
from opsbook.model.outcome import count_states, telling_line
from opsbook.model.run import CellRecord, CellState
from opsbook.model.target import TargetState
from opsbook.model.visible import last_lines

TAIL_LINES = 8
"""How many lines of target output are kept."""
_LONGEST_LINE = 2000
_MOST_WAVES = 64
_GOES_ON = (RunStarted, CellStarted, CellEnded, CallStarted, StopRequested, RunEnded)
"""Events that end a wait for a lock."""


class EndedTarget(Struct, frozen=True, kw_only=True):
    """How a call ended on one target."""

    state: TargetState
    line: str = ""
    """The one line that says why."""
    replayed: bool = False
    """Whether it was answered from before, and nothing was sent."""


class Call:
    """A fleet call and where its targets are: waiting, running or ended."""

    def __init__(self, started: CallStarted) -> None:
        self.started = started
        self.running: dict[str, datetime] = {}
        """Targets at work, with the time of the first sign of it."""
        self.ended: dict[str, EndedTarget] = {}
        self.is_over = False

    @property
    def waiting(self) -> int:
        """How many targets have shown no sign yet."""
        return len(self.started.targets) - len(self.running) - len(self.ended)

    def continues(self, other: CallStarted) -> bool:
        """Whether `other` is another wave of the same rolling change."""
        mine = self.started
        return mine.wave is not None and (mine.cell_id, mine.kind, mine.text, mine.waves) == (
            other.cell_id,
            other.kind,
            other.text,
            other.waves,
        )


class Progress:
    """The state of a run, folded from its entries."""

    def __init__(self) -> None:
        self.run: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.stopping = ""
        """The signal that asked the run to stop."""
        self.awaiting = ""
        """Which lock this run waits for, and who holds it."""
        self.cells: dict[str, CellRecord] = {}
        self.current: str | None = None
        """The id of the cell that runs."""
        self.calls: dict[int, Call] = {}
        """The calls of the current cell that still matter: those under way, and the latest that were part of a wave."""
        self.plan: WavesPlanned | None = None
        """The waves of the rolling change under way in the current cell."""
        self.failed: dict[str, EndedTarget] = {}
        """The targets that failed in the current cell, the latest last."""
        self.tail: deque[tuple[str, str]] = deque(maxlen=TAIL_LINES)
        """The last lines of output, with the target that said them."""
        self.started_at: datetime | None = None

    def apply(self, entry: Entry) -> None:
        """Take one more entry in."""
        if isinstance(entry.event, _GOES_ON):
            self.awaiting = ""
        match entry.event:
            case RunStarted() as event:
                self.run, self.started_at = event, entry.at
                self.cells = {cell.id: cell for cell in event.cells}
            case CellStarted() | CellEnded() as event:
                self._apply_cell(event, at=entry.at)
            case WavesPlanned() as event:
                self.plan = event
                self.calls = {number: call for number, call in self.calls.items() if not call.is_over}
            case CallStarted() as event:
                self._forget_calls()
                self.calls[event.call] = Call(event)
            case Intent() | TargetOutput() | TargetEnded() | CallEnded() as event:
                if (call := self.calls.get(event.call)) is not None:
                    self._apply_call(event, call, at=entry.at)
            case StopRequested() | LockAwaited() | RunEnded() as event:
                self._apply_to_run(event)

    def _apply_to_run(self, event: StopRequested | LockAwaited | RunEnded) -> None:
        match event:
            case StopRequested(signal=name):
                self.stopping = name
            case LockAwaited(holder=holder):
                self.awaiting = holder
            case RunEnded():
                self.ended = event

    def place(self, cell_id: str | None) -> tuple[int, str]:
        """Return a cell's number among the run's cells, from 1, and its label; `(0, "")` when it is not known."""
        for number, cell in enumerate(self.cells.values(), 1):
            if cell.id == cell_id:
                return number, cell.label
        return 0, ""

    def call_shown(self) -> Call | None:
        """Return the call a view should show: the latest under way, else the latest."""
        under_way = [call for call in self.calls.values() if not call.is_over]
        known = under_way or list(self.calls.values())
        return known[-1] if known else None

    def series(self, call: Call) -> list[Call]:
        """Return the call and the earlier waves of the same change."""
        others = [other for other in self.calls.values() if other is not call and other.continues(call.started)]
        return [*others, call]

    def ahead(self, call: Call) -> int:
        """Return how many targets are in waves that come after this call's."""
        wave, plan = call.started.wave, self.plan
        if (
            wave is None
            or plan is None
            or (plan.cell_id, len(plan.waves)) != (call.started.cell_id, call.started.waves)
        ):
            return 0
        return sum(len(names) for names in plan.waves[wave:])

    def _forget_calls(self) -> None:
        """Keep the calls under way, and of those that are over the latest that a later wave may continue."""
        over = [number for number, call in self.calls.items() if call.is_over]
        waves = [number for number in over if self.calls[number].started.wave is not None]
        for number in set(over) - set(waves[-_MOST_WAVES:]):
            del self.calls[number]

    def _apply_cell(self, event: CellStarted | CellEnded, *, at: datetime) -> None:
        known = self.cells.get(event.cell_id) or CellRecord(id=event.cell_id, index=0, label=event.cell_id)
        if isinstance(event, CellStarted):
            self.current, self.failed, self.plan = event.cell_id, {}, None
            self.calls = {number: call for number, call in self.calls.items() if not call.is_over}
            fresh = msgspec.structs.replace(known, started_at=at, duration_s=None, error=None)
            cell = msgspec.structs.replace(fresh, state=CellState.RUNNING, attempts=event.attempt)
        else:
            self.current = None if self.current == event.cell_id else self.current
            cell = msgspec.structs.replace(known, state=event.state, duration_s=event.duration_s, error=event.error)
        self.cells[event.cell_id] = cell

    def _apply_call(self, event: Intent | TargetOutput | TargetEnded | CallEnded, call: Call, *, at: datetime) -> None:
        if isinstance(event, CallEnded):
            call.is_over = True
            return
        if isinstance(event, TargetEnded):
            call.running.pop(event.target, None)
            line = telling_line(event.state, event.reason, event.stderr)[:_LONGEST_LINE]
            ended = EndedTarget(state=event.state, line=line, replayed=event.replayed)
            call.ended[event.target] = ended
            if event.state.is_failure and event.counted:
                self.failed.pop(event.target, None)
                self.failed[event.target] = ended
            return
        if event.target not in call.ended:
            call.running.setdefault(event.target, at)
        if isinstance(event, TargetOutput):
            self.tail.extend((event.target, line) for line in last_lines(event.text, most=TAIL_LINES))


def count_targets(calls: list[Call], *, ahead: int = 0) -> str:
    """Say where the targets of these calls, and those `ahead`, are: `14 ok · 1 failed · 3 running · 6 waiting`.

    Where some were answered from before it says how many.
    """
    ended = [target for call in calls for target in call.ended.values()]
    running, waiting = sum(len(call.running) for call in calls), ahead + sum(call.waiting for call in calls)
    counts = count_states((target.state for target in ended), running=running, waiting=waiting)
    answered = sum(target.replayed for target in ended)
    return f"{counts} ({answered} from before)" if answered else counts
