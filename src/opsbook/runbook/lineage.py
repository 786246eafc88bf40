"""Where the cells of a notebook come from, and what a run writes about that into its executed copy.

One rule says what is of the same origin: the UUID of the MEME; what has no MEME has the UUID derived from its cell id
in its notebook, and a notebook without one that derived from its file's name. So two runs of a runbook nobody has given
MEMEs meet, and `mint` gives just those UUIDs. A run branches every MEME once, in its copy alone. What a notebook holds
under the names of MEMEs is not to be trusted: what is none counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from opsbook.model.run import CellRecord, RunRecord
from opsbook.runbook.meme import Meme, derived_origin, new_branch, parse_meme
from opsbook.runbook.notebook import Runbook

NOTEBOOK_KEY = "lc_notebook_meme"
CELL_KEY = "lc_cell_meme"
SIGNATURE_KEY = "lc_server_signature"
ENDED_KEY = "execution_end_time"
_ENTRY = {"current", "previous", "next"}
MemeRule: TypeAlias = Literal["auto", "keep", "off"]
"""Whether an executed copy has MEMEs: always; where its runbook has some; or just as its runbook has them."""


class CellLineage(Struct, frozen=True, kw_only=True):
    """One cell's origin, and the ids it had."""

    id: str
    index: int
    origin: str
    meme: str = ""
    """Empty where the cell has none: its origin is derived."""
    history: tuple[str, ...] = ()
    """The MEMEs it had before, the oldest first."""


class Lineage(Struct, frozen=True, kw_only=True):
    """What a notebook says about where it comes from."""

    origin: str
    meme: str = ""
    """Empty where the notebook has none: its origin is derived from its name."""
    history: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    """The MEMEs its cells had when it was last made the root of a new line (`root_cells`)."""
    cells: tuple[CellLineage, ...] = ()

    @property
    def has_memes(self) -> bool:
        """Whether any MEME stands in it."""
        return bool(self.meme) or any(cell.meme for cell in self.cells)

    def origin_of(self, cell_id: str) -> str:
        """Return the origin of a cell, of one that is not there as of one without a MEME."""
        known = next((cell.origin for cell in self.cells if cell.id == cell_id), "")
        return known or derived_origin(self.origin, cell_id)


class Signature(Struct, frozen=True, kw_only=True):
    """Where a copy lies, in the words of `lc_server_signature`."""

    signature_id: str
    server_url: str
    notebook_dir: str
    notebook_path: str


class Branching(Struct, frozen=True, kw_only=True):
    """The MEMEs one run gives its copy: decided before it starts, so that its record can name them."""

    number: str
    """The branch of this run: the same for every cell."""
    notebook: str
    cells: dict[str, str]
    """The new MEME of each cell of the runbook, by cell id."""
    signature: Signature

    def meme_of(self, cell_id: str) -> str:
        """Return the MEME a cell has in the copy; of one the run inserts, a MEME of its own."""
        return self.cells.get(cell_id) or self._own(cell_id).text

    def _own(self, cell_id: str) -> Meme:
        notebook = parse_meme(self.notebook)
        within = notebook.origin if notebook is not None else ""
        return Meme(origin=derived_origin(within, cell_id)).branched(self.number)


class _CellMetadata(Struct, frozen=True):
    lc_cell_meme: Any = None


class _Cell(Struct, frozen=True):
    metadata: _CellMetadata = _CellMetadata()


class _Metadata(Struct, frozen=True):
    lc_notebook_meme: Any = None


class _Notebook(Struct, frozen=True):
    metadata: _Metadata = _Metadata()
    cells: list[_Cell] = []


_DECODER = msgspec.json.Decoder(_Notebook)


def notebook_origin(name: str) -> str:
    """Return the origin of a notebook without a MEME, by its file's name without the ending."""
    return derived_origin("", name)


def read_lineage(runbook: Runbook) -> Lineage:
    """Return where a runbook's cells come from."""
    try:
        document = _DECODER.decode(runbook.raw)
    except (msgspec.DecodeError, RecursionError):  # it is a notebook, and what it has for MEMEs is beyond reading
        document = _Notebook(cells=[_Cell()] * len(runbook.cells))
    own = document.metadata.lc_notebook_meme
    meme = meme_in(own)
    origin = meme.origin if meme is not None else notebook_origin(runbook.name)
    cells = []
    for cell, known in zip(document.cells, runbook.cells, strict=True):
        held = cell.metadata.lc_cell_meme
        found = meme_in(held)
        cells.append(
            CellLineage(
                id=known.id,
                index=known.index,
                origin=found.origin if found is not None else derived_origin(origin, known.id),
                meme=found.text if found is not None else "",
                history=_history(held),
            )
        )
    return Lineage(
        origin=origin,
        meme=meme.text if meme is not None else "",
        history=_read(list_in(own, "history")),
        roots=_read(list_in(own, "root_cells")),
        cells=tuple(cells),
    )


def record_origin(record: RunRecord) -> str:
    """Return the origin of the runbook a run was one of."""
    meme = parse_meme(record.runbook.meme)
    return meme.origin if meme is not None else notebook_origin(PurePath(record.runbook.path).stem)


def record_origins(record: RunRecord) -> set[str]:
    """Return the origins of a run's runbook and of its code cells; of an older opsbook's, those derived from names."""
    return {record_origin(record), *(cell_origin(record, cell) for cell in record.cells)}


