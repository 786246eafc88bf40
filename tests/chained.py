"""An archive of runs as the runner leaves them, and what its check says of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from archived import make_record

from opsbook.archive.chain import CHAIN
from opsbook.archive.claimed import ClaimedRun
from opsbook.archive.journal import Journal
from opsbook.archive.layout import run_folder
from opsbook.archive.links import digest_of
from opsbook.archive.verify import Verdict, verify_archive
from opsbook.model import event as e
from opsbook.model.run import CellState, RunState
from opsbook.redaction import Redactor

IDS = [f"20261120T11395{number}Z-patch-7f3a2{number}" for number in range(3)]
NOTEBOOK = b'{"cells": []}'


def make_run(root: Path, run_id: str, *, ends: bool = True) -> ClaimedRun:
    """Leave a run in an archive as the runner does; one that does not end is killed."""
    folder = run_folder(root, run_id)
    files = ClaimedRun(folder, record=msgspec.json.encode(make_record(run_id)), runbook=NOTEBOOK)
    journal = Journal(folder.journal, Redactor())
    journal.append([e.RunStarted(run_id=run_id, title="Patch")], durable=True)
    for cell in ("a", "b"):
        journal.append([e.CellStarted(cell_id=cell), e.CellEnded(cell_id=cell, state=CellState.OK)], durable=False)
    if ends:
        folder.copy.write_bytes(NOTEBOOK)
        journal.append([e.RunEnded(status=RunState.SUCCEEDED, exit_code=0)], durable=True)
        record = msgspec.json.encode(make_record(run_id, RunState.SUCCEEDED, exit_code=0))
        files.finish(record, journal=journal.head, copy=digest_of(NOTEBOOK))
    journal.close()
    files.release()
    return files


def wrong(root: Path, **how: str) -> list[tuple[str, str]]:
    found = verify_archive(root, **how)
    return [(one.run_id, one.what) for one in found.findings if one.verdict is Verdict.WRONG]


def chain_lines(root: Path) -> list[bytes]:
    return (root / CHAIN).read_bytes().splitlines(keepends=True)


def put_lines(file: Path, lines: list[bytes]) -> None:
    file.write_bytes(b"".join(lines))


def edit(file: Path, old: bytes, new: bytes) -> None:
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
