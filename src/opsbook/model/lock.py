"""What is known of a lock outside of any run, as a value: whether it is held, or its target was left in the middle."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class LockState(StrEnum):
    """Why a lock names somebody."""

    HELD = "held"
    LEFT = "left"
    """Its last holder has ended and left the target in the middle."""


class Standing(Struct, frozen=True, kw_only=True):
    """One lock, and the run that has to do with it."""

    state: LockState
    place: str
    """The target's address, or the name that was given with `--lock`."""
    targets: tuple[str, ...] = ()
    """What that run calls the target; none for a lock with a name."""
    run_id: str
    archive: str
    user: str
    host: str
    since: datetime
