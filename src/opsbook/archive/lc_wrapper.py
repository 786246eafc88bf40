"""What the cells of a run said, laid out as NII's enhanced logging kernel keeps it: for tools that read such logs.

    .log/20261120/20261120-113958-0123.log      one execution of a cell: code, header, output, footer
    .log/20261120/20261120-113958-0123-0.json   a rich output of it (their kernel pickles these; nobody should)
    .log/UUID/UUID.json                         the executions of all cells of one origin
    .log/UUID/20261120-113958-0123.log          a link to the log
    patch--20261120T113958Z-7f3a2c.ipynb        the executed copy, whose cells name their logs

Written once more, nothing changes. Cells without a MEME have a log, and no history, as with their kernel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from opsbook.archive.cell_text import cell_sources
from opsbook.archive.files import archive_errors
from opsbook.archive.history import ArchivedRun
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import RunFolder
from opsbook.archive.lc_notebook import lc_notebook
from opsbook.archive.reading import LARGEST, read_regular
from opsbook.model.event import CellEnded, CellOutput, CellStarted
from opsbook.model.run import CellRecord, CellState, RunRecord
from opsbook.runbook.meme import parse_meme

FOLDER = ".log"
_RICH = ("display_data", "execute_result", "error")
_STATUS = {CellState.OK: "ok", CellState.LOST: "aborted", CellState.SKIPPED: "aborted"}
_Write = Callable[[Path, bytes], None]


class _Execution(Struct, frozen=True, kw_only=True):
    """One time a cell ran."""

    cell: CellRecord
    begun: datetime
    ended: datetime
    state: CellState
    attempt: int
    said: tuple[str, ...]
    errors: int
    """How many pieces of it were errors, or on stderr."""


class _Cell(Struct, frozen=True):
    id: str = ""
    outputs: list[Any] = []


class _Copy(Struct, frozen=True):
    metadata: dict[str, Any] = {}
    cells: list[_Cell] = []


def write_lc_logs(run: ArchivedRun, folder: Path, write: _Write) -> int:
    """Write the logs of one run, and its copy, into a folder with `write`; return how many of them were not there yet.

    Raises:
        ArchiveError: one could not be written.
    """
    if run.record is None:
        return 0
    data = _read(run.folder.copy)
    writer = _Writer(run.folder, run.record, _decode_copy(data), folder / FOLDER, write)
    with archive_errors(f"write {folder}"):
        written, logs = 0, dict[str, list[str]]()
        for execution in _executions(run.folder, run.record):
            file, is_new = writer.put(execution)
            logs.setdefault(execution.cell.id, []).append(str(file))
            written += is_new
        with suppress(ValueError, RecursionError):  # it is no notebook
            copy = lc_notebook(data, run.record, logs)
            if copy != _read(folder / run.folder.copy.name):
                write(folder / run.folder.copy.name, copy)
                written += 1
        return written


def _executions(folder: RunFolder, record: RunRecord) -> Iterator[_Execution]:
    """Yield what the journal tells of each time a cell ran to its end."""
    cells = {cell.id: cell for cell in record.cells}
    begun: dict[str, datetime] = {}
    said: dict[str, list[CellOutput]] = {}
    for entry in read_journal(folder.journal):
        match entry.event:
            case CellStarted(cell_id=cell_id):
                begun[cell_id], said[cell_id] = entry.at, []
            case CellOutput(cell_id=cell_id) as output:
                said.setdefault(cell_id, []).append(output)
            case CellEnded(cell_id=cell_id) as ended if cell_id in cells and cell_id in begun:
                told = said.pop(cell_id, [])
                yield _Execution(
                    cell=cells[cell_id],
                    begun=begun.pop(cell_id),
                    ended=entry.at,
                    state=ended.state,
                    attempt=ended.attempt,
                    said=tuple(output.text for output in told),
                    errors=sum(output.stream != "stdout" for output in told),
                )


class _Writer:
    """Writes the logs of one run."""

    def __init__(self, folder: RunFolder, record: RunRecord, copy: _Copy, place: Path, write: _Write) -> None:
        self._sources = cell_sources(folder) or {}
        self._record = record
        self._outputs = {cell.id: cell.outputs for cell in copy.cells}
        self._signature = _signature(copy.metadata)
        self._place = place.absolute()
        self._write = write
        self._owner = folder.path.stat()

    def put(self, execution: _Execution) -> tuple[Path, bool]:
        """Write the log of one execution; return it, and whether it was not there."""
        at = execution.begun.astimezone()
        while True:  # two cells may have begun in one millisecond
            stem = f"{at:%Y%m%d-%H%M%S}-{at.microsecond // 1000:04d}"
            file = self._place / f"{at:%Y%m%d}" / f"{stem}.log"
            results = list(self._results(execution, file))
            data = self._text(execution, file, [name for name, _ in results]).encode("utf-8", "replace")
            try:
                known = read_regular(file)
            except OSError:
                break
            if known == data:
                return file, False
            at += timedelta(milliseconds=1)
        for name, result in results:
            self._write(name, result)
        self._write(file, data)
        self._note(execution, file, size=len(data))
        return file, True

    def _results(self, execution: _Execution, file: Path) -> Iterator[tuple[Path, bytes]]:
        """Yield the rich outputs of a cell's last execution, as the executed copy has them."""
        if execution.attempt != execution.cell.attempts:
            return
        outputs = self._outputs.get(execution.cell.id, [])
        rich = [output for output in outputs if isinstance(output, dict) and output.get("output_type") in _RICH]
        for number, output in enumerate(rich):
            yield file.with_name(f"{file.stem}-{number}.json"), msgspec.json.encode(output) + b"\n"

    def _text(self, execution: _Execution, file: Path, results: list[Path]) -> str:
        cell, facts = execution.cell, self._facts(file)
        meme = f"{json.dumps({'lc_cell_meme': {'current': cell.meme}})}\n----\n" if cell.meme else ""
        header = "".join(f"{name}: {value}\n" for name, value in facts.items() if value not in {None, ""})
        return (
            f"{meme}{self._sources.get(cell.id, '')}\n----\n{header}start time: {_stamp(execution.begun)}\n----\n"
            f"{''.join(execution.said)}\n----\nend time: {_stamp(execution.ended)}\n"
            f"{execution.errors} chunks with matched keywords or errors\n----\n"
            f"{''.join(f'result: {name}{chr(10)}' for name in results)}"
            f"execute_reply_status: {_STATUS.get(execution.state, 'error')}\n"
        )

    def _facts(self, file: Path) -> dict[str, Any]:
        """Return what their logs say of where and by whom."""
        return {
            "path": str(file),
            "notebook_path": self._record.runbook.path,
            "lc_notebook_meme": self._record.runbook.meme or None,
            "server_signature": self._signature,
            "uid": self._owner.st_uid,
            "gid": self._owner.st_gid,
        }

    def _note(self, execution: _Execution, file: Path, *, size: int) -> None:
        """Add an execution to the history of its cell's origin."""
        meme = parse_meme(execution.cell.meme)
        if meme is None:
            return
        history = self._place / meme.origin / f"{meme.origin}.json"
        entry = {
            "code": self._sources.get(execution.cell.id, ""),
            **self._facts(file),
            "start": _stamp(execution.begun),
            "end": _stamp(execution.ended),
            "size": size,
            "execute_reply_status": _STATUS.get(execution.state, "error"),
        }
        entries = [*(known for known in _read_history(history) if known.get("path") != entry["path"]), entry]
        entries.sort(key=lambda known: str(known.get("path")))
        self._write(history, msgspec.json.encode(entries))
        with suppress(FileExistsError):
            history.with_name(file.name).symlink_to(Path("..") / file.parent.name / file.name)


def _stamp(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S(%Z)}"


def _signature(metadata: Mapping[str, Any]) -> str | None:
    """Return the signature of the server, as an executed copy has it."""
    held: Any = metadata
    for key in ("lc_notebook_meme", "lc_server_signature", "current", "signature_id"):
        held = held.get(key) if isinstance(held, dict) else None
    return held if isinstance(held, str) else None


def _read(file: Path) -> bytes:
    """Return what a file holds; nothing where it cannot be read."""
    try:
        return read_regular(file)
    except OSError:
        return b""


def _decode_copy(data: bytes) -> _Copy:
    """Return an executed copy as far as it is looked into; an empty one where it is no notebook."""
    try:
        return msgspec.json.decode(data, type=_Copy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Copy()


def _read_history(file: Path) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(read_regular(file, most=LARGEST), type=list[dict[str, Any]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
