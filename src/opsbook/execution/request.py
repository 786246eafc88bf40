"""What is decided before a run starts, and what is there when it has ended: the values the runner takes and gives.

A request becomes the record that is written at the claim. Knows nothing of kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from opsbook.archive.layout import RunFolder
from opsbook.config import EnvSettings, LogSettings, OutputSettings, RedactSettings
from opsbook.execution.origin import git_state, operator_here, versions
from opsbook.execution.replay import Replay
from opsbook.model.message import RunOptions
from opsbook.model.note import Acknowledgement, Note
from opsbook.model.parameter import Binding
from opsbook.model.run import (
    CellRecord,
    CellSelection,
    RunbookRef,
    RunRecord,
    RunShape,
    RunState,
    RunTargets,
    TimeLimits,
)
from opsbook.model.target import Inventory
from opsbook.runbook.lineage import Branching, MemeRule
from opsbook.runbook.notebook import Runbook

UNCHECKED = "host keys were not checked (--host-keys off)"
MASKED = "a secret stands in the runbook itself: it is kept with that masked"
DRY = "a dry run (--check): only read-only commands were sent; local Python ran"


class Locking(Struct, frozen=True, kw_only=True):
    """What a run locks besides its targets, where the locks lie, and whose marks it takes back."""

    path: str | None = None
    """The folder of the locks, as the settings name it."""
    name: str | None = None
    """The lock that is held for the whole run (`--lock`)."""
    acknowledge: str | None = None
    """The run whose targets, left in the middle, may be changed again (`--acknowledge`)."""


class Resumption(Struct, frozen=True, kw_only=True):
    """The run that is resumed, and what is known of it."""

    folder: RunFolder
    replay: Replay
    notes: tuple[str, ...] = ()
    """What differs from the run before."""
    secrets: tuple[str, ...] = ()
    """The references of what it was given: this run masks it before it asks for it itself."""


class Noted(Struct, frozen=True, kw_only=True):
    """What people have written about the cells of a run, and what of it somebody has acknowledged."""

    found: tuple[Note, ...] = ()
    acknowledged: tuple[str, ...] = ()
    """The ids of the notes that `--ack-note` names."""

    @property
    def blocking(self) -> tuple[Note, ...]:
        """The notes that keep a run from starting."""
        return tuple(note for note in self.found if note.blocks and note.id not in self.acknowledged)

    def overruled(self, by: str) -> tuple[Acknowledgement, ...]:
        """Return the blocking notes that do not, because somebody has acknowledged them."""
        held = (note for note in self.found if note.blocks and note.id in self.acknowledged)
        return tuple(Acknowledgement(note=note.id, by=by, text=note.text) for note in held)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Say them, for the record."""
        return tuple(
            f"{note.recorded} (acknowledged with --ack-note)" if note.blocks else note.recorded for note in self.found
        )


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
    env: EnvSettings = EnvSettings()
    output: OutputSettings = OutputSettings()
    logs: LogSettings = LogSettings()
    redact: RedactSettings = RedactSettings()
    selection: CellSelection = CellSelection()
    """What the runbook's cells were chosen by: those left out are marked in it."""
    limits: TimeLimits = TimeLimits()
    parent: str | None = None
    """The run whose failed targets this one is given."""
    locking: Locking = Locking()

    claim: str | None = None
    """What `--run-id` said: at most one run of the archive has this id."""
    shared: bool = False
    """Whether the run's files are open to the archive's group."""

    resumed: Resumption | None = None
    """The run this one goes on with."""
    exposed: tuple[str, ...] = ()
    """References of files that everybody on this machine can read."""

    meme: MemeRule = "auto"
    """Whether the executed copy has MEMEs."""
    noted: Noted = Noted()

    @property
    def limited(self) -> bool:
        """Whether the run was given a part of the inventory only: a resumed one has the targets of the one before."""
        return self.pattern is not None or self.parent is not None or self.resumed is not None

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the selected targets, by name."""
        known = self.inventory.targets if self.inventory is not None else ()
        chosen = frozenset(self.selected)
        return {target.name: target.address for target in known if target.name in chosen}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the record should know from the start."""
        acknowledged = self.locking.acknowledge
        notes = (
            (self.options.host_keys == "off", UNCHECKED),
            (self.options.checking, DRY),
            (acknowledged is not None, f"what run {acknowledged} left in the middle was acknowledged (--acknowledge)"),
        )
        resumed = (
            () if self.resumed is None else (f"goes on with run {self.resumed.folder.run_id}", *self.resumed.notes)
        )
        return (*(note for holds, note in notes if holds), *resumed, *self._sealed, *self._open, *self.noted.sentences)

    @property
    def _open(self) -> tuple[str, ...]:
        return tuple(f"{file}: everybody on this machine can read that file (chmod 600)" for file in self.exposed)

    @property
    def _sealed(self) -> tuple[str, ...]:
        """Say which files of variables nobody can read."""
        chosen, known = frozenset(self.selected), self.inventory.targets if self.inventory is not None else ()
        files = dict.fromkeys(file for target in known if target.name in chosen for file in target.sealed)
        return tuple(f"{file} is encrypted by ansible-vault: what it sets is not known" for file in files)


