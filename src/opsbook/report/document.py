"""The JSON documents of `--json`: the record itself, with nothing said differently than in the archive."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from opsbook.model.event import TargetEnded
from opsbook.model.note import Note
from opsbook.model.run import RunRecord


def record_document(record: RunRecord, *, copy: Path | None, noted: Sequence[Note] = ()) -> bytes:
    """Return a run as one JSON document in one line: the record, and `copy`, the path of its executed notebook.

    Where there are notes that concern it today, they are `noted`.
    """
    rows = {"noted": msgspec.to_builtins(noted)} if noted else {}
    return msgspec.json.encode({**_with_copy(record, copy), **rows}) + b"\n"


def answers_document(record: RunRecord, answers: Mapping[str, TargetEnded], *, copy: Path | None) -> bytes:
    """Return a run of one command as one JSON document: the record, and `output`, what each target said."""
    output = {
        name: {"stdout": ended.stdout, "stderr": ended.stderr, "truncated": ended.truncated}
        for name, ended in answers.items()
    }
    return msgspec.json.encode({**_with_copy(record, copy), "output": output}) + b"\n"


def _with_copy(record: RunRecord, copy: Path | None) -> dict[str, Any]:
    where = None if copy is None else os.fsencode(copy).decode("utf-8", "replace")  # JSON carries Unicode alone
    return {**msgspec.to_builtins(record), "copy": where}


def history_document(records: Sequence[RunRecord]) -> bytes:
    """Return runs as one JSON document in one line: an array of records, in the order given."""
    return msgspec.json.encode(list(records)) + b"\n"
