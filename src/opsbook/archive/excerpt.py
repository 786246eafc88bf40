"""The line of a passage that shows why it was found, with the words in it that were asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from opsbook.archive.index_text import COLUMNS, JOINED, Passage
from opsbook.archive.query import Words

WIDTH = 160
"""Characters of a line that are shown."""
_BEFORE = 50
_MOST_MARKS = 20
_TOLD = ("error", "output", "heading", "code", "prose", "param", "target", "about")
"""Where to look for the words, the most telling part first."""
_TOKEN = re.compile(r"[^\W_]+")


class Excerpt(Struct, frozen=True, kw_only=True):
    """A line, or the middle of it."""

    part: str
    """The part of the passage it is from."""
    text: str
    marks: tuple[tuple[int, int], ...] = ()
    """Where the words stand in it: the first character, and the first one behind."""


def excerpt(passage: Passage, words: Sequence[Words]) -> Excerpt:
    """Return the most telling line of a passage: the one of its parts in which most of the words stand."""
    patterns = [(word.columns, re.compile(_pattern(word), re.IGNORECASE)) for word in words]
    best, most = Excerpt(part="", text=""), 0
    for part in _TOLD:
        text = passage.columns[COLUMNS.index(part)]
        asked = [pattern for columns, pattern in patterns if not columns or part in columns]
        firsts = [match for match in (pattern.search(text) for pattern in asked) if match] if text else []
        if len(firsts) > most:
            best, most = _around(part, text, firsts[0].start(), asked), len(firsts)
    return best if most else _beginning(passage)


def _around(part: str, text: str, at: int, patterns: Sequence[re.Pattern[str]]) -> Excerpt:
    """Return the line something stands in, cut to a width around it."""
    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)]
    cut = max(0, at - start - _BEFORE) if len(line) > WIDTH else 0
    shown = line[cut : cut + WIDTH]
    marks = sorted({match.span() for pattern in patterns for match in pattern.finditer(shown)})[:_MOST_MARKS]
    return Excerpt(part=part, text=shown, marks=tuple(_apart(marks)))


def _apart(marks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return marks that do not overlap."""
    kept: list[tuple[int, int]] = []
    for start, end in marks:
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _beginning(passage: Passage) -> Excerpt:
    """Return the first line that says anything, where none of the words can be shown."""
    for part in _TOLD:
        line = passage.columns[COLUMNS.index(part)].strip().partition("\n")[0]
        if line:
            return Excerpt(part=part, text=line[:WIDTH])
    return Excerpt(part="", text="")


def _pattern(word: Words) -> str:
    r"""Return what finds the words in a text as the index does: whatever stands between them that is no letter.

    >>> _pattern(Words(text="lock-front", begins=True))
    '(?<![^\\W_])lock[\\W_]+front'
    """
    tokens = [token for run in _TOKEN.findall(word.text) for token in JOINED.sub(r" \g<0> ", run).split()]
    pattern = "".join(
        re.escape(token)
        if number == 0
        else f"[\\W_]{'*' if _is_joined(tokens[number - 1], token) else '+'}{re.escape(token)}"
        for number, token in enumerate(tokens)
    )
    head = "" if word.infix or JOINED.match(tokens[0]) else r"(?<![^\W_])"
    tail = "" if word.infix or word.begins or JOINED.match(tokens[-1]) else r"(?![^\W_])"
    return f"{head}{pattern}{tail}"


def _is_joined(before: str, token: str) -> bool:
    return bool(JOINED.match(before) or JOINED.match(token))
