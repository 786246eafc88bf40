"""The archive and the library searched: what the index finds for a query is ranked, and shown in its place.

The newest passages that match are looked at, so many and no more: how well one fits and how new it is decide its rank.
The same cell that says the same in many runs is one hit.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from opsbook.archive.excerpt import Excerpt, excerpt
from opsbook.archive.index import Index
from opsbook.archive.index_text import DOC_BITS, Passage, second_of, unpack
from opsbook.archive.query import And, Between, Not, Or, Query, Words, parse_query, words_of
from opsbook.archive.question import make_question

CANDIDATES = 1000
"""The newest matching passages, which are ranked."""
LOOKS = 200
"""Of these, the best that are looked into for hits that say something of their own."""
VARIANTS = 200
"""Words the parts of words in one query may stand in."""
_FADE_S = 90 * 86400.0
"""The age at which being new is worth a third of what it was."""


class Search(Struct, frozen=True, kw_only=True):
    """What is asked."""

    text: str
    kind: str = ""
    """`run` or `book`; empty for both."""
    between: Between = Between()
    limit: int = 10


class Place(Struct, frozen=True, kw_only=True):
    """Where something stands: a cell of a run or of a runbook, or one of these as a whole."""

    kind: str
    name: str
    """The run's id, or the runbook's path."""
    runbook: str
    path: str
    status: str
    """The run's; empty for a runbook."""
    user: str
    at: datetime
    """When the run began, or the runbook was changed last."""
    number: int
    """The cell's place in its notebook, from 1; 0 for the whole."""
    cell: int
    """The cell's number in the run's record, from 1; 0 where it has none."""
    cell_id: str
    label: str
    state: str


class Hit(Struct, frozen=True, kw_only=True):
    """One thing that was found."""

    place: Place
    excerpt: Excerpt
    also: int = 0
    """In how many other runs, of those that were looked at, the same cell says the same."""


class Found(Struct, frozen=True, kw_only=True):
    """What a search came to."""

    hits: tuple[Hit, ...] = ()
    more: bool = False
    """Whether there is more than was asked for."""