def cell_origin(record: RunRecord, cell: CellRecord) -> str:
    """Return the origin of a cell of a run."""
    meme = parse_meme(cell.meme)
    return meme.origin if meme is not None else derived_origin(record_origin(record), cell.id)


def meme_in(held: object) -> Meme | None:
    """Return the MEME under `current` in what a notebook or a cell holds under its key; None when there is none."""
    return parse_meme(held.get("current")) if isinstance(held, dict) else None


def _history(held: object) -> tuple[str, ...]:
    """Return the MEMEs a cell had before."""
    entries = list_in(held, "history")
    return _read([entry.get("current") for entry in entries if isinstance(entry, dict)])


def _read(values: Iterable[object]) -> tuple[str, ...]:
    """Return those of some values that are MEMEs."""
    return tuple(meme.text for meme in map(parse_meme, values) if meme is not None)


def list_in(held: object, key: str) -> list[Any]:
    """Return a copy of the list a notebook or a cell holds under a key; an empty one where it holds none."""
    value = held.get(key) if isinstance(held, dict) else None
    return list(value) if isinstance(value, list) else []


def branch_runbook(runbook: Runbook, *, rule: MemeRule, signature: Signature) -> Branching | None:
    """Decide the MEMEs of a run's copy; None where it is to have none of ours."""
    if rule == "off" or runbook.in_memory:
        return None
    lineage = read_lineage(runbook)
    if rule == "keep" and not lineage.has_memes:
        return None
    number = new_branch()
    texts = unique_memes([cell.meme or cell.origin for cell in lineage.cells])
    memes = (parse_meme(text) or Meme(origin=text) for text in texts)
    notebook = parse_meme(lineage.meme) or Meme(origin=lineage.origin)
    return Branching(
        number=number,
        notebook=notebook.branched(number).text,
        cells={cell.id: meme.branched(number).text for cell, meme in zip(lineage.cells, memes, strict=True)},
        signature=signature,
    )


def unique_memes(texts: Iterable[str]) -> list[str]:
    """Return MEMEs with those told apart that two cells have: the later is a copy that nobody has branched."""
    seen: set[str] = set()
    apart = []
    for text in texts:
        own = text
        while own in seen:
            meme = parse_meme(own) or Meme(origin=own)
            own = meme.branched(new_branch()).text
        seen.add(own)
        apart.append(own)
    return apart


def weave(document: dict[str, Any], branching: Branching) -> None:
    """Give every cell of a copy its MEME and its neighbours, and the notebook its own.

    It may be done again when cells were inserted: what stands already stays, and history is written once.
    """
    _weave_notebook(document["metadata"], branching)
    memes = [branching.meme_of(cell["id"]) for cell in document["cells"]]
    for cell, meme in zip(document["cells"], memes, strict=True):
        held = cell["metadata"].get(CELL_KEY)
        if not isinstance(held, dict) or held.get("current") != meme:
            cell["metadata"][CELL_KEY] = _branched_entry(held, meme)
    link([cell["metadata"][CELL_KEY] for cell in document["cells"]])


def _branched_entry(held: object, meme: str) -> dict[str, Any]:
    """Return what a cell holds after it was branched: what it held, as its history's last entry."""
    before = dict(held) if isinstance(held, dict) else {}
    before.pop(ENDED_KEY, None)  # it was not this run that ended then
    return {**before, "current": meme, "history": history_with(held)}


def history_with(held: object) -> list[Any]:
    """Return a cell's history with what it holds now as the last entry, where that is whole (NII's rule)."""
    history = list_in(held, "history")
    if isinstance(held, dict) and held.keys() >= _ENTRY and parse_meme(held["current"]) is not None:
        history.append({name: held[name] for name in ("current", "previous", "next")})
    return history


def link(entries: Sequence[dict[str, Any]]) -> None:
    """Set in each cell's MEME who its neighbours are; None at the ends."""
    memes = [None, *(entry["current"] for entry in entries), None]
    for number, entry in enumerate(entries, start=1):
        entry["previous"], entry["next"] = memes[number - 1], memes[number + 1]


def note_end(cell: dict[str, Any]) -> None:
    """Set in a cell's MEME when its execution ended, as papermill has noted it: what nbsearch calls executed."""
    entry, ended = cell["metadata"].get(CELL_KEY), cell["metadata"]["papermill"]["end_time"]
    if isinstance(entry, dict):
        at = datetime.fromisoformat(ended).astimezone(UTC)
        entry[ENDED_KEY] = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _weave_notebook(metadata: dict[str, Any], branching: Branching) -> None:
    held = metadata.get(NOTEBOOK_KEY)
    before = dict(held) if isinstance(held, dict) else {}
    if before.get("current") == branching.notebook:
        return
    history = list_in(held, "history")
    if meme_in(held) is not None:
        history.append(before["current"])
    signature = _signature(before.get(SIGNATURE_KEY), branching.signature)
    metadata[NOTEBOOK_KEY] = {**before, "current": branching.notebook, "history": history, SIGNATURE_KEY: signature}


def _signature(held: object, signature: Signature) -> dict[str, Any]:
    history = list_in(held, "history")
    if isinstance(held, dict) and isinstance(held.get("current"), dict):
        history.append(held["current"])
    return {"current": msgspec.to_builtins(signature), "history": history}
