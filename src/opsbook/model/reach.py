"""What was found out about targets outside of any run, as values: whether they answer, and which host key they show."""

from __future__ import annotations

from msgspec import Struct

from opsbook.model.target import TargetState


class Reach(Struct, frozen=True, kw_only=True):
    """Whether one target can be reached and logged in to."""

    name: str
    address: str
    state: TargetState
    reason: str = ""
    duration_s: float = 0.0


class ShownKey(Struct, frozen=True, kw_only=True):
    """The host key one host showed."""

    name: str
    address: str
    state: TargetState = TargetState.OK
    fingerprint: str = ""
    """`SHA256:…`; empty where no key was accepted."""
    new: bool = False
    """Whether it was recorded just now."""
    reason: str = ""
