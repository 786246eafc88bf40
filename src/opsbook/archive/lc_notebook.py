"""An executed copy as the front-end of NII's wrapper kernel leaves a notebook: each cell names the logs of its runs.

    cell.metadata.lc_wrapper = {log_history: [path…], last_execution: {lc_current_cell_meme, …, notebook_path}}

Logs it named before stay first. A summary of what a cell said names the log, which has the whole, and not our journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from opsbook.archive.whole_output import is_reference
from opsbook.model.run import CellRecord, RunRecord

_KEY = "lc_wrapper"
_HISTORY = "log_history"


def lc_notebook(copy: bytes, record: RunRecord, logs: Mapping[str, Sequence[str]]) -> bytes:
    """Return a copy with the logs of its cells in it, which are given by the cells' ids, the oldest first.

    Raises:
        ValueError, RecursionError: the copy is no notebook.
    """
    document = msgspec.json.decode(copy, type=dict[str, Any])
    cells = {cell.id: cell for cell in record.cells}
    for cell, known in _cells(document, cells):
        paths = logs.get(known.id, ())
        if paths:
            cell["metadata"][_KEY] = _told(cell["metadata"].get(_KEY), known, record, paths)
            for output in _summaries(cell):
                output["text"] = f"path: {paths[-1]}\n{output['text'].partition(chr(10))[2]}"
    text = json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True)
    return text.encode("utf-8", "replace") + b"\n"


def _cells(document: dict[str, Any], known: Mapping[str, CellRecord]) -> Iterator[tuple[dict[str, Any], CellRecord]]:
    """Yield the cells the record knows, in the right form."""
    cells = document.get("cells")
    for cell in cells if isinstance(cells, list) else ():
        cell_id = cell.get("id") if isinstance(cell, dict) else None
        if isinstance(cell_id, str) and cell_id in known and isinstance(cell.get("metadata"), dict):
            yield cell, known[cell_id]


def _told(held: object, cell: CellRecord, record: RunRecord, paths: Sequence[str]) -> dict[str, Any]:
    """Return what a cell's metadata says of its logs, and of its last execution."""
    own = held if isinstance(held, dict) else {}
    memes = {"lc_current_cell_meme": cell.meme, "lc_current_notebook_meme": record.runbook.meme}
    return {
        **own,
        _HISTORY: list(dict.fromkeys([*_texts(own.get(_HISTORY)), *paths])),
        "last_execution": {
            **{name: meme for name, meme in memes.items() if meme},
            "notebook_path": record.runbook.path,
        },
    }


def _texts(value: object) -> list[str]:
    """Return the texts of a list; none where there is no list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _summaries(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the streams that refer to the journal; each stream's text is in one piece then."""
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict) and output.get("output_type") == "stream":
            text = output.get("text")
            output["text"] = text if isinstance(text, str) else "".join(_texts(text))
            if is_reference(output["text"]):
                yield output
