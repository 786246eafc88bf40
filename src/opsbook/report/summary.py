"""A run's summary as a view model: what to say, in which order, before anybody decides how it looks.

The failed thing comes first, the next command last, and nothing is said that the record does not hold. Texts are as
recorded: whoever renders them makes them harmless. Knows no terminal.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from opsbook.model.outcome import count_states, group_results, shared_part
from opsbook.model.run import CellRecord, CellState, RunRecord, RunState, TargetOutcome
from opsbook.model.target import JsonValue, TargetState
from opsbook.report.duration import format_duration, format_stamp
from opsbook.report.phase import Phase, fold_phases, words

MOST_NAMED = 60
"""How many targets that are ok a summary names."""
LONGEST_VALUE = 500
"""Characters of a value that are shown: a metric may be a book; the record has all of it."""
EXCERPT_LINES = 20
"""How much of a cell's error a summary shows."""
_STOPPED = {RunState.FAILED, RunState.REFUSED, RunState.TIMED_OUT, RunState.INTERRUPTED, RunState.LOST}


class TargetGroup(Struct, frozen=True, kw_only=True):
    """Targets that ended alike."""

    state: TargetState
    names: tuple[str, ...]
    exit_code: int | None = None
    reason: str = ""

    @property
    def told(self) -> tuple[str, str, str]:
        """How many are in which state, the exit code, and the reason where it says more than that."""
        code = f"exit {self.exit_code}" if self.exit_code is not None else ""
        return f"{len(self.names)} {words(self.state)}", code, self.reason if self.reason != code else ""


class ErrorExcerpt(Struct, frozen=True, kw_only=True):
    """What a cell raised, as far as a summary shows it."""

    cell: str
    name: str
    lines: tuple[str, ...]
    more: int = 0
    """How many lines are not shown."""


class Summary(Struct, frozen=True, kw_only=True):
    """Everything a reader needs first."""

    run_id: str
    status: RunState
    headline: str
    phases: tuple[Phase, ...] = ()
    groups: tuple[TargetGroup, ...] = ()
    error: ErrorExcerpt | None = None
    failed_checks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    metrics: tuple[tuple[str, str], ...] = ()
    copy: str = ""
    look: str = ""
    """The command that shows more."""
    go_on: str = ""
    """The command that goes on where it stopped, when there is something to go on with."""


def summarise(record: RunRecord, *, copy: Path | None) -> Summary:
    """Return what to say about a run; `copy` is its executed notebook."""
    return Summary(
        run_id=record.run_id,
        status=record.status,
        headline=_headline(record),
        phases=tuple(_with_targets(phase) for phase in fold_phases(record.cells)),
        groups=group_targets(record.targets.results),
        error=_error(record.cells, reason=record.reason),
        failed_checks=tuple(f"{check.name}: {check.detail or 'failed'}" for check in record.checks if not check.ok),
        notes=record.notes,
        parameters=tuple((name, show_value(value)) for name, value in record.parameters.items()),
        metrics=tuple((name, show_value(value)) for name, value in record.metrics.items()),
        copy=nearest(copy) if copy is not None else "",
        look=_look(record) if record.status is not RunState.SUCCEEDED else "",
        go_on=f"opsbook resume {record.run_id}" if _can_go_on(record) else "",
    )


def _look(record: RunRecord) -> str:
    """Return the command that shows more: what the target said that failed first, else how the run went."""
    for group in group_targets(record.targets.results):
        if group.state.is_failure and not group.state.is_unreachable:
            return f"opsbook logs {record.run_id} --target {shlex.quote(group.names[0])}"
    return f"opsbook show {record.run_id}"


def _can_go_on(record: RunRecord) -> bool:
    """Whether a resume would have something to go on with: a runbook, begun, that did not come to its end."""
    is_runbook = Path(record.runbook.path).suffix == ".ipynb" and not record.checking
    begun = any(cell.state is not CellState.NOT_RUN for cell in record.cells)
    left = any(cell.state not in {CellState.OK, CellState.SKIPPED} for cell in record.cells)
    return is_runbook and begun and left and record.status in _STOPPED


