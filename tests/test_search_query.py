"""Queries: what they mean, and where one goes wrong that means nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from opsbook.archive.query import (
    DEEPEST,
    LONGEST,
    MOST_WORDS,
    And,
    Between,
    Exact,
    Not,
    Or,
    Param,
    Query,
    QueryError,
    Words,
    parse_moment,
    parse_query,
)
from opsbook.errors import UsageError

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = 86400.0
TODAY = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def word(text: str, *columns: str, begins: bool = True, infix: bool = False) -> Words:
    return Words(text=text, columns=columns, begins=begins, infix=infix)


MEANT: dict[str, Query] = {
    "lock-frontend": word("lock-frontend"),
    "of": word("of", begins=False),
    "of*": word("of*"),
    "*ssl*": word("ssl", begins=False, infix=True),
    '"held by process"': word("held by process", begins=False),
    "one two": And(parts=(word("one"), word("two"))),
    "one AND two": And(parts=(word("one"), word("two"))),
    "one two OR three": Or(parts=(And(parts=(word("one"), word("two"))), word("three"))),
    "one (two OR three)": And(parts=(word("one"), Or(parts=(word("two"), word("three"))))),
    "NOT one": Not(part=word("one")),
    "one -two": And(parts=(word("one"), Not(part=word("two")))),
    "--flag": word("--flag"),
    "source:apt": word("apt", "code", "prose"),
    'output:"set up"': word("set up", "output", begins=False),
    "heading:(verify OR reboot)": Or(parts=(word("verify", "heading"), word("reboot", "heading"))),
    "status:failed": Exact(field="status", value="failed"),
    "target:web*": Exact(field="target", value="web*"),
    "param.stack:prod": Param(name="stack", value="prod"),
    "param:prod": word("prod", "param"),
    "https://example.org/a": word("https://example.org/a", begins=False),
    "12:30:01": word("12:30:01", begins=False),
    '"foo:bar"': word("foo:bar", begins=False),
    "and": word("and"),
    "証明書": word("証明書"),
    "started:2026-11-20": Between(since=TODAY, until=TODAY + DAY),
    "started:[2026-11-18 TO 2026-11-19]": Between(since=TODAY - 2 * DAY, until=TODAY),
    "started:[* TO 2026-11-19]": Between(until=TODAY),
    "started:2d": Between(since=NOW.timestamp() - 2 * DAY),
}

WRONG = {
    "": (0, "nothing to search for"),
    "one AND": (7, "missing"),
    "AND one": (0, "stands between"),
    "one OR OR two": (7, "stands between"),
    "(one": (0, "never closed"),
    "one (two (three)": (4, "never closed"),
    "one)": (3, "never opened"),
    "one ()": (5, "missing"),
    'one "two': (4, "never closed"),
    "one foo:bar": (4, "no field 'foo'"),
    "output:": (7, "wants a value"),
    "output: apt": (7, "wants a value"),
    "a:b": (0, "no field 'a'"),
    "output:(one status:failed)": (12, "holds for all"),
    "one ***": (4, "no word"),
    "*a-b*": (0, "letters and digits"),
    "[a TO b]": (0, "goes with started"),
    "started:soon": (8, "no date"),
    "started:[2026-11-18 2026-11-19]": (8, "FROM TO UNTIL"),
    "started:[2026-11-18 TO never]": (23, "no date"),
    "started:99999-01-01": (8, "no date"),
    "(" * (DEEPEST + 1) + "a" + ")" * (DEEPEST + 1): (DEEPEST, "within each other"),
    "NOT " * (DEEPEST + 1) + "a": (4 * DEEPEST, "within each other"),
    "a " * (MOST_WORDS + 1): (2 * MOST_WORDS, "words"),
}


@pytest.mark.parametrize("text", MEANT)
def test_a_query_means_what_a_person_means_by_it(text: str) -> None:
    assert parse_query(text, now=NOW) == MEANT[text]


@pytest.mark.parametrize("text", WRONG)
def test_a_query_with_wrong_syntax_says_where_it_went_wrong(text: str) -> None:
    at, what = WRONG[text]
    with pytest.raises(QueryError, match=what) as caught:
        parse_query(text, now=NOW)
    assert (caught.value.at, caught.value.exit_code) == (at, 2)
    assert f"at character {at + 1} " in str(caught.value)


def test_a_query_has_a_length() -> None:
    with pytest.raises(UsageError, match=f"{LONGEST + 1} characters"):
        parse_query("a" * (LONGEST + 1), now=NOW)


def test_points_of_time_are_said_in_several_ways() -> None:
    assert parse_moment("2026-11-20T11:39", NOW) == NOW.timestamp() - 21 * 60
    assert parse_moment("today", NOW) == TODAY
    assert parse_moment("yesterday", NOW, ends=True) == TODAY
    assert parse_moment("2h", NOW) == NOW.timestamp() - 7200
    assert parse_moment("2026-11-20T11:39+02:00", NOW) == NOW.timestamp() - 21 * 60 - 7200
    for wrong in ("", "soon", "2026-13-01", "-3d", "9999-12-31x"):
        with pytest.raises(ValueError):  # noqa: PT011  whatever it says, the flag's name is put before it
            parse_moment(wrong, NOW)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_moment("9999-12-31", NOW, ends=True)
