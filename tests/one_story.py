"""Holds all that tells of a run on three targets against each other."""

from __future__ import annotations

from pathlib import Path

import msgspec
import nbformat
from support import Desk, Ran, Run

from opsbook.model.run import RunRecord


def check_agreement(desk: Desk, run: Run, ran: Ran) -> None:
    """Record, executed copy, screen, history and exit code say the same."""
    record = run.record
    typed = msgspec.json.decode((run.folder / "run.json").read_bytes(), type=RunRecord)
    assert msgspec.json.decode(msgspec.json.encode(typed)) == record
    nbformat.validate(nbformat.read(run.copy, as_version=nbformat.NO_CONVERT))
    kept = run.notebook["metadata"]["opsbook"]
    assert (kept["status"], kept["exit_code"], kept["run_id"]) == (record["status"], ran.code, run.folder.name)
    assert record["exit_code"] == ran.code
    (ended,) = run.events("run_ended")
    assert (ended["status"], ended["exit_code"], ended["reason"]) == (record["status"], ran.code, record["reason"])
    shown = desk.opsbook("show", run.folder.name, "--json").json
    assert {**shown, "copy": ""} == {**record, "copy": ""}
    assert Path(shown["copy"]).name == run.copy.name
    assert record in desk.opsbook("runs", "--json").json
    words = {"ok": "completed", "not_run": "pending", "skipped": "skipped"}
    marks = run.papermill
    assert {cell: words.get(state, "failed") for cell, state in run.states.items()} == {
        cell: marks[cell] for cell in run.states
    }
