"""A plan as a screen: which cells would reach which targets, what only running them tells, what else a run needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from opsbook.model.lock import LockState, Standing
from opsbook.model.outcome import name_ranges
from opsbook.model.plan import Plan, PlannedCell, PlannedSecret
from opsbook.model.visible import one_line
from opsbook.report.layout import labelled, show, width_of, wrap

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = 6
_GAP = 2


def print_plan(plan: Plan, console: Console) -> None:
    """Print what would run where, and what stands in its way. Nothing was run for it."""
    width = width_of(console)
    head = f"would run {one_line(plan.runbook)}{_reach(plan)}"
    lines = [Text(line, "bold") for line in wrap(head, width)]
    lines += [Text("a dry run (--check): only what is read-only would be sent")] if plan.checking else []
    for cell in plan.cells:
        lines += [Text(), *_cell_lines(cell, width=width)]
    if plan.python:
        said = "chosen in Python, known when it runs: " + ", ".join(f'"{one_line(label)}"' for label in plan.python)
        lines += [Text(), *(Text(f"  {line}") for line in wrap(said, width - _GAP))]
    around = _around(plan, width=width)
    lines += [Text(), *around] if around else []
    if plan.refused:
        lines += [Text(), *(Text(line, "bold red") for line in wrap(f"refused: {one_line(plan.refused)}", width))]
    show(console, [*lines, Text(), Text("nothing was run")])


def _reach(plan: Plan) -> str:
    """Say on how many targets: those its cells name, or where only running it tells, all that it could choose."""
    reached, given = plan.reached, _count(len(plan.selected))
    named = f" of {one_line(plan.pattern)}" if plan.pattern else ""
    if reached is None:
        return f" on at most {given}{named}"
    if not plan.cells:
        return ""
    return f" on {given}{named}" if reached == plan.selected else f" on {len(reached)} of {given}{named}"


def _around(plan: Plan, *, width: int) -> list[Text]:
    """Say what else a run would need: a confirmation, the targets' locks, secrets."""
    gates = [f'"{one_line(label)}" asks for confirmation (--yes confirms it beforehand)' for label in plan.gates]
    lines = _field("gates", gates, width=width)
    if plan.cells or plan.python:
        lines += _field("locks", list(_locks(plan.locks)) or ["free"], width=width)
    return [*lines, *_field("secrets", [_secret(one) for one in plan.secrets], width=width)]


def _locks(standings: Sequence[Standing]) -> Iterator[str]:
    """Say of each run what it holds, or has left in the middle."""
    for (state, run_id), locks in groupby(standings, key=lambda one: (one.state, one.run_id)):
        held = list(locks)
        names = name_ranges(one_line(name) for one in held for name in one.targets)
        named = (f"--lock {one_line(one.place)}" for one in held if not one.targets)
        verb = "held by" if state is LockState.HELD else "left in the middle by"
        who = f"{one_line(held[0].user)}@{one_line(held[0].host)}"
        yield f"{', '.join(filter(None, (names, *named)))} {verb} {one_line(run_id)} ({who})"


def _secret(one: PlannedSecret) -> str:
    if one.problem:
        return f"missing: {one_line(one.problem)}"
    return f"{one_line(one.what)} from {one_line(one.reference)} ({'asked for when it runs' if one.later else 'set'})"


def _cell_lines(cell: PlannedCell, *, width: int) -> list[Text]:
    called = f"targets: {one_line(cell.line)}" if cell.python else f"%%on {one_line(cell.line)}"
    head = f"{one_line(cell.label)} · {called}"
    lines = [Text(f"  {line}") for line in wrap(head, width - _GAP)]
    if cell.problem or cell.open:
        label, why = ("would fail", cell.problem) if cell.problem else ("not known", cell.open)
        return [*lines, *_field(label, [one_line(why)], width=width)]
    if not cell.targets:
        return [*lines, *_field("skipped", ["no target of this run is asked for here"], width=width)]
    kind = "Python" if cell.python else "changes" if cell.changes else "read-only"
    lines += _field(kind, [_rules(cell)], width=width)
    if not cell.waves:
        return [*lines, *_field("targets", [name_ranges(map(one_line, cell.targets))], width=width)]
    for number, wave in enumerate(cell.waves, start=1):
        lines += _field(f"wave {number}", [name_ranges(map(one_line, wave))], width=width)
    return lines


def _rules(cell: PlannedCell) -> str:
    """Say how many targets a cell reaches, in how many waves, and when it stops."""
    many = ", ".join(filter(None, [_count(len(cell.targets)), cell.tidies]))
    if cell.python:
        return f"{many}; what it sends them is known when it runs"
    most = f"stops when more than {cell.limit} {'has' if cell.limit == 1 else 'have'} failed"
    sizes = ", ".join(str(len(wave)) for wave in cell.waves)
    waves = f"{len(cell.waves)} wave{'' if len(cell.waves) == 1 else 's'} ({sizes})" if cell.waves else ""
    return ", ".join(filter(None, [many, waves, most if cell.limit else "stops at the first failure"]))


def _field(label: str, texts: Sequence[str], *, width: int) -> list[Text]:
    room = width - _INDENT - 12
    return labelled(label, [line for text in texts for line in wrap(text, room)], indent=_INDENT, label_width=10)


def _count(number: int) -> str:
    return f"{number} target{'' if number == 1 else 's'}"
