"""Annotations: the closed set of types a parameter can have, from source text to type and to a person's words.

Nothing is looked up in any namespace and nothing is called, so that reading a declaration can run nothing.
"""

from __future__ import annotations

import ast
import datetime as dt
import re
from types import GenericAlias
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from opsbook.errors import ParameterError
from opsbook.redaction import Secret
from opsbook.token_patterns import LINE, why_slow

_NAMED: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list[Any],
    "dict": dict[str, Any],
    "date": dt.date,
    "datetime": dt.datetime,
    "time": dt.time,
    "Any": Any,
    "object": Any,
    "None": type(None),
    "Secret": Secret,
}
_LABELS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "Secret": "secret",
    "Any": "any",
    "date": "date (YYYY-MM-DD)",
    "datetime": "date and time (ISO 8601)",
    "time": "time (HH:MM:SS)",
    "list": "list",
    "dict": "mapping",
}


PLAIN_TYPES = frozenset({"str", "int", "float", "bool", "list", "dict"})
"""The types a literal default can speak for when there is no annotation."""
KNOWN_TYPES = (
    'str, int, float, bool, date, datetime, time, list[...], dict[...], Literal["a", "b"], Annotated, Secret, X | None'
)


def read_annotation(source: str) -> Any:
    """Return the type an annotation stands for.

    >>> read_annotation("int | None")
    typing.Optional[int]

    Raises:
        ValueError: it is not one of the known types.
        ParameterError: the pattern it names would take forever on some text.
    """
    try:
        kind = _type(ast.parse(source, mode="eval").body)
        msgspec.json.Decoder(kind)  # refuses what nothing could be converted to, such as `date | str`
    except (KeyError, TypeError, SyntaxError, IndexError, AttributeError, RecursionError, re.error) as error:
        raise ValueError(source) from error
    if kind is not Secret and _holds_secret(kind):
        raise ValueError(source)  # a secret stands alone: a reference in a list would not be seen as one
    return kind


def _holds_secret(kind: Any) -> bool:
    return kind is Secret or any(map(_holds_secret, get_args(kind)))


def _type(node: ast.expr) -> Any:
    """Build a type from its syntax tree. A closed set: nothing is looked up, nothing is called."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _type(ast.parse(node.value, mode="eval").body)
        return _NAMED[str(node.value)]
    if isinstance(node, ast.Name | ast.Attribute):
        return _NAMED[node.id if isinstance(node, ast.Name) else node.attr]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_type(node.left), _type(node.right)]  # noqa: UP007  built, not written
    if not isinstance(node, ast.Subscript):
        raise KeyError(ast.dump(node))
    name = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    return _generic(name, node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])


def _generic(name: str, items: list[ast.expr]) -> Any:
    """Build `name[items]`."""
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(item) for item in items)]
    if name == "Annotated":
        return Annotated[_type(items[0]), _bound(ast.literal_eval(items[1]))]
    inner = [_type(item) for item in items]
    if name == "Optional":
        return Union[inner[0], None]  # noqa: UP007  built, not written
    if name == "Union":
        return Union[tuple(inner)]  # noqa: UP007  built, not written
    if name in {"list", "List"}:
        return GenericAlias(list, (inner[0],))
    if name in {"dict", "Dict"}:
        return GenericAlias(dict, (str, inner[-1]))
    raise KeyError(name)


def _bound(text: str) -> msgspec.Meta:
    """Read what `Annotated` adds: `1..100`, `>=1`, `<=5` for numbers; anything else is a pattern for text."""
    low, dots, high = text.partition("..")
    try:
        if dots:
            return msgspec.Meta(ge=_number(low) if low else None, le=_number(high) if high else None)
        if text.startswith((">=", "<=")):
            limit = _number(text[2:])
            return msgspec.Meta(ge=limit) if text[0] == ">" else msgspec.Meta(le=limit)
    except ValueError:
        pass
    if why := why_slow(text, re.compile(whole := f"^(?:{text})$").search):
        raise ParameterError(f"the pattern {text!r} cannot be used: {why}")
    return msgspec.Meta(pattern=whole, max_length=LINE)


def _number(text: str) -> int | float:
    """Read a bound as a whole number where it is one: a whole number's type takes no other."""
    return float(text) if "." in text else int(text)


def label(kind: Any) -> str:
    """Say a type as a person would."""
    if get_origin(kind) is Literal:
        return " | ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is Annotated:
        base, bound = get_args(kind)[:2]
        if bound.pattern:
            return f"{label(base)} ({bound.pattern[4:-2]})"
        low, high = ("" if end is None else f"{end}" for end in (bound.ge, bound.le))
        return f"{label(base)} ({low}..{high})"
    if get_origin(kind) is Union:
        return " or ".join("none" if part is type(None) else label(part) for part in get_args(kind))
    origin = get_origin(kind)
    if origin in {list, dict} and get_args(kind)[-1] is not Any:
        return f"{_LABELS[origin.__name__]} of {label(get_args(kind)[-1])}"
    return _LABELS.get(getattr(origin or kind, "__name__", "Any"), "any")
