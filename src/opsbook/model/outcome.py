"""The one function that turns cells and targets into a run's state, exit code and sentence; and grouped text.

Record, executed copy, screen, JSON and exit code agree because all of them ask here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from opsbook.errors import ExitCode
from opsbook.model.run import CellRecord, CellState, RunState, TargetOutcome
from opsbook.model.target import TargetState


class Ending(Struct, frozen=True, kw_only=True):
    """What, besides cells and targets, decided how the run ended."""

    signal: int | None = None
    """The signal that stopped it."""
    timed_out: bool = False
    not_started: str = ""
    """Why the kernel could not be started: nothing ran."""
    internal: str = ""
    archive: str = ""
    kernel_lost: str = ""
    """Why the kernel is gone, when it went by itself."""
    refused: str = ""
    """What a gate said."""
    limit_passed: str = ""
    """What a fleet call raised when its limit was passed."""


class Outcome(Struct, frozen=True, kw_only=True):
    """A run's state, its exit code and one sentence saying why."""

    status: RunState
    exit_code: int
    reason: str = ""


def outcome(
    cells: Sequence[CellRecord],
    targets: Mapping[str, TargetOutcome],
    ending: Ending | None = None,
) -> Outcome:
    """Return how a run ended. Where several exit codes apply, SEMANTICS 15 orders them."""
    ending = ending or Ending()
    if ending.signal is not None:
        name = signal.Signals(ending.signal).name
        return Outcome(
            status=RunState.INTERRUPTED,
            exit_code=ExitCode.SIGNAL + ending.signal,
            reason=f"stopped by {name}",
        )
    timed_out = (cell for cell in cells if cell.state is CellState.TIMED_OUT and "always" not in cell.tags)
    overdue = next((cell.label for cell in timed_out), "")
    ends = (
        (ending.timed_out, RunState.TIMED_OUT, ExitCode.TIMED_OUT, "the run timed out"),
        (overdue, RunState.TIMED_OUT, ExitCode.TIMED_OUT, f'cell "{overdue}" did not end in time'),
        (ending.not_started, RunState.FAILED, ExitCode.USAGE, ending.not_started),
        (ending.internal, RunState.FAILED, ExitCode.INTERNAL, ending.internal),
        (ending.archive, RunState.FAILED, ExitCode.ARCHIVE, ending.archive),
        (ending.refused, RunState.REFUSED, ExitCode.REFUSED, ending.refused),
    )
    for holds, status, code, reason in ends:
        if holds:
            return Outcome(status=status, exit_code=code, reason=reason)
    return _judge(cells, targets, ending)


def _judge(cells: Sequence[CellRecord], targets: Mapping[str, TargetOutcome], ending: Ending) -> Outcome:
    """Judge a run that nobody stopped."""
    bad = {name: target for name, target in targets.items() if target.state.is_failure}
    lost = sorted(name for name, target in bad.items() if target.state is TargetState.LOST)
    broken = [cell for cell in cells if cell.state not in {CellState.OK, CellState.SKIPPED}]
    if ending.kernel_lost:
        return Outcome(status=RunState.LOST, exit_code=ExitCode.UNKNOWN, reason=ending.kernel_lost)
    if any(cell.state is CellState.LOST for cell in broken):
        return Outcome(status=RunState.LOST, exit_code=ExitCode.UNKNOWN, reason="the kernel was lost")
    if lost:
        reason = f"the link to {name_ranges(lost)} was lost; what was sent may still be running there"
        return Outcome(status=RunState.LOST, exit_code=ExitCode.UNKNOWN, reason=reason)
    if not bad and not broken:
        return Outcome(status=RunState.SUCCEEDED, exit_code=ExitCode.SUCCEEDED)
    by_fleet = all(
        cell.state is CellState.NOT_RUN or (cell.error is not None and cell.error.name == "FleetError")
        for cell in broken
    )
    only_unreachable = bool(bad) and by_fleet and all(target.state.is_unreachable for target in bad.values())
    code = ExitCode.UNREACHABLE if only_unreachable else ExitCode.FAILED
    return Outcome(status=RunState.FAILED, exit_code=code, reason=_reason(cells, targets, bad, ending))


