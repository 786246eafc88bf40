"""What earlier runs, or an earlier attempt of a cell, know of the calls a notebook makes again (SEMANTICS 16-22).

Built from journals alone, oldest run first, and asked once for each call before anything of it is sent. A result is
found by cell, target, digest and how often that was asked for. What was sent and has no known end is never passed over
in silence. Knows no kernel, no target and no file.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import ExitCode
from opsbook.execution.known import ONCE, Item, KnownCell
from opsbook.model import event as e
from opsbook.model.message import Recall, Recalled
from opsbook.model.outcome import name_ranges
from opsbook.model.run import CellRecord, CellState
from opsbook.model.target import TargetState

_CUT = 60
"""Characters of a call's text in a sentence."""
_NOT_REACHED = {CellState.NOT_RUN, CellState.SKIPPED}


class Blocked(Struct, frozen=True, kw_only=True):
    """Why a resumed run cannot go on."""

    exit_code: ExitCode
    cell_id: str | None
    reason: str
    hint: str
    targets: tuple[str, ...] = ()
    """Where nobody knows how it ended."""


class Replay:
    """Answers the calls of one run. Safe to use from several threads."""

    def __init__(
        self, *, source: str = "", resend: bool = False, insist: bool = False, retried: Iterable[str] = ()
    ) -> None:
        self.source = source
        """The run that is resumed; empty where cells are only tried again."""
        self.answered = 0
        """How many results were answered."""
        self.blocked: Blocked | None = None
        self.passed: tuple[str, ...] = ()
        """The cells before the furthest place a run came to, in the notebook's order."""
        self.stopped_in: str | None = None
        """The cell at that place; None when every cell ended ok."""
        self.granted: frozenset[str] = frozenset()
        """Gates that were confirmed, of cells that ended ok."""
        self._resend = resend
        self._insist = insist
        self._retried = frozenset(retried)
        self._labels: dict[str, str] = {}
        self._cells: dict[str | None, KnownCell] = {}
        self._calls: dict[int, e.CallStarted] = {}
        self._open_once: dict[str, deque[int]] = {}
        self._pseudo_calls = itertools.count(-1, -1)
        self._furthest = -1
        self._lock = threading.Lock()

    def inherit(self, entries: Iterable[e.Entry], cells: Iterable[CellRecord] = ()) -> None:
        """Take in the journal of one run, and the cells it was to run; of several runs, the oldest first."""
        order = tuple(cells)
        states: dict[str, CellState] = {}
        gates, blocked = set[str](), set[str | None]()
        for entry in entries:
            match entry.event:
                case e.RunStarted(cells=announced):
                    order = announced
                case e.CellStarted(cell_id=cell_id):
                    states[cell_id] = CellState.RUNNING
                    if cell_id in self._cells:
                        self._cells[cell_id].stop()
                case e.CellEnded(cell_id=cell_id, state=state):
                    states[cell_id] = state
                case e.ReplayBlocked(cell_id=cell_id):
                    blocked.add(cell_id)
                case e.GateAnswered(cell_id=cell_id, granted=True):
                    gates.add(cell_id)
                case event:
                    self._note(event, entry.at)
        # whatever its code made of it, a cell the run could not go on in has not ended ok
        states |= dict.fromkeys((cell_id for cell_id in blocked if cell_id is not None), CellState.LOST)
        self._end_run(order, states, gates)

    def knows(self, cell_id: str) -> bool:
        """Whether something changing is known of a cell."""
        cell = self._cells.get(cell_id)
        return cell is not None and any(not item.read_only for item in cell.unused())

    def note(self, event: e.Event, at: datetime) -> None:
        """Take in what this run does, so that a cell that is tried again finds it."""
        if getattr(event, "cell_id", None) in self._retried:
            with self._lock:
                self._note(event, at)

    def _note(self, event: e.Event, at: datetime) -> None:
        match event:
            case e.CallStarted():
                self._calls[event.call] = event
            case e.Intent() if event.digest:
                self._add(event.cell_id, event.call, self._item(event, at, intent=event))
            case e.TargetEnded() if event.digest:
                self._add(event.cell_id, event.call, self._item(event, at, ended=event))
            case e.OnceBegun():
                call = next(self._pseudo_calls)
                self._open_once.setdefault(event.digest, deque()).append(call)
                self._add(event.cell_id, call, _once_item(event, at))
            case e.OnceEnded():
                begun = self._open_once.get(event.digest) if not event.replayed else None
                call = begun.popleft() if begun else next(self._pseudo_calls)
                self._add(event.cell_id, call, replace(_once_item(event, at), ended=event))
            case _:
                pass

    def _add(self, cell_id: str | None, call: int, item: Item) -> None:
        self._cells.setdefault(cell_id, KnownCell()).note(call, item)

    def _item(
        self,
        event: e.Intent | e.TargetEnded,
        at: datetime,
        *,
        intent: e.Intent | None = None,
        ended: e.TargetEnded | None = None,
    ) -> Item:
        started = self._calls.get(event.call)
        return Item(
            target=event.target,
            digest=event.digest,
            kind=event.kind,
            line=started.line if started else 0,
            text=started.text if started else "",
            read_only=ended is not None and ended.read_only,
            at=at,
            intent=intent,
            ended=ended,
        )

    def _end_run(self, order: tuple[CellRecord, ...], states: Mapping[str, CellState], gates: set[str]) -> None:
        """A run is over: what its cells did becomes what is known of them."""
        ids = [cell.id for cell in order]
        self._labels |= {cell.id: cell.label for cell in order}
        stop = _place_of_stop(order, states)
        well = {id_ for id_ in ids[:stop] if states.get(id_) is CellState.OK}
        self.granted |= frozenset(gates & well)
        for cell_id, cell in self._cells.items():
            if cell_id in well:
                cell.settle()
            else:
                cell.stop(passed=cell_id in ids[stop + 1 :])
        if stop > self._furthest:
            self._furthest = stop
            self.passed, self.stopped_in = tuple(ids[:stop]), ids[stop] if stop < len(ids) else None

    def ask(self, recall: Recall) -> Recalled:
        """Say what is known of a call, by target, or why the run cannot go on."""
        with self._lock:
            if self.blocked is not None and self.blocked.cell_id == recall.cell_id:  # its code caught that, and goes on
                return Recalled(ticket=recall.ticket, blocked=self.blocked.reason, hint=self.blocked.hint)
            cell = self._cells.get(recall.cell_id)
            if cell is None:
                return Recalled(ticket=recall.ticket, source=self.source)
            if recall.attempt > cell.attempt:
                cell.attempt = recall.attempt
                cell.stop()
            return self._ask(cell, recall)

    def _ask(self, cell: KnownCell, recall: Recall) -> Recalled:
        answers: dict[str, e.TargetEnded] = {}
        pending: dict[str, e.Intent] = {}
        once: e.OnceEnded | None = None
        unknown: list[Item] = []
        strayed: list[Item] = []
        for target, digest in recall.digests.items():
            item = cell.next_of(target, digest)
            if item is None:
                may_stray = not (recall.read_only or cell.runs_as_new or self._insist)
                strayed += _strays(cell, target, recall.line) if may_stray else []
            elif cell.is_unknown(item):
                if item.intent is not None and (item.intent.spool or item.intent.boot_id):
                    pending[target] = item.intent
                elif not (recall.idempotent or self._resend or item.kind == "put"):
                    unknown.append(item)
            elif cell.answers(item, fresh=recall.fresh):
                if isinstance(item.ended, e.OnceEnded):
                    once = item.ended
                elif item.ended is not None:
                    answers[target] = item.ended
        blocked = self._unknown(recall, unknown) if unknown else self._diverged(recall, strayed) if strayed else None
        if blocked is not None:
            self.blocked = self.blocked or blocked
            return Recalled(ticket=recall.ticket, blocked=blocked.reason, hint=blocked.hint)
        self.answered += len(answers) + (once is not None)
        source = self.source if recall.attempt == 1 else ""
        return Recalled(ticket=recall.ticket, source=source, answers=answers, pending=pending, once=once)

    def _unknown(self, recall: Recall, items: list[Item]) -> Blocked:
        first = items[0]
        sent = f"{first.at:%Y-%m-%d %H:%M:%SZ}" if first.at is not None else "at an unknown time"
        targets = tuple(item.target for item in items if item.target)
        names = name_ranges(targets)
        return Blocked(
            exit_code=ExitCode.UNKNOWN,
            cell_id=recall.cell_id,
            targets=targets,
            reason=f"nobody knows how {_cut(first.text)}{f' on {names}' if names else ''} ended,"
            f" begun {sent} in {self._name(recall)}",
            hint="look there first; --resend-lost does it again, and idempotent=True says that it may be done twice",
        )

    def _diverged(self, recall: Recall, items: list[Item]) -> Blocked:
        first = items[0]
        differs = f"then {_cut(first.text)}, now {_cut(recall.text)}"
        if first.text == recall.text:
            differs = f"{_cut(first.text)} differs behind its first line, or in a variable, its user or its folder"
        names = name_ranges(dict.fromkeys(item.target for item in items))
        return Blocked(
            exit_code=ExitCode.REFUSED,
            cell_id=recall.cell_id,
            reason=f"line {recall.line} of {self._name(recall)} does not do on {names} what it did before: {differs}",
            hint="make it the same as then; --accept-changes does it as it is now",
        )

    def _name(self, recall: Recall) -> str:
        return f'"{self._labels.get(recall.cell_id or "", "a cell")}"'

    @property
    def unknown(self) -> str:
        """Why the run ends as unknown; empty when it does not."""
        return self._why(ExitCode.UNKNOWN)

    @property
    def refusal(self) -> str:
        """Why the run is refused; empty when it is not."""
        return self._why(ExitCode.REFUSED)

    def _why(self, code: ExitCode) -> str:
        blocked = self.blocked
        return f"{blocked.reason}: {blocked.hint}" if blocked is not None and blocked.exit_code is code else ""

    def notes(self, cells: Iterable[CellRecord]) -> tuple[str, ...]:
        """Say how much was answered, and what was done before and not asked for in cells that ended ok this time."""
        results, them = ("1 result was", "it") if self.answered == 1 else (f"{self.answered} results were", "them")
        notes = []
        if self.answered and self.source:
            notes.append(f"{results} answered from {self.source}, and nothing was sent for {them}")
        for cell in cells:
            known = self._cells.get(cell.id) if cell.state is CellState.OK else None
            left = known.unused() if known is not None else []
            left = [item for item in left if not item.read_only and (item.is_open or item.state is TargetState.OK)]
            if left:
                names = name_ranges(dict.fromkeys(item.target for item in left if item.target))
                what = f"{_cut(left[0].text)}{f' on {names}' if names else ''}"
                notes.append(f'"{cell.label}" no longer asks for what was sent before: {what}')
        return tuple(notes)


