"""One run, or one runbook of the library, as the index keeps it; read from its files as they are now.

Reading never fails: what cannot be read is an item too, as damaged or as private, and says why.
"""

from __future__ import annotations

import os
import time
from calendar import timegm
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from opsbook.archive.history import read_run
from opsbook.archive.index_seal import file_seal
from opsbook.archive.index_text import Passage, book_passages, pairs_of, run_passages
from opsbook.archive.journal import left_unscanned
from opsbook.archive.layout import RunFolder, is_alive
from opsbook.archive.reading import read_regular
from opsbook.model.run import RunRecord, RunState

RUN, BOOK = "run", "book"
DAMAGED = "damaged"
"""The status of what cannot be read."""
PRIVATE = "private"
"""The status of a run whose files are somebody else's alone."""
_STAMP = "%Y%m%dT%H%M%SZ"
_HIDDEN = (".", "__")
_MOST_BOOKS = 20_000
"""Runbooks of a library that are looked at: a folder named by mistake must not take forever."""


class Item(Struct, frozen=True, kw_only=True):
    """What the index keeps of one run or runbook."""

    kind: str
    name: str
    """The run's id, or the runbook's path."""
    place: str
    """The day a run lies in; the library's folder."""
    seal: str
    """What tells the files that were read from later ones."""
    open: bool = False
    """Whether it is to be looked at again."""
    second: int
    """When it began, to the second: what it is sorted by."""
    status: str = ""
    runbook: str = ""
    path: str = ""
    user: str = ""
    duration: float | None = None
    short: bool = False
    """Whether its success is none of its runbook: a dry run, or a part."""
    params: str = ""
    """`name=value` in lower case, each in a line between two newlines; so are the targets."""
    targets: str = ""
    passages: tuple[Passage, ...] = ()


def read_run_item(folder: RunFolder, place: str) -> Item:
    """Read a run."""
    seal = seal_of(folder)  # before it is read: what changes meanwhile is read again
    run = read_run(folder)
    second = _began(folder.run_id)
    if run.record is None:
        said = (Passage(about=f"{folder.run_id}\n{run.problem}"),)
        return Item(
            kind=RUN,
            name=folder.run_id,
            place=place,
            seal=seal,
            open=True,
            second=second,
            status=run.unread_as,
            passages=said,
        )
    record = run.record
    return Item(
        kind=RUN,
        name=folder.run_id,
        place=place,
        seal=seal,
        open=record.status is RunState.RUNNING,
        second=second,
        status=record.status.value,
        runbook=Path(record.runbook.path).stem,
        path=record.runbook.path,
        user=record.operator.user,
        duration=record.duration_s,
        short=bool(record.short_of),
        params=lines_of(pairs_of(record.parameters)),
        targets=lines_of(record.targets.results or record.targets.selected),
        passages=_passages(folder, record),
    )


def _began(run_id: str) -> int:
    """Return the second in the name of a run; 0 where it is none, as of a folder somebody made by hand."""
    try:
        return timegm(time.strptime(run_id.partition("-")[0], _STAMP))
    except ValueError:
        return 0


def _passages(folder: RunFolder, record: RunRecord) -> tuple[Passage, ...]:
    """Return what is searched of a run; of one whose last scan is to come, or never was, not what it has said.

    It may hold a secret that was not known yet, and an index keeps traces of all it ever held.
    """
    if record.status is not RunState.RUNNING and not left_unscanned(record):
        return run_passages(record, _first_read((folder.copy, folder.source)), folder.journal)
    cells = tuple(replace(cell, error=None, reason="") for cell in record.cells)
    targets = replace(record.targets, results={})
    begun = replace(record, cells=cells, targets=targets, metrics={}, checks=(), reason="")
    return run_passages(begun, b"", folder.journal)


def read_book_item(file: Path, place: str, seal: str) -> Item:
    """Read a runbook."""
    data = _first_read((file,))
    return Item(
        kind=BOOK,
        name=str(file),
        place=place,
        seal=seal,
        second=int(seal.partition(":")[0]) // 10**9,
        runbook=file.stem,
        path=str(file),
        passages=book_passages(str(file), data),
    )


def seal_of(folder: RunFolder) -> str:
    """Return what changes when a run that has not ended goes on, or ends."""
    files = (folder.record, folder.journal, folder.copy)
    return " ".join((*map(file_seal, files), "alive" if is_alive(folder) else ""))


def iter_books(library: Path) -> Iterator[Path]:
    """Yield the notebooks of a library; nothing hidden, no folder that is a link, no name that is not text."""
    left = _MOST_BOOKS
    for place, folders, files in os.walk(library):
        folders[:] = sorted(filter(_is_shown, folders))
        yield from (Path(place, name) for name in sorted(files) if name.endswith(".ipynb") and _is_shown(name))
        left -= len(files)
        if left < 0:
            return


def _is_shown(name: str) -> bool:
    """Whether an index can hold a name, and nobody hid it."""
    return not name.startswith(_HIDDEN) and name.encode(errors="replace").decode() == name


def lines_of(texts: Iterable[str]) -> str:
    """Return texts as lines that can be looked for whole, capitals or not."""
    return "\n" + "".join(f"{line_of(text)}\n" for text in texts)


def line_of(text: str) -> str:
    """Return a text as one of those lines."""
    return text.replace("\n", " ").lower()


def _first_read(files: Iterable[Path]) -> bytes:
    """Return what the first of some files holds that can be read."""
    for file in files:
        try:
            return read_regular(file)
        except OSError:
            continue
    return b""
