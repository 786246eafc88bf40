"""What crosses the control channel between the notebook's fleet and the runner: one JSON line each way.

Requests carry a `ticket`, a number the kernel side chooses; the answer to it carries the same one. Reports have
none and get no answer, but are read in the order they were sent, so whatever was reported before a ticket is on
its way to disk when the ticket is answered.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from opsbook.config import Settings
from opsbook.errors import ExitCode
from opsbook.model.amount import parse_duration, parse_share
from opsbook.model.event import Event, Intent, OnceEnded, TargetEnded
from opsbook.model.target import Inventory, JsonValue

CHANNEL_VARIABLE = "OPSBOOK_CHANNEL"
"""The environment variable that tells a kernel which descriptor its runner listens on."""
ATTEMPT_KEY = "attempt"
"""Where in its request to run a cell our runner says, beside the cell's id, which attempt this is, from 1."""


class RunOptions(Struct, frozen=True, kw_only=True):
    """How fleet calls behave in this run unless the call itself says otherwise."""

    parallel: int = 64
    max_fail: str = "0"
    host_keys: str = "strict"
    """`strict`, `accept-new` or `off` (SEMANTICS 26)."""
    known_hosts: tuple[str, ...] = ()
    ssh_config: str | None = None
    """The ssh_config file to read instead of the user's and the system's; `none` for none at all."""
    password: str | None = None
    """The reference of the password to log in with, where the inventory names none."""
    sudo_password: str | None = None
    """The reference of the password sudo asks for, where the inventory names none."""
    connect_timeout_s: float = 10.0
    keepalive_s: float = 15.0
    """Seconds between questions to a silent connection; after three without an answer it is dead."""
    command_timeout_s: float = 1800.0
    idle_timeout_s: float | None = None
    """Seconds a command may say nothing; None for any time."""
    lock_wait_s: float = 0.0
    """Seconds to wait for a lock somebody else holds."""
    checking: bool = False
    """Whether this is a dry run: nothing leaves that is not marked read-only (SEMANTICS 24)."""
    withheld: tuple[str, ...] = ()
    """Variables that hold secrets: no program that is started to reach a target has them."""

    @classmethod
    def from_settings(
        cls, settings: Settings, *, host_keys: str = "", max_fail: str | None = None, parallel: int | None = None
    ) -> RunOptions:
        """Return what the settings say, and what flags lay over them.

        Raises:
            UsageError: an amount cannot be understood.
        """
        limit = settings.max_fail if max_fail is None else max_fail
        parse_share(limit, of=1)  # wrong here is better than wrong in the middle of a run
        idle, ssh = settings.idle_timeout, settings.ssh
        return cls(
            parallel=settings.parallel if parallel is None else parallel,
            max_fail=str(limit),
            host_keys=host_keys or ssh.host_keys or "strict",
            known_hosts=ssh.known_hosts,
            ssh_config=ssh.config,
            password=ssh.password,
            sudo_password=ssh.sudo_password,
            connect_timeout_s=parse_duration(ssh.connect_timeout),
            keepalive_s=parse_duration(ssh.keepalive),
            command_timeout_s=parse_duration(settings.command_timeout),
            idle_timeout_s=None if idle is None else parse_duration(idle),
        )


# kernel to runner


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """The kernel's side is there; answered by `Welcome`."""

    ticket: int
    version: str


class Report(Struct, frozen=True, kw_only=True, tag="report"):
    """Something happened in the fleet. No answer."""

    event: Event


class IntentRequest(Struct, frozen=True, kw_only=True, tag="intent_request"):
    """A changing command wants to leave; answered by `Ack` when the intent is on disk, or by `Refusal`."""

    ticket: int
    intent: Intent


