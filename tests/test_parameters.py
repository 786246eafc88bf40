"""Parameters: read without running anything, converted by their types, and turned back in the notebook."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from patch_cell import CELL, bound, one, read

from opsbook.errors import ParameterError
from opsbook.model.parameter import ParameterSpec
from opsbook.redaction import Secret
from opsbook.runbook.annotation import read_annotation
from opsbook.runbook.parameters import bind, read_parameters, type_of, usage


def test_a_cell_is_read_with_types_defaults_and_help() -> None:
    specs = read(CELL)
    assert list(specs) == ["stack", "waves", "limit", "token", "since", "tags", "reboot"]
    rows = {name: (spec.type_label, spec.default, spec.help) for name, spec in specs.items()}
    assert rows == {
        "stack": ("dev | staging | prod", None, "Stack to patch"),
        "waves": ("text", "'1,25%,100%'", "Hosts per wave"),
        "limit": ("whole number (1..100)", "5", ""),
        "token": ("secret", "'env:MONITOR_TOKEN'", "never a value"),
        "since": ("date (YYYY-MM-DD)", "date.today()", ""),
        "tags": ("list of text", "['a', 'b']", "All the tags"),
        "reboot": ("true or false", "True", "Whether to reboot"),
    }
    assert [name for name, spec in specs.items() if spec.is_required] == ["stack"]
    assert [name for name, spec in specs.items() if spec.is_secret] == ["token"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("", []),
        ("# only a comment", []),
        ("import os\nx = 1", ["x"]),
        ("%load_ext opsbook\n!ls\nx = 1", ["x"]),
        ("x = 1\nx = 2", ["x"]),
        ("a = b = 1", []),
        ("a, b = 1, 2", []),
        ("x.y = 1\nx[0] = 1", []),
        ("x += 1", []),
        ("if True:\n    x = 1", []),
        ("def f():\n    x: int = 1", []),
        ("x: int = ...", ["x"]),
        ("größe: int", ["größe"]),
    ],
)
def test_only_plain_assignments_of_one_name_declare(source: str, names: list[str]) -> None:
    assert list(read(source)) == names


def test_the_last_declaration_of_a_name_holds() -> None:
    assert read("x: int = 1\nx: str = 'a'")["x"].type_label == "text"


def test_reading_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    call = f"open({str(mark)!r}, 'w')"
    source = f"a: int = {call}\nb = {call}\nc: Annotated[int, '1..2'] = {call}\n{call}\nimport antigravity_none"
    assert list(read(source)) == ["a", "b", "c"]
    for annotation in (call, f"Annotated[int, {call}]", f"Literal[{call}]", f"list[{call}]"):
        with pytest.raises(ParameterError):
            read(f"x: {annotation}")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ("str", str),
        ("int", int),
        ("float", float),
        ("bool", bool),
        ("date", dt.date),
        ("dt.datetime", dt.datetime),
        ("datetime.time", dt.time),
        ("Any", Any),
        ("object", Any),
        ("Secret", Secret),
        ("opsbook.Secret", Secret),
        ("list", list[Any]),
        ("dict", dict[str, Any]),
        ("list[int]", list[int]),
        ("typing.List[str]", list[str]),
        ("dict[str, list[int]]", dict[str, list[int]]),
        ("Optional[int]", int | None),
        ("int | None", int | None),
        ("'int | None'", int | None),
        ("Union[int, float, None]", int | float | None),
        ("Literal['a', 1]", Literal["a", 1]),
        ("Annotated[int, '1..5']", Annotated[int, msgspec.Meta(ge=1, le=5)]),
        ("Annotated[int, '>=1']", Annotated[int, msgspec.Meta(ge=1)]),
        ("Annotated[float, '<=0.5']", Annotated[float, msgspec.Meta(le=0.5)]),
        ("Annotated[int, '..5']", Annotated[int, msgspec.Meta(ge=None, le=5)]),
        ("Annotated[str, '[a-z]+']", Annotated[str, msgspec.Meta(pattern="^(?:[a-z]+)$", max_length=4096)]),
    ],
)
def test_an_annotation_stands_for_a_type(annotation: str, kind: Any) -> None:
    assert read_annotation(annotation) == kind
    assert type_of(ParameterSpec(name="x", annotation=annotation)) == kind


@pytest.mark.parametrize(
    "annotation",
    [
        "set[int]",
        "tuple[int, int]",
        "bytes",
        "Path",
        "sys.exit",
        "print(1)",
        "int or str",
        "[int]",
        "list[()]",
        "5",
        "...",
        "'int |'",
        "Literal[x]",
        "Annotated[int]",
        "Annotated[int, 5]",
        "Annotated[int, limit]",
        "Annotated[str, '(']",
        "Annotated[str, '1..5']",
        "Annotated[int, '0.5..1']",
        "Annotated[list[int], '1..5']",
        "date | str",
        "list[int] | list[str]",
        "list[Secret]",
    ],
)
def test_a_type_opsbook_does_not_know_is_refused_when_it_is_declared(annotation: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read(f"x: {annotation}")
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize("annotation", ["Secret | None", "Optional[Secret]", "Annotated[Secret, 'the token']"])
def test_a_secret_in_a_wrapping_is_a_secret_or_refused_and_its_value_is_never_shown(annotation: str) -> None:
    try:
        spec = read(f"x: {annotation}")["x"]
    except ParameterError:
        return
    assert spec.is_secret
    with pytest.raises(ParameterError) as caught:
        one(annotation, "hunter2hunter2")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("x = 1", "whole number"),
        ("x = 1.5", "number"),
        ("x = 'a'", "text"),
        ("x = False", "true or false"),
        ("x = [1]", "list"),
        ("x = {'a': 1}", "mapping"),
        ("x = None", "any"),
        ("x = compute()", "any"),
        ("x = -1", "whole number"),
        ("x: list[list[int]]", "list of list of whole number"),
        ("x: dict[str, bool]", "mapping of true or false"),
        ("x: int | None", "whole number or none"),
        ("x: Annotated[str, '[a-z]+']", "text ([a-z]+)"),
    ],
)
def test_a_type_is_said_as_a_person_would(source: str, label: str) -> None:
    assert read(source)["x"].type_label == label


@pytest.mark.parametrize("source", ["x = (1, 2)", "x = {1, 2}", "x = b'a'", "x = 1j"])
def test_a_literal_json_cannot_carry_is_any_or_refused_but_no_internal_error(source: str) -> None:
    try:
        binding = bound(source)
    except ParameterError:
        return
    assert json.loads(json.dumps(binding.values))["x"] is not None


@pytest.mark.parametrize(
    "source",
    [
        "x: int = 'a'",
        "x: int = True",
        "x: int = 1.5",
        "x: bool = 1",
        "x: Literal['a'] = 'b'",
        "x: Annotated[int, '1..5'] = 9",
        "x: list[int] = ['a']",
        "x: date = '2026-13-01'",
        "x: float = 1e999",
        "x: str = '\\ud800'",
        "x: dict = {1: 2}",
    ],
)
def test_a_default_that_does_not_fit_its_type_is_refused(source: str) -> None:
    with pytest.raises(ParameterError, match="'x'"):
        read(source)


def test_a_secret_written_into_the_notebook_is_refused_without_showing_it() -> None:
    with pytest.raises(ParameterError, match="a reference is needed") as caught:
        read('token: Secret = "hunter2hunter2"')
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("source", ["x: int = ", "x = (", "  x = 1", "x = '", "x = \0", "x: int = " + "-" * 5000 + "1"])
def test_a_cell_that_is_not_python_is_refused(source: str) -> None:
    with pytest.raises(ParameterError, match="not valid Python"):
        read(source)


@pytest.mark.parametrize("name", ["PATH", "IFS", "HOME", "BASH_ENV", "LD_PRELOAD", "OPSBOOK_TARGET", "ENV"])
def test_a_name_that_would_replace_the_shells_own_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="would replace the shell's own variable"):
        read(f"{name}: str = 'x'")


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("str", "007", "007"),
        ("str", "", ""),
        ("str", "null", "null"),
        ("str", "[1]", "[1]"),
        ("str | None", "null", None),
        ("str | None", "x", "x"),
        ("int", "42", 42),
        ("int", "-1", -1),
        ("int | None", "null", None),
        ("int | None", "7", 7),
        ("int | str", "7", "7"),
        ("float", "1", 1.0),
        ("float", "1e-3", 0.001),
        ("bool", "true", True),
        ("bool", "No", False),
        ("bool", "ON", True),
        ("bool", "0", False),
        ("bool | None", "null", None),
        ("date", "2026-02-28", "2026-02-28"),
        ("datetime", "2026-02-28T10:00:00Z", "2026-02-28T10:00:00Z"),
        ("time", "10:30:00", "10:30:00"),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal[1, 2]", "2", 2),
        ("Literal['a'] | None", "a", "a"),
        ("list[int]", "1, 2,3", [1, 2, 3]),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[str]", "a,b", ["a", "b"]),
        ("list[str]", '["a,b"]', ["a,b"]),
        ("list[str]", "", []),
        ("list", '[1, "a"]', [1, "a"]),
        ("dict[str, int]", '{"a": 1}', {"a": 1}),
        ("dict", "{}", {}),
        ("Any", "5", 5),
        ("Any", "five", "five"),
        ("Any", '{"a": [true, null]}', {"a": [True, None]}),
        ("Annotated[int, '1..5']", "5", 5),
        ("Annotated[str, '[a-z]+']", "abc", "abc"),
        ("Secret", "env:TOKEN", "env:TOKEN"),
        ("Secret", "cmd:pass show a/b", "cmd:pass show a/b"),
    ],
)
def test_a_flags_text_is_converted_by_the_declared_type(annotation: str, text: str, value: Any) -> None:
    found = one(annotation, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "x"),
        ("int", ""),
        ("int", "1.5"),
        ("int", "1_000"),
        ("int", " 1"),
        ("int", "true"),
        ("int", "null"),
        ("int", "9" * 5000),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "1e400"),
        ("bool", "2"),
        ("bool", ""),
        ("date", "today"),
        ("date", "2026-02-30"),
        ("Literal['a', 'b']", "c"),
        ("Literal['a', 'b']", "A"),
        ("list[int]", "1,x"),
        ("dict", "a"),
        ("dict[str, int]", '{"a": "x"}'),
        ("Annotated[int, '1..5']", "0"),
        ("Annotated[int, '1..5']", "6"),
        ("Annotated[int, '>=1']", "0"),
        ("Annotated[int, '<=5']", "6"),
        ("Annotated[str, '[a-z]+']", "abc1"),
        ("str", "\ud800"),
        ("Secret", "hunter2hunter2"),
        ("Secret", "env:"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_by_name(annotation: str, text: str) -> None:
    with pytest.raises(ParameterError, match="'x'") as caught:
        one(annotation, text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("int", "1"), ("int", True), ("bool", 1), ("str", 5), ("list[int]", "1,2"), ("float", float("nan"))],
)
def test_a_value_from_a_file_has_to_be_of_the_type_already(annotation: str, value: Any) -> None:
    with pytest.raises(ParameterError, match="'x'"):
        bound(f"x: {annotation}", values={"x": value})


def test_values_are_what_was_given_over_the_literal_defaults_in_the_order_of_the_cell() -> None:
    binding = bound(CELL, values={"limit": 7, "waves": "1"}, stack="prod", waves="2")
    assert binding.given == {"limit": 7, "waves": "2", "stack": "prod"}
    assert list(binding.values.items()) == [
        ("stack", "prod"),
        ("waves", "2"),
        ("limit", 7),
        ("token", "env:MONITOR_TOKEN"),
        ("tags", ["a", "b"]),
        ("reboot", True),
    ]
    assert binding.secrets == ("token",)


def test_every_missing_parameter_is_named_with_the_flag_to_give() -> None:
    with pytest.raises(ParameterError) as caught:
        bound("a: int\nb: Literal['x', 'y']\nc = 1")
    assert str(caught.value) == "missing parameters 'a', 'b'"
    assert caught.value.hint == "patch.ipynb takes: a, b (x|y), c; give -p a=… -p b=…"


def test_an_unknown_parameter_gets_a_guess_and_the_list() -> None:
    with pytest.raises(ParameterError) as caught:
        bound(CELL, stak="prod")
    assert str(caught.value) == "unknown parameter 'stak'"
    assert caught.value.hint.startswith("did you mean 'stack'? patch.ipynb takes: stack (dev|staging|prod), waves")
    with pytest.raises(ParameterError, match="is not an identifier"):
        bind(read_parameters(CELL), {"a-b": "1"}, {}, runbook="patch.ipynb")
    assert usage([], "x.ipynb") == "x.ipynb takes no parameters"
