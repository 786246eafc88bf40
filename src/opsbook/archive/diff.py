"""Two runs compared: how they ended, parameters, code, what cells and targets said, results by target.

Cells are matched by the origin of their MEMEs, then by id, then by text. Times never make runs differ: neither how long
anything took, nor where opsbook's own words tell it, nor what a reboot is known by. Memory holds a bounded part of what
was said; of the rest it is known whether it is the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from msgspec import UNSET, Struct, UnsetType

from opsbook.archive.cell_text import cell_sources
from opsbook.archive.history import ArchivedRun
from opsbook.archive.journal import read_journal
from opsbook.archive.line_diff import LineDiff, diff_lines
from opsbook.errors import ArchiveError
from opsbook.model.event import CellOutput, CellStarted, TargetEnded
from opsbook.model.outcome import shared_part
from opsbook.model.run import CellRecord, RunRecord, TargetOutcome
from opsbook.model.target import JsonValue
from opsbook.runbook.meme import parse_meme

KEPT = 200_000
"""Characters of what a cell said that are compared line by line."""
_TOOK = re.compile(
    r"^(\d+ [a-z]+(?: [a-z]+)?(?: · \d+ [a-z]+(?: [a-z]+)?)*) · \d+:\d\d(?::\d\d)?(?= ·|$)", re.MULTILINE
)
_BOOT = re.compile(r"\bboot id [0-9a-f-]{36,64} -> [0-9a-f-]{36,64}")
_REBOOT = "reboot"
Value: TypeAlias = JsonValue | UnsetType


class Change(Struct, frozen=True, kw_only=True):
    """Something that is not the same; what a run does not have is left out."""

    name: str
    before: Value = UNSET
    after: Value = UNSET


class CellChange(Struct, frozen=True, kw_only=True):
    """A cell in which something is not the same, or that one of the runs does not have."""

    label: str
    before: int = 0
    """Its number among the code cells of the first run, from 1; 0 where that has none such."""
    after: int = 0
    matched_by: str = ""
    """`meme`, `id` or `text`; empty where there is nothing to match."""
    moved: bool = False
    """Whether it stands in another order among the cells that both have."""
    state: Change | None = None
    code: LineDiff | None = None
    output: LineDiff | None = None
    targets: tuple[str, ...] = ()
    """Targets that said something else to it."""


class Comparison(Struct, frozen=True, kw_only=True):
    """In what two runs differ."""

    before: str
    after: str
    run: tuple[Change, ...] = ()
    """How they ended: `status`, `exit_code`, `reason`."""
    parameters: tuple[Change, ...] = ()
    cells: tuple[CellChange, ...] = ()
    targets: tuple[Change, ...] = ()
    """Each target's outcome, without how long that took."""
    times: tuple[Change, ...] = ()
    """Seconds: of the run, and of each cell both have. They make no difference."""
    notes: tuple[str, ...] = ()
    """What was not compared."""

    @property
    def differs(self) -> bool:
        """Whether anything is not the same."""
        return bool(self.run or self.parameters or self.cells or self.targets)


class _Said:
    """What one cell said: its beginning, and what tells the whole of it from any other."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, text: str) -> None:
        """Take what came next."""
        room = KEPT - self.size
        if room > 0:
            self._pieces.append(text[:room])
        self._hash.update(text.encode("utf-8", "replace"))
        self.size += len(text)

    @property
    def text(self) -> str:
        """The beginning, without times."""
        return _timeless("".join(self._pieces))

    def diff(self, other: _Said) -> LineDiff | None:
        """Return in what it differs; None where it does not."""
        if self._hash.digest() == other._hash.digest():
            return None
        found = diff_lines(self.text, other.text)
        if max(self.size, other.size) <= KEPT:
            return found if found.lines or found.note else None
        note = f"only the first {KEPT:,} of {self.size:,} and {other.size:,} characters are compared line by line"
        return LineDiff(lines=found.lines, note="; ".join(filter(None, (found.note, note))))


class _Side:
    """One of the runs."""

    def __init__(self, run: ArchivedRun) -> None:
        if run.record is None:
            raise ArchiveError(run.unread)
        self.record: RunRecord = run.record
        self.sources = cell_sources(run.folder)
        self.said: dict[str, _Said] = {}
        self.answers: dict[str, dict[str, str]] = {}
        """What targets said to each cell, by target, as a hash of it all."""
        for entry in read_journal(run.folder.journal):
            match entry.event:
                case CellStarted(cell_id=cell_id):
                    self.said.pop(cell_id, None)
                    self.answers.pop(cell_id, None)
                case CellOutput(cell_id=cell_id, text=text):
                    self.said.setdefault(cell_id, _Said()).add(text)
                case TargetEnded(cell_id=str(cell_id)) as ended if ended.kind != _REBOOT:
                    known = self.answers.setdefault(cell_id, {})
                    known[ended.target] = _hashed(known.get(ended.target, ""), ended.stdout, ended.stderr)
                case _:
                    pass

    def source(self, cell: CellRecord) -> str:
        """Return a cell's code; nothing where it is not known."""
        return (self.sources or {}).get(cell.id, "")


class _Pair(Struct, frozen=True):
    before: int
    after: int
    by: str