class Recall(Struct, frozen=True, kw_only=True, tag="recall"):
    """What is known of a call from before, asked once and before anything of it is sent; answered by `Recalled`."""

    ticket: int = 0
    cell_id: str | None
    attempt: int = 1
    """How often the cell was begun in this run."""
    line: int = 0
    """See `CallStarted.line`."""
    kind: str
    text: str
    read_only: bool = False
    fresh: bool = False
    """Whether a read-only call wants no answer from before."""
    idempotent: bool = False
    """Whether doing it twice is as good as once."""
    digests: dict[str, str]
    """What identifies the call, by target."""


class LockRequest(Struct, frozen=True, kw_only=True, tag="lock_request"):
    """A changing call wants targets for itself; answered by `Ack` when they are this run's, or by `Refusal`."""

    ticket: int
    cell_id: str | None
    targets: dict[str, str]
    """Each target's name and address: two names of one address are one lock."""


class LockGivenUp(Struct, frozen=True, kw_only=True, tag="lock_given_up"):
    """Nobody waits any more for the locks asked for with this ticket. No answer."""

    ticket: int


class CellDone(Struct, frozen=True, kw_only=True, tag="cell_done"):
    """A cell's code has returned; answered by `Ack` when all it reported is recorded."""

    ticket: int
    cell_id: str | None


class Settle(Struct, frozen=True, kw_only=True, tag="settle"):
    """What was reported has to be on disk before something else is let go; answered by `Ack`, or by `Refusal`."""

    ticket: int


class SecretRequest(Struct, frozen=True, kw_only=True, tag="secret_request"):
    """The notebook reveals a secret; answered by `SecretValue`, or by `Refusal`."""

    ticket: int
    reference: str
    used_for: str = ""
    """See `SecretUsed.used_for`."""
    cell_id: str | None = None


class Cancelling(Struct, frozen=True, kw_only=True, tag="cancelling"):
    """The kernel's side has seen a `Cancel`; `in_flight` says whether it is ending remote commands itself."""

    in_flight: bool


# runner to kernel


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """Everything the notebook's fleet needs to know about its run."""

    ticket: int
    run_id: str
    inventory: Inventory | None
    selected: tuple[str, ...]
    """The names `targets()` gives: all, or what `-t` left."""
    limited: bool
    """Whether `-t` was given."""
    parameters: dict[str, JsonValue] = {}
    secrets: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    """Variables of the notebook's that are secrets: their references, by name."""
    options: RunOptions = RunOptions()
    replaying: bool = False
    """Whether the run resumes another one, so that each call has to ask first what is known of it."""


class Recalled(Struct, frozen=True, kw_only=True, tag="recalled"):
    """What is known: to the targets that are not named here the call is sent."""

    ticket: int
    source: str = ""
    """The run that is resumed; empty where an earlier attempt of the same cell is meant."""
    answers: dict[str, TargetEnded] = {}
    """How it ended, where that is known and is to be taken over."""
    pending: dict[str, Intent] = {}
    """What was sent and whose end only the target knows: it is asked before anything is sent again."""
    once: OnceEnded | None = None
    blocked: str = ""
    """Why the run cannot go on: nothing of the call may be sent."""
    hint: str = ""


class Ack(Struct, frozen=True, kw_only=True, tag="ack"):
    ticket: int


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal"):
    """The request was not granted; `reason` is a sentence for the author."""

    ticket: int
    reason: str
    code: ExitCode = ExitCode.REFUSED
    """What the run would end with for it, had it changed nothing yet."""


class SecretValue(Struct, frozen=True, kw_only=True, tag="secret_value"):
    ticket: int
    value: str

    def __repr__(self) -> str:
        """Show nothing of the value: a traceback may show this."""
        return f"SecretValue(ticket={self.ticket})"


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop: start nothing new; with `hard`, end the running remote commands too."""

    hard: bool


FromKernel: TypeAlias = (
    Hello | Report | IntentRequest | Recall | LockRequest | LockGivenUp | CellDone | Settle | SecretRequest | Cancelling
)
ToKernel: TypeAlias = Welcome | Recalled | Ack | Refusal | SecretValue | Cancel
