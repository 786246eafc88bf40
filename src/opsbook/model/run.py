"""A run as a value: the record that `run.json` holds, and the states a cell and a run can be in.

The record is public (DESIGN, "Contracts"): a change of meaning needs a new `schema` number.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from opsbook.model.note import Acknowledgement
from opsbook.model.target import JsonValue, TargetState
from opsbook.model.vocabulary import OpenVocabulary

SCHEMA = 1


class CellState(OpenVocabulary):
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


class RunState(OpenVocabulary):
    """How a run ended, or that it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    UNKNOWN = "unknown"


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
    attempts: int = 0
    """How many times it was started."""
    error: CellError | None = None
    """What it raised at last, also where it is allowed to."""
    reason: str = ""
    """Why it was left out, where somebody wanted it so."""
    output_cut: int = 0
    """Characters of its output over the cap, which neither the executed copy nor the journal keeps."""
    output_lost: int = 0
    """Outputs the kernel handed over that never arrived."""
    targets: dict[str, TargetState] = {}
    """How its fleet calls ended, by target: the gravest state of those that count."""
    meme: str = ""
    """The MEME it has in the executed copy; empty where the copy has none of ours."""


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
    addresses: dict[str, str] = {}
    """`host:port` of each selected target, as the inventory said at the claim."""
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
    masked: bool = False
    """Whether a secret was masked in the bytes that are kept with the run: they are not those that ran."""
    git: GitState | None = None
    meme: str = ""
    """The notebook's MEME in the executed copy."""


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


class CellSelection(Struct, frozen=True, kw_only=True):
    """Which part of a runbook a run is to execute; nothing named is all of it."""

    sections: tuple[str, ...] = ()
    """Headings: everything under one, to the next of its level or above."""
    only_tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether anything is left out."""
        return bool(self.sections or self.only_tags or self.skip_tags)


class TimeLimits(Struct, frozen=True, kw_only=True):
    """How long things may take, in seconds; None for any time."""

    run_s: float | None = None
    cell_s: float | None = None
    """For each cell whose own tag does not say."""
    always_s: float = 60.0
    """For each `always` or `on-failure` cell that runs after a failure or a stop."""


class RunShape(Struct, frozen=True, kw_only=True):
    """What shaped a run besides its runbook, its parameters and its targets: a resumed run takes it over."""

    folder: str = ""
    """Where the runbook lies, and its cells work."""
    inventory: tuple[str, ...] = ()
    """The inventory's sources."""
    max_fail: str = "0"
    parallel: int = 64
    host_keys: str = "strict"
    command_timeout_s: float = 1800.0
    idle_timeout_s: float | None = None
    lock: str | None = None
    """The name of the lock that is held for the whole run (`--lock`)."""


class SecretUse(Struct, frozen=True, kw_only=True):
    """One secret a run has used for one thing in one cell. Says nothing of its value, nor of its length."""

    reference: str
    used_for: str
    """`notebook`, `--env NAME`, `[env] NAME`, `login` or `sudo`."""
    cell_id: str | None = None
    first_at: datetime
    times: int = 1


class Incident(Struct, frozen=True, kw_only=True):
    """A secret that was written in clear, because it was not known yet, and masked before the run was over."""

    secret: str
    """What it is called: its reference."""
    file: str
    """The file in the run's folder."""
    line: int
    """The first line it stood in, from 1; 0 where the file has no lines to name."""
    masked: bool = True
    """Whether it is masked there now; if not, it stands there in clear."""

    @property
    def sentence(self) -> str:
        """Say it for a reader of the record."""
        where = f"{self.file} (line {self.line})" if self.line else self.file
        now = "it is masked there now" if self.masked else "it could not be masked and still stands there in clear"
        return f"{self.secret} was written to {where} before it was known to be a secret; {now}"


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
    """The names of the secret parameters."""
    secret_uses: tuple[SecretUse, ...] = ()
    """Which secrets were handed out, and for what."""
    targets: RunTargets = RunTargets()
    cells: tuple[CellRecord, ...] = ()
    selection: CellSelection = CellSelection()
    limits: TimeLimits = TimeLimits()
    shape: RunShape | None = None
    """None in the record of an older opsbook."""
    metrics: dict[str, JsonValue] = {}
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    acknowledged: tuple[Acknowledgement, ...] = ()
    """The blocking notes it was started in spite of (`--ack-note`)."""
    incidents: tuple[Incident, ...] = ()
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

    @property
    def short_of(self) -> str:
        """What keeps a run that went well from being a success of its runbook; empty when nothing does."""
        part = "part of the runbook" if self.selection.is_part else ""
        return ", ".join(filter(None, ["dry run" if self.checking else "", part]))

    claim: str | None = None
    """The id the caller gave this run (`--run-id`)."""
