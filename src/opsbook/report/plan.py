"""A plan as a screen: which cells would reach which targets, in which waves, and what only running them would tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from opsbook.model.outcome import name_ranges
from opsbook.model.plan import Plan, PlannedCell
from opsbook.model.visible import one_line
from opsbook.report.layout import labelled, show, width_of, wrap

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = 6
_GAP = 2


def print_plan(plan: Plan, console: Console) -> None:
    """Print what would run where. Nothing was run for it."""
    width = width_of(console)
    named = f" of {one_line(plan.pattern)}" if plan.pattern else ""
    head = f"would run {one_line(plan.runbook)} on {_count(len(plan.selected))}{named}"
    lines = [Text(line, "bold") for line in wrap(head, width)]
    for cell in plan.cells:
        lines += [Text(), *_cell_lines(cell, width=width)]
    if plan.python:
        said = "chosen in Python, known when it runs: " + ", ".join(f'"{one_line(label)}"' for label in plan.python)
        lines += [Text(), *(Text(f"  {line}") for line in wrap(said, width - _GAP))]
    show(console, [*lines, Text(), Text("nothing was run")])


def _cell_lines(cell: PlannedCell, *, width: int) -> list[Text]:
    head = f"{one_line(cell.label)} · %%on {one_line(cell.line)}"
    lines = [Text(f"  {line}") for line in wrap(head, width - _GAP)]
    if cell.problem or cell.open:
        label, why = ("would fail", cell.problem) if cell.problem else ("not known", cell.open)
        return [*lines, *_field(label, [one_line(why)], width=width)]
    if not cell.targets:
        return [*lines, *_field("skipped", ["no target of this run is asked for here"], width=width)]
    kind = "changes" if cell.changes else "read-only"
    many = f"stops when more than {cell.limit} {'has' if cell.limit == 1 else 'have'} failed"
    stops = many if cell.limit else "stops at the first failure"
    sizes = ", ".join(str(len(wave)) for wave in cell.waves)
    waves = f"{len(cell.waves)} wave{'' if len(cell.waves) == 1 else 's'} ({sizes})" if cell.waves else ""
    lines += _field(kind, [", ".join(filter(None, [_count(len(cell.targets)), waves, stops]))], width=width)
    if not cell.waves:
        return [*lines, *_field("targets", [name_ranges(map(one_line, cell.targets))], width=width)]
    for number, wave in enumerate(cell.waves, start=1):
        lines += _field(f"wave {number}", [name_ranges(map(one_line, wave))], width=width)
    return lines


def _field(label: str, texts: Sequence[str], *, width: int) -> list[Text]:
    room = width - _INDENT - 12
    return labelled(label, [line for text in texts for line in wrap(text, room)], indent=_INDENT, label_width=10)


def _count(number: int) -> str:
    return f"{number} target{'' if number == 1 else 's'}"
