"""How a command ended on one target, as a value that knows no SSH library."""

from __future__ import annotations

from msgspec import Struct

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState


class ChannelRefusedError(ConnectError):
    """The target is there and has no room for one more command on this connection: nothing was sent."""


class CommandResult(Struct, frozen=True, kw_only=True):
    """What a target said and how it ended. `exit_code` is None unless the target itself told it."""

    state: TargetState
    exit_code: int | None = None
    signal: str | None = None
    """The signal that ended it, as the target told it: `KILL`."""
    reason: str = ""
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    """Whether more was said than is kept here."""
