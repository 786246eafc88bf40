"""What was found in runbooks that were only looked at, as a screen: those that would not run are told first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from opsbook.model.checkup import Checkup, Problem
from opsbook.model.visible import one_line
from opsbook.report.layout import show, width_of, wrap
from opsbook.report.notes import print_notes
from opsbook.report.summary import nearest

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = 6


def print_checkups(found: Sequence[Checkup], console: Console) -> None:
    """Print each runbook with what was found in it, and how many would not run."""
    width = width_of(console)
    for one in sorted(found, key=lambda one: not one.problems):
        show(console, _lines(one, width=width))
        print_notes(one.noted, console)
    bad = sum(bool(one.problems) for one in found)
    many = f"{len(found)} runbook{'' if len(found) == 1 else 's'}"
    show(console, [Text(), Text(f"{bad} of {many} would not run" if bad else f"{many}, nothing found")])


def _lines(one: Checkup, *, width: int) -> Iterator[Text]:
    mark, style = ("✗", "bold red") if one.problems else ("✓", "green")
    yield Text.assemble((mark, style), " ", one_line(nearest(Path(one.path))))
    for problem in one.problems:
        yield from (Text(f"{' ' * _INDENT}{line}") for line in wrap(_sentence(problem), width - _INDENT))


def _sentence(problem: Problem) -> str:
    where = f'cell {problem.cell} "{problem.label}": ' if problem.cell else ""
    return one_line(f"{where}{problem.text}{f' ({problem.hint})' if problem.hint else ''}")
