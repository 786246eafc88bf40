"""Everything that happens in a run, as values.

An event is made once, by whoever saw the thing happen, and never changed. The recorder numbers, redacts and
appends them (`Entry`); journal, record, screen and CI output are all folded from the same sequence. A reader of a
journal maps an event type it does not know to nothing and keeps the line's bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from opsbook.model.run import CellError, CellRecord, CellState, RunState
from opsbook.model.target import JsonValue, TargetState


class RunStarted(Struct, frozen=True, kw_only=True, tag="run_started"):
    """The claim: what is about to run, with what, on what."""

    run_id: str
    title: str
    runbook: str = ""
    """The runbook's path, as it was given."""
    parameters: dict[str, JsonValue] = {}
    pattern: str | None = None
    selected: tuple[str, ...] = ()
    cells: tuple[CellRecord, ...] = ()
    resumed_from: str | None = None
    """The run this one goes on with."""


class CellStarted(Struct, frozen=True, kw_only=True, tag="cell_started"):
    cell_id: str
    attempt: int = 1


class CellEnded(Struct, frozen=True, kw_only=True, tag="cell_ended"):
    cell_id: str
    state: CellState
    duration_s: float = 0.0
    error: CellError | None = None
    attempt: int = 1
    reason: str = ""
    """Why it was left out, where somebody wanted it so."""
    output_cut: int = 0
    """Characters of its output over the cap, which nothing keeps."""
    output_lost: int = 0
    """Outputs the kernel handed over that never arrived."""


class CellOutput(Struct, frozen=True, kw_only=True, tag="cell_output"):
    """Text a cell printed or raised; `stream` is `stdout`, `stderr` or `error`."""

    cell_id: str
    stream: str
    text: str


class GateAnswered(Struct, frozen=True, kw_only=True, tag="gate_answered"):
    """A `confirm` cell was asked about; `by` is `terminal` or `--yes`."""

    cell_id: str
    granted: bool
    by: str


class WavesPlanned(Struct, frozen=True, kw_only=True, tag="waves_planned"):
    """A rolling change is about to begin: which targets are in which wave."""

    cell_id: str | None
    waves: tuple[tuple[str, ...], ...]


class CallStarted(Struct, frozen=True, kw_only=True, tag="call_started"):
    """A fleet call: one thing asked of several targets."""

    call: int
    cell_id: str | None
    kind: str
    """`run`, `reboot`, `wait_until`, `put`, `get`."""
    text: str
    """What is done, in one line: the script's first line, for people."""
    targets: tuple[str, ...]
    read_only: bool = False
    counted: bool = True
    """False for `check=False`: its results count against no target, no limit and no exit code."""
    wave: int | None = None
    waves: int | None = None
    """This call is wave number `wave` (from 1) of `waves`."""
    line: int = 0
    """Which line of a cell's code made the call, from 1; 0 where that is not known."""


class Intent(Struct, frozen=True, kw_only=True, tag="intent"):
    """A changing command is about to leave for a target: on disk and acknowledged before it does."""

    call: int
    cell_id: str | None
    target: str
    digest: str
    """sha256 of what is about to be done; see SEMANTICS 16."""
    kind: str
    boot_id: str | None = None
    """The target's boot id before a reboot: done means a different one."""
    spool: str | None = None
    """The name under which a durable command keeps its output and exit code on the target (SEMANTICS 9)."""


class TargetOutput(Struct, frozen=True, kw_only=True, tag="target_output"):
    """Whole lines a target said; `stream` is `stdout` or `stderr`. Goes to the host log, not into the journal."""

    call: int
    target: str
    stream: str
    text: str
    raw: bytes = b""
    """The bytes themselves, where they are not UTF-8; empty where `text` is all there is to know."""


