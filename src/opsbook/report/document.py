"""The JSON documents of `--json`: the record itself, with nothing said differently than in the archive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from opsbook.model.run import RunRecord


def record_document(record: RunRecord, *, copy: Path | None) -> bytes:
    """Return a run as one JSON document in one line: the record, and `copy`, the path of its executed notebook."""
    where = None if copy is None else os.fsencode(copy).decode("utf-8", "replace")  # JSON carries Unicode alone
    return msgspec.json.encode({**msgspec.to_builtins(record), "copy": where}) + b"\n"


def history_document(records: Sequence[RunRecord]) -> bytes:
    """Return runs as one JSON document in one line: an array of records, in the order given."""
    return msgspec.json.encode(list(records)) + b"\n"
