"""A run as a value: the record that `run.json` holds, and the states a cell and a run can be in.

The record is public (DESIGN, "Contracts"): a change of meaning needs a new `schema` number.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from opsbook.model.target import JsonValue, TargetState

SCHEMA = 1


class CellState(StrEnum):
    """How far a cell got. Set from evidence only; nothing turns `not_run` into `ok`."""

    NOT_RUN = "not_run"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> CellState:
        return cls.UNKNOWN


class RunState(StrEnum):
    """How a run ended, or that it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> RunState:
        return cls.UNKNOWN


class CellError(Struct, frozen=True, kw_only=True):
    """What a cell raised: the exception's name and its text, without the traceback."""

    name: str
    text: str


class CellRecord(Struct, frozen=True, kw_only=True):
    """One code cell of a run."""

    id: str
    index: int
    """Position in the runbook, from 0, counting every cell of the file."""
    label: str
    """What a reader calls it: the heading above, or the first line of its code."""
    tags: tuple[str, ...] = ()
    changes: bool = False
    """Whether its text asks targets to change something (an `%%on` cell that is not read-only)."""
    state: CellState = CellState.NOT_RUN
    started_at: datetime | None = None
    duration_s: float | None = None
    error: CellError | None = None
    targets: dict[str, TargetState] = {}
    """How its fleet calls ended, by target: the gravest state of those that count."""


class TargetOutcome(Struct, frozen=True, kw_only=True):
    """What became of one target over a whole run: its last failure, else that it was left out, else that it is ok."""

    state: TargetState = TargetState.NOT_RUN
    exit_code: int | None = None
    reason: str = ""
    cell_id: str | None = None
    """The cell in which it came to this state."""
    duration_s: float = 0.0
    """Seconds spent working on this target, over all calls that count."""


class RunTargets(Struct, frozen=True, kw_only=True):
    """Which targets a run was given and what became of those it asked for."""

    pattern: str | None = None
    selected: tuple[str, ...] = ()
    results: dict[str, TargetOutcome] = {}


class GitState(Struct, frozen=True, kw_only=True):
    """Where in a repository the runbook's bytes came from."""

    commit: str
    describe: str
    dirty: bool


class RunbookRef(Struct, frozen=True, kw_only=True):
    """Which runbook, and which bytes of it, ran."""

    path: str
    title: str
    sha256: str
    git: GitState | None = None


class Operator(Struct, frozen=True, kw_only=True):
    """Who asked for the run, from which machine and process."""

    user: str
    host: str
    pid: int
    process_started: str = ""
    """The kernel's start time of the process, so that a reused pid is not mistaken for it."""
    terminal: bool = False


class Check(Struct, frozen=True, kw_only=True):
    """One verification a runbook reported."""

    name: str
    ok: bool
    detail: str = ""


class RunRecord(Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """`run.json`: written at the claim as running, replaced as a whole when the run has ended."""

    schema_version: int = SCHEMA
    run_id: str
    status: RunState
    reason: str = ""
    exit_code: int | None = None
    runbook: RunbookRef
    parameters: dict[str, JsonValue] = {}
    secrets: tuple[str, ...] = ()
    targets: RunTargets = RunTargets()
    cells: tuple[CellRecord, ...] = ()
    metrics: dict[str, JsonValue] = {}
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    started_at: datetime
    ended_at: datetime | None = None
    duration_s: float | None = None
    operator: Operator
    operator_reason: str = ""
    """What `--reason` said."""
    checking: bool = False
    """A dry run (`--check`): no success of the runbook, and nothing to resume."""
    versions: dict[str, str] = {}
    argv: tuple[str, ...] = ()
    parent: str | None = None
    resumed_from: str | None = None
