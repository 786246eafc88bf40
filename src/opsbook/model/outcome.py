"""The one function that turns cells and targets into a run's state, exit code and sentence; and grouped text.

Record, executed copy, screen, JSON and exit code agree because all of them ask here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from opsbook.errors import ExitCode
from opsbook.model.run import CellRecord, CellState, RunState, TargetOutcome
from opsbook.model.target import TargetState

_LAST_WORDS = 64 * 1024
"""Characters of stderr in which a target's last words are looked for."""
LONGEST_REASON = 500
"""Characters of a reason that go into a record or a table: a target's last words may be a book."""


_CLEANUP = {"always", "on-failure"}
_SPOOL = re.compile(r"(opsbook(?:-\d+)?/|\bspool )[0-9a-f]{16,64}\b")
"""The name under which one target keeps what a durable command says (SEMANTICS 9)."""


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
    busy: str = ""
    """Who holds what it would have changed; it has changed nothing."""
    unknown: str = ""
    """What was sent in an earlier run and nobody knows the end of, so that this one could not go on."""
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
    overdue = _overdue(cells)
    ends = (
        (ending.timed_out, RunState.TIMED_OUT, ExitCode.TIMED_OUT, "the run timed out"),
        (overdue, RunState.TIMED_OUT, ExitCode.TIMED_OUT, f'cell "{overdue}" did not end in time'),
        (ending.not_started, RunState.FAILED, ExitCode.USAGE, ending.not_started),
        (ending.internal, RunState.FAILED, ExitCode.INTERNAL, ending.internal),
        (ending.archive, RunState.FAILED, ExitCode.ARCHIVE, ending.archive),
        (ending.unknown, RunState.LOST, ExitCode.UNKNOWN, ending.unknown),
        (ending.refused, RunState.REFUSED, ExitCode.REFUSED, ending.refused),
        (ending.busy, RunState.REFUSED, ExitCode.BUSY, ending.busy),
    )
    for holds, status, code, reason in ends:
        if holds:
            return Outcome(status=status, exit_code=code, reason=reason)
    return _judge(cells, targets, ending)


def _overdue(cells: Sequence[CellRecord]) -> str:
    """Return the label of the cell that timed out; a clean-up that did says nothing of how the run had ended before."""
    broken = [cell for cell in cells if cell.state not in {CellState.OK, CellState.SKIPPED, CellState.NOT_RUN}]
    decisive = [cell for cell in broken if not _CLEANUP & set(cell.tags)] or broken
    return next((cell.label for cell in decisive if cell.state is CellState.TIMED_OUT), "")


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
    """Targets that ended alike, and said the same where that was looked at: shown as one row."""

    state: TargetState
    names: tuple[str, ...]
    detail: str = ""
    """What they have in common: `exit 100`, and the line that says why."""
    stdout: str = ""
    """What each of them said, white space at its end aside."""
    stderr: str = ""
    """What the first of them said there."""
    stderr_alike: bool = True
    """Whether all of them said the same there."""
    truncated: bool = False
    """Whether one of them said more than was kept."""


class Ended(Protocol):
    """How a call ended on one target and what was said: a result in a notebook, or an event of the journal."""

    @property
    def target(self) -> str:
        """The target's name."""

    @property
    def state(self) -> TargetState:
        """How it ended."""

    @property
    def exit_code(self) -> int | None:
        """None unless the target told it."""

    @property
    def reason(self) -> str:
        """Why it did not end well, as far as opsbook knows."""

    @property
    def stdout(self) -> str:
        """What was said, as far as it was kept."""

    @property
    def stderr(self) -> str:
        """What was said there, as far as it was kept."""

    @property
    def truncated(self) -> bool:
        """Whether more was said than was kept."""


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
    """Group `(name, state, detail)` rows by state and detail, the failed first, then the largest.

    >>> [g.names for g in group_results([("a", TargetState.OK, ""), ("b", TargetState.OK, "")])]
    [('a', 'b')]
    """
    groups: dict[tuple[TargetState, str], list[str]] = {}
    for name, state, detail in rows:
        groups.setdefault((state, detail), []).append(name)
    made = [ResultGroup(state=state, names=tuple(names), detail=d) for (state, d), names in groups.items()]
    return tuple(sorted(made, key=_rank))


