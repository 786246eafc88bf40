"""The executed copy, as the archive keeps it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from archived import RUN_ID, VALUE, make_record, mode

from opsbook.archive.copy import CopyWriter
from opsbook.errors import ArchiveError
from opsbook.model.run import RunState
from opsbook.redaction import MASK, Redactor


def notebook(source: str) -> dict[str, Any]:
    cell = {"cell_type": "code", "id": "a", "source": source, "metadata": {}, "outputs": [], "execution_count": 1}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}


def test_the_copy_says_what_the_run_came_to_and_holds_no_secret(tmp_path: Path) -> None:
    redactor = Redactor()
    redactor.add(VALUE)
    writer = CopyWriter(tmp_path / "copy.ipynb", redactor)
    writer.keep(notebook(f"print('{VALUE} größer')"))
    assert not (tmp_path / "copy.ipynb").exists()
    writer.finish(make_record(status=RunState.FAILED, exit_code=1, reason="no"))
    copy = json.loads((tmp_path / "copy.ipynb").read_bytes())
    assert copy["metadata"]["opsbook"] == {
        "run_id": RUN_ID,
        "status": "failed",
        "reason": "no",
        "exit_code": 1,
        "runbook_sha256": "0" * 64,
        "checking": False,
    }
    assert copy["metadata"]["papermill"]["exception"] is True
    assert copy["cells"][0]["source"] == f"print('{MASK} größer')"
    assert mode(tmp_path / "copy.ipynb") == 0o600


def test_the_copy_is_written_now_and_then_and_always_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "copy.ipynb"
    writer = CopyWriter(file, Redactor())
    for number in range(3):
        writer.save_soon(notebook(f"n = {number}"))
    assert json.loads(file.read_bytes())["cells"][0]["source"] == "n = 0"
    writer.finish(make_record(status=RunState.SUCCEEDED, exit_code=0))
    copy = json.loads(file.read_bytes())
    assert copy["cells"][0]["source"] == "n = 2"
    assert copy["metadata"]["papermill"]["exception"] is None


def test_a_copy_knows_what_its_file_holds_and_can_be_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "copy.ipynb"
    writer = CopyWriter(file, Redactor())
    assert writer.head == ""
    writer.save_soon(notebook("1"))
    for number in range(2):
        assert writer.head == hashlib.sha256(file.read_bytes()).hexdigest()
        writer.finish(make_record(exit_code=number))
    writer.discard()
    writer.discard()
    assert (writer.head, list(tmp_path.iterdir())) == ("", [])


def test_a_copy_that_cannot_be_written_stops_nothing_until_the_end(tmp_path: Path) -> None:
    writer = CopyWriter(tmp_path / "nowhere" / "copy.ipynb", Redactor())
    writer.save_soon(notebook("1"))
    with pytest.raises(ArchiveError):
        writer.finish(make_record())
    CopyWriter(tmp_path / "none.ipynb", Redactor()).finish(make_record())
    assert not (tmp_path / "none.ipynb").exists()
