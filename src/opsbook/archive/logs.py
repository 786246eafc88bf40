"""What a run's cells and targets said, whole, as its journal and its host logs have it: lines, in the order of saying.

The journal has what cells said, in order. A host log has what one target said, in order and without times: where its
lines stand among the others is known where the journal tells what a call said and the log has just that next. Then they
stand at the call's end; else at the end of all, and a note says so. What nobody asked for is not kept in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from msgspec import Struct

from opsbook.archive.journal import left_unscanned
from opsbook.archive.layout import RunFolder, is_alive
from opsbook.archive.log_choice import Choice
from opsbook.archive.tail import JournalTail, LogTail
from opsbook.model.event import CallStarted, CellEnded, CellOutput, CellStarted, Entry, TargetEnded
from opsbook.model.outcome import name_ranges
from opsbook.model.run import RunRecord
from opsbook.secret_forms import as_bytes

LONGEST_LINE = 1024 * 1024
"""Characters after which a line is broken, so that memory has room for any."""
BATCH = 1000
_LOGGED = ("run", "wait_until")
"""Kinds of calls whose output is in the host log; what the others say of themselves is not."""
_ASKING = "wait_until"
"""The kind that asks again and again: the journal has the last answer, the log has all."""
_AHEAD = 16 * 1024
"""Bytes that are looked through for where a call's output begins."""
LOOK_S = 0.25
"""Seconds between two looks at the files of a run that goes on: nothing in Python tells that a file has grown."""


class LogLine(Struct, frozen=True, kw_only=True):
    """One line. Bytes of a target that are no text are surrogate escapes in it."""

    text: str
    at: datetime | None = None
    """When it was recorded; None for what a target said: its log has no times."""
    cell: int = 0
    """The code cell's number, from 1; 0 where that is not known."""
    target: str = ""
    """Who said it; empty for the cell itself."""
    stream: str = ""
    """`stdout`, `stderr` or `error`; empty where the log does not tell."""


class _Lines:
    """Makes lines of the pieces of one stream."""

    def __init__(self, **of: int | str) -> None:
        self._of = of
        self._kept: list[str] = []
        self._size = 0

    def feed(self, text: str, at: datetime | None = None) -> Iterator[LogLine]:
        """Take a piece; yield the lines that are whole by now."""
        *whole, rest = text.split("\n")
        for line in whole:
            yield self._line(line, at)
        if rest:
            self._kept.append(rest)
            self._size += len(rest)
        if self._size > LONGEST_LINE:
            yield self._line("", at)

    def end(self, at: datetime | None = None) -> Iterator[LogLine]:
        """Yield the last line, if it has no end."""
        if self._kept:
            yield self._line("", at)

    def _line(self, end: str, at: datetime | None) -> LogLine:
        text = "".join((*self._kept, end))
        self._kept, self._size = [], 0
        return LogLine(text=text, at=at, **self._of)  # type: ignore[arg-type]  # the fields say of whom