def _strays(cell: KnownCell, target: str, line: int) -> list[Item]:
    """List what the same line did, or may have done, on a target, and what nobody has asked for (SEMANTICS 19)."""
    left = (item for item in cell.unused(target) if item.line == line and item.kind != ONCE and not item.read_only)
    return [item for item in left if cell.is_unknown(item) or cell.answers(item)]


def _once_item(event: e.OnceBegun | e.OnceEnded, at: datetime) -> Item:
    return Item(target="", digest=event.digest, kind=ONCE, text=f"once({event.name!r})", at=at)


def _place_of_stop(order: tuple[CellRecord, ...], states: Mapping[str, CellState]) -> int:
    """Return the place of the cell a run stopped in: the first that did not end well, else the first not reached."""
    reached = [states.get(cell.id, CellState.NOT_RUN) for cell in order]
    broken = (place for place, state in enumerate(reached) if state not in {CellState.OK, *_NOT_REACHED})
    waiting = (
        place
        for place, (cell, state) in enumerate(zip(order, reached, strict=True))
        if state is CellState.NOT_RUN and not {"always", "on-failure"} & set(cell.tags)
    )
    return next(broken, next(waiting, len(order)))


def _cut(text: str) -> str:
    return f'"{text if len(text) <= _CUT else text[:_CUT] + "…"}"'
