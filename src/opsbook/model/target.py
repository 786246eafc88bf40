"""Targets and the inventory, as values: where commands can go, and what became of them there.

Reading an inventory or a pattern is the inventory room's work; reaching a target is the ssh room's.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from msgspec import Struct

from opsbook.model.vocabulary import OpenVocabulary
from opsbook.redaction import MASK

JsonValue: TypeAlias = Any
"""A value JSON can carry: None, bool, int, float, str, or lists and string-keyed mappings of these."""
MAX_INT_BITS = 4096
"""Python refuses to print much larger numbers, so a record could not hold them."""
MAX_NESTED = 100
"""How deep a value may nest: what writes and reads it goes as deep."""


def unstorable(value: JsonValue, *, depth: int = 0) -> str:
    """Say why JSON cannot carry a value unchanged: NaN, text that is not Unicode, no end of it; empty when it can."""
    if depth > MAX_NESTED:
        return f"the value is nested more than {MAX_NESTED} deep"
    if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        return "the number is too large to be recorded"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number that can be recorded"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "the text is not valid Unicode"
    parts = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next(filter(None, (unstorable(part, depth=depth + 1) for part in parts)), "")


class TargetState(OpenVocabulary):
    """How a command ended on one target. Set from evidence only."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    AUTH = "auth"
    HOSTKEY = "hostkey"
    BECOME = "become"
    LOST = "lost"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    NOT_RUN = "not_run"
    UNKNOWN = "unknown"
    """Read from a newer opsbook's file; never set by this one."""

    @property
    def is_failure(self) -> bool:
        """Whether this state counts against a limit (SEMANTICS 1, 2)."""
        return self not in {TargetState.OK, TargetState.SKIPPED, TargetState.NOT_RUN}

    @property
    def is_unreachable(self) -> bool:
        """Whether the command never left for the target, because it could not be reached."""
        return self in {TargetState.UNREACHABLE, TargetState.AUTH, TargetState.HOSTKEY}


class Become(Struct, frozen=True, kw_only=True):
    """How commands on one target become another user, unless the call says so itself."""

    always: bool = False
    """Whether every command goes through sudo."""
    user: str | None = None
    """The user sudo changes to; root when None."""
    password: str | None = None
    """The reference of the password sudo asks for; see `Target.password`."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return _shown(self)

    def __repr__(self) -> str:
        return _repr(self)


class Target(Struct, frozen=True, kw_only=True):
    """One SSH host of the inventory, with everything the inventory says of how to reach it.

    What it leaves open (None, empty) the user's ssh_config answers when the connection is made.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    password: str | None = None
    """A secret's reference (`env:NAME`), or `inline:` and the value where the inventory holds it itself: never shown,
    and no variable of the target."""
    identity_files: tuple[str, ...] = ()
    known_hosts: str | None = None
    """A known_hosts file for this target alone, before the user's own."""
    jump: str | None = None
    """The hosts to go through, as ssh's ProxyJump names them: `maya@bastion:2222,inner`; `none` for none."""
    proxy_command: str | None = None
    """The command whose input and output reach the target, as ssh's ProxyCommand; `none` for none."""
    ssh_config: str | None = None
    """An ssh_config file to read instead of the user's own (ssh's `-F`)."""
    become: Become = Become()
    groups: tuple[str, ...] = ()
    vars: dict[str, JsonValue] = {}
    sealed: tuple[str, ...] = ()
    """Files of its variables that ansible-vault encrypted as a whole: nobody can tell what they set."""

    @property
    def address(self) -> str:
        """`host:port`, what two names of the same machine have in common."""
        return f"{self.host}:{self.port or 22}"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return _shown(self)

    def __repr__(self) -> str:
        return _repr(self)


def _shown(value: Become | Target) -> list[tuple[str, Any]]:
    """List the fields that say something: of a password that there is one, of variables their names."""
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    plain = {"password": MASK, "vars": tuple(fields.get("vars", ()))}
    return [(name, plain.get(name, field)) for name, field in fields.items() if field and field != Become()]


def _repr(value: Become | Target) -> str:
    return f"{type(value).__name__}({', '.join(f'{name}={field!r}' for name, field in _shown(value))})"


class Inventory(Struct, frozen=True, kw_only=True):
    """All targets that are known, in the order the inventory names them, and the groups they are in."""

    targets: tuple[Target, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    """Group name to the names of all its targets, those of its child groups included."""
    sources: tuple[str, ...] = ()
