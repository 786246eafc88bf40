"""The error tree: every way opsbook says "could not try", with its exit code.

A failing runbook is a *result* and never an exception. What stands here is raised when something could not be
tried, and travels to one place (the command line) that prints `error: what` and `hint: what to do`.

    OpsbookError            1   (never raised itself)
    ├── UsageError          2   flags, arguments, configuration: nothing ran
    │   ├── RunbookError    2   not a notebook, two parameters cells, no such kernel
    │   ├── ParameterError  2   unknown, missing or ill-typed parameter
    │   ├── InventoryError  2   unreadable inventory, a pattern that names nothing
    │   └── SecretError     2   a reference that cannot be resolved (never carries the value)
    ├── RefusedError        3   a gate said no
    ├── FleetError          1   raised inside a notebook: a limit was passed
    ├── ChannelError        6   the runner is gone: nothing more is sent
    ├── ConnectError        4   one target could not be reached (becomes that target's result)
    ├── ArchiveError        5   the archive cannot be written or read
    └── BusyError          75   somebody else holds what is needed

This module knows no other room. Every error survives pickling, because its arguments are its fields.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line: a public contract."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    ARCHIVE = 5
    UNKNOWN = 6
    INTERNAL = 70
    BUSY = 75
    TIMED_OUT = 124
    SIGNAL = 128
    """Added to the number of the signal that stopped the run."""


class OpsbookError(Exception):
    """What went wrong (`str(error)`) and what to do about it (`error.hint`)."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(OpsbookError):
    """A flag, an argument or the configuration is wrong: nothing ran."""

    exit_code = ExitCode.USAGE


class RunbookError(UsageError):
    """The runbook cannot be read or cannot be started."""


class ParameterError(UsageError):
    """A parameter is unknown, missing, ill-typed or ill-declared."""


class InventoryError(UsageError):
    """The inventory cannot be read, or a pattern names nothing in it."""


class SecretError(UsageError):
    """A secret's reference cannot be resolved. Never carries a value."""


class RefusedError(OpsbookError):
    """A gate said no: nothing further runs."""

    exit_code = ExitCode.REFUSED


class FleetError(OpsbookError):
    """More targets failed than the limit allows. Raised by a fleet call, inside the notebook."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone: the author's own line is what matters, not our frames (IPython's hook)."""
        return [f"FleetError: {self.message}", *([f"hint: {self.hint}"] if self.hint else [])]


class ChannelError(OpsbookError):
    """The runner no longer answers: nothing more is sent to any target."""

    exit_code = ExitCode.UNKNOWN


class ConnectError(OpsbookError):
    """A target could not be reached; `state` is the target state this becomes (unreachable, auth or hostkey)."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.args = (message, state)
        self.state = state


class ArchiveError(OpsbookError):
    """The archive cannot be written or read."""

    exit_code = ExitCode.ARCHIVE


class BusyError(OpsbookError):
    """Somebody else holds what this needs."""

    exit_code = ExitCode.BUSY
