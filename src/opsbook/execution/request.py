"""What is decided before a run starts, and what is there when it has ended: the values the runner takes and gives.

A request becomes the record that is written at the claim. Knows nothing of kernels.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from msgspec import Struct

from opsbook.archive.layout import RunFolder
from opsbook.execution.origin import git_state, operator_here, versions
from opsbook.model.message import RunOptions
from opsbook.model.parameter import Binding
from opsbook.model.run import CellRecord, RunbookRef, RunRecord, RunState, RunTargets
from opsbook.model.target import Inventory
from opsbook.runbook.notebook import Runbook

UNCHECKED = "host keys were not checked (--host-keys off)"
DRY = "a dry run (--check): only read-only commands were sent; local Python ran"


class RunRequest(Struct, frozen=True, kw_only=True):
    """Everything that is decided before a run starts."""

    runbook: Runbook
    binding: Binding
    inventory: Inventory | None
    pattern: str | None
    """What `-t` said."""
    selected: tuple[str, ...]
    options: RunOptions
    archive: Path
    argv: tuple[str, ...] = ()
    reason: str = ""
    """What `--reason` said."""
    yes: bool = False
    """Whether gates are granted beforehand."""
    terminal: bool = False
    """Whether a person watches: a first Ctrl-C then lets running commands finish."""
    parent: str | None = None
    """The run whose failed targets this one is given."""

    @property
    def limited(self) -> bool:
        """Whether the run was given a part of the inventory only."""
        return self.pattern is not None or self.parent is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the record should know from the start."""
        notes = ((self.options.host_keys == "off", UNCHECKED), (self.options.checking, DRY))
        return tuple(note for holds, note in notes if holds)


class FinishedRun(Struct, frozen=True, kw_only=True):
    """A run that has ended: its record, and where its files lie."""

    record: RunRecord
    folder: RunFolder

    @property
    def copy(self) -> Path | None:
        """The executed copy; None when it could not be written."""
        return self.folder.copy if self.folder.copy.is_file() else None


def claimed_record(request: RunRequest, run_id: str, started_at: datetime) -> RunRecord:
    """Return the record of a run that is about to start."""
    runbook = request.runbook
    cells = tuple(
        CellRecord(id=cell.id, index=cell.index, label=cell.label, tags=cell.tags, changes=cell.changes)
        for cell in runbook.code_cells
    )
    return RunRecord(
        run_id=run_id,
        status=RunState.RUNNING,
        runbook=RunbookRef(
            path=str(runbook.path),
            title=runbook.title,
            sha256=runbook.sha256,
            git=None if runbook.in_memory else git_state(runbook.path),
        ),
        parameters=request.binding.values,
        secrets=request.binding.secrets,
        targets=RunTargets(pattern=request.pattern, selected=request.selected),
        cells=cells,
        started_at=started_at,
        operator=operator_here(terminal=request.terminal),
        operator_reason=request.reason,
        notes=request.notes,
        checking=request.options.checking,
        parent=request.parent,
        versions=versions(),
        argv=request.argv,
    )
