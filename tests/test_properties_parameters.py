"""Parameters, for any value: what was given is what the notebook has, and nothing of it is ever code."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LOAD, Desk, code, parameters

from opsbook.cli.prepare import file_parameters, given_parameters
from opsbook.errors import InventoryError, ParameterError, UsageError
from opsbook.execution.literals import Literals
from opsbook.model.target import MAX_INT_BITS, MAX_NESTED, unstorable
from opsbook.runbook.parameters import bind, convert, read_parameters

FUZZ = settings(max_examples=80, deadline=None, database=None)
NASTY = st.sampled_from(
    [
        *("'", '"', '"""', "\\", "\\'", "\n", "\r\n", "\0", "\x1b[2J", "\u2028", "\u202e", "\ufeff", "{host}", "${x}"),
        *("'); import os; ('", "\\N{BULLET}", "\\x27", "#", "%load_ext x", "!id", "null", "NaN", "true", "1e999", "--"),
    ]
)
ANY_TEXT = st.text(max_size=15) | st.lists(NASTY, max_size=4).map("".join)
"""Half characters among them."""
TEXT = ANY_TEXT.filter(lambda text: text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))
NUMBERS = st.integers() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ANYTHING = st.recursive(
    st.none() | NUMBERS | st.floats() | ANY_TEXT | st.integers(2**4000, 2**5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types throughout: 1 is not 1.0, and not true."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and (one != 0 or math.copysign(1, one) == math.copysign(1, other))


def assigned(source: str) -> dict[str, Any]:
    """Return what a cell assigns, after making sure that its syntax tree shows nothing but literal assignments."""
    found = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign), ast.dump(node)
        (target,) = node.targets
        assert isinstance(target, ast.Name)
        found[target.id] = ast.literal_eval(node.value)
    return found


@FUZZ
@given(JSON, st.sampled_from(["x", "größe", "class_", "__import__"]))
def test_the_injected_cell_is_literals_equal_to_what_was_given(value: Any, name: str) -> None:
    (spec,) = read_parameters(f"{name}: Any")
    binding = bind([spec], {}, {name: value}, runbook="x.ipynb")
    found = assigned(Literals.codify(dict(binding.given)))
    assert list(found) == [name]
    assert same(found[name], value)
    assert same(convert(spec, found[name], reveal=None), value)


@FUZZ
@given(ANYTHING)
def test_a_value_is_taken_as_it_is_or_refused_by_name(value: Any) -> None:
    specs = read_parameters("x: Any")
    try:
        bound = bind(specs, {}, {"x": value}, runbook="x.ipynb").given["x"]
    except ParameterError:
        assert unstorable(value)
    else:
        assert same(json.loads(json.dumps(bound)), value)


@FUZZ
@given(ANY_TEXT)
def test_text_on_the_command_line_is_the_text_in_the_notebook(text: str) -> None:
    specs = read_parameters("x: str")
    texts = given_parameters([f"x={text}"])
    assert texts == {"x": text}
    try:
        bound = bind(specs, texts, {}, runbook="x.ipynb").given
    except ParameterError:
        assert unstorable(text)
    else:
        assert assigned(Literals.codify(dict(bound))) == {"x": text}


@FUZZ
@given(JSON)
def test_json_on_the_command_line_is_that_value_in_the_notebook(value: Any) -> None:
    if isinstance(value, str):
        value = [value]
    specs = read_parameters("x: Any")
    texts = given_parameters([f"x={json.dumps(value)}"])
    assert same(bind(specs, texts, {}, runbook="x.ipynb").given["x"], value)


@FUZZ
@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), JSON, max_size=3))
def test_values_of_a_file_are_those_that_stand_in_it(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "values.json"
    file.write_text(json.dumps(values))
    assert same(file_parameters([file]), values)


@FUZZ
@given(st.text(max_size=20) | st.from_regex(r"[a-z_]{1,6}[\n =;(){}./-][a-z(){}'\"/.=]{0,8}", fullmatch=True))
def test_only_a_declared_name_is_ever_taken(name: str) -> None:
    specs = read_parameters("stack: str = 'dev'")
    for texts, values in (({name: "x"}, {}), ({}, {name: "x"})):
        try:
            bound = bind(specs, texts, values, runbook="x.ipynb")
        except ParameterError:
            assert name != "stack"
        else:
            assert name == "stack"
            assert list(bound.values) == ["stack"]


@pytest.mark.parametrize(
    "source",
    [
        "x: int = 0x" + "f" * 5000,
        "x = " + "9" * 5000,
        "x = a" + ".b" * 900,
        "x = " + "+".join("1" * 400),
        "x = " + "-" * 3000 + "1",
        "x: " + "int|" * 2000 + "int",
        "x = 1\0",
        "x = '\\ud800'",
        "x = 1e999",
    ],
    ids=lambda source: source[:12],
)
def test_a_declaration_without_end_is_refused(source: str) -> None:
    with pytest.raises(ParameterError) as caught:
        bind(read_parameters(source), {}, {}, runbook="x.ipynb")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 2000, "[" * 102 + "]" * 102])
