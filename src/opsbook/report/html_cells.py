"""The cells of a run on a page: prose, code, state and time, and what they said.

Every cell of the record is there, also one the copy has lost. What they said is bounded, so that a browser opens the
page: long texts lose their middle, and when the page is full a cell says where the rest is. Cells that did not go well
have room of their own: what others said before them takes none of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from opsbook.model.run import CellRecord, CellState, RunRecord
from opsbook.report.duration import format_duration
from opsbook.report.given import cell_words
from opsbook.report.html_copy import PageCell, PageCopy, PageOutput
from opsbook.report.html_markup import Html, element, picture, shortened
from opsbook.report.html_prose import prose
from opsbook.report.phase import CELL_MARKS, words

MOST_SAID = 100_000
"""Characters of one text that are shown."""
MOST_WORDS = 1000
"""Characters of what stands above a cell, or for a picture."""
ROOM = 2_000_000
"""Characters of markup that the texts of all cells may come to."""
PICTURES = 6_000_000
"""Bytes of pictures."""
_WELL = {CellState.OK, CellState.SKIPPED, CellState.NOT_RUN, CellState.RUNNING}


def cell_anchor(number: int) -> str:
    """Return the place of a cell on the page, by its number in the run."""
    return f"cell-{number}"


class _Room:
    """What there is room for."""

    def __init__(self) -> None:
        self._characters = ROOM
        self._pictures = PICTURES

    def fill(self, parts: Iterable[Html], *, rest: str) -> Iterator[Html]:
        """Yield parts, each made when it is its turn, as long as there is room; then say what has the `rest`."""
        for part in parts:
            if self._characters <= 0:
                yield element("p", f"not all of it is shown, the page is full: {rest} has the rest", kind="aside")
                return
            self._characters -= len(part.markup)
            yield part

    def fits(self, output: PageOutput) -> bool:
        """Whether there is room for a picture, which is taken then."""
        fits = len(output.picture) <= self._pictures
        self._pictures -= len(output.picture) * fits
        return fits


def cell_sections(record: RunRecord, copy: PageCopy) -> Iterator[Html]:
    """Yield the cells in the order of the copy; those it does not have come last."""
    known = {cell.id: (number, cell) for number, cell in enumerate(record.cells, start=1)}
    well, ill = _Room(), _Room()
    for cell in copy.cells:
        number, recorded = known.pop(cell.id, (0, None)) if cell.is_code else (0, None)
        room = well if recorded is None or recorded.state in _WELL else ill
        logs = f"opsbook logs {shlex.quote(record.run_id)} --cell {number}"
        parts = room.fill(_parts(cell, room), rest=logs if recorded else "the executed copy")
        yield _section(number, recorded, parts) if cell.is_code else element("div", *parts, kind="prose")
    for number, recorded in known.values():
        yield _section(number, recorded, ())


def _section(number: int, recorded: CellRecord | None, parts: Iterable[Html]) -> Html:
    if recorded is None:
        return element("article", *parts, kind="cell")
    head, kind = _head(number, recorded), f"cell {recorded.state}"
    return element("article", head, *parts, kind=kind, anchor=cell_anchor(number))


def _head(number: int, cell: CellRecord) -> Html:
    mark, _ = CELL_MARKS[cell.state]
    took = format_duration(cell.duration_s) if cell.duration_s is not None else ""
    state = " · ".join(filter(None, (words(cell.state), took)))
    said = (element("b", f"{mark} {number}", kind="mark"), " ", shortened(cell_words(cell), most=MOST_WORDS), " ")
    return element("header", element("h3", *said), element("span", state, kind="state"))


def _parts(cell: PageCell, room: _Room) -> Iterator[Html]:
    """Yield what a cell holds and what it said."""
    source = shortened(cell.source, most=MOST_SAID)
    if not cell.is_code:
        yield prose(source)
    elif source.strip():
        code = element("pre", source, kind="code")
        yield element("details", element("summary", "code"), code) if cell.hides_code else code
    for output in cell.outputs:
        if output.picture and room.fits(output):
            says = shortened(output.text, most=MOST_WORDS)
            yield element("div", picture(output.kind, output.picture, says=says))
        elif output.unseen or output.picture:
            what = output.unseen or "picture"
            yield element("p", f"{what} output, not shown; open the copy in Jupyter", kind="aside")
        elif output.text.strip():
            text = shortened(output.text, most=MOST_SAID)
            yield element("pre", text, kind=f"said {output.stream}".strip())
