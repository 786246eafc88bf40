"""Progress as plain lines, for a CI log: one line for each thing that happened, with its time in UTC.

What targets print is not repeated here: it is in their logs. No line can be a CI system's command, and a stream that
breaks ends the log, never the run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from pathlib import PurePath

from opsbook.model.event import (
    CallEnded,
    CallStarted,
    CellEnded,
    CellStarted,
    Entry,
    Event,
    GateAnswered,
    LockAwaited,
    MarksCleared,
    RunEnded,
    RunStarted,
    StopRequested,
    TargetEnded,
)
from opsbook.model.outcome import name_ranges, telling_line
from opsbook.model.run import CellState
from opsbook.model.target import TargetState
from opsbook.model.visible import ci_safe, one_line
from opsbook.report.duration import format_seconds
from opsbook.report.phase import words
from opsbook.report.state import Call, Progress
from opsbook.report.summary import show_value


class PlainProgress:
    """An observer that writes a run's progress line by line; `write` is given whole lines with their newline."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._progress = Progress()
        self._broken = False

    def observe(self, entry: Entry) -> None:
        """Write the lines an entry gives rise to."""
        self._progress.apply(entry)
        stamp = f"{entry.at.astimezone(UTC):%H:%M:%SZ}"
        for text in self._lines(entry.event):
            self._put(f"{ci_safe(f'{stamp} {text}')}\n")

    def close(self) -> None:
        """Nothing to put away."""

    def _put(self, line: str) -> None:
        if self._broken:
            return
        try:
            self._write(line)
        except (OSError, ValueError):  # a full disk, a closed pipe or stream, an encoding without our characters
            self._broken = True

    def _lines(self, event: Event) -> list[str]:
        lines: list[str] = []
        match event:
            case RunStarted() | RunEnded() | StopRequested() | LockAwaited() | MarksCleared():
                lines = [_run_line(event)]
            case CellStarted():
                lines = [f"{self._cell(event.cell_id)} starts{_again(event)}"]
            case CellEnded():
                lines = [f"{self._cell(event.cell_id)} {_cell_end(event)}"]
            case GateAnswered():
                answer = "confirmed" if event.granted else "not confirmed"
                lines = [f"{self._cell(event.cell_id)} {answer} ({one_line(event.by)})"]
            case CallStarted():
                lines = [_call_line(self._cell(event.cell_id), event)]
            case TargetEnded() if event.state is not TargetState.SKIPPED:
                lines = [_target_line(event)]
            case CallEnded():
                lines = _skipped_lines(self._progress.calls.get(event.call))
        return lines

    def _cell(self, cell_id: str | None) -> str:
        number, label = self._progress.place(cell_id)
        return f'cell {number}/{len(self._progress.cells)} "{one_line(label)}"' if number else "cell"


def _run_line(event: RunStarted | RunEnded | StopRequested | LockAwaited | MarksCleared) -> str:
    """Say what happened to the run as a whole."""
    match event:
        case RunStarted():
            return _first_line(event)
        case RunEnded():
            return f"run {words(event.status)} exit {event.exit_code}"
        case StopRequested():
            return f"stopping: {one_line(event.signal)}"
        case LockAwaited():
            return f"waiting: {one_line(event.holder)}"
        case MarksCleared():
            left = one_line(name_ranges(event.targets)) or "nothing"
            return f"acknowledged: {left} left in the middle by run {one_line(event.run_id)}"


def _first_line(event: RunStarted) -> str:
    values = " ".join(f"{name}={one_line(show_value(value))}" for name, value in event.parameters.items())
    name = PurePath(event.runbook).name or event.title
    before = f"goes on with {one_line(event.resumed_from)}" if event.resumed_from else ""
    parts = [f"run {one_line(event.run_id)}", one_line(name), values, _targets(len(event.selected)), before]
    return "  ".join(part for part in parts if part)


def _again(event: CellStarted) -> str:
    return f" again (attempt {event.attempt})" if event.attempt > 1 else ""


def _cell_end(event: CellEnded) -> str:
    if event.state is CellState.OK:
        raised = f", raised {one_line(event.error.name)}" if event.error is not None else ""
        return f"ok {format_seconds(event.duration_s)}{raised}"
    if event.error is None:
        return words(event.state) + (f": {one_line(event.reason)}" if event.reason else "")
    text = one_line(event.error.text.strip().partition("\n")[0])
    name = "" if event.error.name == "FleetError" else one_line(event.error.name)
    return f"{words(event.state)}: {': '.join(part for part in (name, text) if part)}"


def _call_line(cell: str, event: CallStarted) -> str:
    wave = f"wave {event.wave}/{event.waves} " if event.wave is not None else ""
    return f"{cell} {wave}{_targets(len(event.targets)) or 'no targets'}"


def _target_line(event: TargetEnded) -> str:
    aside = "" if event.counted else " (not counted)"
    aside += " (answered from before)" if event.replayed else ""
    head = f"target {one_line(event.target)} {words(event.state)}{aside}"
    if event.state is TargetState.OK:
        return f"{head} {format_seconds(event.duration_s)}"
    code = f" exit {event.exit_code}" if event.exit_code is not None else ""
    line = one_line(telling_line(event.state, event.reason, event.stderr))
    return f"{head}{code}" + (f": {line}" if line else "")


def _skipped_lines(call: Call | None) -> list[str]:
    """Say which targets were left out, those with one reason in one line: there can be hundreds."""
    by_reason: dict[str, list[str]] = {}
    for name, ended in call.ended.items() if call else ():
        if ended.state is TargetState.SKIPPED:
            by_reason.setdefault(one_line(ended.line), []).append(one_line(name))
    return [f"skipped {name_ranges(names)}" + (f": {reason}" if reason else "") for reason, names in by_reason.items()]


def _targets(count: int) -> str:
    return f"{count} target{'' if count == 1 else 's'}" if count else ""
