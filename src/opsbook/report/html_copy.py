"""What a page shows of an executed copy, as values: its cells, and of their outputs what is text or a picture.

A copy is a file like any other: what is not as the format says is left out, and nothing in it is believed to be what
it says it is. HTML, SVG, JavaScript and Markdown of an output are named, and never handed on. Makes no markup.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from opsbook.archive.layout import RunFolder
from opsbook.archive.reading import read_regular
from opsbook.errors import UsageError
from opsbook.report.html_markup import PictureKind, is_picture
from opsbook.runbook.notebook import read_runbook

_PICTURES: tuple[PictureKind, ...] = ("image/png", "image/jpeg")
_KINDS = {
    "text/html": "HTML",
    "image/svg+xml": "SVG",
    "application/javascript": "JavaScript",
    "text/markdown": "Markdown",
    "text/latex": "LaTeX",
    "image/png": "PNG",
    "image/jpeg": "JPEG",
}
_PLACEHOLDER = re.compile(r"<[^<>\n]{1,300}>")
"""What Python says of an object that only shows itself in other ways."""
_HIDDEN_TAG = "remove-input"
_BANNER_TAG = "papermill-error-cell-tag"


class PageOutput(Struct, frozen=True, kw_only=True):
    """One output: text, a picture, or the names of what is not shown."""

    stream: str = ""
    """`stderr` or `error` where it is that."""
    text: str = ""
    picture: bytes = b""
    kind: PictureKind = "image/png"
    unseen: str = ""
    """In which ways it would have shown itself, where it shows itself in none."""


class PageCell(Struct, frozen=True, kw_only=True):
    """One cell."""

    id: str
    is_code: bool
    source: str
    hides_code: bool = False
    outputs: tuple[PageOutput, ...] = ()


class PageCopy(Struct, frozen=True, kw_only=True):
    """The cells of a run, and why they are not those of its executed copy where they are not."""

    cells: tuple[PageCell, ...] = ()
    problem: str = ""


class _Cell(Struct):
    id: object = ""
    cell_type: object = ""
    source: object = ""
    metadata: object = None
    outputs: object = ()


class _Notebook(Struct):
    cells: list[_Cell]


def read_copy(folder: RunFolder) -> PageCopy:
    """Return the cells of a run: those of its executed copy, else those of its runbook, which have said nothing."""
    try:
        document = msgspec.json.decode(read_regular(folder.copy), type=_Notebook)
    except FileNotFoundError:
        problem = "there is no executed copy"
    except OSError as error:
        problem = f"the executed copy cannot be read: {error.strerror}"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = "the executed copy is no notebook"
    else:
        return PageCopy(cells=tuple(_page_cell(cell) for cell in document.cells if not _is_banner(cell)))
    return PageCopy(cells=tuple(_bare_cells(folder)), problem=problem)


def _bare_cells(folder: RunFolder) -> Iterator[PageCell]:
    try:
        cells = read_runbook(folder.source).cells
    except UsageError:
        return
    for cell in cells:
        yield PageCell(id=cell.id, is_code=cell.kind == "code", source=cell.source)


def _is_banner(cell: _Cell) -> bool:
    """Whether papermill put a cell there to say, in HTML, what the page says itself."""
    return cell.cell_type == "markdown" and _BANNER_TAG in _tags(cell)


def _tags(cell: _Cell) -> list[object]:
    tags = cell.metadata.get("tags") if isinstance(cell.metadata, dict) else None
    return tags if isinstance(tags, list) else []


def _page_cell(cell: _Cell) -> PageCell:
    is_code = cell.cell_type == "code"
    outputs = cell.outputs if is_code and isinstance(cell.outputs, list) else ()
    return PageCell(
        id=cell.id if isinstance(cell.id, str) else "",
        is_code=is_code,
        source=_text(cell.source),
        hides_code=_HIDDEN_TAG in _tags(cell),
        outputs=tuple(_outputs(outputs)),
    )


def _outputs(outputs: Iterable[object]) -> Iterator[PageOutput]:
    for output in (one for one in outputs if isinstance(one, dict)):
        match output:
            case {"output_type": "stream", "text": text}:
                yield PageOutput(stream="stderr" if output.get("name") == "stderr" else "", text=_text(text))
            case {"output_type": "error"}:
                lines = output.get("traceback")
                told = "\n".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
                short = f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}"
                yield PageOutput(stream="error", text=told or short)
            case {"output_type": "display_data" | "execute_result", "data": dict() as data}:
                yield _display(data)


def _display(data: Mapping[str, Any]) -> PageOutput:
    text = _text(data.get("text/plain"))
    for kind in _PICTURES:
        found = _bytes(data.get(kind))
        if is_picture(kind, found):
            return PageOutput(picture=found, kind=kind, text=text)
    others = [_KINDS.get(kind, "other") for kind in data if kind != "text/plain"]
    says_nothing = not text.strip() or bool(_PLACEHOLDER.fullmatch(text.strip()))
    return PageOutput(text=text, unseen=", ".join(dict.fromkeys(others)) if says_nothing else "")


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode("".join(_text(value).split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _text(value: object) -> str:
    """Return a notebook's text: one string, or a list of them."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