class RunLog:
    """Reads one run, once: `new` as often as there may be more, then `end`."""

    def __init__(self, folder: RunFolder, record: RunRecord, choice: Choice) -> None:
        self._folder = folder
        self._choice = choice
        self._unscanned = left_unscanned(record)
        self._numbers = {cell.id: number for number, cell in enumerate(record.cells, start=1)}
        self._cut = {cell.id: cell.output_cut for cell in record.cells if cell.output_cut}
        self._journal = JournalTail(folder.journal)
        self._logs = {name: LogTail(folder.host_log(name)) for name in choice.targets}
        self._streams: dict[tuple[str, str], _Lines] = {}
        self._astray: set[str] = set()
        """Targets of whose log nobody knows what belongs to which call from some place on."""
        self._unsure: dict[str, str | None] = {}
        """Targets that said more than the journal tells since their last call that is known, and its cell."""
        self._late: set[str] = set()
        """Targets of whose lines some stand later than they were said."""
        self._shortened: set[str] = set()
        """Targets of whose calls in the chosen cells only the ends are known."""
        self._open: dict[str, str | None] = {}
        """The cell whose call a target was last given, while that goes on."""
        self._live = False

    def new(self) -> Iterator[LogLine]:
        """Yield what is new since the last time."""
        for entry in self._journal.entries():
            yield from self._told(entry)
        if self._live:
            for target in self._logs:
                yield from self._rest(target)

    def follow(self) -> None:
        """From now on show what targets say as soon as it is in their logs, unless cells were chosen."""
        self._live = self._choice.is_whole_run

    def end(self) -> Iterator[LogLine]:
        """Yield what is left when nothing more comes."""
        for target in self._logs:
            if self._choice.is_whole_run or self._goes_on(target):
                yield from self._rest(target)
        for lines in self._streams.values():
            yield from lines.end()
        self._streams.clear()

    def _goes_on(self, target: str) -> bool:
        """Whether what is left of a target's log is of a call in the chosen cells that has no end."""
        of = self._unsure.get(target, self._open.get(target))
        return of is not None and target not in self._astray and self._choice.has_cell(of)

    @property
    def notes(self) -> Iterator[str]:
        """Say what is not shown or not masked, and what is not known of the order; to be asked after `end`."""
        if self._unscanned:
            yield self._unscanned
        if self._journal.has_more and not is_alive(self._folder):  # else it was being written
            yield f"the journal is torn or damaged behind line {self._journal.seq}: nothing of what follows is shown"
        for cell_id, cut in self._cut.items():
            if self._choice.cells_speak and self._choice.has_cell(cell_id):
                yield f"cell {self._numbers[cell_id]}: {cut:,} characters over the cap of [output] are in no file"
        if self._late and self._choice.is_whole_run and not self._live:
            names = name_ranges(sorted(self._late))
            yield f"{names}: which command said which lines is not known for all; some stand later than they were said"
        if self._shortened:
            names = name_ranges(sorted(self._shortened))
            yield f"{names}: only the ends of what was said in these cells are known; without --cell all is shown"

    def _told(self, entry: Entry) -> Iterator[LogLine]:
        match entry.event:
            case CellOutput(cell_id=cell_id, stream=stream, text=text):
                if self._choice.cells_speak and self._choice.has_cell(cell_id):
                    number = self._numbers.get(cell_id, 0)
                    known = self._streams.setdefault((cell_id, stream), _Lines(cell=number, stream=stream))
                    yield from known.feed(text, entry.at)
            case CellStarted(cell_id=cell_id) | CellEnded(cell_id=cell_id):
                for key in [key for key in self._streams if key[0] == cell_id]:
                    yield from self._streams.pop(key).end(entry.at)
            case CallStarted(cell_id=cell_id, targets=targets):
                self._open |= dict.fromkeys(targets, cell_id)
            case TargetEnded(target=target) as ended:
                self._open.pop(target, None)
                if target in self._logs and not ended.replayed:
                    yield from self._rest(target) if self._live else self._call(ended)
            case _:
                pass

    def _call(self, ended: TargetEnded) -> Iterator[LogLine]:
        """Yield what a target said up to the end of a call; what nobody asked for is passed."""
        share = self._share(ended)
        if share is None:
            if ended.kind in _LOGGED:
                self._late.add(ended.target)
            if ended.kind != _ASKING and self._choice.has_cell(ended.cell_id) and not self._choice.is_whole_run:
                yield from self._captured(ended)
            return
        before, size = share
        yield from self._next(ended.target, before, self._unsure.pop(ended.target, ended.cell_id))
        yield from self._next(ended.target, size, ended.cell_id)

    def _next(self, target: str, size: int, cell_id: str | None) -> Iterator[LogLine]:
        """Yield the next bytes of a log as what was said in a cell, if it is asked for; pass them."""
        lines = _Lines(cell=self._numbers.get(cell_id or "", 0), target=target)
        for text in self._logs[target].portions(size) if size else ():
            if self._choice.has_cell(cell_id):
                yield from lines.feed(text)
        yield from lines.end()

    def _share(self, ended: TargetEnded) -> tuple[int, int] | None:
        """Return which of the log's next bytes are this call's: how many before them, and how many; None if unknown.

        What is before them was said to calls of which the journal does not tell all: those that ask again and again.
        """
        if ended.target in self._astray:
            return None
        parts = [as_bytes(ended.stdout), as_bytes(ended.stderr)]
        size = sum(map(len, parts))
        if ended.kind in _LOGGED and not ended.truncated:
            ahead = self._logs[ended.target].peek(size + _AHEAD * (ended.target in self._unsure))
            for before in _line_starts(ahead[: len(ahead) - size + 1]) if size else (0,):
                if _same_lines(ahead[before : before + size], parts):
                    return before, size
        if ended.kind == "run":
            self._astray.add(ended.target)
        else:
            self._unsure.setdefault(ended.target, ended.cell_id)
        return None

    def _captured(self, ended: TargetEnded) -> Iterator[LogLine]:
        """Yield what the journal itself keeps of what a target said: each stream by itself."""
        for stream, text in (("stdout", ended.stdout), ("stderr", ended.stderr)):
            number = self._numbers.get(ended.cell_id or "", 0)
            lines = _Lines(cell=number, target=ended.target, stream=stream)
            yield from lines.feed(text)
            yield from lines.end()
        if ended.truncated:
            self._shortened.add(ended.target)

    def _rest(self, target: str) -> Iterator[LogLine]:
        """Yield what is in a target's log and was not shown yet."""
        lines = _Lines(target=target)
        if self._live:
            lines = self._streams.setdefault(("", target), lines)
        for text in self._logs[target].portions(ends=not self._live):
            yield from lines.feed(text)
        if not self._live:
            yield from lines.end()


def _line_starts(data: bytes) -> Iterator[int]:
    """Yield where a line begins, the first included."""
    at = 0
    while at < len(data):
        yield at
        at = data.find(b"\n", at) + 1 or len(data)


def _same_lines(data: bytes, parts: Iterable[bytes]) -> bool:
    """Whether some bytes are just the lines of both streams, however they are mixed."""
    return sorted(filter(None, data.split(b"\n"))) == sorted(
        line for part in parts for line in part.split(b"\n") if line
    )


def read_batches(log: RunLog) -> Iterator[list[LogLine]]:
    """Yield all of a run as far as it has got, in batches."""
    yield from _batches(log.new())
    yield from _batches(log.end())


def follow_batches(log: RunLog, folder: RunFolder) -> Iterator[list[LogLine]]:
    """Yield all of a run in batches, and what comes as long as a process executes it; then there is nothing more."""
    while True:
        alive = is_alive(folder)  # before it is read: what comes in between is read at the next look
        yield from _batches(log.new())
        if not alive:
            break
        log.follow()
        time.sleep(LOOK_S)
    yield from _batches(log.end())


def _batches(lines: Iterable[LogLine]) -> Iterator[list[LogLine]]:
    """Yield lines in batches that memory has room for, however long they are."""
    batch, size = list[LogLine](), 0
    for line in lines:
        batch.append(line)
        size += len(line.text)
        if len(batch) >= BATCH or size > LONGEST_LINE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
