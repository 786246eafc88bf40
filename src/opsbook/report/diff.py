"""In what two runs differ, as people read it and as a JSON document. Every text passes `visible`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET
from rich.text import Text

from opsbook.archive.diff import CellChange, Change, Comparison, Value
from opsbook.archive.line_diff import LineDiff
from opsbook.model.run import CellState, RunRecord, RunState
from opsbook.model.visible import ci_safe, one_line, visible
from opsbook.report.duration import format_duration, format_stamp
from opsbook.report.layout import crop, labelled, show, width_of, wrap
from opsbook.report.phase import words
from opsbook.report.summary import show_value, status_words

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 60
"""Lines of one difference that a screen shows."""
_LABEL = 12
_STYLES = {"-": "red", "+": "green", "@": "cyan"}
_NOTICED_S = 1.0
_NOTICED = 0.2
"""How much longer or shorter a cell has to take to be shown: seconds, and a part of what it took."""


def diff_document(found: Comparison) -> bytes:
    """Return a comparison as one JSON document in one line."""
    return msgspec.json.encode({"differs": found.differs, **msgspec.to_builtins(found)}) + b"\n"


def print_diff(found: Comparison, console: Console, *, runs: tuple[RunRecord, RunRecord]) -> None:
    """Print in what two runs differ, the first things first; times last."""
    width = width_of(console)
    lines = [line for mark, run in zip("-+", runs, strict=True) for line in _run_line(mark, run, width)]
    lines += [Text(), Text(_verdict(found), style="bold")]
    for title, changes in (("ended", found.run), ("parameters", found.parameters), ("targets", found.targets)):
        lines += _section(title, [line for change in changes for line in _change(change, width)])
    for cell in found.cells:
        lines += [Text(), *_cell(cell, width)]
    times = found.times if found.before != found.after else ()
    lines += _section("times (they make no difference)", [line for time in times for line in _time(time, width)])
    lines += _section("notes", [Text(f"  {line}") for note in found.notes for line in wrap(one_line(note), width - 2)])
    show(console, lines)


def _run_line(mark: str, run: RunRecord, width: int) -> list[Text]:
    told = f"{run.run_id}  {status_words(run)}  {format_stamp(run.started_at)}  {run.operator.user}"
    return [
        Text(f"{mark if not number else ' '} {line}", style=_STYLES[mark])
        for number, line in enumerate(wrap(one_line(told), width - 2))
    ]


def _verdict(found: Comparison) -> str:
    if not found.differs:
        return "they do not differ" if found.before != found.after else "both are the same run"
    counts = ((len(found.parameters), "parameter"), (len(found.cells), "cell"), (len(found.targets), "target"))
    parts = ["how they ended"] if found.run else []
    parts += [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
    return f"they differ: {', '.join(parts)}"


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(), Text(title, style="bold"), *lines] if lines else []


def _change(change: Change, width: int) -> list[Text]:
    name, room = one_line(change.name), width - _LABEL - 6
    texts = wrap(f"{_value(change.before)} → {_value(change.after)}", max(room, 20))
    if len(name) <= _LABEL:
        return labelled(name, texts, indent=2, label_width=_LABEL)
    return [Text(f"  {crop(name, width - 2)}"), *labelled("", texts, indent=2, label_width=_LABEL)]


def _value(value: Value) -> str:
    """Say a value in one line; an outcome in the words of a summary."""
    if value is UNSET:
        return "(none)"
    if isinstance(value, dict) and "state" in value:
        exit_code = f"exit {value['exit_code']}" if value.get("exit_code") else ""
        parts = (str(value["state"]).replace("_", " "), exit_code, str(value.get("reason", "")))
        return one_line(" ".join(filter(None, parts)))
    return one_line(words(value) if isinstance(value, CellState | RunState) else show_value(value)) or '""'


def _cell(cell: CellChange, width: int) -> Iterator[Text]:
    """Yield what differs in a cell."""
    number = f"{cell.before}" if cell.before == cell.after else f"{cell.before or '-'} → {cell.after or '-'}"
    only = "" if cell.matched_by else ": in the first run alone" if cell.before else ": in the second run alone"
    yield Text(crop(f'cell {number} "{one_line(cell.label)}"{only}', width), style="bold")
    if cell.moved:
        yield Text("  it stands in another place among the others")
    if cell.state is not None:
        yield from _change(cell.state, width)
    for title, difference in (("code", cell.code), ("output", cell.output)):
        yield from _difference(title, difference, width) if difference is not None else ()
    if cell.targets:
        names = wrap(", ".join(map(one_line, cell.targets)), width - _LABEL - 6)
        yield from labelled("said else", names, indent=2, label_width=_LABEL)


def _difference(title: str, found: LineDiff, width: int) -> Iterator[Text]:
    yield Text(f"  {title}", style="dim")
    for line in found.lines[:_SHOWN]:
        yield Text(crop(ci_safe(f"    {visible(line)}"), width).replace("\t", " "), style=_STYLES.get(line[:1], ""))
    more = len(found.lines) - _SHOWN
    notes = [*([f"{more:,} more lines: --json has them"] if more > 0 else []), *([found.note] if found.note else [])]
    for note in notes:
        for line in wrap(f"({note})", width - 4):
            yield Text(f"    {line}", style="dim")


def _time(change: Change, width: int) -> list[Text]:
    """Return a line for the run's time, and for that of a cell where it has changed much."""
    before, after = (value if isinstance(value, int | float) else None for value in (change.before, change.after))
    if change.name != "run" and not _is_noticed(before, after):
        return []
    told = " → ".join("-" if seconds is None else format_duration(seconds) for seconds in (before, after))
    return labelled(change.name, wrap(told, width), indent=2, label_width=_LABEL)


def _is_noticed(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return False
    return abs(after - before) >= max(_NOTICED_S, _NOTICED * before)