class TargetEnded(Struct, frozen=True, kw_only=True, tag="target_ended"):
    """A call is over on one target. Carries the captured output, so that a resume can answer from it."""

    call: int
    cell_id: str | None
    target: str
    state: TargetState
    kind: str = "run"
    digest: str = ""
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    duration_s: float = 0.0
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    read_only: bool = False
    counted: bool = True
    masked: bool = False
    """Whether the redactor changed what was said: it is not what the target said, letter by letter."""
    replayed: bool = False
    """Whether nothing was sent, because an earlier run, or attempt, has this result already."""


class HostKeyRecorded(Struct, frozen=True, kw_only=True, tag="host_key_recorded"):
    """The key of a host nobody had seen before was taken for its own (`accept-new`): somebody should compare it."""

    target: str
    """The target's name, or a jump host's address."""
    address: str
    fingerprint: str
    file: str
    """The known_hosts file it was recorded in."""


class LockAwaited(Struct, frozen=True, kw_only=True, tag="lock_awaited"):
    """Something cannot begin before somebody else lets go of a lock."""

    cell_id: str | None
    targets: tuple[str, ...] = ()
    holder: str
    """What is held, and by whom, in a sentence."""


class MarksCleared(Struct, frozen=True, kw_only=True, tag="marks_cleared"):
    """What a run had left in the middle was acknowledged: its targets may be changed again."""

    run_id: str
    targets: tuple[str, ...]


class CallEnded(Struct, frozen=True, kw_only=True, tag="call_ended"):
    """A fleet call is over; `error` is the sentence it raised, or empty."""

    call: int
    cell_id: str | None
    error: str = ""


class OnceBegun(Struct, frozen=True, kw_only=True, tag="once_begun"):
    """A function that is not to be called again is about to be called: on disk before it is."""

    cell_id: str | None
    name: str
    digest: str
    """sha256 of the name: what finds it again."""


class OnceEnded(Struct, frozen=True, kw_only=True, tag="once_ended"):
    """It has returned, or raised."""

    cell_id: str | None
    name: str
    digest: str
    value: JsonValue = None
    error: str = ""
    """What it raised; then it may be called again."""
    masked: bool = False
    """Whether the redactor changed the value."""
    replayed: bool = False


class ReplayBlocked(Struct, frozen=True, kw_only=True, tag="replay_blocked"):
    """A resumed run cannot go on from here (SEMANTICS 18, 19): nothing of the call was sent."""

    cell_id: str | None
    exit_code: int
    reason: str
    targets: tuple[str, ...] = ()
    """Where something was sent before and nobody knows how it ended."""


class SecretUsed(Struct, frozen=True, kw_only=True, tag="secret_used"):
    """A secret's value was handed to the notebook's side. Nothing of the value is told, nor its length."""

    reference: str
    used_for: str
    """`notebook`, `--env NAME`, `[env] NAME`, `login` or `sudo`."""
    cell_id: str | None = None
    late: bool = False
    """Whether the run did not know the value before: what was written until then may hold it."""


class MetricRecorded(Struct, frozen=True, kw_only=True, tag="metric_recorded"):
    name: str
    value: JsonValue


class StopRequested(Struct, frozen=True, kw_only=True, tag="stop_requested"):
    """The run is to stop."""

    signal: str
    """The signal that asked for it, or `timeout` where the run's time is over."""


class RunEnded(Struct, frozen=True, kw_only=True, tag="run_ended"):
    status: RunState
    exit_code: int
    reason: str = ""


Event: TypeAlias = (
    RunStarted
    | CellStarted
    | CellEnded
    | CellOutput
    | GateAnswered
    | WavesPlanned
    | CallStarted
    | Intent
    | TargetOutput
    | TargetEnded
    | HostKeyRecorded
    | LockAwaited
    | MarksCleared
    | CallEnded
    | OnceBegun
    | OnceEnded
    | ReplayBlocked
    | SecretUsed
    | MetricRecorded
    | StopRequested
    | RunEnded
)


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the journal: the event, its number from 1, its time (UTC), and the hash of the line before."""

    seq: int
    at: datetime
    prev: str
    """sha256 of the previous line's bytes without its newline; 64 zeros on the first line."""
    event: Event
