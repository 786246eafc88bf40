"""The live screen as lines: what a running run looks like at one moment, for one size of terminal.

Never higher or wider than it is told, because a screen that is redrawn in place must not scroll. The clock is handed
in. Knows no console and no threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from opsbook.model.run import CellState
from opsbook.model.visible import one_line
from opsbook.report.duration import format_duration
from opsbook.report.layout import crop
from opsbook.report.phase import CELL_MARKS, Phase, fold_phases, style_of, words
from opsbook.report.state import Call, Progress, count_targets

_SLOW_S = 30.0
"""From here on a target at work is worth naming."""
_MOST_SLOW, _MOST_FAILED, _MOST_TAIL = 2, 3, 4
_BAR = 20
_SHORTEST_BAR = 6
_DETAIL = 10
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-(.+)-[0-9a-f]+")


def screen(progress: Progress, *, now: datetime, width: int, height: int) -> list[Text]:
    """Return the lines to show. What finds no room goes in this order: output, steps ahead, steps done."""
    head = _head(progress, now=now, width=width)
    steps, at = _steps(progress, now=now, width=width)
    room = max(3, height - len(head))
    if len(steps) > room:
        steps = _window(steps, at=at, room=room)
    tail = _tail(progress, width=width, most=min(_MOST_TAIL, room - len(steps)))
    lines = [*head, *steps, *tail][:height]
    for line in lines:
        line.truncate(width, overflow="crop")
        line.no_wrap = True
    return lines


def _head(progress: Progress, *, now: datetime, width: int) -> list[Text]:
    run = progress.run
    if run is None:
        return [Text(_waiting(progress) or "starting", "dim")]
    match = _RUN_ID.fullmatch(run.run_id)
    name, title = one_line(match[1]) if match else "", one_line(run.title)
    count = f"{len(run.selected)} target{'' if len(run.selected) == 1 else 's'}" if run.selected else ""
    elapsed = format_duration((now - (progress.started_at or now)).total_seconds())
    right = " · ".join(filter(None, [one_line(run.pattern or ""), count, elapsed]))
    left = " · ".join(dict.fromkeys(filter(None, [name, title])))
    right = crop(right, max(len(elapsed), width // 2))
    left = set_cell_size(crop(left, width - cell_len(right) - 2), max(0, width - cell_len(right)))
    second = Text.assemble("run ", one_line(run.run_id))
    if progress.stopping:
        again = ", again to end what runs" if progress.stopping == "SIGINT" else ""
        second.append(f"   stopping: {one_line(progress.stopping)}{again}", "bold yellow")
    elif progress.awaiting:
        second.append(f"   {_waiting(progress)}", "yellow")
    return [Text.assemble((left, "bold"), right), second, Text()]


def _waiting(progress: Progress) -> str:
    """Say whom the run waits for, if it does."""
    return f"waiting: {one_line(progress.awaiting)}" if progress.awaiting else ""


def _steps(progress: Progress, *, now: datetime, width: int) -> tuple[list[Text], int]:
    """Lay out the phases and, under the running one, where its targets are; also return the running one's line."""
    phases = fold_phases(progress.cells.values())
    label_width = max((cell_len(one_line(phase.label)) for phase in phases), default=0)
    label_width = max(10, min(label_width, width - 30))
    lines: list[Text] = []
    at = 0
    for phase in phases:
        is_current = progress.current in phase.cell_ids
        at = len(lines) if is_current else at
        lines.append(_phase(phase, progress, now=now, label_width=label_width))
        if is_current and (call := progress.call_shown()) is not None:
            lines += _detail(progress, call, now=now, width=width)
    return lines, at


