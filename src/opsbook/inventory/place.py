"""Where in an inventory something stands, so that every complaint can name its file and line.

Invariant: a message is given its place once, by the reader that knows the line. This module knows no format and no
pattern.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from opsbook.errors import InventoryError
from opsbook.model.target import JsonValue


class Place(Struct, frozen=True, kw_only=True):
    """A file, and the line in it where one is known (from 1)."""

    path: Path
    line: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"

    def at(self, line: int) -> Place:
        """Return the same file's line `line`."""
        return Place(path=self.path, line=line)


class Variable(Struct, frozen=True, kw_only=True):
    """A variable's value and where it was set: paths are relative to that file's folder."""

    value: JsonValue
    place: Place


@contextmanager
def located(place: Place) -> Iterator[None]:
    """Put the place in front of an InventoryError that does not know it."""
    try:
        yield
    except InventoryError as error:
        raise InventoryError(f"{place}: {error.message}", error.hint) from error
