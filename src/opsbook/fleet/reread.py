"""What an earlier run heard and cannot hand back whole, asked again where it is read (SEMANTICS 22).

Only what changes nothing is asked again, and once. How it ended is known and stays as it was, so that the notebook
takes the same branches. What is heard now has no digest: no resume finds it, and nothing is counted by it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import FleetError
from opsbook.fleet.fanout import CallOptions, Fanout
from opsbook.fleet.operation import Operation, Work
from opsbook.fleet.result import RecalledResult, TargetResult
from opsbook.fleet.session import Session
from opsbook.model.target import Target
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script


def readable(
    results: Iterable[TargetResult], *, session: Session, operation: Operation, targets: Iterable[Target]
) -> tuple[TargetResult, ...]:
    """Return a call's results, those of an earlier run that are not whole with a way to hear them again."""
    if not operation.read_only:
        return tuple(results)
    known = {target.name: target for target in targets}
    return tuple(
        replace(one, ask=_Question(session, operation, known[one.target], one))
        if isinstance(one, RecalledResult)
        else one
        for one in results
    )


class _Unnamed(Struct, frozen=True, kw_only=True):
    """An operation that is found by nobody (implements `Operation`)."""

    operation: Operation

    @property
    def kind(self) -> str:
        return self.operation.kind

    @property
    def script(self) -> Script:
        return self.operation.script

    @property
    def text(self) -> str:
        return self.operation.text

    @property
    def read_only(self) -> bool:
        return self.operation.read_only

    def digest(self, target: Target) -> str:
        """Identify it by nothing."""
        del target
        return ""

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        return self.operation.perform(work)


class _Question:
    """What one target said, asked for again by whoever reads it first."""

    def __init__(self, session: Session, operation: Operation, target: Target, before: RecalledResult) -> None:
        self._session = session
        self._operation = operation
        self._target = target
        self._before = before
        self._lock = threading.Lock()
        self._heard: TargetResult | None = None

    def __call__(self) -> TargetResult:
        """Return what it says now.

        Raises:
            FleetError: it does not end as it did then, so that this is not what the notebook went by.
        """
        with self._lock:
            if self._heard is None:
                self._heard = self._ask()
        return self._heard

    def _ask(self) -> TargetResult:
        options = CallOptions(parallel=1, counted=False)
        asked = Fanout(self._session, (self._target,), _Unnamed(operation=self._operation), (), options)
        now, before = asked.run()[self._target.name], self._before
        if (now.state, now.exit_code) != (before.state, before.exit_code):
            told = f"asked again it does not end as it did then: {now.detail or now.state.value}"
            raise FleetError(f"{before.target}: {before.why}, and {told}", "resume when it does, or run it anew")
        return now