def _phase(phase: Phase, progress: Progress, *, now: datetime, label_width: int) -> Text:
    is_current = progress.current in phase.cell_ids
    state = CellState.RUNNING if is_current else phase.state
    mark, style = CELL_MARKS[state]
    mark = "○" if state is CellState.NOT_RUN and progress.ended is None else mark
    took = phase.duration_s
    started = progress.cells[progress.current].started_at if is_current and progress.current else None
    if started is not None:
        took = (took or 0.0) + (now - started).total_seconds()
    label = set_cell_size(crop(one_line(phase.label), label_width), label_width)
    said = "" if took is None else format_duration(took)
    cells = f"{len(phase.cell_ids)} cell{'' if len(phase.cell_ids) == 1 else 's'}" if took is not None else ""
    text = Text.assemble("  ", (mark, style), " ", (label, "dim" if took is None else ""), f"   {cells:<9}   {said:>7}")
    text.rstrip()
    return text


def _detail(progress: Progress, call: Call, *, now: datetime, width: int) -> list[Text]:
    """Show one call: how many targets are where, which of them are slow and which have failed."""
    calls = progress.series(call)
    ahead = progress.ahead(call)
    total, done = ahead + sum(len(c.started.targets) for c in calls), sum(len(c.ended) for c in calls)
    started = call.started
    head = f"wave {started.wave} of {started.waves}" if started.wave is not None else f"{total} targets"
    counts = count_targets(calls, ahead=ahead)
    space = min(_BAR, width - _DETAIL - cell_len(head) - cell_len(counts) - 6)
    line = Text.assemble(" " * _DETAIL, head)
    if total and space >= _SHORTEST_BAR:
        full = min(space, done * space // total)
        line.append("   ").append("█" * full, "cyan").append("░" * (space - full), "dim")
    line.append(f"   {counts}")
    return [line, *_named(progress, call, now=now, width=width)]


def _named(progress: Progress, call: Call, *, now: datetime, width: int) -> list[Text]:
    """Name the targets that take long and those that failed."""
    ages = sorted(((now - since).total_seconds(), name) for name, since in call.running.items())
    slow = [(age, name) for age, name in reversed(ages) if age >= _SLOW_S][:_MOST_SLOW]
    rows = [("slow", name, format_duration(age), call.started.text, "yellow") for age, name in slow]
    failed = list(progress.failed.items())
    rows += [(words(end.state), name, "", end.line, style_of(end.state)) for name, end in failed[-_MOST_FAILED:]]
    if not rows:
        return []
    word_width = max(len(word) for word, *_ in rows)
    name_width = min(max(cell_len(one_line(name)) for _, name, *_ in rows), 24)
    time_width = max(len(time) for _, _, time, *_ in rows)
    lines = []
    for word, name, time, text, style in rows:
        shown = set_cell_size(crop(one_line(name), name_width), name_width)
        head = f" {shown}  {time:<{time_width}}  " if time_width else f" {shown}  "
        start = Text.assemble(" " * _DETAIL, (f"{word:<{word_width}}", style), head)
        lines.append(start.append(crop(one_line(text), width - start.cell_len)))
    return lines


def _tail(progress: Progress, *, width: int, most: int) -> list[Text]:
    """Show what targets said last."""
    shown = list(progress.tail)[-most:] if most > 0 else []
    name_width = min(max((cell_len(one_line(name)) for name, _ in shown), default=0), 24)
    lines = []
    for name, said in shown:
        head = set_cell_size(crop(one_line(name), name_width), name_width)
        lines.append(Text.assemble((f"{head} | ", "dim"), crop(one_line(said), max(1, width - name_width - 3))))
    return lines


def _window(lines: Sequence[Text], *, at: int, room: int) -> list[Text]:
    """Cut the steps to what fits, the running one kept in sight, and say how many lines are missing."""
    first = max(0, min(at - 1, len(lines) - (room - 1)))
    last = min(len(lines), first + room - (1 if first == 0 else 2))
    kept = list(lines[first:last])
    before, after = first, len(lines) - last
    if before:
        kept.insert(0, Text(f"  … {before} above", "dim"))
    if after:
        kept.append(Text(f"  … {after} below", "dim"))
    return kept[:room]
