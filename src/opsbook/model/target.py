"""Targets and the inventory, as values: where commands can go, and what became of them there.

Reading an inventory or a pattern is the inventory room's work; reaching a target is the ssh room's.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct

JsonValue: TypeAlias = Any
"""A value JSON can carry: None, bool, int, float, str, or lists and string-keyed mappings of these."""


def unstorable(value: JsonValue) -> str:
    """Say why JSON cannot carry a value unchanged: NaN, an infinity, text that is not Unicode; empty when it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number that can be recorded"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "the text is not valid Unicode"
    parts = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next(filter(None, map(unstorable, parts)), "")


class TargetState(StrEnum):
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

    @classmethod
    def _missing_(cls, value: object) -> TargetState:
        return cls.UNKNOWN

    @property
    def is_failure(self) -> bool:
        """Whether this state counts against a limit (SEMANTICS 1, 2)."""
        return self not in {TargetState.OK, TargetState.SKIPPED, TargetState.NOT_RUN}

    @property
    def is_unreachable(self) -> bool:
        """Whether the command never left for the target, because it could not be reached."""
        return self in {TargetState.UNREACHABLE, TargetState.AUTH, TargetState.HOSTKEY}


class Target(Struct, frozen=True, kw_only=True):
    """One SSH host of the inventory, with everything needed to reach it."""

    name: str
    host: str
    port: int = 22
    user: str | None = None
    identity_files: tuple[str, ...] = ()
    known_hosts: str | None = None
    """A known_hosts file for this target alone, before the user's own."""
    groups: tuple[str, ...] = ()
    vars: dict[str, JsonValue] = {}

    @property
    def address(self) -> str:
        """`host:port`, what two names of the same machine have in common."""
        return f"{self.host}:{self.port}"


class Inventory(Struct, frozen=True, kw_only=True):
    """All targets that are known, in the order the inventory names them, and the groups they are in."""

    targets: tuple[Target, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    """Group name to the names of all its targets, those of its child groups included."""
    sources: tuple[str, ...] = ()
