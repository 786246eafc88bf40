"""What of a run, or of a runbook of the library, can be searched: one passage for the whole, and one for each cell.

Works on the archive's own files, which were redacted when they were written, and on nothing else. What a file holds is
not to be trusted: a shape nobody expected gives less text, never an error, and long text is cut in its middle.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import msgspec
from msgspec import Struct

from opsbook.archive.whole_output import is_reference, whole_outputs
from opsbook.model.run import CellRecord, RunRecord
from opsbook.model.target import JsonValue
from opsbook.runbook.header import headings
from opsbook.runbook.lineage import CELL_KEY, NOTEBOOK_KEY, cell_origin, meme_in, notebook_origin, record_origin
from opsbook.runbook.meme import derived_origin

COLUMNS = ("code", "prose", "output", "heading", "error", "param", "target", "about")
"""The parts of a passage that are searched, in the order the index keeps them."""
HEAD_CHARACTERS = 48 * 1024
TAIL_CHARACTERS = 16 * 1024
"""Of a longer text, how much of its beginning and its end is searched: what went wrong stands at the end."""
RUN_CHARACTERS = 4 * 1024 * 1024
"""Of all cells of a notebook; once they are used up each text has the little of `SCANT`."""
SCANT = 1000
MOST_CELLS = 2**16 - 2
DOC_BITS = 16
"""A passage's number in the index is `key << DOC_BITS | number`, the key being that of its run or runbook."""
LAST_SECOND = 2**36
"""What began later, by a clock that was wrong, is sorted as if it had begun then."""
_SECOND_BITS = 10
"""A key is the second something began, and a number among all of that second: numbers are in the order of time."""
JOINED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f]")
"""Letters of languages that put no spaces between words."""
_COLOUR = re.compile(r"(?:\x1b\[|\x9b)[0-9;:]*m")