class FinishedRun(Struct, frozen=True, kw_only=True):
    """A run that has ended: its record, and where its files lie."""

    record: RunRecord
    folder: RunFolder
    said: tuple[str, ...] = ()
    """What a person has to be told besides, in sentences."""

    @property
    def copy(self) -> Path | None:
        """The executed copy; None when it could not be written."""
        return self.folder.copy if self.folder.copy.is_file() else None


def run_shape(request: RunRequest) -> RunShape:
    """Return what shapes a run besides its runbook, so that it can be resumed as it was."""
    options, sources = request.options, request.inventory.sources if request.inventory is not None else ()
    return RunShape(
        folder=str(request.runbook.path.absolute().parent),
        inventory=tuple(str(Path(source).absolute()) for source in sources),
        max_fail=options.max_fail,
        parallel=options.parallel,
        host_keys=options.host_keys,
        command_timeout_s=options.command_timeout_s,
        idle_timeout_s=options.idle_timeout_s,
        lock=request.locking.name,
    )


def _claimed_cells(runbook: Runbook, memes: Mapping[str, str]) -> Iterator[CellRecord]:
    for cell in runbook.code_cells:
        facts = {name: getattr(cell, name) for name in ("id", "index", "label", "tags", "changes")}
        yield CellRecord(**facts, meme=memes.get(cell.id, ""))


def claimed_record(
    request: RunRequest,
    run_id: str,
    started_at: datetime,
    *,
    masked: bool,
    branching: Branching | None = None,
) -> RunRecord:
    """Return the record of a run that is about to start; `masked` where its runbook is kept with secrets masked."""
    runbook = request.runbook
    operator = operator_here(terminal=request.terminal)
    return RunRecord(
        run_id=run_id,
        status=RunState.RUNNING,
        runbook=RunbookRef(
            path=str(runbook.path),
            title=runbook.title,
            sha256=runbook.sha256,
            masked=masked,
            git=None if runbook.in_memory else git_state(runbook.path),
            meme=branching.notebook if branching is not None else "",
        ),
        parameters=request.binding.values,
        secrets=request.binding.secrets,
        targets=RunTargets(pattern=request.pattern, selected=request.selected, addresses=request.addresses),
        cells=tuple(_claimed_cells(runbook, branching.cells if branching is not None else {})),
        started_at=started_at,
        operator=operator,
        acknowledged=request.noted.overruled(operator.user),
        operator_reason=request.reason,
        notes=(*request.notes, *((MASKED,) if masked else ())),
        checking=request.options.checking,
        selection=request.selection,
        limits=request.limits,
        parent=request.parent,
        resumed_from=request.resumed.folder.run_id if request.resumed is not None else None,
        shape=run_shape(request),
        claim=request.claim,
        versions=versions(),
        argv=request.argv,
    )