@pytest.mark.parametrize("kind", ["list", "dict", "Any", "list[int] | None"])
def test_a_value_without_end_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ParameterError, match="parameter 'x'"):
        bind(read_parameters(f"x: {kind}"), {"x": text}, {}, runbook="x.ipynb")


@pytest.mark.parametrize("kind", ["str", "int | None", "list[str]", "dict", "Any", "Literal['a']", "date", "bool"])
def test_half_a_character_is_refused_whatever_the_type(kind: str) -> None:
    with pytest.raises(ParameterError, match="not valid Unicode"):
        bind(read_parameters(f"x: {kind}"), {"x": "\ud800,b"}, {}, runbook="x.ipynb")


def test_a_value_has_a_depth_and_a_number_of_digits_it_may_not_pass() -> None:
    deep: Any = 0
    for _ in range(MAX_NESTED):
        deep = [deep]
    assert not unstorable(deep)
    assert "nested more than 100 deep" in unstorable([deep])
    assert not unstorable(2**MAX_INT_BITS - 1)
    assert "too large" in unstorable([{"a": -(2**MAX_INT_BITS)}])
    str(2**MAX_INT_BITS)  # Python writes it


BINARY = '!!binary \'x); __import__("pathlib").Path("RAN").touch()\''


@pytest.mark.parametrize(
    "args",
    [
        # papermill writes a name into the injected cell as it is: it runs
        ("-p", "x = 1\n__import__('pathlib').Path('RAN').touch()\ny=1"),
        ("-p", "x;__import__('pathlib').Path('RAN').touch();y=1"),
        ("-f", "name.yaml"),
        # papermill writes bytes, which it knows no literal for, into quotes of its own, which bytes can close
        ("-f", "binary.yaml"),
        ("-f", "python.yaml"),
        # papermill fills parameters into the output path: a value with slashes leaves the folder
        ("-p", "{host}=../../../escaped"),
    ],
    ids=["a line break", "a semicolon", "a name in a file", "binary", "python", "a template"],
)
def test_neither_a_name_nor_a_value_is_code_or_a_path(tmp_path: Path, args: tuple[str, str]) -> None:
    (tmp_path / "work").mkdir()
    desk = Desk(tmp_path / "work")
    book = desk.notebook(LOAD, parameters("text: str = 'none'"), code("print(text)"))
    desk.write("name.yaml", "\"x = 1\\n__import__('pathlib').Path('RAN').touch()\\ny\": 1\n")
    desk.write("binary.yaml", f"text: {BINARY}\n")
    desk.write("python.yaml", "text: !!python/object/apply:pathlib.Path.touch [RAN]\n")
    flag, value = args
    given = {"-p": given_parameters, "-f": lambda files: file_parameters([desk.folder / name for name in files])}[flag]
    specs = read_parameters("text: str = 'none'")
    with pytest.raises(UsageError) as caught:
        found = given([value])
        bind(specs, *((found, {}) if flag == "-p" else ({}, found)), runbook=book.name)
    assert isinstance(caught.value, ParameterError | InventoryError)
    assert not list(tmp_path.rglob("RAN"))


def test_a_value_that_papermill_would_run_or_follow_is_a_value(tmp_path: Path) -> None:
    """The whole command: what reaches the notebook is the text, and what is written lies in the archive."""
    (tmp_path / "work").mkdir()
    desk = Desk(tmp_path / "work")
    book = desk.notebook(
        LOAD, parameters("host: str\nmore: dict = {}"), code("print(repr(host), more)", cell_id="says")
    )
    host = "../../../../escaped'); __import__('pathlib').Path('RAN').touch() #{host}\n"
    more = {'"); raise SystemExit ("': [None, True, -0.5, "\u202e", 10**30]}
    ran = desk.opsbook("run", book, "-p", f"host={host}", "-p", f"more={json.dumps(more)}")
    assert ran.code == 0, ran.err
    assert desk.run().output("says") == f"{host!r} {more}\n"
    (injected,) = (cell for cell in desk.run().notebook["cells"] if cell["id"] == "injected-parameters")
    assert assigned("".join(injected["source"])) == {"host": host, "more": more}
    assert not list(tmp_path.rglob("RAN"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["work"]
