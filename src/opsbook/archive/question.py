"""A query as one SQL statement for the index: its text is ours alone, and all that was typed is its values.

A query that asks for words is answered with passages; one that asks for a run's status, parameters or targets alone, or
only for what is *not* said, with runs as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from opsbook.archive.index_items import line_of
from opsbook.archive.index_text import COLUMNS, DOC_BITS, LAST_SECOND, stamp_key, words_apart
from opsbook.archive.query import And, Between, Exact, Not, Or, Param, Query, Words

_WEIGHTS = {"code": 2, "prose": 2, "output": 1, "heading": 3, "error": 3, "param": 1, "target": 1, "about": 2}
"""How much a word counts, by the part it stands in."""
_MEME = "meme"
_RANK = f"bm25(passages, {', '.join(str(_WEIGHTS[part]) for part in COLUMNS)})"
_LAST_DOC = 2**63 - 1
_END = "\U0010ffff"
"""Behind everything that begins as asked."""

Value = str | int | float


class Condition(Struct, frozen=True, kw_only=True):
    """What has to hold."""

    sql: str
    values: tuple[Value, ...] = ()


class Question(Struct, frozen=True, kw_only=True):
    """A statement that finds passages: their numbers and ranks (less is better), the newest first.

    Its last value, which is left out here, is how many are wanted.
    """

    sql: str
    values: tuple[Value, ...]
    whole: bool
    """Whether it finds runs as a whole."""


def make_question(query: Query, *, kind: str = "") -> Question:
    """Return the statement that finds what a query asks for, the newest first; of one kind, where one is given."""
    parts = query.parts if isinstance(query, And) else (query,)
    asked = [part for part in parts if match_of(part)]
    memes = [part for part in parts if isinstance(part, Exact) and part.field == _MEME]
    source, doc, rank, first = "items", f"(items.key << {DOC_BITS})", "0.0", Condition(sql="1")
    rest = list(parts)
    if asked:
        left_out = [part for part in parts if isinstance(part, Not) and match_of(part.part)]
        source, doc, rank = "passages", "passages.rowid", _RANK
        first = Condition(sql="passages MATCH ?", values=(match_of(And(parts=(*asked, *left_out))),))
        rest = [part for part in parts if part not in (*asked, *left_out)]
    elif memes:
        source, doc = "origins", "origins.doc"
        first = Condition(sql="origin >= ? AND origin < ?", values=_beginning(memes[0].value))
        rest = [part for part in parts if part is not memes[0]]
    whole = source == "items"
    within = "items.key" if whole else doc
    conditions = [first, *_bounds(parts, doc), *(_condition(part, within) for part in rest)]
    if kind:
        conditions.append(Condition(sql="items.kind = ?", values=(kind,)))
    join = "" if whole else f" JOIN items ON items.key = {doc} >> {DOC_BITS}"
    both = _joined(conditions, " AND ")
    sql = f"SELECT {doc} AS doc, {rank} FROM {source}{join} WHERE {both.sql} ORDER BY {doc} DESC LIMIT ?"  # noqa: S608
    return Question(sql=sql, values=both.values, whole=whole)


def match_of(query: Query) -> str:
    """Return a query as FTS5 has it; empty for one that asks for more than words."""
    if isinstance(query, Words):
        text = words_apart(query.text).replace("\0", " ").replace('"', '""')
        within = f"{{{' '.join(query.columns)}}} : " if query.columns else ""
        return f'({within}"{text}"{" *" if query.begins else ""})'
    if isinstance(query, Or):
        parts = [match_of(part) for part in query.parts]
        return f"({' OR '.join(parts)})" if all(parts) else ""
    if isinstance(query, And):
        wanted = [match_of(part) for part in query.parts if not isinstance(part, Not)]
        unwanted = [match_of(part.part) for part in query.parts if isinstance(part, Not)]
        if wanted and all((*wanted, *unwanted)):
            both = f"({' AND '.join(wanted)})"
            return f"({both} NOT ({' OR '.join(unwanted)}))" if unwanted else both
    return ""


def _condition(query: Query, within: str) -> Condition:
    """Return what has to hold; `within` is what words are looked for in: `items.key`, or a passage's number."""
    match = match_of(query)
    if match:
        sql = f"{within} IN (SELECT rowid{_whole(within)} FROM passages WHERE passages MATCH ?)"  # noqa: S608
        return Condition(sql=sql, values=(match,))
    if isinstance(query, Not):
        part = _condition(query.part, within)
        return Condition(sql=f"NOT ({part.sql})", values=part.values)
    if isinstance(query, And | Or):
        word = " AND " if isinstance(query, And) else " OR "
        return _joined([_condition(part, within) for part in query.parts], word)
    if isinstance(query, Between):
        return Condition(sql="items.second >= ? AND items.second < ?", values=_seconds(query))
    if isinstance(query, Param):
        return _has_line("items.params", f"{query.name}={query.value}")
    assert isinstance(query, Exact)  # noqa: S101  words have a match
    return _exact(query, within)


