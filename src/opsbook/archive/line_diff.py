"""Two texts compared line by line, within bounds of time and size: what is left uncompared is said.

Lines alike at both ends are passed in one go; only what is between them is laid side by side.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import takewhile

from msgspec import Struct

MOST_LINES = 1000
"""Lines between the alike ends of a text that are laid side by side with those of the other."""
MOST_SHOWN = 1000
"""Lines of a difference that are kept."""
LONGEST_LINE = 500
"""Characters of a line that a difference repeats."""
_SAMPLE = 10
_CONTEXT = 3
_PLACE = re.compile(r"@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@")


class LineDiff(Struct, frozen=True, kw_only=True):
    """In what two texts differ."""

    lines: tuple[str, ...] = ()
    """A unified diff without its header."""
    note: str = ""
    """What of it is not shown."""


def diff_lines(before: str, after: str) -> LineDiff:
    """Return in what two texts differ; no lines where they do not."""
    old, new = before.splitlines(), after.splitlines()
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    ends = zip(reversed(old[start:]), reversed(new[start:]), strict=False)
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    sizes = len(old) - start - end, len(new) - start - end
    if not any(sizes):
        return LineDiff(note="" if before == after else "only in how lines end")
    if max(sizes) > MOST_LINES:
        return _sample(old[start : len(old) - end], new[start : len(new) - end], start)
    before_all = max(0, start - _CONTEXT)
    old, new = (side[before_all : len(side) - end + min(end, _CONTEXT)] for side in (old, new))
    raw = list(difflib.unified_diff(old, new, n=_CONTEXT, lineterm=""))[2:]
    lines = tuple(_line(line, before_all) for line in raw[:MOST_SHOWN])
    more = len(raw) - len(lines)
    return LineDiff(lines=lines, note=f"{more:,} more lines of difference are not shown" if more else "")


def _sample(old: Sequence[str], new: Sequence[str], start: int) -> LineDiff:
    lines = [f"@@ -{start + 1},{len(old)} +{start + 1},{len(new)} @@"]
    lines += [_line(f"{sign}{line}", 0) for sign, side in (("-", old), ("+", new)) for line in side[:_SAMPLE]]
    note = f"{len(old):,} lines against {len(new):,}: the first are shown, the rest is not compared line by line"
    return LineDiff(lines=tuple(lines), note=note)


def _line(line: str, offset: int) -> str:
    """Return a line of a difference cut, the place it names that in the whole text."""
    match = _PLACE.fullmatch(line)
    if match is not None:
        return f"@@ -{int(match[1]) + offset}{match[2] or ''} +{int(match[3]) + offset}{match[4] or ''} @@"
    return (
        line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(line) - LONGEST_LINE:,} more characters)"
    )
