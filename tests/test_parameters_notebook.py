"""What a notebook gets of its parameters, and that any value survives the way there."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patch_cell import FUZZ, bound, read

from opsbook.errors import ParameterError
from opsbook.redaction import Secret
from opsbook.runbook.parameters import convert, read_parameters


@pytest.mark.parametrize(
    ("annotation", "value", "there"),
    [
        ("date", "2026-02-28", dt.date(2026, 2, 28)),
        ("datetime", "2026-02-28T10:00:00Z", dt.datetime(2026, 2, 28, 10, tzinfo=dt.UTC)),
        ("time", "10:30:00", dt.time(10, 30)),
        ("list[date]", ["2026-02-28"], [dt.date(2026, 2, 28)]),
        ("date | None", None, None),
        ("int", 5, 5),
        ("Any", {"a": 1}, {"a": 1}),
    ],
)
def test_the_notebook_gets_the_declared_type(annotation: str, value: Any, there: Any) -> None:
    spec = read(f"x: {annotation}")["x"]
    assert convert(spec, value, reveal=None) == there
    assert convert(spec, there, reveal=None) == there


def test_the_notebook_gets_a_secret_that_asks_when_it_is_revealed() -> None:
    spec = read("x: Secret")["x"]
    secret = convert(spec, "env:TOKEN", reveal=lambda reference: f"value of {reference}")
    assert isinstance(secret, Secret)
    assert secret.reveal() == "value of env:TOKEN"
    assert convert(spec, secret, reveal=None) is secret
    with pytest.raises(ParameterError, match="a reference is needed"):
        convert(spec, "hunter2hunter2", reveal=None)


def test_the_notebook_is_told_when_a_value_does_not_fit() -> None:
    with pytest.raises(ParameterError, match="'x'"):
        convert(read("x: int")["x"], "five", reveal=None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS: list[tuple[str, st.SearchStrategy[Any]]] = [
    ("str", TEXT),
    ("int", st.integers(-(2**63), 2**63)),
    ("float", st.floats(allow_nan=False, allow_infinity=False)),
    ("bool", st.booleans()),
    ("date", st.dates().map(dt.date.isoformat)),
    ("Literal['a', 'b', 3]", st.sampled_from(["a", "b", 3])),
    ("Annotated[int, '1..5']", st.integers(1, 5)),
]


@st.composite
def declared(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw an annotation and a JSON value that fits it."""
    annotation, values = draw(st.sampled_from(SCALARS))
    shape = draw(st.sampled_from(["{}", "list[{}]", "dict[str, {}]", "{} | None"]))
    if shape.startswith("list"):
        values = st.lists(values, max_size=4)
    elif shape.startswith("dict"):
        values = st.dictionaries(TEXT, values, max_size=4)
    return shape.format(annotation), draw(values)


@FUZZ
@given(declared())
def test_a_value_survives_the_way_through_flag_record_and_default(drawn: tuple[str, Any]) -> None:
    annotation, value = drawn
    spec = read(f"x: {annotation}")["x"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if value == "null" and "None" in annotation:
        return
    given_by_flag = bound(f"x: {annotation}", x=text).given["x"]
    assert given_by_flag == value
    assert bound(f"x: {annotation}", values={"x": value}).given["x"] == value
    assert json.loads(json.dumps(given_by_flag)) == value
    assert bound(f"x: {annotation} = {value!r}").values["x"] == value
    there = convert(spec, given_by_flag, reveal=None)
    assert msgspec.to_builtins(there) == value
    assert convert(spec, there, reveal=None) == there


@FUZZ
@given(st.text(max_size=60) | st.from_regex(r"x: [A-Za-z\[\], |'\"0-9.()]{1,30}( = .{1,10})?", fullmatch=True))
def test_any_text_is_read_or_refused(source: str) -> None:
    try:
        specs = read_parameters(source)
    except ParameterError:
        return
    assert all(isinstance(spec.type_label, str) for spec in specs)
