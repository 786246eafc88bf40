"""A durable command seen through to its end, over as many links as it takes (SEMANTICS 9).

Sent once. After a lost link the same command is found again, never started again; whether it had begun at all the
target itself decides. What is known at the end is said, and where its output is when it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState
from opsbook.ssh.durable import remove
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script
from opsbook.ssh.terms import Terms

if TYPE_CHECKING:
    from opsbook.fleet.operation import Job
    from opsbook.ssh.connection import Connection
    from opsbook.ssh.follow import Progress

BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts to reach a target whose link was lost; the last one repeats."""
LAST_TRY_S = 3.0
"""Seconds to reach it once more when its command has to be ended."""
FORGET_S = 3.0
MOST_UNHEARD = 4
"""How often in a row a shell may end without a word before it is not asked any more."""


class Link(Protocol):
    """One target, as a durable command needs it."""

    @property
    def terms(self) -> Terms:
        """On what terms commands go through sudo there."""

    def do(
        self,
        make: Callable[[Connection], Job],
        *,
        changing: bool,
        connect_s: float | None = None,
        spool: str | None = None,
        continuing: bool = False,
    ) -> CommandResult:
        """Do a job on the target's connection."""

    def pause(self, seconds: float) -> bool:
        """Wait, unless the call is cancelled; whether it was."""


def see_through(link: Link, script: Script, progress: Progress, *, spool: str, starting: bool = True) -> CommandResult:
    """Start a command, or find one that was started in another life of this program, and return how it ended.

    Raises:
        ConnectError: it could not be started: nothing was sent; or it cannot be asked for at all.
    """
    result = link.do(
        _follow(link, script, progress, spool=spool, starting=starting),
        changing=starting,
        spool=spool if starting else None,
        continuing=not starting,
    )
    attempt = 0
    while result.state is TargetState.LOST and time.monotonic() < progress.deadline:
        if progress.refused or progress.unheard >= MOST_UNHEARD:
            return _given_up(progress, spool, TargetState.LOST, result.reason)
        pause = BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
        attempt += 1
        if link.pause(min(pause, max(0.0, progress.deadline - time.monotonic()))):
            progress.cancelled.set()
        left = max(0.5, progress.deadline - time.monotonic())
        last = progress.cancelled.is_set()
        try:
            result = link.do(
                _follow(link, script, progress, spool=spool, starting=False),
                changing=False,
                connect_s=min(LAST_TRY_S, left) if last else min(10.0, left),
                continuing=True,
            )
        except ConnectError as error:
            if error.state != TargetState.UNREACHABLE:
                return _given_up(progress, spool, TargetState.LOST, f"the link was lost, and now: {error}")
        if last and result.state is TargetState.LOST:
            return _given_up(progress, spool, TargetState.CANCELLED, "cancelled while the link was lost")
    if result.state is TargetState.LOST:
        reason = f"the link was lost and did not come back within {progress.timeout_s:g} s"
        return _given_up(progress, spool, TargetState.LOST, reason)
    return result


def forget(link: Link, script: Script, spool: str) -> None:
    """Remove the spool of a command whose result was read; one that cannot be removed now goes in time."""
    from opsbook.ssh.follow import Removal  # noqa: PLC0415  paramiko comes with the first connection

    with suppress(ConnectError):
        link.do(
            lambda connection: Removal(connection, remove(script, spool), terms=link.terms, seconds=FORGET_S),
            changing=False,
            continuing=True,
        )


def _follow(
    link: Link, script: Script, progress: Progress, *, spool: str, starting: bool
) -> Callable[[Connection], Job]:
    from opsbook.ssh.follow import Follow  # noqa: PLC0415  paramiko comes with the first connection

    return lambda connection: Follow(connection, script, progress, spool=spool, terms=link.terms, starting=starting)


def _given_up(progress: Progress, spool: str, state: TargetState, reason: str) -> CommandResult:
    """Return what was heard so far, and where the rest is."""
    progress.close()
    where = progress.folder or f"the spool {spool}"
    return progress.result(state, f"{reason}; the command may still be running, and what it says is kept in {where}")