def compare_runs(before: ArchivedRun, after: ArchivedRun) -> Comparison:
    """Return in what two runs differ.

    Raises:
        ArchiveError: one of them is damaged, or private to somebody else.
    """
    old, new = _Side(before), _Side(after)
    pairs = _pairs(old, new)
    ends = [{name: getattr(side.record, name) for name in ("status", "exit_code", "reason")} for side in (old, new)]
    return Comparison(
        before=old.record.run_id,
        after=new.record.run_id,
        run=_changes(*ends),
        parameters=_changes(old.record.parameters, new.record.parameters),
        cells=tuple(_cell_changes(old, new, pairs)),
        targets=_changes(_results(old.record), _results(new.record)),
        times=tuple(_times(old.record, new.record, pairs)),
        notes=tuple(_notes(old, new)),
    )


def _changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[Change, ...]:
    return tuple(
        Change(name=name, before=before.get(name, UNSET), after=after.get(name, UNSET))
        for name in dict.fromkeys((*before, *after))
        if before.get(name, UNSET) != after.get(name, UNSET)
    )


def _results(record: RunRecord) -> dict[str, Value]:
    return {name: _result(outcome) for name, outcome in record.targets.results.items()}


def _result(outcome: TargetOutcome) -> Value:
    told = {"state": outcome.state.value, "exit_code": outcome.exit_code, "reason": shared_part(outcome.reason)}
    return {name: value for name, value in told.items() if value not in {None, ""}}


def _pairs(old: _Side, new: _Side) -> list[_Pair]:
    """Match cells, each with at most one: by what is surest first; of several alike the first with the first."""
    left = list(range(len(old.record.cells)))
    right = list(range(len(new.record.cells)))
    found: list[_Pair] = []
    ways: tuple[tuple[str, Callable[[_Side, CellRecord], str]], ...] = (
        ("meme", lambda _, cell: _origin(cell)),
        ("id", lambda _, cell: cell.id),
        ("text", lambda side, cell: side.source(cell)),
    )
    for by, key in ways:
        waiting: dict[str, list[int]] = {}
        for number in right:
            waiting.setdefault(key(new, new.record.cells[number]), []).append(number)
        for number in list(left):
            same = waiting.get(key(old, old.record.cells[number]) or "\0")
            if same:
                found.append(_Pair(number, same[0], by))
                left.remove(number)
                right.remove(same.pop(0))
    return sorted(found, key=lambda pair: pair.before)


def _origin(cell: CellRecord) -> str:
    meme = parse_meme(cell.meme)
    return meme.origin if meme is not None else ""


def _cell_changes(old: _Side, new: _Side, pairs: list[_Pair]) -> Iterator[CellChange]:
    """Yield the cells in which something differs, in the order of the first run; those of the second alone at last."""
    by_number = {pair.before: pair for pair in pairs}
    furthest = -1
    for number, cell in enumerate(old.record.cells):
        pair = by_number.get(number)
        if pair is None:
            yield CellChange(label=cell.label, before=number + 1)
            continue
        change = _cell_change(old, new, pair, moved=pair.after < furthest)
        furthest = max(furthest, pair.after)
        if change.moved or change.state or change.code or change.output or change.targets:
            yield change
    matched = {pair.after for pair in pairs}
    for number, cell in enumerate(new.record.cells):
        if number not in matched:
            yield CellChange(label=cell.label, after=number + 1)


def _cell_change(old: _Side, new: _Side, pair: _Pair, *, moved: bool) -> CellChange:
    one, other = old.record.cells[pair.before], new.record.cells[pair.after]
    code = diff_lines(old.source(one), new.source(other)) if old.sources and new.sources else LineDiff()
    said, answers = old.answers.get(one.id, {}), new.answers.get(other.id, {})
    return CellChange(
        label=other.label,
        before=pair.before + 1,
        after=pair.after + 1,
        matched_by=pair.by,
        moved=moved,
        state=Change(name="state", before=one.state, after=other.state) if one.state != other.state else None,
        code=code if code.lines or code.note else None,
        output=old.said.get(one.id, _Said()).diff(new.said.get(other.id, _Said())),
        targets=tuple(sorted(name for name in said.keys() & answers.keys() if said[name] != answers[name])),
    )


def _times(old: RunRecord, new: RunRecord, pairs: list[_Pair]) -> Iterator[Change]:
    yield Change(name="run", before=old.duration_s, after=new.duration_s)
    for pair in pairs:
        one, other = old.cells[pair.before], new.cells[pair.after]
        yield Change(name=f"cell {pair.after + 1}", before=one.duration_s, after=other.duration_s)


def _notes(old: _Side, new: _Side) -> Iterator[str]:
    for side in (old, new):
        if side.sources is None:
            yield f"the runbook kept with {side.record.run_id} cannot be read: code was not compared"
    if old.record.runbook.sha256 != new.record.runbook.sha256:
        yield "the runbooks are not the same byte for byte: prose and metadata are not compared"


def _timeless(text: str) -> str:
    """Return a text without what opsbook's own words in it tell of times and reboots."""
    return _BOOT.sub("rebooted", _TOOK.sub(r"\1", text))


def _hashed(*texts: str) -> str:
    told = hashlib.sha256()
    for text in texts:
        told.update(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return told.hexdigest()
