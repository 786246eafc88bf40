"""What a person searches for, as text and as a value: words, phrases, fields, AND, OR, NOT, parentheses, ranges.

    lock-frontend                          a word; it stands for all that begin with it
    "held by process"                      a phrase, word for word
    output:libssl3 heading:(verify OR reboot) status:failed NOT param.stack:prod
    started:[2026-01-01 TO 2026-02-01]     days in local time, the last one included; `*` leaves an end open

Words side by side are all asked for. Every value knows where it stands, so that what is wrong can be shown in its
place. Nothing here knows how things are searched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeAlias

from msgspec import Struct

from opsbook.errors import UsageError

LONGEST = 2000
"""Characters of a query."""
DEEPEST = 30
"""Parentheses within each other, and NOTs in a row."""
MOST_WORDS = 64
TEXT_FIELDS = {
    "source": ("code", "prose"),
    "code": ("code",),
    "prose": ("prose",),
    "output": ("output",),
    "heading": ("heading",),
    "error": ("error",),
}
"""Fields that words stand in, and the parts of a passage each one means."""
EXACT_FIELDS = ("status", "runbook", "user", "target", "run", "meme")
"""Fields that have a value; `*` in it stands for anything."""
_PARAM = "param"
_STARTED = "started"
FIELDS = (*TEXT_FIELDS, *EXACT_FIELDS, "param.NAME", _STARTED)
_HINT = f"quotes make a word of anything; fields: {', '.join(FIELDS)}"
_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<quote>"[^"]*"?) | (?P<range>\[[^\]]*\]?) | (?P<open>\() | (?P<close>\))
    | (?P<word>[^\s()"\[]+)""",
    re.VERBOSE,
)
_AGO = re.compile(r"([0-9]{1,5})(m|h|d|w)", re.IGNORECASE)
_MINUTE = 60.0
_FIELD = re.compile(r"(?P<name>[A-Za-z][A-Za-z_]*(?:\.[^\s:]+)?):(?!//)")


class Words(Struct, frozen=True, kw_only=True):
    """Words in a row, somewhere in the named parts of a passage; in any of them when none is named."""

    text: str
    columns: tuple[str, ...] = ()
    begins: bool = False
    """Whether the last word may go on."""
    infix: bool = False
    """Whether it is a part of a word, wherever in it."""


class Exact(Struct, frozen=True, kw_only=True):
    """A field's value."""

    field: str
    value: str


class Param(Struct, frozen=True, kw_only=True):
    """A parameter's value."""

    name: str
    value: str


class Between(Struct, frozen=True, kw_only=True):
    """Points of time, in seconds: from the first, to before the last; None is open."""

    since: float | None = None
    until: float | None = None


class Not(Struct, frozen=True, kw_only=True):
    """What is not so."""

    part: Query


class And(Struct, frozen=True, kw_only=True):
    """All of it."""

    parts: tuple[Query, ...]


class Or(Struct, frozen=True, kw_only=True):
    """Some of it."""

    parts: tuple[Query, ...]


Query: TypeAlias = Words | Exact | Param | Between | Not | And | Or


class QueryError(UsageError):
    """A query that cannot be understood, and where."""

    def __init__(self, what: str, text: str, at: int) -> None:
        super().__init__(f"{what}, at character {at + 1} of the query", _HINT)
        self.args = (what, text, at)
        self.text = text
        self.at = at
        """Where, counted from 0."""


class _Token(Struct, frozen=True):
    kind: str
    text: str
    at: int


def parse_query(text: str, *, now: datetime | None = None) -> Query:
    """Understand a query; days are told from `now`, in its time zone.

    Raises:
        QueryError: it cannot be understood; says where it went wrong.
    """
    text = text.encode("utf-8", "replace").decode()  # half a character stands for none
    if len(text) > LONGEST:
        raise UsageError(f"the query has {len(text)} characters", f"at most {LONGEST}")
    parser = _Parser(text, now or datetime.now(UTC).astimezone())
    return parser.whole()


