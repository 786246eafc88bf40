"""What the executed copy keeps of a long output: its beginning, the lines that matter, its end, and where the rest is.

Laid out as NII's enhanced logging kernel does it. Lines are masked as the stream they are part of before any is chosen,
so that no half of a secret is left alone. Holds a bounded part of the output, however long that is.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from opsbook.archive.whole_output import reference
from opsbook.config import LogSettings
from opsbook.masked_stream import MaskedStreams
from opsbook.redaction import Redactor
from opsbook.secret_forms import as_bytes

_LONG = 64 * 1024
"""Characters from which an output is long, however few its lines are."""
_LONGEST_LINE = 2000
"""Characters of a line that are looked at, and kept."""
_WORDS = (
    *("abort", "cannot", "conflict", "corrupt", "critical", "denied", "error", "exception", "fail", "fatal"),
    *("forbidden", "illegal", "invalid", "killed", "lost", "missing", "no such", "no space", "not found", "panic"),
    *("refused", "rejected", "segfault", "timed out", "timeout", "traceback", "unable", "unreachable", "warn"),
)
"""What makes a line worth showing, wherever it stands in it, in small letters or capitals."""


class SummaryRules(Struct, frozen=True, kw_only=True):
    """When and how outputs are summed up."""

    always: bool
    """Whether those of all cells are; else those of cells with the mark."""
    shown: int
    """Lines up to which an output is shown whole."""
    head: int
    tail: int
    words: re.Pattern[str]

    @classmethod
    def from_settings(cls, settings: LogSettings) -> SummaryRules:
        """Return what the settings say."""
        shown, head, tail = settings.lines
        words = re.compile("|".join(map(re.escape, (*_WORDS, *settings.keywords))), re.IGNORECASE)
        always = settings.summarize is not False
        return cls(always=always, shown=max(shown, head + tail + 1), head=head, tail=tail, words=words)


class CellSummary:
    """Sums up one cell's text."""

    def __init__(self, rules: SummaryRules, redactor: Redactor, *, look: str) -> None:
        self._rules = rules
        self._look = look
        self._begun = datetime.now(UTC)
        self._streams = MaskedStreams(redactor)
        self._open: dict[str, str] = {}
        """The last line of each stream, as long as it has no end."""
        self._head: list[str] = []
        self._found: list[str] = []
        self._tail: deque[tuple[str, bool]] = deque()
        self._lines = self._matches = self._unshown = self._size = 0

    def take(self, name: str, text: str) -> None:
        """Take what comes next on a stream."""
        self._size += len(as_bytes(text))
        for stream, shown in self._streams.feed(name, text):
            self._split(stream, shown)

    @property
    def is_long(self) -> bool:
        """Whether there is more than is shown whole."""
        return self._lines > self._rules.shown or self._size > _LONG

    def text(self) -> str:
        """Return the summary; nothing follows."""
        for name, rest in self._streams.end():
            self._split(name, rest)
        for name, line in self._open.items():
            if line:
                self._add(name, line)
        self._open.clear()
        limit = [f"… {self._unshown:,} more such lines …"] if self._unshown else []
        parts = [self._head, [*self._found, *limit], [line for line, _ in self._tail]]
        body = "...\n".join("".join(f"{line}\n" for line in part) for part in parts if part)
        return f"{self._header()}----\n{body}"

    def _header(self) -> str:
        stamps = (f"{at.astimezone():%Y-%m-%d %H:%M:%S(%Z)}" for at in (self._begun, datetime.now(UTC)))
        begun, ended = stamps
        return (
            f"{self._look}\nstart time: {begun}\nend time: {ended}\noutput size: {self._size} bytes\n"
            f"{self._matches} chunks with matched keywords or errors\n"
        )

    def _split(self, name: str, text: str) -> None:
        first, *others = text.split("\n")
        line = f"{self._open.get(name, '')}{first}"
        for following in others:
            self._add(name, line)
            line = following
        self._open[name] = line[:_LONGEST_LINE]

    def _add(self, name: str, line: str) -> None:
        line = line[:_LONGEST_LINE]
        matches = name == "stderr" or self._rules.words.search(line) is not None
        self._lines += 1
        self._matches += matches
        if len(self._head) < self._rules.head:
            self._head.append(line)
            return
        self._tail.append((line, matches))
        if len(self._tail) > self._rules.tail:
            left, mattered = self._tail.popleft()
            if mattered and len(self._found) < 2 * self._rules.head:
                self._found.append(left)
            else:
                self._unshown += mattered


class Summaries:
    """The summaries of one run."""

    def __init__(self, settings: LogSettings, redactor: Redactor, *, run_id: str, numbers: Mapping[str, int]) -> None:
        self._rules = SummaryRules.from_settings(settings)
        self._redactor = redactor
        self._run_id = run_id
        self._numbers = numbers

    def of(self, cell_id: str, *, marked: bool) -> CellSummary | None:
        """Return what is to sum up what a cell says in the copy; None where that is shown as it is."""
        if not (marked or self._rules.always):
            return None
        look = reference(self._run_id, self._numbers.get(cell_id, cell_id))
        return CellSummary(self._rules, self._redactor, look=look)
