"""The executed copy: the notebook as it ran, written whole, now and then while it runs and once at the end."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from opsbook.archive.catalogue import name_in_catalogue
from opsbook.archive.files import write_whole
from opsbook.archive.links import digest_of
from opsbook.errors import ArchiveError
from opsbook.model.run import RunRecord
from opsbook.redaction import Redactor

EVERY_S = 2.0
"""Seconds between two writings while the run lasts: the journal has everything meanwhile."""
REST = 20
"""How much longer than a writing the time to the next one is at least: a long notebook is not slowed down by it."""


_PAPERMILL_KEYS = ("exception", "start_time", "end_time", "duration")
_STREAM = "stream"
_SEVERAL = 2
"""Streams of one cell between which something may be torn."""
_KEPT = {"kernelspec", "language_info", "tags"}
"""Metadata that Jupyter goes by."""
_NAMES = _KEPT | {"papermill", "opsbook", "lc_cell_meme", "lc_notebook_meme", "run_through_control"}
"""Metadata whose name somebody goes by."""
_KINDS = {f"text/{kind}" for kind in ("plain", "html", "markdown", "latex")}
_KINDS |= {f"image/{kind}" for kind in ("png", "jpeg", "gif", "svg+xml")}
_KINDS |= {f"application/{kind}" for kind in ("json", "javascript", "pdf", "vnd.jupyter.widget-view+json")}
"""How outputs say what they are: names of the format, and not anybody's."""


def clean_document(document: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return a notebook with every text in it masked, and every word of the format as it was."""
    cells = [_clean_cell(cell, redactor) for cell in document["cells"]]
    return {**document, "metadata": _clean_metadata(document["metadata"], redactor), "cells": cells}


def _clean_cell(cell: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    known = {"attachments": redactor.clean}
    clean = {name: known[name](value) if name in known else value for name, value in cell.items()}
    clean["source"] = _clean_lines(cell["source"], redactor)
    clean["metadata"] = _clean_metadata(cell["metadata"], redactor)
    if "outputs" in cell:
        clean["outputs"] = [_clean_output(output, redactor) for output in _clean_streams(cell["outputs"], redactor)]
    return clean


def _clean_streams(outputs: list[dict[str, Any]], redactor: Redactor) -> list[dict[str, Any]]:
    """Return a cell's outputs with its streams masked, each and both together, as if no output had come in between."""
    streams = [output for output in outputs if output["output_type"] == _STREAM]
    if len(streams) < _SEVERAL:
        return outputs
    texts = ["".join(output["text"]) for output in streams]
    masked = iter(redactor.pieces(texts, [output["name"] for output in streams]))
    return [{**output, "text": next(masked)} if output["output_type"] == _STREAM else output for output in outputs]


def _clean_output(output: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    clean = dict(output)
    for name in ("text", "ename", "evalue", "traceback"):
        if name in clean:
            clean[name] = _clean_lines(clean[name], redactor)
    for name in ("data", "metadata"):
        if name in clean:
            clean[name] = {
                kind if kind in _KINDS else redactor.text(kind): _clean_lines(value, redactor)
                for kind, value in clean[name].items()
            }
    return clean


def _clean_lines(value: Any, redactor: Redactor) -> Any:
    """Return a value masked; the lines of a text, which a notebook may keep apart, as one text."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return redactor.pieces(value)
    return redactor.clean(value)


def _clean_metadata(metadata: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    clean = {
        name if name in _NAMES else redactor.text(name): value if name in _KEPT else redactor.clean(value)
        for name, value in metadata.items()
    }
    return {**clean, **({"tags": list(map(redactor.tag, metadata["tags"]))} if "tags" in metadata else {})}


class CopyWriter:
    """Writes one executed copy."""

    def __init__(self, file: Path, redactor: Redactor) -> None:
        self._file = file
        self._redactor = redactor
        self._last = 0.0
        self._took = 0.0
        self._document: dict[str, Any] | None = None
        self.head = ""
        """The hash of what the file holds; empty while there is none."""

    def save_soon(self, document: dict[str, Any]) -> None:
        """Write the document unless that was done a moment ago. What cannot be written now may be at the end."""
        self._document = document
        begun = time.monotonic()
        if begun - self._last >= max(EVERY_S, self._took * REST):
            with suppress(ArchiveError):
                self._write(document)
            self._last = time.monotonic()
            self._took = self._last - begun

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write yet."""
        return self._document is None

    def keep(self, document: dict[str, Any]) -> None:
        """Take the document as it is at the end of the run."""
        self._document = document

    def keep_unrun(self, document: dict[str, Any]) -> None:
        """Take a document of which nothing ran: every cell waits, in papermill's words."""
        for cell in document["cells"]:
            cell["metadata"]["papermill"] = {**dict.fromkeys(_PAPERMILL_KEYS), "status": "pending"}
        self.keep(document)

    def finish(self, record: RunRecord) -> None:
        """Write the copy with what the run came to.

        Raises:
            ArchiveError: it could not be written.
        """
        if self._document is None:
            return
        metadata = self._document["metadata"]
        metadata["opsbook"] = {
            "run_id": record.run_id,
            "status": record.status.value,
            "reason": record.reason,
            "exit_code": record.exit_code,
            "runbook_sha256": record.runbook.sha256,
            "checking": record.checking,
            **({"part": to_builtins(record.selection)} if record.selection.is_part else {}),
        }
        papermill = metadata.setdefault("papermill", {})
        papermill["input_path"] = record.runbook.path
        papermill["output_path"] = self._file.name
        papermill["exception"] = None if record.exit_code == 0 else True
        name_in_catalogue(self._document, record)
        self._write(self._document)

    def discard(self) -> None:
        """Take the file away: what it says is not so."""
        self.head = ""
        with suppress(OSError):
            self._file.unlink()

    def _write(self, document: dict[str, Any]) -> None:
        encoder = json.JSONEncoder(ensure_ascii=False, indent=1, sort_keys=True)
        data = bytearray()  # grown piece by piece: a copy of a hundred megabytes must not be held three times over
        for piece in encoder.iterencode(clean_document(document, self._redactor)):
            data += piece.encode("utf-8", "replace")
        data += b"\n"
        write_whole(self._file, data)
        self.head = digest_of(data)