def _exact(asked: Exact, within: str) -> Condition:
    value = asked.value
    if asked.field == _MEME:
        sql = f"{within} IN (SELECT doc{_whole(within)} FROM origins WHERE origin >= ? AND origin < ?)"  # noqa: S608
        return Condition(sql=sql, values=_beginning(value))
    if asked.field == "target":
        return _has_line("items.targets", value)
    if asked.field == "run":
        return Condition(
            sql="(items.name GLOB ? OR items.name GLOB ?)", values=(_glob(f"{value}*"), _glob(f"*-{value}"))
        )
    if asked.field == "runbook":
        name = value.removesuffix(".ipynb")
        return Condition(
            sql="(lower(items.runbook) GLOB ? OR items.path GLOB ?)", values=(_glob(name.lower()), _glob(value))
        )
    column = {"status": "items.status", "user": "items.user"}[asked.field]
    return Condition(
        sql=f"{column} GLOB ?" if "*" in value else f"{column} = ?", values=(_glob(value) if "*" in value else value,)
    )


def _whole(within: str) -> str:
    """Return what makes the number of a passage that of its run, where runs are asked for."""
    return f" >> {DOC_BITS}" if within == "items.key" else ""


def _has_line(column: str, text: str) -> Condition:
    line = line_of(text)
    if "*" in line:
        return Condition(sql=f"has_line({column}, ?)", values=(line,))
    return Condition(sql=f"instr({column}, ?)", values=(f"\n{line}\n",))


def _bounds(parts: Sequence[Query], doc: str) -> list[Condition]:
    """Return the numbers between which passages of a time lie: those outside are not even looked at."""
    spans = [_seconds(part) for part in parts if isinstance(part, Between)]
    return [
        Condition(sql=f"{doc} >= ? AND {doc} < ?", values=(_first_doc(since), _first_doc(until)))
        for since, until in spans
    ]


def _first_doc(second: float) -> int:
    return min(_LAST_DOC, stamp_key(int(min(second, LAST_SECOND))) << DOC_BITS)


def _seconds(span: Between) -> tuple[float, float]:
    """Return a time from whole second to whole second, as runs are known by."""
    return -(-span.since // 1) if span.since is not None else 0.0, -(
        -span.until // 1
    ) if span.until is not None else 2.0**36


def _beginning(meme: str) -> tuple[str, str]:
    """Return between what the origins lie that begin so; the branches of a MEME do not count."""
    origin = meme.lower().rstrip("*")[:36]
    return origin, origin + _END


def _glob(text: str) -> str:
    """Return a text in which only `*` stands for anything else."""
    return "".join(f"[{letter}]" if letter in "?[" else letter for letter in text)


def _joined(conditions: Sequence[Condition], word: str) -> Condition:
    sql = word.join(f"({condition.sql})" for condition in conditions)
    return Condition(sql=sql, values=tuple(value for condition in conditions for value in condition.values))
