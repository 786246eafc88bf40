"""What is known of a call before it is made: asked of the runner, once, where an earlier run or attempt may know it.

Also where in its cell a call stands, which is how a call whose text has changed is told from a new one. Knows nothing
of how the runner comes to its answer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from opsbook.errors import RefusedError
from opsbook.fleet.operation import Operation
from opsbook.fleet.session import Session
from opsbook.model.event import OnceEnded
from opsbook.model.message import Recall, Recalled

_CELLS = ("/ipykernel_", "<ipython-input-")
"""What the file names of a notebook's cells have in common: a kernel's, and a terminal's."""
_NOTHING = Recalled(ticket=0)


def line_of_call() -> int:
    """Return which line of a cell makes the call that is under way, from 1; 0 where no cell does."""
    frame = sys._getframe(1)  # noqa: SLF001  the cheap way to look up the stack
    while frame is not None:
        if any(sign in frame.f_code.co_filename for sign in _CELLS):
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]  # None at the end of the stack
    return 0


def recall(
    session: Session,
    operation: Operation,
    digests: Mapping[str, str],
    *,
    cell_id: str | None,
    line: int,
    fresh: bool,
    idempotent: bool,
) -> Recalled:
    """Return what is known of a call; nothing, and without asking, where there is no earlier run or attempt.

    Raises:
        RefusedError: the run cannot go on from here: nothing of the call may be sent.
        ChannelError: the runner is gone.
    """
    return _ask(
        session,
        Recall(
            cell_id=cell_id,
            attempt=session.attempt,
            line=line,
            kind=operation.kind,
            text=operation.text,
            read_only=operation.read_only,
            fresh=fresh,
            idempotent=idempotent,
            digests=dict(digests),
        ),
    )


def recall_once(session: Session, name: str, digest: str, *, idempotent: bool) -> OnceEnded | None:
    """Return how a function of this name ended before; None when it did not, or may be called again.

    Raises:
        RefusedError: it had begun, and nobody knows how it ended.
        ChannelError: the runner is gone.
    """
    asked = Recall(
        cell_id=session.cell_id,
        attempt=session.attempt,
        kind="once",
        text=f"once({name!r})",
        idempotent=idempotent,
        digests={"": digest},
    )
    return _ask(session, asked).once


def _ask(session: Session, asked: Recall) -> Recalled:
    if session.channel is None or not (session.replaying or session.attempt > 1):
        return _NOTHING
    known = session.channel.recall(asked)
    if known.blocked:
        raise RefusedError(known.blocked, known.hint)
    return known