class Passage(Struct, frozen=True, kw_only=True, array_like=True):
    """What is searched as one: words that are asked for together stand in the same passage."""

    number: int = 0
    """0 for the run, or the runbook, as a whole; else the cell's place in its notebook, from 1."""
    cell: int = 0
    """The cell's number in the run's record, from 1; 0 where it has none."""
    cell_id: str = ""
    label: str = ""
    state: str = ""
    origin: str = ""
    """The UUID of the cell's MEME (its branches left out), or what stands for it where it has none."""
    code: str = ""
    prose: str = ""
    output: str = ""
    heading: str = ""
    error: str = ""
    param: str = ""
    target: str = ""
    about: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is searched, in the order of `COLUMNS`."""
        return (
            self.code,
            self.prose,
            self.output,
            self.heading,
            self.error,
            self.param,
            self.target,
            self.about,
        )


class _Cell(Struct):
    cell_type: Any = None
    source: Any = None
    metadata: Any = None
    outputs: Any = None
    id: Any = None


class _Notebook(Struct):
    cells: list[_Cell] = []
    metadata: Any = None


_DECODER = msgspec.json.Decoder(_Notebook)


def words_apart(text: str) -> str:
    """Return a text as it is taken apart into words: where words are not set apart, each letter is one.

    >>> words_apart("証明書 ok")
    ' 証  明  書  ok'
    """
    return text if text.isascii() else JOINED.sub(r" \g<0> ", text)


def stamp_key(second: int) -> int:
    """Return the lowest key of what began at a second."""
    return min(max(0, second), LAST_SECOND) << _SECOND_BITS


def second_of(doc: int) -> int:
    """Return the second at which the run of a passage began."""
    return doc >> (DOC_BITS + _SECOND_BITS)


def pack(passages: tuple[Passage, ...]) -> bytes:
    """Return passages as the index keeps them."""
    return zlib.compress(msgspec.msgpack.encode(passages), 1)


def unpack(packed: bytes) -> tuple[Passage, ...]:
    """Return what was packed.

    Raises:
        sqlite3.DatabaseError: it is not what was packed.
    """
    try:
        return msgspec.msgpack.decode(zlib.decompress(packed), type=tuple[Passage, ...])
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise sqlite3.DatabaseError(f"a text of the index is damaged: {error}") from error


def run_passages(record: RunRecord, notebook: bytes, journal: Path) -> tuple[Passage, ...]:
    """Return the passages of a run; of one without an executed copy, those its record can tell.

    The journal is looked into for what cells said of which the copy shows a summary.
    """
    document = _decode(notebook)
    origin = _origin(document, NOTEBOOK_KEY) or record_origin(record)
    whole = Passage(
        origin=origin,
        param="\n".join(pairs_of(record.parameters)),
        target="\n".join(record.targets.results or record.targets.selected),
        error=_cut("\n".join(_failures(record))),
        about=_cut("\n".join(_about(record))),
    )
    known = {cell.id: (number, cell) for number, cell in enumerate(record.cells, start=1)}
    if document.cells:
        return (whole, *_cells(document.cells, known, within=origin, journal=journal))
    bare = (_recorded(number, cell, cell_origin(record, cell)) for number, cell in known.values())
    return (whole, *bare)


def book_passages(path: str, notebook: bytes) -> tuple[Passage, ...]:
    """Return the passages of a runbook."""
    document = _decode(notebook)
    origin = _origin(document, NOTEBOOK_KEY) or notebook_origin(PurePath(path).stem)
    return (Passage(origin=origin, about=path), *_cells(document.cells, {}, within=origin))


def pairs_of(parameters: Mapping[str, JsonValue]) -> list[str]:
    """Return parameters as `name=value` lines; a value that is no text as JSON has it."""
    return [
        f"{name}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in parameters.items()
    ]


def _decode(notebook: bytes) -> _Notebook:
    try:
        return _DECODER.decode(notebook)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Notebook()


def _failures(record: RunRecord) -> Iterator[str]:
    yield record.reason
    for name, result in record.targets.results.items():
        if result.reason:
            yield f"{name}: {result.reason}"


def _about(record: RunRecord) -> Iterator[str]:
    yield from (record.run_id, record.runbook.title, record.runbook.path, record.targets.pattern or "")
    yield from (record.operator.user, record.operator.host, record.operator_reason)
    yield from pairs_of(record.metrics)
    yield from record.notes
    yield from (f"{check.name} {check.detail}" for check in record.checks)


def _recorded(number: int, cell: CellRecord, origin: str) -> Passage:
    return Passage(
        number=cell.index + 1 if 0 <= cell.index < MOST_CELLS else number,
        cell=number,
        cell_id=cell.id,
        origin=origin,
        label=cell.label,
        state=cell.state.value,
        heading=cell.label,
        error=_error(cell),
        target="\n".join(cell.targets),
    )


def _cells(
    cells: Sequence[_Cell],
    known: Mapping[str, tuple[int, CellRecord]],
    *,
    within: str,
    journal: Path | None = None,
) -> Iterator[Passage]:
    """Yield a passage for each cell of a notebook of this origin; `known` are those of the record, by id."""
    heading, left = "", RUN_CHARACTERS
    summed_up = {cell.id for cell in cells if isinstance(cell.id, str) and _is_summed_up(cell.outputs)}
    told = whole_outputs(journal, summed_up) if journal is not None and summed_up else {}
    for place, cell in enumerate(cells[:MOST_CELLS], start=1):
        source = _text(cell.source)
        cell_id = cell.id if isinstance(cell.id, str) else ""
        number, recorded = known.get(cell_id, (0, None))
        is_code = cell.cell_type == "code"
        if not is_code:
            heading = next((text for level, text in reversed(headings(source)) if level > 1), heading)
        room = HEAD_CHARACTERS if left > 0 else SCANT
        output = _cut(_said(cell.outputs, told.get(cell_id, "")), head=room) if is_code else ""
        source = _cut(source, head=room)
        left -= len(output) + len(source)
        label = recorded.label if recorded else heading
        yield Passage(
            number=place,
            cell=number,
            cell_id=cell_id,
            label=label,
            state=recorded.state.value if recorded else "",
            origin=_origin(cell, CELL_KEY) or (derived_origin(within, cell_id) if cell_id else ""),
            code=source if is_code else "",
            prose="" if is_code else source,
            output=output,
            heading=label,
            error=_error(recorded) if recorded else "",
            target="\n".join(recorded.targets) if recorded else "",
        )


def _error(cell: CellRecord) -> str:
    return _cut(f"{cell.error.name}: {cell.error.text}") if cell.error else cell.reason


def _origin(holder: _Cell | _Notebook, key: str) -> str:
    """Return the origin a notebook or a cell has by its MEME; empty where it has none."""
    meme = meme_in(holder.metadata.get(key)) if isinstance(holder.metadata, dict) else None
    return meme.origin if meme is not None else ""


def _is_summed_up(outputs: object) -> bool:
    """Whether the text of a cell is a summary of what the journal has."""
    return any(is_reference(_text(output.get("text"))) for output in _each(outputs))


def _each(outputs: object) -> Iterator[dict[str, Any]]:
    """Yield the outputs of a cell that are some."""
    yield from (output for output in outputs if isinstance(output, dict)) if isinstance(outputs, list) else ()


def _said(outputs: object, told: str) -> str:
    """Return what the outputs of a cell say as text, and what the journal tells besides; pictures say nothing."""
    parts: list[str] = []
    for output in _each(outputs):
        data = output.get("data")
        plain = data.get("text/plain") if isinstance(data, dict) else None
        parts += [_text(output.get("text")), _text(plain)]
        if output.get("output_type") == "error":
            parts.append(f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}")
    return "\n".join(filter(None, (*parts, told)))


def _text(value: object) -> str:
    """Return a notebook's text: one string, or a list of them."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _cut(text: str, *, head: int = HEAD_CHARACTERS) -> str:
    """Return a text without its colours, at most `head` characters of its beginning and some of its end."""
    if len(text) > head + TAIL_CHARACTERS:
        tail = min(head, TAIL_CHARACTERS)
        text = f"{text[:head]}\n...\n{text[-tail:]}"  # in ASCII, as most of them: that is taken apart faster
    return _COLOUR.sub("", text) if "\x1b" in text or "\x9b" in text else text
