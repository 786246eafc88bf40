"""`%param NAME VALUE`: how notebooks of NII's SSH kernel declare parameters, and how a run gives them their values.

Owns that kernel's grammar. It reads a value as Python where it can, so that 1.10 became 1.1 and 8080 no text at all:
what is written here stands in quotes, and is the same text there.
"""

from __future__ import annotations

import ast
import re

from opsbook.errors import ParameterError
from opsbook.model.target import JsonValue

KERNEL = "ssh"
"""The name of its kernelspec, and of its language."""
_LINE = re.compile(r"%param[ \t]+([A-Za-z_][A-Za-z0-9_]*)[ \t]+(\S.*?)\s*")
_FIT = re.compile(r"[-A-Za-z0-9 %,./:=_@]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def as_declaration(line: str) -> str | None:
    """Return a `%param` line as Python declares a parameter; None for any other line.

    >>> as_declaration("%param HOST_A 10.0.0.10")
    "HOST_A: str = '10.0.0.10'"
    """
    found = _LINE.fullmatch(line)
    return f"{found[1]}: str = {_text(found[2])!r}" if found else None


def param_line(name: str, value: JsonValue) -> str:
    """Return the line that gives a parameter its value.

    >>> param_line("HOST_A", "10.0.0.10")
    '%param HOST_A "10.0.0.10"'

    Raises:
        ParameterError: the kernel takes no such value, or no such name.
    """
    if isinstance(value, bool):
        value = "true" if value else "false"
    what = f"parameter {name!r}: NII's ssh kernel takes"
    if not isinstance(value, str | int | float):
        raise ParameterError(f"{what} one text, not {value!r:.60}", "give a text or a number")
    text = str(value)
    if not _FIT.fullmatch(text):
        wrong = next(letter for letter in text if not _FIT.fullmatch(letter))
        raise ParameterError(f"{what} no {wrong!r} in a value", "it takes A-Z a-z 0-9 - % , . / : = _ @ and spaces")
    if not _NAME.fullmatch(name):
        raise ParameterError(f"{what} no such name", "give it one of A-Z a-z 0-9 _")
    return f'%param {name} "{text}"'


def _text(value: str) -> str:
    """Return a value without the quotes around it."""
    try:
        quoted = ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return quoted if isinstance(quoted, str) else value
