"""Passwords that an inventory holds itself: found for the redactor, and masked for whoever looks at targets.

A reference (`env:NAME`) is no secret and stays as it is. Knows no file and no connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from opsbook.model.target import Target
from opsbook.redaction import INLINE, MASK, Redactor
from opsbook.secret_forms import SHORTEST


def inline_passwords(targets: Iterable[Target]) -> set[str]:
    """Return the values themselves; one too short to be masked is never sent either, and left out."""
    given = (text for target in targets for text in (target.password, target.become.password))
    values = {text.removeprefix(INLINE) for text in given if text is not None and text.startswith(INLINE)}
    return {value for value in values if len(value) >= SHORTEST}


def masked(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return targets as anybody may see them: no password of theirs in any of their fields."""
    listed, redactor = tuple(targets), Redactor()
    redactor.add(*inline_passwords(listed))
    return tuple(_masked(redactor.clean(target)) for target in listed)


def _masked(target: Target) -> Target:
    """Mask by what a field is, also what is too short to be found in text."""
    become = replace(target.become, password=_hidden(target.become.password))
    return replace(target, password=_hidden(target.password), become=become)


def _hidden(text: str | None) -> str | None:
    return f"{INLINE}{MASK}" if text is not None and text.startswith(INLINE) else text
