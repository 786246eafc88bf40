"""What catalogues of notebooks show of a run: its title, who ran it, what it is for; in nteract's and Airbnb's words.

nteract's Commuter reads `title`, `authors` and `nteract` of a notebook's metadata, and breaks where `nteract.tags` is
no list. Airbnb's Knowledge Repo wants a first cell, of kind raw, that holds a header in YAML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from opsbook.model.run import RunRecord
from opsbook.model.visible import one_line
from opsbook.runbook.header import read_header

HEADER_ID = "opsbook-knowledge"
"""The cell id of the header."""
_FENCE = "---"
_PURPOSES = ("purpose", "description", "tl;dr", "tldr", "about", "summary")


def name_in_catalogue(document: dict[str, Any], record: RunRecord) -> None:
    """Set in an executed copy what Commuter shows; what the runbook says itself, in the right form, stays."""
    metadata = document["metadata"]
    own = metadata.get("nteract")
    nteract = dict(own) if isinstance(own, dict) else {}
    if not isinstance(nteract.get("description"), str):
        nteract["description"] = _purpose(document)
    tags = nteract.get("tags")
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        nteract["tags"] = _tags(record)
    metadata["nteract"] = nteract
    title, authors = metadata.get("title"), metadata.get("authors")
    if not (isinstance(title, str) and title):
        metadata["title"] = record.runbook.title
    if not (isinstance(authors, list) and all(isinstance(one, dict) and "name" in one for one in authors)):
        metadata["authors"] = [{"name": record.operator.user}]


def head_as_post(document: dict[str, Any], record: RunRecord) -> None:
    """Put the Knowledge Repo's header at the top of an executed copy, in the place of one that the runbook has."""
    cells = document["cells"]
    if cells and cells[0]["cell_type"] == "raw" and "".join(cells[0]["source"]).startswith(_FENCE):
        del cells[0]
    day = record.started_at.date().isoformat()
    stamp, _, rest = record.run_id.partition("-")
    fields: dict[str, str | list[str]] = {
        "title": f"{record.runbook.title} ({day}, {record.status.value})",
        "authors": [record.operator.user],
        "tags": _tags(record),
        "tldr": _purpose(document) or record.reason or record.status.value,
        "path": f"runs/{PurePath(record.runbook.path).stem}/{stamp}-{rest.rpartition('-')[2]}",
    }
    days = [f"created_at: {day}", f"updated_at: {day}"]
    header = [_FENCE, *(f"{name}: {_yaml(value)}" for name, value in fields.items()), *days, _FENCE]
    source = "\n".join(header) + "\n"
    cells.insert(0, {"cell_type": "raw", "id": HEADER_ID, "metadata": {}, "source": source})


def _yaml(value: str | list[str]) -> str:
    """Return a value in YAML, which JSON is where nothing has to be escaped; what cannot be shown is shown as text."""
    return json.dumps(one_line(value) if isinstance(value, str) else [*map(one_line, value)], ensure_ascii=False)


def _tags(record: RunRecord) -> list[str]:
    name = PurePath(record.runbook.path).stem
    return list(dict.fromkeys(("runbook", name, record.status.value)))


def _purpose(document: Mapping[str, Any]) -> str:
    """Return what the runbook's opening says it is for."""
    return read_header(_opening(document)).section(*_PURPOSES)


def _opening(document: Mapping[str, Any]) -> Iterator[str]:
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            return
        if cell["cell_type"] == "markdown":
            yield "".join(cell["source"])
