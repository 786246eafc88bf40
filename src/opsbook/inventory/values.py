"""Values of variables: what Ansible reads as Python or YAML, brought to JSON's types.

Invariant: what leaves here is None, bool, int, finite float, text without lone surrogates, or lists and text-keyed
mappings of these. This module knows neither files nor hosts.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable
from datetime import date
from typing import Any

from opsbook.errors import InventoryError
from opsbook.model.target import MAX_INT_BITS, JsonValue

VAULT = "$ANSIBLE_VAULT;"
"""How a text that ansible-vault encrypted begins; it is kept as it is."""
TEMPLATE = re.compile(r"\{\{|\{%|\{#")
MARKS = {"__ansible_vault", "__ansible_unsafe"}
"""How Ansible's JSON writes an encrypted text, and one that is no template."""


def unusable(value: JsonValue) -> str:
    """Say why a variable cannot be used as it stands, or a part of it: a template, or encrypted; empty when it can.

    >>> unusable("{{ address }}")
    'is a template, which opsbook does not evaluate'
    >>> unusable([1, "plain"])
    ''
    """
    if isinstance(value, str):
        if value.startswith(VAULT):
            return "is encrypted by ansible-vault, which opsbook does not decrypt"
        return "is a template, which opsbook does not evaluate" if TEMPLATE.search(value) else ""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(unusable, parts)), "")


def unwrap(mapping: dict[str, JsonValue]) -> JsonValue:
    """Return the text that Ansible's JSON marks as encrypted or as no template; any other mapping as it is.

    >>> unwrap({"__ansible_unsafe": "plain"}), unwrap({"a": 1})
    ('plain', {'a': 1})

    Raises:
        InventoryError: what is marked as encrypted is not.
    """
    mark, text = next(iter(mapping.items()), ("", None))
    if len(mapping) != 1 or mark not in MARKS or not isinstance(text, str):
        return mapping
    return check_vault(text) if mark == "__ansible_vault" else text


def check_vault(text: str) -> str:
    """Return a text that is said to be encrypted.

    Raises:
        InventoryError: it is not, so that it may be what should be a secret.
    """
    if not text.startswith(VAULT):
        raise InventoryError("a !vault value is not encrypted", f"it begins with {VAULT}1.1;AES256")
    return text


def read_literal(text: str) -> JsonValue:
    """Return what an INI inventory's value means: a Python literal where it is one, else the text itself.

    >>> read_literal("2222"), read_literal("[1, 'a']"), read_literal("yes")
    (2222, [1, 'a'], 'yes')

    Raises:
        InventoryError: the value is a literal that JSON cannot carry, or too deeply nested.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd backslash in the text is the author's own business
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    except (MemoryError, RecursionError, TypeError) as error:
        raise InventoryError(
            "a value cannot be read as a literal", "put quotes around it to keep it as text"
        ) from error
    return to_json(value)


def to_json(value: Any) -> JsonValue:
    """Return a Python value in JSON's types: a date as ISO text, a tuple or set as a list, keys as text.

    Raises:
        InventoryError: the value has no place in JSON.
    """
    match value:
        case list() | tuple():
            return [to_json(item) for item in value]
        case set() | frozenset():
            return sorted((to_json(item) for item in value), key=repr)  # a set's own order differs between processes
        case dict():
            return join_pairs((to_key(key), to_json(item)) for key, item in value.items())
        case _:
            return _check_scalar(_write_as_text(value))


def _write_as_text(value: Any) -> Any:
    """Return as text what JSON has no type for."""
    match value:
        case date():
            return value.isoformat()
        case bytes():
            return value.decode("utf-8", "surrogateescape")
        case complex():
            return str(value)
        case _:
            return "..." if value is ... else value


def _check_scalar(value: Any) -> JsonValue:
    """Return a single value that a file can hold."""
    match value:
        case None | bool():
            return value
        case str():
            return _check_text(value)
        case int():
            return _check_int(value)
        case float():
            return _check_float(value)
        case _:
            raise InventoryError(
                f"a {type(value).__name__} cannot be kept in an inventory", "write it as text, in quotes"
            )


def to_key(key: Any) -> str:
    """Return a mapping's key as JSON writes it.

    Raises:
        InventoryError: the key is a list, a mapping or another value without a text form.
    """
    match key:
        case str():
            return _check_text(key)
        case None:
            return "null"
        case bool():
            return "true" if key else "false"
        case int() | float() | date():
            return str(to_json(key))
        case _:
            raise InventoryError("a key of a mapping is neither text nor a number", "write the key as text, in quotes")


def join_pairs(pairs: Iterable[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """Return the pairs as a mapping.

    Raises:
        InventoryError: two keys are written alike, such as `80` and `"80"`.
    """
    made: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in made:
            raise InventoryError(f"the key {key!r} stands twice in one mapping", "keep one of the two")
        made[key] = value
    return made


def _check_text(text: str) -> str:
    """Join the surrogate pairs that JSON escapes leave behind; refuse a lone one, which no file can hold."""
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise InventoryError("a text holds a lone surrogate, which UTF-8 cannot carry", "take it out") from error


def _check_int(number: int) -> int:
    if number.bit_length() > MAX_INT_BITS:
        raise InventoryError("a number is too large", "put quotes around it to keep it as text")
    return number


def _check_float(number: float) -> float:
    if not math.isfinite(number):
        raise InventoryError(f"{number} is not a number JSON can carry", "put quotes around it to keep it as text")
    return number
