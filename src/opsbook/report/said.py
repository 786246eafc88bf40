"""What targets said to one command: those that said the same share one block, under their names.

The failed come first, then the largest block. Read from the journal's events, so that it is what the archive holds.
Every text passes `visible`; nothing of it is folded, so that it can be copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from opsbook.model.event import Entry, TargetEnded
from opsbook.model.outcome import ResultGroup, group_ended, name_ranges
from opsbook.model.visible import one_line, visible
from opsbook.report.layout import labelled, row, show, show_plain, width_of, wrap
from opsbook.report.phase import RUN_MARKS, style_of, words
from opsbook.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = " " * 4


def last_answers(entries: Iterable[Entry], names: Sequence[str]) -> dict[str, TargetEnded]:
    """Return how the last call on each target ended, by name, in the order of `names`."""
    ended = {entry.event.target: entry.event for entry in entries if isinstance(entry.event, TargetEnded)}
    return {name: ended[name] for name in names if name in ended}


def print_answers(answers: Mapping[str, TargetEnded], console: Console, *, logs: Mapping[str, Path]) -> None:
    """Print what the targets said; `logs` says where the whole of it lies."""
    for number, group in enumerate(group_ended(answers.values())):
        show(console, [Text()] * (number > 0) + [_head(group)])
        show_plain(console, _block(group, logs))


def print_verdict(summary: Summary, console: Console) -> None:
    """Print how it went in one sentence, and how to see more."""
    width = width_of(console)
    mark, style = RUN_MARKS[summary.status]
    lines = row([(mark, style), (one_line(summary.headline), "bold")], [1, width - 2], gap=1)
    for label, text in (*(("note", note) for note in summary.notes), ("look", summary.look)):
        lines += labelled(label, wrap(one_line(text), width - 14), indent=2) if text else []
    show(console, lines)


def _head(group: ResultGroup) -> Text:
    """Say who, and how it ended."""
    names = name_ranges(map(one_line, group.names))
    head = Text.assemble((f"{len(group.names)} {words(group.state)}", style_of(group.state)), "   ", (names, "bold"))
    for part in filter(None, map(one_line, group.detail.split("   "))):
        head.append(f"   {part}")
    return head


def _block(group: ResultGroup, logs: Mapping[str, Path]) -> Iterator[str]:
    """Yield the lines of what was said."""
    yield from _said(group.stdout, "")
    yield from _stderr(group)
    if group.truncated:
        yield f"{_INDENT}… not all of it; the whole is in {logs[group.names[0]]}"


def _stderr(group: ResultGroup) -> list[str]:
    """Show what was said on stderr, unless the head says it already."""
    if "\n" not in group.stderr and group.stderr_alike and group.stderr.strip() in group.detail:
        return []
    return _said(group.stderr, "stderr | " if group.stderr_alike else f"{one_line(group.names[0])} stderr | ")


def _said(text: str, prefix: str) -> list[str]:
    return [f"{_INDENT}{prefix}{visible(line)}".rstrip() for line in text.split("\n") if text]
