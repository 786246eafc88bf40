"""Writes runs into an archive as they lie there when they are over, without running anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from opsbook.archive.files import make_folder
from opsbook.archive.layout import RunFolder, run_folder
from opsbook.model.run import (
    CellError,
    CellRecord,
    CellState,
    Operator,
    RunbookRef,
    RunRecord,
    RunState,
    RunTargets,
    TargetOutcome,
)
from opsbook.model.target import TargetState

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
ORIGIN = "7f9a0f6e-c1b4-11f0-8de9-0242ac120002"


def cell(source: str, *said: str, kind: str = "code", **metadata: Any) -> dict[str, Any]:
    """Return a cell of an executed copy."""
    made: dict[str, Any] = {"cell_type": kind, "id": "", "metadata": metadata, "source": source}
    outputs = [{"output_type": "stream", "name": "stdout", "text": text} for text in said]
    return {**made, "outputs": outputs} if kind == "code" else made


def write_run(
    root: Path,
    *cells: dict[str, Any],
    at: datetime = NOON,
    book: str = "patch",
    tail: int = 1,
    status: RunState = RunState.SUCCEEDED,
    error: str = "",
    targets: tuple[str, ...] = (),
    user: str = "maya",
    parameters: dict[str, Any] | None = None,
    **changes: Any,
) -> RunFolder:
    """Write a run; its last code cell raised `error`, if there is one."""
    folder = run_folder(root, f"{at:%Y%m%dT%H%M%SZ}-{book}-{tail:06x}")
    known = [{**one, "id": one["id"] or f"cell-{index}"} for index, one in enumerate(cells)]
    codes = [index for index, one in enumerate(known) if one["cell_type"] == "code"]
    records = [
        CellRecord(
            id=known[index]["id"],
            index=index,
            label=f"Step {index}",
            state=CellState.FAILED if error and index == codes[-1] else CellState.OK,
            error=CellError(name="FleetError", text=error) if error and index == codes[-1] else None,
        )
        for index in codes
    ]
    record = RunRecord(
        run_id=folder.run_id,
        status=status,
        runbook=RunbookRef(path=f"runbooks/{book}.ipynb", title=book.title(), sha256="0" * 64),
        parameters=parameters or {},
        targets=RunTargets(results={name: TargetOutcome(state=TargetState.OK) for name in targets}),
        cells=tuple(records),
        started_at=at,
        ended_at=None if status is RunState.RUNNING else at + timedelta(seconds=90),
        duration_s=None if status is RunState.RUNNING else 90.0,
        operator=Operator(user=user, host="ops1", pid=1),
    )
    make_folder(folder.path)
    folder.record.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, **changes)))
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": known}
    folder.copy.write_text(json.dumps(document))
    return folder
