"""The redactor for any secret, however it is printed, wherever it stands, whatever pieces it comes in."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from opsbook.masked_stream import MaskedStream
from opsbook.redaction import MASK, SHORTEST, Redactor

QUICK = settings(max_examples=80, deadline=None, database=None)
LONG = settings(max_examples=5_000, deadline=None, database=None)

WORDY = st.text("abcXYZ019 \n\t.$^*+?()[]{}|\\/'\"<>&%:;=-_äßж☃\U0001f511", min_size=SHORTEST, max_size=24)
SECRETS = (WORDY | st.text(st.characters(exclude_categories=["Cs"]), min_size=SHORTEST, max_size=24)).filter(
    lambda value: MASK not in value and len(value.strip()) >= SHORTEST
)
AROUND = st.text("abcXYZ019 \n:äж\x1b[0m.", max_size=30)


def folded(text: str, columns: int) -> str:
    return "\n".join(text[at : at + columns] for at in range(0, len(text), columns))


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": lambda value: repr(value)[1:-1],
    "bytes": lambda value: repr(value.encode())[2:-1],
    "json": lambda value: json.dumps(value)[1:-1],
    "json in json": lambda value: json.dumps(json.dumps(value)[1:-1])[1:-1],
    "shell": shlex.quote,
    "html": html.escape,
    "url": lambda value: quote(value, safe=""),
    "url of a url": lambda value: quote(quote(value, safe=""), safe=""),
    "form": quote_plus,
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 for urls": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64, folded": lambda value: folded(base64.b64encode(value.encode()).decode(), 7),
    "hex": lambda value: value.encode().hex(),
    "HEX": lambda value: value.encode().hex().upper(),
    "he:xe": lambda value: value.encode().hex(":"),
    "he xe, folded": lambda value: folded(value.encode().hex(" "), 12),
    "two bytes each": lambda value: "".join(f"{letter}\0" for letter in value),
    "coloured": "\x1b[1;31m".join,
}


def in_pieces(redactor: Redactor, text: str, cuts: list[int]) -> str:
    stream, parts, at = MaskedStream(redactor), [], 0
    for cut in sorted(cuts):
        parts.append(stream.feed(text[at:cut]))
        at = max(at, cut)
    return "".join((*parts, stream.feed(text[at:]), stream.end()))


def knowing(*values: str) -> Redactor:
    redactor = Redactor()
    redactor.add(*values)
    return redactor


def check_any_secret(value: str, form: str, before: str, after: str, cuts: list[int]) -> None:
    # a stray escape swallows the first letters of what is coloured: whoever wants to can always spell it differently
    if ("\0" in value and form == "two bytes each") or ("\x1b" in value + before and form == "coloured"):
        return
    shown = FORMS[form](value)
    text = before + shown + after
    redactor = knowing(value)
    whole = redactor.text(text)
    assert MASK in whole
    left = whole.split(MASK)
    if not form.startswith("base64"):  # the first and the last of its letters may belong to a neighbour
        assert not any(shown in part for part in left)
    assert not any(value in part for part in left)
    assert in_pieces(redactor, text, [cut % (len(text) + 1) for cut in cuts]) == whole


def check_nothing_else(value: str, text: str, cuts: list[int]) -> None:
    assume(all(re.search(r"[^\s:\0]", line) for line in value.splitlines()))
    redactor = knowing(value)
    assert redactor.text(text) == text
    assert in_pieces(redactor, text, [cut % (len(text) + 1) for cut in cuts]) == text


ANY = {"value": SECRETS, "form": st.sampled_from(sorted(FORMS)), "before": AROUND, "after": AROUND}
CUTS = st.lists(st.integers(0, 200), max_size=6)
OTHER = st.text("жшщ\n\t :\0", max_size=80) | st.text("жшщ \x1b[0m", max_size=40)
NAMED = st.text("abcXYZ019-_/+.:' \n", min_size=SHORTEST, max_size=24).filter(
    lambda value: len(value.strip()) > SHORTEST
)


@QUICK
@given(**ANY, cuts=CUTS)
@example(value="aaaa", form="plain", before="aaa", after="aaa", cuts=list(range(12)))
@example(value="a: : b", form="plain", before="a", after="b", cuts=list(range(9)))
@example(value="000:", form="two bytes each", before="", after="", cuts=[1, 4])
@example(value="000:", form="HEX", before="\x1b[", after="", cuts=[2])
@example(value="  abc:\n", form="plain", before=" ", after="\n", cuts=list(range(9)))
def test_no_form_of_a_secret_is_left_and_pieces_are_masked_as_the_whole(value, form, before, after, cuts):
    check_any_secret(value, form, before, after, cuts)


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_each_form_wherever_it_is_torn(form: str) -> None:
    value = "p<ss'w\"ö rd/7$"
    for cuts in ([], [13], list(range(200))):
        check_any_secret(value, form, "ab ", " c\n", cuts)


@QUICK
@given(value=NAMED, text=OTHER, cuts=CUTS)
def test_what_holds_no_form_keeps_every_byte(value, text, cuts):
    check_nothing_else(value, text, cuts)


@pytest.mark.soak
def test_no_form_of_a_secret_is_left_in_thousands_of_texts() -> None:
    LONG(given(**ANY, cuts=CUTS)(check_any_secret))()


@pytest.mark.soak
def test_what_holds_no_form_keeps_every_byte_in_thousands_of_texts() -> None:
    LONG(given(value=NAMED, text=OTHER, cuts=CUTS)(check_nothing_else))()


@QUICK
@given(values=st.lists(SECRETS, min_size=2, max_size=4), texts=st.data())
def test_of_several_secrets_that_overlap_none_is_left(values, texts):
    redactor = knowing(*values)
    parts = texts.draw(st.lists(st.sampled_from(values) | AROUND, max_size=6))
    whole = redactor.text("".join(parts))
    assert not any(value in part for value in values for part in whole.split(MASK))
    cuts = texts.draw(CUTS)
    assert in_pieces(redactor, "".join(parts), [cut % (len("".join(parts)) + 1) for cut in cuts]) == whole
    assert "".join(redactor.pieces(parts)) == whole
