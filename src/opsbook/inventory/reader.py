"""One target's connection variables, read one by one into checked values.

Invariant: every complaint names the variable's place, the target and the variable, and never the value of a password.
This module knows no file format, and not which variables there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.hosts import read_port
from opsbook.inventory.place import Variable
from opsbook.inventory.values import unusable
from opsbook.redaction import INLINE, is_reference

TRUE = {"true", "yes", "on", "y", "t", "1"}
FALSE = {"false", "no", "off", "n", "f", "0"}


class Reader:
    """Reads one target's connection variables; one that is null counts as unset.

    Several names mean spellings of one variable, of which the first that is set counts.
    """

    def __init__(self, target: str, variables: Mapping[str, Variable]) -> None:
        self._target = target
        self._variables = {key: variable for key, variable in variables.items() if variable.value is not None}
        for key, variable in self._variables.items():
            if why := unusable(variable.value):
                raise self.error(key, why, hint="write the value itself into the inventory; a password by env:NAME")

    def error(self, key: str, what: str, *, hint: str) -> InventoryError:
        """Return the complaint about a variable."""
        return InventoryError(f"{self._variables[key].place}: target {self._target!r}: {key} {what}", hint)

    @contextmanager
    def about(self, key: str) -> Iterator[None]:
        """Put the variable in front of an InventoryError that does not know it."""
        try:
            yield
        except InventoryError as error:
            raise self.error(key, error.message, hint=error.hint) from error

    def find(self, *keys: str) -> str | None:
        """Return the spelling that counts, or nothing."""
        return next((key for key in keys if key in self._variables), None)

    def text(self, key: str) -> str:
        """Return a value that must be text; Ansible reads a user called 1000 as a number."""
        value = self._variables[key].value
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(key, "is not text", hint="put quotes around it")
        return str(value)

    def name(self, *keys: str) -> str | None:
        """Return a host or user that cannot be taken for an option."""
        key = self.find(*keys)
        if key is None:
            return None
        text = self.text(key)
        if not text or text.startswith("-") or any(_is_blank_or_control(char) for char in text):
            raise self.error(
                key, f"is {text!r}", hint="it has at least one character, no spaces, and does not begin with -"
            )
        return text

    def port(self, *keys: str) -> int | None:
        """Return the port, or nothing."""
        key = self.find(*keys)
        if key is None:
            return None
        try:
            return read_port(self.text(key))
        except InventoryError as error:
            raise self.error(key, f"is wrong: {error.message}", hint=error.hint) from error

    def flag(self, key: str) -> bool:
        """Return a truth value, as Ansible understands one; False when it is unset."""
        if self.find(key) is None:
            return False
        word = str(self._variables[key].value).strip().lower()
        if word not in TRUE | FALSE:
            raise self.error(key, "is neither true nor false", hint="write yes or no")
        return word in TRUE

    def password(self, *keys: str) -> str | None:
        """Return a password's reference, or the value marked as one; nothing where it is empty."""
        key = self.find(*keys)
        if key is None:
            return None
        text = self.text(key)
        if any(char in "\r\n\0" for char in text):
            raise self.error(key, "has more than one line", hint="write a reference such as env:NAME or file:PATH")
        return text if not text or is_reference(text) else INLINE + text

    def path(self, key: str, text: str) -> str:
        """Return an absolute path: `~` expanded, or relative to the folder of the file that sets the variable."""
        if not text.strip() or any(unicodedata.category(char) == "Cc" for char in text):
            raise self.error(key, "names no file", hint="write a path, or leave the variable out")
        try:
            path = Path(text).expanduser()
        except RuntimeError as error:
            raise self.error(
                key, f"names a home folder that is not known: {text!r}", hint="write the path out"
            ) from error
        return str(self._variables[key].place.path.absolute().parent / path)


def _is_blank_or_control(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Cs"}
