"""What `--run-id` means to a run that is about to begin: the first of its id runs, any other gets its result.

Nothing here starts anything.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from opsbook.archive.history import ArchivedRun
from opsbook.archive.identity import Identity
from opsbook.archive.journal import read_journal
from opsbook.archive.succession import successor
from opsbook.errors import ArchiveError, BusyError, ExitCode
from opsbook.execution.request import FinishedRun, RunRequest
from opsbook.model.event import Intent
from opsbook.model.run import RunState


class RequestIdentity:
    """The id a request came with, if any, locked by this process until it is let go."""

    def __init__(self, request: RunRequest) -> None:
        """Lock the id.

        Raises:
            UsageError: it cannot be one.
            BusyError: another process is claiming it.
            ArchiveError: it cannot be claimed in this archive.
        """
        self._request = request
        self._text = request.claim or ""
        self._asked = _asked_for(request)
        self._identity: Identity | None = None
        if request.claim is not None:
            self._identity = Identity(request.archive, request.claim, shared=request.shared)

    def first_result(self) -> FinishedRun | None:
        """Return what came of the run that has this id already; None when there is none.

        Raises:
            BusyError: it still runs.
            UsageError: it was asked for something else.
            ArchiveError: it cannot be read.
        """
        first = self._identity.first_run(self._asked) if self._identity is not None else None
        return None if first is None else _result_of(first, self._text)

    def give_to(self, run_id: str) -> None:
        """Write down that the id is this run's from now on.

        Raises:
            ArchiveError: it could not be written.
        """
        if self._identity is not None:
            self._identity.give_to(run_id, self._asked)

    def release(self) -> None:
        """Let the id go: the run is claimed, or will not be."""
        if self._identity is not None:
            self._identity.release()


def earlier_result(request: RunRequest) -> FinishedRun | None:
    """Return what came of the run that has a request's id already; None where it may run.

    Raises:
        BusyError: that run goes on.
        UsageError: the id cannot be one, or is that of another request.
        ArchiveError: the archive cannot be read or written.
    """
    identity = RequestIdentity(request)
    try:
        return identity.first_result()
    finally:
        identity.release()


def _asked_for(request: RunRequest) -> bytes:
    """Return what has to be the same for two requests to be the same."""
    parts = {
        "runbook": request.runbook.sha256,
        "parameters": request.binding.values,
        "pattern": request.pattern,
        "selection": request.selection,
        "checking": request.options.checking,
    }
    return msgspec.json.encode(parts, order="deterministic")


def _result_of(first: ArchivedRun, text: str) -> FinishedRun:
    """Return a run's result as if it had run just now. One that was interrupted has an exit code all the same."""
    run_id, record = first.folder.run_id, first.record
    if record is None:
        raise ArchiveError(f"run {run_id} has the id {text!r} and is {first.unread_as}: {first.problem}")
    if record.status is RunState.RUNNING:
        raise BusyError(f"run {run_id} has the id {text!r} and still runs", f"opsbook show {run_id}")
    said = [f"run {run_id} has the id {text!r} already: this is its result, and nothing ran now"]
    if record.exit_code is None:
        sent = any(isinstance(entry.event, Intent) for entry in read_journal(first.folder.journal))
        record = replace(record, exit_code=int(ExitCode.UNKNOWN if sent else ExitCode.FAILED))
        newer = successor(first.folder)
        said.append(
            f"it was interrupted: opsbook resume {run_id}"
            if newer is None
            else f"it was interrupted, and run {newer} goes on with it: opsbook show {newer}"
        )
    return FinishedRun(record=record, folder=first.folder, said=tuple(said))