def parse_moment(text: str, now: datetime, *, ends: bool = False) -> float:
    """Return a point of time, in seconds: `2026-11-20`, `2026-11-20T11:39`, `30d` ago, `today`, `yesterday`.

    A day that `ends` something is its last moment.

    Raises:
        ValueError: it is none.
    """
    word = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    ago = _AGO.fullmatch(word)
    if ago:
        unit = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[ago[2]]
        return now.timestamp() - int(ago[1]) * unit
    then = named.get(word) or datetime.fromisoformat(text.strip())
    is_day = word in {"today", "yesterday"} or bool(re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", word))
    if then.tzinfo is None:
        then = then.replace(tzinfo=now.tzinfo)
    try:
        return (then + timedelta(days=1) if ends and is_day else then).timestamp()
    except OverflowError as error:
        raise ValueError(text) from error


class _Parser:
    """Reads one query, from its beginning to its end."""

    def __init__(self, text: str, now: datetime) -> None:
        self._text = text
        self._now = now
        self._tokens = self._split(text, 0)
        self._next = 0
        self._depth = 0

    def whole(self) -> Query:
        if not self._tokens:
            self._fail("there is nothing to search for", 0)
        if len(self._tokens) > MOST_WORDS:
            self._fail(f"more than {MOST_WORDS} words", self._tokens[MOST_WORDS].at)
        query = self._any()
        left = self._peek()
        if left is not None:
            self._fail("this parenthesis was never opened", left.at)
        return query

    def _any(self, field: str = "") -> Query:
        parts = [self._all(field)]
        while self._takes("OR"):
            parts.append(self._all(field))
        return parts[0] if len(parts) == 1 else Or(parts=tuple(parts))

    def _all(self, field: str) -> Query:
        parts = [self._one(field)]
        while (token := self._peek()) is not None and token.kind != "close" and not _is(token, "OR"):
            self._takes("AND")
            parts.append(self._one(field))
        return parts[0] if len(parts) == 1 else And(parts=tuple(parts))

    def _one(self, field: str) -> Query:
        token = self._peek()
        if token is None:
            self._fail("something is missing here", len(self._text))
        self._next += 1
        if _is(token, "NOT"):
            self._deeper(token)
            part = self._one(field)
            self._depth -= 1
            return Not(part=part)
        if _is(token, "AND") or _is(token, "OR"):
            self._fail(f"{token.text} stands between two things", token.at)
        if token.kind == "open":
            return self._group(token, field)
        if token.kind == "close":
            self._fail("something is missing before this parenthesis", token.at)
        if token.kind == "word":
            return self._word(token, field)
        return self._value(token, field)

    def _group(self, opened: _Token, field: str) -> Query:
        self._deeper(opened)
        query = self._any(field)
        closing = self._peek()
        if closing is None:
            self._fail("this parenthesis is never closed", opened.at)
        self._next += 1
        self._depth -= 1
        return query

    def _deeper(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            self._fail(f"more than {DEEPEST} parentheses or NOTs within each other", token.at)

    def _word(self, token: _Token, field: str) -> Query:
        if re.match(r"-[^-]", token.text):
            return Not(part=self._word(_Token("word", token.text[1:], token.at + 1), field))
        match = _FIELD.match(token.text)
        if not match:
            return self._value(token, field)
        name, end = match["name"], match.end()
        if field:
            self._fail(f"{field}: holds for all of the parenthesis", token.at)
        self._check_field(name, token.at)
        if end < len(token.text):
            return self._value(_Token("word", token.text[end:], token.at + end), name)
        value = self._peek()
        if value is None or value.at != token.at + end or value.kind == "close":
            self._fail(f"{name}: wants a value behind it", token.at + end)
        self._next += 1
        return self._group(value, name) if value.kind == "open" else self._value(value, name)

    def _check_field(self, name: str, at: int) -> None:
        head, dot, rest = name.partition(".")
        known = head == _PARAM and rest if dot else name in {*TEXT_FIELDS, *EXACT_FIELDS, _PARAM, _STARTED}
        if not known:
            self._fail(f"there is no field {name!r}", at)

    def _value(self, token: _Token, field: str) -> Query:
        if field == _STARTED:
            return self._time(token)
        if token.kind == "range":
            self._fail("a range goes with started:", token.at)
        if token.kind == "quote" and (len(token.text) == 1 or not token.text.endswith('"')):
            self._fail("this quotation mark is never closed", token.at)
        text = token.text[1:-1] if token.kind == "quote" else token.text
        if field.startswith(f"{_PARAM}."):
            return Param(name=field.removeprefix(f"{_PARAM}."), value=text)
        if field in EXACT_FIELDS:
            return Exact(field=field, value=text)
        if not any(letter.isalnum() for letter in text):
            self._fail(f"there is no word in {text!r}", token.at)
        if token.kind == "word" and text.startswith("*") and not text.strip("*").isalnum():
            self._fail("a part of a word is of letters and digits alone", token.at)
        return _words(text, columns=TEXT_FIELDS.get(field, (field,) if field else ()), quoted=token.kind == "quote")

    def _time(self, token: _Token) -> Between:
        if token.kind == "range":
            match = re.fullmatch(r"\[\s*(?P<since>\S+)\s+TO\s+(?P<until>[^\s\]]+)\s*\]", token.text)
            if not match:
                self._fail("a range is [FROM TO UNTIL], such as [2026-01-01 TO 2026-02-01]", token.at)
            return Between(
                since=self._end(match["since"], token.at + match.start("since"), ends=False),
                until=self._end(match["until"], token.at + match.start("until"), ends=True),
            )
        text = token.text.strip('"')
        since, until = (self._moment(text, token.at, ends=ends) for ends in (False, True))
        if _AGO.fullmatch(text):
            return Between(since=since)
        return Between(since=since, until=max(until, since + _MINUTE))

    def _end(self, text: str, at: int, *, ends: bool) -> float | None:
        return None if text == "*" else self._moment(text, at, ends=ends)

    def _moment(self, text: str, at: int, *, ends: bool = False) -> float:
        try:
            return parse_moment(text, self._now, ends=ends)
        except ValueError:
            self._fail(f"{text!r} is no date, such as 2026-11-20 or 30d", at)

    def _split(self, text: str, at: int) -> list[_Token]:
        found = []
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self._fail("this cannot be read", at)
            if match.lastgroup != "space":
                found.append(_Token(str(match.lastgroup), match[0], at))
            at = match.end()
        return found

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _takes(self, word: str) -> bool:
        token = self._peek()
        if token is None or not _is(token, word):
            return False
        self._next += 1
        return True

    def _fail(self, what: str, at: int) -> NoReturn:
        raise QueryError(what, self._text, at)


def _is(token: _Token, word: str) -> bool:
    return token.kind == "word" and token.text == word


def _words(text: str, *, columns: tuple[str, ...], quoted: bool) -> Words:
    """Return a word as it is searched: it stands for all that begin with it, unless it is quoted, or very short."""
    shortest = 3
    if not quoted and text.startswith("*"):
        return Words(text=text.strip("*"), columns=columns, infix=True)
    begins = not quoted and (text.endswith("*") or len(re.split(r"\W|_", text)[-1]) >= shortest)
    return Words(text=text, columns=columns, begins=begins)


def words_of(query: Query) -> Sequence[Words]:
    """Return the words a query asks for: those to show, where they are found."""
    if isinstance(query, Words):
        return [query]
    if isinstance(query, And | Or):
        return [word for part in query.parts for word in words_of(part)]
    return []
