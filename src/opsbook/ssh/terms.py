"""On what terms a command goes through sudo, as a value that knows no SSH library."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

PROMPT_S = 15.0
"""Seconds sudo may take to ask for the password, or to let the shell through."""


def _nobody() -> None:
    """Tell nobody."""


class Terms(Struct, frozen=True, kw_only=True):
    """What sudo is answered, and how long it is waited for."""

    password: Callable[[], str] | None = None
    """Gives the password, when it is asked for; raises SecretError."""
    refused: Callable[[], None] = _nobody
    """Hears that sudo let nobody through with it."""
    patience_s: float = PROMPT_S
