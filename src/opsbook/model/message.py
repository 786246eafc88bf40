"""What crosses the control channel between the notebook's fleet and the runner: one JSON line each way.

Requests carry a `ticket`, a number the kernel side chooses; the answer to it carries the same one. Reports have
none and get no answer, but are read in the order they were sent, so whatever was reported before a ticket is on
its way to disk when the ticket is answered.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from opsbook.config import Settings
from opsbook.model.amount import parse_duration, parse_share
from opsbook.model.event import Event, Intent
from opsbook.model.target import Inventory, JsonValue

CHANNEL_VARIABLE = "OPSBOOK_CHANNEL"
"""The environment variable that tells a kernel which descriptor its runner listens on."""


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
    checking: bool = False
    """Whether this is a dry run: nothing leaves that is not marked read-only (SEMANTICS 24)."""

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
    options: RunOptions = RunOptions()


class Ack(Struct, frozen=True, kw_only=True, tag="ack"):
    ticket: int


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal"):
    """The request was not granted; `reason` is a sentence for the author."""

    ticket: int
    reason: str


class SecretValue(Struct, frozen=True, kw_only=True, tag="secret_value"):
    ticket: int
    value: str


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop: start nothing new; with `hard`, end the running remote commands too."""

    hard: bool


FromKernel: TypeAlias = Hello | Report | IntentRequest | CellDone | Settle | SecretRequest | Cancelling
ToKernel: TypeAlias = Welcome | Ack | Refusal | SecretValue | Cancel
