"""Makes what an archive holds: records, runs, a journal; and other processes that work in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings

from opsbook.archive.files import make_folder, write_whole
from opsbook.archive.journal import Journal
from opsbook.archive.layout import RunFolder, run_folder
from opsbook.model import event as e
from opsbook.model.run import CellError, CellRecord, CellState, Operator, RunbookRef, RunRecord, RunState
from opsbook.redaction import Redactor

FUZZ = settings(max_examples=150, deadline=None, database=None)
NOW = datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC)
RUN_ID = "20261120T113958Z-patch-7f3a2c"
VALUE = "tr0ub4dor"


def make_record(run_id: str = RUN_ID, status: RunState = RunState.RUNNING, **more: Any) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        status=status,
        runbook=RunbookRef(path="patch.ipynb", title="Patch", sha256="0" * 64),
        cells=(CellRecord(id="a", index=1, label="Update"), CellRecord(id="b", index=2, label="Reboot")),
        started_at=NOW,
        operator=Operator(user="maya", host="here", pid=1),
        **more,
    )


def put(root: Path, run_id: str, status: RunState = RunState.SUCCEEDED) -> RunFolder:
    folder = run_folder(root, run_id)
    make_folder(folder.path)
    write_whole(folder.record, msgspec.json.encode(make_record(run_id, status)))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def python(code: str, *args: object, **how: Any) -> subprocess.Popen[str]:
    """Start another process of ours."""
    line = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **how)


def said(process: subprocess.Popen[str], line: str = "") -> str:
    """Tell a process a line and return the next one it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


EVENTS: tuple[e.Event, ...] = (
    e.RunStarted(run_id=RUN_ID, title="Patch"),
    e.CellStarted(cell_id="a"),
    e.CellOutput(cell_id="a", stream="stdout", text="größer\n\U0001f427"),
    e.MetricRecorded(name="packages", value={"a": [1, 2.5, None, True]}),
    e.CellEnded(cell_id="a", state=CellState.FAILED, duration_s=1.5, error=CellError(name="ValueError", text="no")),
    e.RunEnded(status=RunState.FAILED, exit_code=1, reason="no"),
)


def write_journal(file: Path, events: Sequence[e.Event] = EVENTS, redactor: Redactor | None = None) -> list[e.Entry]:
    journal = Journal(file, redactor or Redactor())
    entries = [entry for event in events for entry in journal.append([event], durable=False)]
    journal.close()
    return entries