def _reason(
    cells: Sequence[CellRecord],
    targets: Mapping[str, TargetOutcome],
    bad: Mapping[str, TargetOutcome],
    ending: Ending,
) -> str:
    """Say in one sentence what failed: the cell that raised, and how many targets."""
    failed = next((cell for cell in cells if cell.state is CellState.FAILED), None)
    unproven = next((cell for cell in cells if cell.state not in {CellState.OK, CellState.SKIPPED}), None)
    if failed is not None and failed.error is not None:
        if failed.error.name == "FleetError":
            return f'{failed.error.text.partition(chr(10))[0]} in "{failed.label}"'
        text = failed.error.text.strip().partition("\n")[0]
        return f'cell "{failed.label}" raised {failed.error.name}' + (f": {text}" if text else "")
    if bad:
        labels = {cell.id: cell.label for cell in cells}
        where = sorted({labels[t.cell_id] for t in bad.values() if t.cell_id in labels})
        verb = "could not be reached" if all(t.state.is_unreachable for t in bad.values()) else "failed"
        place = f' in "{where[0]}"' if len(where) == 1 else ""
        limit = "and the notebook caught the error" if ending.limit_passed else "within the limit"
        return f"{len(bad)} of {len(targets)} targets {verb}{place}, {limit}"
    label = unproven.label if unproven is not None else "?"
    return f'cell "{label}" did not end well'


class ResultGroup(Struct, frozen=True, kw_only=True):
    """Targets that ended alike: shown as one row."""

    state: TargetState
    names: tuple[str, ...]
    detail: str = ""
    """What they have in common: `exit 100`, and the line that says why."""


STATE_ORDER = {
    state: rank
    for rank, state in enumerate(
        (
            TargetState.FAILED,
            TargetState.TIMED_OUT,
            TargetState.LOST,
            TargetState.BECOME,
            TargetState.HOSTKEY,
            TargetState.AUTH,
            TargetState.UNREACHABLE,
            TargetState.CANCELLED,
            TargetState.UNKNOWN,
            TargetState.OK,
            TargetState.SKIPPED,
            TargetState.NOT_RUN,
        )
    )
}
"""What a reader wants to see first."""


def group_results(rows: Iterable[tuple[str, TargetState, str]]) -> tuple[ResultGroup, ...]:
    """Group `(name, state, detail)` rows by state and detail, the failed first.

    >>> [g.names for g in group_results([("a", TargetState.OK, ""), ("b", TargetState.OK, "")])]
    [('a', 'b')]
    """
    groups: dict[tuple[TargetState, str], list[str]] = {}
    for name, state, detail in rows:
        groups.setdefault((state, detail), []).append(name)
    made = [ResultGroup(state=state, names=tuple(names), detail=d) for (state, d), names in groups.items()]
    return tuple(sorted(made, key=lambda group: (STATE_ORDER[group.state], group.detail)))


def telling_line(state: TargetState, reason: str, stderr: str) -> str:
    r"""Return the line that says why a target did not end well: the reason given, else its own last words.

    >>> telling_line(TargetState.FAILED, "", "reading\nE: Could not get lock\n")
    'E: Could not get lock'
    """
    if reason or state is not TargetState.FAILED:
        return reason
    return next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")


def count_states(states: Iterable[TargetState]) -> str:
    """Say how many targets are in which state: `18 ok · 2 failed · 4 skipped`.

    >>> count_states([TargetState.OK, TargetState.FAILED, TargetState.OK])
    '2 ok · 1 failed'
    """
    counts: dict[TargetState, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    order = sorted(counts, key=lambda state: (state is not TargetState.OK, STATE_ORDER[state]))
    return " · ".join(f"{counts[state]} {state.value.replace('_', ' ')}" for state in order)


def name_ranges(names: Iterable[str]) -> str:
    """Fold three names or more that count upwards: `web01-web03, db01`.

    >>> name_ranges(["web01", "web02", "web03", "db01", "db02"])
    'web01-web03, db01, db02'
    """
    spans: list[list[str]] = []
    expected = ""
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)", name)
        if spans and name == expected:
            spans[-1].append(name)
        else:
            spans.append([name])
        expected = f"{match[1]}{int(match[2]) + 1:0{len(match[2])}d}" if match else ""
    shown = ([f"{span[0]}-{span[-1]}"] if len(span) > 2 else span for span in spans)  # noqa: PLR2004  a pair is clearer
    return ", ".join(name for part in shown for name in part)