def group_ended(results: Iterable[Ended]) -> tuple[ResultGroup, ...]:
    """Group targets that ended alike and said the same, the failed first, then the largest.

    What counts is stdout. Where a target that is ok said nothing there, what it said on stderr counts.
    """
    groups: dict[tuple[TargetState, str, str, str], list[Ended]] = {}
    for one in results:
        said = one.stdout.rstrip()
        aside = one.stderr.rstrip() if one.state is TargetState.OK and not said else ""
        groups.setdefault((one.state, shared_part(explain(one)), said, aside), []).append(one)
    made = [
        ResultGroup(
            state=state,
            names=tuple(one.target for one in alike),
            detail=detail if len(alike) > 1 else explain(alike[0]),
            stdout=said,
            stderr=alike[0].stderr.rstrip(),
            stderr_alike=len({one.stderr.rstrip() for one in alike}) == 1,
            truncated=any(one.truncated for one in alike),
        )
        for (state, detail, said, _), alike in groups.items()
    ]
    return tuple(sorted(made, key=_rank))


def _rank(group: ResultGroup) -> tuple[int, int, str]:
    return STATE_ORDER[group.state], -len(group.names), group.detail


def explain(one: Ended) -> str:
    """Say in one line why a target did not end well: `exit 100   E: Could not get lock`. One that did may have a note.

    An exit code that is 0 is no reason.
    """
    code = f"exit {one.exit_code}" if one.exit_code else ""
    return "   ".join(part for part in (code, telling_line(one.state, one.reason, one.stderr)) if part)


def shared_part(reason: str) -> str:
    """Return what a reason has in common with that of other targets: without the spool that is one target's own.

    >>> shared_part("lost; its output is kept in /root/.local/state/opsbook/0123456789abcdef01234567")
    'lost; its output is kept in /root/.local/state/opsbook/…'
    """
    return _SPOOL.sub(r"\1…", reason)


def count_alike(groups: Iterable[ResultGroup]) -> str:
    """Say how many of the targets that are ok said the same; nothing when all of them did.

    >>> ok = TargetState.OK
    >>> count_alike([ResultGroup(state=ok, names=("a", "b")), ResultGroup(state=ok, names=("c",), stdout="6.1")])
    '2 hosts alike, 1 differs'
    """
    sizes = sorted(len(group.names) for group in groups if group.state is TargetState.OK)
    if len(sizes) <= 1:
        return ""
    if sizes[-1] == 1:
        return f"{len(sizes)} hosts, no two alike"
    others = sum(sizes[:-1])
    return f"{sizes[-1]} hosts alike, {others} differ{'s' if others == 1 else ''}"


def telling_line(state: TargetState, reason: str, stderr: str) -> str:
    r"""Return the line that says why a target did not end well: the reason given, else its own last words, cut.

    >>> telling_line(TargetState.FAILED, "", "reading\nE: Could not get lock\n")
    'E: Could not get lock'
    """
    word = state.value.replace("_", " ")  # the state stands beside it
    line = "" if reason == word else reason.removeprefix(f"{word}; ")
    if not reason and state is TargetState.FAILED:
        lines = stderr[-_LAST_WORDS:].rstrip().splitlines()
        line = lines[-1].strip() if lines else ""
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def count_states(states: Iterable[TargetState], *, running: int = 0, waiting: int = 0) -> str:
    """Say how many targets are in which state: `18 ok · 2 failed · 4 skipped`.

    >>> count_states([TargetState.OK, TargetState.FAILED, TargetState.OK], running=3)
    '2 ok · 1 failed · 3 running'
    """
    counts: dict[TargetState, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    order = sorted(counts, key=lambda state: (state is not TargetState.OK, STATE_ORDER[state]))
    parts = [f"{counts[state]} {state.value.replace('_', ' ')}" for state in order]
    parts += [f"{running} running"] if running > 0 else []
    parts += [f"{waiting} waiting"] if waiting > 0 else []
    return " · ".join(parts)


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