def group_targets(results: Mapping[str, TargetOutcome]) -> tuple[TargetGroup, ...]:
    """Group the targets by how they ended, the failed first; those that are ok are named unless they are many."""
    well = [name for name, result in results.items() if result.state is TargetState.OK]
    left_out = set(well) if len(well) > MOST_NAMED else set()
    rows = [
        (
            name,
            result.state,
            "" if result.state is TargetState.OK else shared_part(f"{result.exit_code} {result.reason}"),
        )
        for name, result in results.items()
        if name not in left_out
    ]
    groups = []
    for group in group_results(rows):
        alike = results[group.names[0]] if group.state is not TargetState.OK else TargetOutcome()
        reason = shared_part(alike.reason) if len(group.names) > 1 else alike.reason
        groups.append(TargetGroup(state=group.state, names=group.names, exit_code=alike.exit_code, reason=reason))
    return tuple(groups)


def show_value(value: JsonValue) -> str:
    """Say a parameter's or a metric's value: text as it is, anything else as JSON; its beginning if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def runbook_name(record: RunRecord) -> str:
    """Return what runs of this runbook are called."""
    return Path(record.runbook.path).stem


def status_words(record: RunRecord) -> str:
    """Say a run's state; a dry run, and one of a part, is no success of its runbook, and never reads like one."""
    return f"{words(record.status)} ({record.short_of})" if record.short_of else words(record.status)


def count_ok(results: Mapping[str, TargetOutcome], *, between: str) -> str:
    """Say how many targets are ok, of how many; nothing when there are none."""
    ok = sum(result.state is TargetState.OK for result in results.values())
    return f"{ok}{between}{len(results)}" if results else ""


def _headline(record: RunRecord) -> str:
    """Say in one sentence what became of the run."""
    verb = {
        RunState.REFUSED: "was refused",
        RunState.INTERRUPTED: "was interrupted",
        RunState.TIMED_OUT: "timed out",
        RunState.LOST: "was lost",
        RunState.RUNNING: f"is running since {format_stamp(record.started_at)}",
        RunState.UNKNOWN: "ended in a way this opsbook does not know",
    }.get(record.status, words(record.status))
    verb = f"{verb} ({record.short_of})" if record.short_of else verb
    counted = "" if record.checking else count_ok(record.targets.results, between=" of ")
    targets = f"{counted} targets" if counted else ""
    says_targets = record.status in {RunState.SUCCEEDED, RunState.RUNNING}
    reason = record.reason.strip() or (targets if says_targets else "")
    took = ""
    if record.duration_s is not None and record.status not in {RunState.REFUSED, RunState.RUNNING}:
        link = "in" if record.status is RunState.SUCCEEDED else "after"
        took = f" {link} {format_duration(record.duration_s)}"
    return f"{runbook_name(record)} {verb}{took}" + (f": {reason}" if reason else "")


def _with_targets(phase: Phase) -> Phase:
    """Add what became of the targets where that explains the phase."""
    if not phase.targets:
        return phase
    nothing = "nothing was done: " if phase.did_nothing else ""
    return msgspec.structs.replace(phase, note=f"{nothing}{count_states(phase.targets)}")


def _error(cells: tuple[CellRecord, ...], *, reason: str) -> ErrorExcerpt | None:
    """Return what the first failed cell raised, unless the targets or the reason already say it whole."""
    for cell in cells:
        if cell.state is CellState.FAILED and cell.error is not None and cell.error.name != "FleetError":
            lines = cell.error.text.strip("\n").splitlines()
            if len(lines) == 1 and f": {reason}".endswith(f": {lines[0]}"):
                return None
            shown, more = tuple(lines[:EXCERPT_LINES]), max(0, len(lines) - EXCERPT_LINES)
            return ErrorExcerpt(cell=cell.label, name=cell.error.name, lines=shown, more=more)
    return None


def nearest(path: Path) -> str:
    """Return the shortest way to say a path: from the working directory when it is below it."""
    try:
        here = Path.cwd()
    except OSError:  # the working directory is gone
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
