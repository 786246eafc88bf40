"""What a dry run says of a call it does not make: what would have been done, and where (SEMANTICS 24).

Only what a call itself marks as read-only is sent. Waiting is skipped too: nothing has brought about what it waits for.
"""

from __future__ import annotations

from msgspec import Struct

from opsbook.fleet.operation import Operation
from opsbook.model.outcome import name_ranges

REASON = "dry run"
"""Why the targets of such a call are skipped."""
_VERBS = {"run": "run on", "reboot": "reboot", "wait_until": "wait on", "put": "put a file on"}


def is_sent(operation: Operation) -> bool:
    """Whether a dry run does this all the same."""
    return operation.read_only and operation.kind != "wait_until"


class WouldDo(Struct, frozen=True, kw_only=True):
    """A call that was not made; shows itself in the notebook."""

    kind: str
    text: str
    """What it does, in one line."""
    targets: tuple[str, ...]
    wave: int | None = None
    waves: int | None = None

    def __repr__(self) -> str:
        count = f"{len(self.targets)} target{'' if len(self.targets) == 1 else 's'}"
        wave = "" if self.wave is None else f", wave {self.wave} of {self.waves}"
        verb = _VERBS.get(self.kind, f"{self.kind} on")
        return f"dry run: would {verb} {count}{wave}: {name_ranges(self.targets)}\n    {self.text}"
