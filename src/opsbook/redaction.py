"""Secrets as a type, and the one redactor that stands before every sink.

`Secret` shows itself as `***` everywhere and gives its value only to `reveal()`. A `Redactor` knows the values that
were revealed in this process and masks them, in the forms a program is likely to print them in, in every string
it is shown. Limits: it works on whole strings, so a value torn over two of them passes; and it cannot see into images.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from enum import Enum
from threading import Lock
from typing import Any
from urllib.parse import quote

import msgspec

from opsbook.errors import SecretError

MASK = "***"
SHORTEST = 4
"""A shorter value would mask ordinary text all over (SEMANTICS 27)."""

STRUCTURE = frozenset(
    ("run_id", "cell_id", "id", "call", "digest", "kind", "target", "targets", "selected", "addresses", "waves")
) | {*("stream", "signal", "results", "sha256", "tags", "boot_id", "spool", "secrets", "versions")}
STRUCTURE |= {"parent", "resumed_from"}
"""Fields of our own Structs whose text holds things together: names and ids, not what anybody wrote or printed."""
SCHEMES = ("env", "file", "cmd")
INLINE = "inline:"
"""Stands before a password that an inventory holds itself, so that it travels like a reference."""


def is_reference(text: object) -> bool:
    """Whether `text` is a secret's reference, such as `env:TOKEN`."""
    return isinstance(text, str) and text.partition(":")[0] in SCHEMES and bool(text.partition(":")[2])


class Secret:
    """A value that is never shown: a reference, and the means to resolve it when it is needed."""

    __slots__ = ("_resolve", "reference")

    def __init__(self, reference: str, resolve: Callable[[str], str]) -> None:
        self.reference = reference
        self._resolve = resolve

    def reveal(self) -> str:
        """Return the value itself.

        Raises:
            SecretError: the reference cannot be resolved, or its value is too short to be masked safely.
        """
        value = self._resolve(self.reference)
        if len(value) < SHORTEST:
            raise SecretError(f"the secret {self.reference!r} is shorter than {SHORTEST} characters")
        return value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __reduce__(self) -> Any:
        raise TypeError("a Secret cannot be pickled")


def _forms(value: str) -> set[str]:
    """List the ways `value` may appear in text: itself, quoted, escaped, encoded, and each line of it."""
    raw = value.encode("utf-8", "surrogateescape")
    forms = {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    forms |= {shlex.quote(value), quote(raw, safe=""), raw.hex()}
    forms |= {html.escape(form, quote=quoted) for form in tuple(forms) for quoted in (True, False)}
    for shift in range(3):
        # base64 of the value inside a longer text depends on where it starts, modulo three bytes;
        # the characters at both ends also depend on the neighbours, so only the middle is certain
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        middle = coded[(0, 2, 3)[shift] : len(coded) - 1]
        forms |= {middle, middle.replace("+", "-").replace("/", "_")}
    forms |= {line.strip() for line in value.splitlines()}
    return {form for form in forms if len(form) >= SHORTEST}


class Redactor:
    """Masks every value it was told of. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: set[str] = set()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, *values: str) -> None:
        """Mask these values from now on."""
        with self._lock:
            new = set(values) - self._known
            if not new:
                return
            self._known |= new
            self._forms = self._forms.union(*map(_forms, new))
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """Return `text` with every known value masked, and what is not Unicode replaced."""
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        pattern = self._pattern
        return text if pattern is None else pattern.sub(MASK, text)

    def document(self, data: bytes) -> bytes:
        """Return a JSON document byte for byte as it is, or where a known value lies in it, with that masked."""
        if self._pattern is None:
            return data
        text = data.decode("utf-8", "replace")
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            read = None
        cleaned = self.clean(read)  # what is escaped in the text is found here
        masked = self.text(text if cleaned == read else json.dumps(cleaned, ensure_ascii=False))
        return data if masked == text else masked.encode("utf-8", "replace")

    def clean(self, value: Any) -> Any:
        """Return a value with all free text in it masked: in mappings (keys too), in lists, and in Structs.

        What holds a Struct together is never touched, or a secret such as `failed` would change what a record says:
        enumerations, numbers, times, and the names and ids in the fields of `STRUCTURE`.
        """
        if isinstance(value, str):
            return value if isinstance(value, Enum) else self.text(value)
        if isinstance(value, msgspec.Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            changed = {
                name: self._clean_named(item) if name in STRUCTURE else self.clean(item)
                for name, item in fields.items()
            }
            return msgspec.structs.replace(value, **changed)
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.clean, value))
        return value

    def _clean_named(self, value: Any) -> Any:
        """Leave names as they are; what stands under them is free text again."""
        if isinstance(value, dict):
            return {key: self.clean(item) for key, item in value.items()}
        return self.clean(value) if isinstance(value, msgspec.Struct) else value