def search(index: Index, asked: Search, *, now: datetime | None = None) -> Found:
    """Search the index.

    Raises:
        QueryError: the query cannot be understood.
    """
    now = now or datetime.now(UTC).astimezone()
    parsed = parse_query(asked.text, now=now)
    parts = sum(words.infix for words in words_of(parsed))
    query = _expanded(parsed, index, VARIANTS // max(1, parts))
    bounded = query if asked.between == Between() else And(parts=(*_parts(query), asked.between))
    question = make_question(bounded, kind=asked.kind)
    candidates = index.rows(question.sql, *question.values, CANDIDATES)
    ranked = sorted(candidates, key=lambda row: _weight(row[0], row[1], now), reverse=True)
    words = words_of(query)
    hits = _hits(_Reader(index), words, [doc for doc, _ in ranked[:LOOKS]], whole=question.whole)
    return Found(hits=tuple(hits[: asked.limit]), more=len(hits) > asked.limit)


def cells_of_origin(index: Index, origin: str) -> list[Place]:
    """Return every cell of one origin (the UUID of its MEME), in runs and runbooks alike, the newest first."""
    docs = index.rows("SELECT doc FROM origins WHERE origin = ? ORDER BY doc DESC", origin.lower())
    reader = _Reader(index)
    return [reader.place(doc, reader.passage(doc)) for (doc,) in docs]


class _Reader:
    """Reads passages back, those of one run once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._passages: dict[int, tuple[Passage, ...]] = {}
        self._items: dict[int, tuple[Any, ...]] = {}

    def passages(self, key: int) -> tuple[Passage, ...]:
        """Return the passages of a run, or of a runbook."""
        if key not in self._passages:
            self._passages[key] = unpack(self._row("SELECT packed FROM texts WHERE key = ?", key)[0])
        return self._passages[key]

    def passage(self, doc: int) -> Passage:
        """Return one of them."""
        number = doc & (1 << DOC_BITS) - 1
        found = [passage for passage in self.passages(doc >> DOC_BITS) if passage.number == number]
        if not found:
            raise sqlite3.DatabaseError("the index names a cell it does not have")
        return found[0]

    def _row(self, sql: str, key: int) -> tuple[Any, ...]:
        """Return the one row there is of an item."""
        rows = self._index.rows(sql, key)
        if len(rows) != 1:
            raise sqlite3.DatabaseError("the index names an item it does not have")
        return rows[0]

    def place(self, doc: int, passage: Passage) -> Place:
        """Return where one stands."""
        key = doc >> DOC_BITS
        if key not in self._items:
            sql = "SELECT kind, name, runbook, path, status, user, second FROM items WHERE key = ?"
            self._items[key] = self._row(sql, key)
        kind, name, runbook, path, status, user, second = self._items[key]
        return Place(
            kind=kind,
            name=name,
            runbook=runbook,
            path=path,
            status=status,
            user=user,
            at=datetime.fromtimestamp(second, UTC),
            number=passage.number,
            cell=passage.cell,
            cell_id=passage.cell_id,
            label=passage.label,
            state=passage.state,
        )


def _hits(reader: _Reader, words: Sequence[Words], docs: Sequence[int], *, whole: bool) -> list[Hit]:
    """Return the hits there are in some passages, the best first; what says the same as a better one is counted.

    A run as a whole is none where one of its cells tells more; of the cells under one heading one is, which ran if any.
    """
    found: dict[tuple[str, ...], list[Hit]] = {}
    for doc in docs:
        passage = reader.passage(doc)
        shown = excerpt(passage, words)
        if whole and words and not shown.marks:  # the words that were asked for stand in some cell of the run
            others = ((other, excerpt(other, words)) for other in reader.passages(doc >> DOC_BITS))
            passage, shown = next((one for one in others if one[1].marks), (passage, shown))
        place = reader.place(doc, passage)
        where = "" if shown.part == "heading" else place.cell_id or place.name
        same = (place.kind, place.runbook, where, shown.part, shown.text)
        found.setdefault(same, []).append(Hit(place=place, excerpt=shown))
    hits = list(map(_one_of, found.values()))
    by_cells = {(hit.place.name, hit.excerpt.part) for hit in hits if hit.place.number}
    return [hit for hit in hits if hit.place.number or (hit.place.name, hit.excerpt.part) not in by_cells]


def _one_of(alike: Sequence[Hit]) -> Hit:
    """Return one hit for some that say the same, the best first: a cell that ran stands for its heading."""
    name = alike[0].place.name
    best = next((hit for hit in alike if hit.place.name == name and hit.place.cell), alike[0])
    return replace(best, also=len({hit.place.name for hit in alike}) - 1)


def _weight(doc: int, rank: float, now: datetime) -> tuple[float, int]:
    """Return how much a passage is worth; of those worth the same the newest is worth most."""
    age = max(0.0, now.timestamp() - second_of(doc))
    return -rank * (1 + math.exp(-age / _FADE_S)), doc


def _parts(query: Query) -> tuple[Query, ...]:
    return query.parts if isinstance(query, And) else (query,)


def _expanded(query: Query, index: Index, most: int) -> Query:
    """Return the query with each part of a word replaced by the words it stands in, `most` at most."""
    if isinstance(query, Not):
        return Not(part=_expanded(query.part, index, most))
    if isinstance(query, And | Or):
        return replace(query, parts=tuple(_expanded(part, index, most) for part in query.parts))
    if not (isinstance(query, Words) and query.infix):
        return query
    found = index.rows("SELECT word FROM words WHERE instr(word, ?) LIMIT ?", query.text.lower(), most)
    whole = replace(query, infix=False)  # where it is a part of nothing, it finds nothing
    return Or(parts=tuple(replace(whole, text=word) for (word,) in found)) if found else whole
