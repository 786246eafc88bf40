"""Phases: consecutive cells of one label, folded into what a reader thinks of as one step; and how states look.

A phase is as bad as its worst cell. Knows nothing of targets and of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct

from opsbook.model.run import CellRecord, CellState, RunState
from opsbook.model.target import TargetState

_DASH = "\u2013"
CELL_MARKS: dict[CellState, tuple[str, str]] = {
    CellState.OK: ("✓", "green"),
    CellState.RUNNING: ("●", "bold cyan"),
    CellState.FAILED: ("✗", "bold red"),
    CellState.TIMED_OUT: ("✗", "bold red"),
    CellState.LOST: ("✗", "bold red"),
    CellState.INTERRUPTED: ("✗", "bold yellow"),
    CellState.SKIPPED: (_DASH, "dim"),
    CellState.NOT_RUN: (_DASH, "dim"),
    CellState.UNKNOWN: ("?", "yellow"),
}
"""A cell's mark and its style; the mark alone says what matters."""

RUN_MARKS: dict[RunState, tuple[str, str]] = {
    RunState.SUCCEEDED: ("✓", "bold green"),
    RunState.RUNNING: ("●", "bold cyan"),
    RunState.INTERRUPTED: ("✗", "bold yellow"),
    RunState.UNKNOWN: ("?", "bold yellow"),
    **dict.fromkeys((RunState.FAILED, RunState.REFUSED, RunState.TIMED_OUT, RunState.LOST), ("✗", "bold red")),
}
"""A run's mark and its style."""

_WORST_FIRST = (
    CellState.FAILED,
    CellState.TIMED_OUT,
    CellState.LOST,
    CellState.INTERRUPTED,
    CellState.UNKNOWN,
    CellState.RUNNING,
    CellState.NOT_RUN,
    CellState.OK,
    CellState.SKIPPED,
)
_SPECIAL_TAGS = ("always", "on-failure")
_PARAMETERS_TAG = "parameters"


class Phase(Struct, frozen=True, kw_only=True):
    """Consecutive cells with the same label."""

    label: str
    """The label, and in brackets whether the cells run always or after a failure only."""
    state: CellState
    cell_ids: tuple[str, ...]
    duration_s: float | None = None
    """The sum over its cells; None when none of them ran."""
    targets: tuple[TargetState, ...] = ()
    """How the targets ended in the last of its cells that did not go well for all of them."""
    did_nothing: bool = False
    """Whether it went well because every target its cells asked for was left out."""
    note: str = ""
    """What else there is to say: how many cells and attempts, or what became of the targets."""


def fold_phases(cells: Iterable[CellRecord]) -> tuple[Phase, ...]:
    """Fold cells into phases. The cell of parameters is left out unless something is wrong with it."""
    quiet = {CellState.OK, CellState.NOT_RUN, CellState.RUNNING, CellState.SKIPPED}
    shown = [cell for cell in cells if not (_PARAMETERS_TAG in cell.tags and cell.state in quiet)]
    return tuple(_phase(label, list(group)) for label, group in groupby(shown, key=_title))


def style_of(state: TargetState) -> str:
    """Return the style a target's state is shown in."""
    if state is TargetState.OK:
        return "green"
    return "red" if state.is_failure else "dim"


def words(state: CellState | RunState | TargetState) -> str:
    """Say a state in plain words."""
    return state.value.replace("_", " ")


def phase_words(phase: Phase) -> str:
    """Say what there is to say of a phase besides its mark: its state where the mark does not tell, and the rest."""
    state = "" if phase.state in {CellState.OK, CellState.FAILED} else words(phase.state)
    return " · ".join(filter(None, [state, phase.note]))


def _title(cell: CellRecord) -> str:
    special = next((tag for tag in _SPECIAL_TAGS if tag in cell.tags), "")
    return f"{cell.label} ({special})" if special else cell.label


def _troubled(cell: CellRecord) -> bool:
    return any(state is not TargetState.OK for state in cell.targets.values())


def _phase(label: str, cells: Sequence[CellRecord]) -> Phase:
    attempts = max(cell.attempts for cell in cells)
    state = min((cell.state for cell in cells), key=_WORST_FIRST.index)
    alike = sum(cell.state is state for cell in cells)
    part = f"{alike} of " if state is CellState.NOT_RUN and alike < len(cells) else ""
    notes = (f"{part}{len(cells)} cells" if len(cells) > 1 else "", f"{attempts} attempts" if attempts > 1 else "")
    times = [cell.duration_s for cell in cells if cell.duration_s is not None]
    asked = {target for cell in cells for target in cell.targets.values()}
    return Phase(
        label=label,
        state=state,
        cell_ids=tuple(cell.id for cell in cells),
        duration_s=sum(times) if times else None,
        targets=next((tuple(cell.targets.values()) for cell in reversed(cells) if _troubled(cell)), ()),
        did_nothing=state is CellState.OK and asked == {TargetState.SKIPPED},
        note=" · ".join(filter(None, notes)),
    )
