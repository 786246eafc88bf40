"""Everything that tells of one run, held against each other: record, journal, copy, history, screen, exit code."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import nbformat
from support import Desk, JsonObject, Ran, Run

from opsbook.archive.history import read_run
from opsbook.archive.journal import read_journal
from opsbook.archive.layout import RunFolder
from opsbook.report.document import record_document

MARKS = {"ok": "completed", "not_run": "pending", "skipped": "skipped"}
"""Cell states in the executed copy's words; any other is `failed` there."""


def check_agreement(desk: Desk, ran: Ran, *, status: str, code: int) -> JsonObject:
    """Return the record of the only run, after all that is told of it was found to agree."""
    assert ran.code == code, ran.err
    record = check_run(desk.run(), status=status, code=code)
    assert status.replace("_", " ") in ran.out, ran.out
    assert bool(code) or not record["reason"]
    return record


def check_run(run: Run, *, status: str, code: int) -> JsonObject:
    """Return a run's record, after journal, executed copy and what the archive reads of it were found to agree."""
    record = run.record
    assert (record["exit_code"], record["status"]) == (code, status)
    assert record["ended_at"] is not None
    (ended,) = run.events("run_ended")
    assert (ended["status"], ended["exit_code"], ended["reason"]) == (status, code, record["reason"])
    assert len(list(read_journal(run.folder / "events.jsonl"))) == len(run.journal)
    _check_copy(run, record)
    told = {event["cell_id"]: event["state"] for event in run.events("cell_ended")}
    assert {cell: told.get(cell, "not_run") for cell in run.states} == run.states
    read = read_run(RunFolder(run_id=run.folder.name, path=run.folder)).record
    assert read is not None
    shown = json.loads(record_document(read, copy=None))
    assert {**shown, "copy": ""} == {**record, "copy": ""}
    return record


def out_of_time(holds: Callable[[Run], bool], start: Callable[[str], Ran], desk: Desk) -> Ran:
    """Run a runbook whose time ends in the middle of it, as `holds` tells: a busy machine needs more to get there."""
    for seconds in (5, 15, 45):
        for run in desk.runs():
            shutil.rmtree(run.folder)
        ran = start(f"{seconds}s")
        if holds(desk.run()):
            return ran
    raise AssertionError(ran.err or ran.out)


def _check_copy(run: Run, record: JsonObject) -> None:
    nbformat.validate(run.notebook)
    kept = run.notebook["metadata"]["opsbook"]
    assert (kept["status"], kept["exit_code"]) == (record["status"], record["exit_code"])
    assert kept["run_id"] == run.folder.name
    cells = {cell["id"]: cell for cell in run.notebook["cells"] if cell["cell_type"] == "code"}
    marks = {cell_id: cell["metadata"].get("papermill", {}).get("status", "pending") for cell_id, cell in cells.items()}
    assert {cell_id: MARKS.get(state, "failed") for cell_id, state in run.states.items()} == marks


def answered(desk: Desk, keys: str, *args: str) -> Ran:
    """Run the command for a person at a terminal who typed these keys beforehand; both streams are the screen."""
    ours, theirs = pty.openpty()
    os.write(ours, keys.encode())
    process = desk.fork(
        *args,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**desk.environment, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "120"},
    )
    os.close(theirs)
    said: list[bytes] = []
    reader = Thread(target=_read, args=(ours, said))
    reader.start()
    try:
        code = process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        reader.join(10)
        os.close(ours)
    return Ran(code=code, out=b"".join(said).decode(errors="replace"), err="")


def _read(terminal: int, said: list[bytes]) -> None:
    with suppress(OSError):  # the last process at the terminal has gone
        while data := os.read(terminal, 65536):
            said.append(data)
