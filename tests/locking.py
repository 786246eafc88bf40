"""The locks of a run alone, without a kernel: as a notebook asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from opsbook.execution.locks import RunLocks
from opsbook.locks.folder import LockFolder
from opsbook.locks.lock_file import Holder
from opsbook.model import message as m
from opsbook.model.event import Event


def locks(folder: LockFolder, run_id: str, *, wait_s: float = 0, resumes: str | None = None, **more: Any) -> RunLocks:
    holder = Holder(
        run_id=run_id,
        archive=str(more.get("archive", folder.path)),
        user="maya",
        host="ops1",
        pid=1,
        since=datetime(2026, 11, 20, 11, 39, 58, tzinfo=UTC),
        place="",
    )
    report: Callable[[Event], None] = more.get("report", lambda _: None)
    mine = frozenset(filter(None, (resumes,)))
    return RunLocks(folder, holder=holder, ancestors=mine, wait_s=wait_s, report=report)


def ask(mine: RunLocks, targets: dict[str, str], *, ticket: int = 1) -> str:
    """Ask as a notebook does; return why not, or nothing."""
    answers: list[m.ToKernel] = []
    there = threading.Event()

    def answer(message: m.ToKernel) -> None:
        answers.append(message)
        there.set()

    mine.ask(m.LockRequest(ticket=ticket, cell_id=None, targets=targets), answer)
    assert there.wait(30)
    (only,) = answers
    return only.reason if isinstance(only, m.Refusal) else ""
