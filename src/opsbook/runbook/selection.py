"""Which cells of a runbook a run executes: `--section`, `--only-tags`, `--skip-tags`.

Sections make the part; tags choose in it. The parameters and the cells that load opsbook run regardless. So do the
clean-up cells of the part, tagged `always` or `on-failure`, unless `--skip-tags` names them; those outside of it would
undo what was not done. Tags choose code and never take a gate away: one of the part whose code is left out is asked
about all the same when anything behind it runs. Knows nothing of runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import UsageError
from opsbook.model.run import CellSelection
from opsbook.runbook.header import headings
from opsbook.runbook.notebook import Cell, Runbook
from opsbook.runbook.tags import GATE_TAG, PARAMETERS_TAG

_SHOWN = 8
"""Headings or tags a hint names."""


class _Heading(Struct, frozen=True, kw_only=True):
    """One heading of the prose, and the code cells under it."""

    level: int
    text: str
    cells: set[str]


def select_cells(runbook: Runbook, selection: CellSelection) -> Runbook:
    """Return the runbook with each cell that the selection leaves out marked so, and why.

    Raises:
        UsageError: a heading or a tag is not there, a heading is there twice, or nothing is left to run.
    """
    if not selection.is_part:
        return runbook
    part = _part(runbook, selection.sections)
    _check_tags(runbook, selection)
    cells = tuple(_select(cell, part, selection) if cell.is_code else cell for cell in runbook.cells)
    if not any(_works(cell) for cell in cells):
        raise UsageError("no cell is left to run", "what is chosen is set-up, clean-up or skipped")
    return replace(runbook, cells=tuple(_keep_gates(runbook.cells, cells, part)))


def _works(cell: Cell) -> bool:
    """Whether a cell is what a run is for: neither left out, nor set-up, nor clean-up."""
    return cell.is_code and not (cell.is_skipped or cell.sets_up or cell.is_cleanup)


def _part(runbook: Runbook, sections: Sequence[str]) -> frozenset[str] | None:
    """Return the ids of the cells under these headings; None when it is the whole runbook."""
    if not sections:
        return None
    known = _headings(runbook.cells)
    return frozenset(chain.from_iterable(_section(known, name).cells for name in sections))


def _headings(cells: Iterable[Cell]) -> list[_Heading]:
    """List the headings of the prose, each with the code cells to the next of its level or above."""
    found: list[_Heading] = []
    around: list[_Heading] = []
    for cell in cells:
        for level, text in headings(cell.source) if cell.kind == "markdown" else ():
            around = [heading for heading in around if heading.level < level]
            found.append(_Heading(level=level, text=text, cells=set()))
            around.append(found[-1])
        if cell.is_code:
            for heading in around:
                heading.cells.add(cell.id)
    return found


def _section(known: Sequence[_Heading], name: str) -> _Heading:
    """Return the one heading of this name; letter case, white space and emphasis do not count."""
    meant = [heading for heading in known if _plain(heading.text) == _plain(name)]
    if not meant:
        texts = {_plain(heading.text): heading.text for heading in known}
        near = difflib.get_close_matches(_plain(name), texts, n=1)
        raise UsageError(f"there is no heading {name!r}", _guess([texts[word] for word in near], texts.values()))
    if len(meant) > 1:
        raise UsageError(f"{len(meant)} headings are called {name!r}", "give each a name of its own, or choose by tags")
    if not meant[0].cells:
        raise UsageError(f"there is no code under {meant[0].text!r}", "name the heading above the cells")
    return meant[0]


def _plain(heading: str) -> str:
    return " ".join(re.sub(r"[*_`]", "", heading).casefold().split())


def _check_tags(runbook: Runbook, selection: CellSelection) -> None:
    """Refuse a tag that no cell has."""
    known = dict.fromkeys(tag for cell in runbook.code_cells for tag in cell.tags)
    for tag in (*selection.only_tags, *selection.skip_tags):
        if tag not in known:
            near = difflib.get_close_matches(tag, known, n=1)
            raise UsageError(f"no cell is tagged {tag!r}", _guess(near, known))
    if PARAMETERS_TAG in selection.skip_tags:
        raise UsageError("the parameters cell cannot be left out", "give other values with -p")


def _guess(near: Sequence[str], known: Iterable[str]) -> str:
    if near:
        return f"did you mean {near[0]!r}?"
    names = list(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there are: {', '.join(map(repr, names[:_SHOWN]))}{more}" if names else "the runbook has none"


def _select(cell: Cell, part: frozenset[str] | None, selection: CellSelection) -> Cell:
    """Return a code cell, marked with why it is left out if it is."""
    if cell.is_skipped or cell.sets_up:
        return cell
    skipped = next((tag for tag in selection.skip_tags if tag in cell.tags), "")
    why = ""
    if part is not None and cell.id not in part:
        why = f"not under {_either(selection.sections)}"
    elif skipped:
        why = f"tagged {skipped}"
    elif selection.only_tags and not (cell.is_cleanup or set(selection.only_tags) & set(cell.tags)):
        why = f"not tagged {_either(selection.only_tags)}"
    return replace(cell, left_out=why)


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


def _keep_gates(known: Sequence[Cell], chosen: Sequence[Cell], part: frozenset[str] | None) -> Iterable[Cell]:
    """Yield the chosen cells; a gate of the part that tags left out still asks when a cell behind it runs."""
    last = max(cell.index for cell in chosen if _works(cell))
    for before, cell in zip(known, chosen, strict=True):
        is_left_out = cell.is_skipped and not before.is_skipped and (part is None or cell.id in part)
        asks = is_left_out and GATE_TAG in cell.tags and cell.index < last
        yield replace(cell, still_asks=True) if asks else cell
