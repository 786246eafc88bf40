"""What can be done on one target: run a script, wait until something holds; rebooting has a module of its own.

An operation knows one target at a time. It gets a `Work` that connects, keeps the intent ahead of every changing
command, and ends it when the call is cancelled. It returns a result, or raises `ConnectError` when nothing was sent.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from opsbook.errors import ConnectError
from opsbook.inventory.values import unusable
from opsbook.model.event import Intent
from opsbook.model.target import Target, TargetState
from opsbook.runbook.parameters import is_shell_name
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection


class Job(Protocol):
    """One exchange on one connection: a command, or the transfer of a file."""

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """Call `before_send` at the last moment (what it raises is raised, and nothing was sent), then do it.

        Raises:
            ConnectError: nothing was sent, and trying again is safe.
        """

    def cancel(self) -> None:
        """End it; from any thread, at any time."""


class Work(Protocol):
    """One target, as an operation sees it."""

    @property
    def target(self) -> Target:
        """Where this is."""

    @property
    def earlier(self) -> Intent | None:
        """What an earlier run sent here and saw no end of: the target knows what came of it."""

    def run(
        self,
        script: Script,
        *,
        timeout_s: float,
        changing: bool,
        connect_s: float | None = None,
        boot_id: str | None = None,
        idle_s: float | None = None,
    ) -> CommandResult:
        """Run a script; when it is changing, its intent is on disk before it leaves.

        It ends after `timeout_s` seconds, or when it says nothing for `idle_s`.

        Raises:
            ConnectError: the target cannot be reached: nothing was sent.
        """

    def run_durable(
        self, script: Script, *, timeout_s: float, idle_s: float | None = None, spool: str | None = None
    ) -> CommandResult:
        """Run a changing script that neither a lost link nor the end of this program ends (SEMANTICS 9).

        With the `spool` of an earlier intent the script is not started: the target is asked how that one ended, or
        will. It is `unreachable` when it never started, and from now on it cannot.

        Raises:
            ConnectError: the target cannot be reached: nothing was sent.
        """

    def do(self, make: Callable[[Connection], Job], *, changing: bool) -> CommandResult:
        """Make a job of another kind for the target's connection and do it, by the rules of `run`.

        Raises:
            ConnectError: the target cannot be reached: nothing was sent.
        """

    def disconnect(self) -> None:
        """Drop the connection; the next script opens another."""

    def pause(self, seconds: float) -> bool:
        """Wait, unless the call is cancelled; whether it was."""


class Operation(Protocol):
    """One thing to do on each target of a call."""

    @property
    def kind(self) -> str:
        """`run`, `reboot` or `wait_until`."""

    @property
    def script(self) -> Script:
        """What is sent."""

    @property
    def text(self) -> str:
        """What it does, in one line."""

    @property
    def read_only(self) -> bool:
        """Whether it changes nothing."""

    def digest(self, target: Target) -> str:
        """Identify what is done there: sha256 of everything that matters (SEMANTICS 16)."""

    def perform(self, work: Work) -> CommandResult:
        """Do it on one target."""


def on_target(script: Script, target: Target) -> Script:
    """Return the script as the user it runs as on this target, where the call leaves that to the inventory."""
    become = target.become
    sudo = (become.always or script.as_user is not None) if script.sudo is None else script.sudo
    return msgspec.structs.replace(script, sudo=sudo, as_user=(script.as_user or become.user) if sudo else None)


def first_line(text: str) -> str:
    """Return the first line of a script that says something."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def digest_of(kind: str, script: Script, secret_names: tuple[str, ...]) -> str:
    """Hash what is done; a secret counts by its name, and timeouts do not count."""
    environment = {name: value for name, value in script.environment.items() if name not in secret_names}
    known = msgspec.structs.replace(script, environment=environment | dict.fromkeys(secret_names, "secret"))
    return hashlib.sha256(kind.encode() + b"\0" + msgspec.json.encode(known, order="sorted")).hexdigest()


class RunScript(msgspec.Struct, frozen=True, kw_only=True):
    """Run a script once."""

    script: Script
    timeout_s: float
    read_only: bool = False
    secret_names: tuple[str, ...] = ()
    """The environment variables that hold secrets."""
    vars: bool = False
    """Whether the target's inventory variables become shell variables."""
    durable: bool = False
    idle_s: float | None = None
    kind: str = "run"

    @property
    def text(self) -> str:
        """The script's first line."""
        return first_line(self.script.text)

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        return digest_of(self.kind, self._on(target), self.secret_names)

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`. Variables that cannot be used as they stand are refused before anything is sent."""
        refused = [f"{name} {why}" for name, why in self._unusable(work.target).items() if self._names(name)]
        if refused:
            return CommandResult(state=TargetState.FAILED, reason=f"variable {'; '.join(refused)}; nothing was sent")
        script = self._on(work.target)
        spool = work.earlier.spool if work.earlier is not None else None
        if spool is not None:
            found = work.run_durable(script, timeout_s=self.timeout_s, idle_s=self.idle_s, spool=spool)
            if found.state is not TargetState.UNREACHABLE:  # else it never started, and from now on it cannot
                return found
        if self.durable:
            return work.run_durable(script, timeout_s=self.timeout_s, idle_s=self.idle_s)
        return work.run(script, timeout_s=self.timeout_s, changing=not self.read_only, idle_s=self.idle_s)

    def _on(self, target: Target) -> Script:
        """Return the script as this target gets it."""
        out = self._unusable(target)
        own = {name: shell_value(value) for name, value in target.vars.items()} if self.vars else {}
        names = (name for name in own if name.isidentifier() and name.isascii() and not is_shell_name(name))
        usable = {name: own[name] for name in names if name not in out}
        return on_target(msgspec.structs.replace(self.script, variables={**usable, **self.script.variables}), target)

    def _unusable(self, target: Target) -> dict[str, str]:
        """Say why, by name, of the target's variables that would be set and cannot be used as they stand."""
        own = target.vars.items() if self.vars else ()
        return {name: why for name, value in own if name not in self.script.variables and (why := unusable(value))}

    def _names(self, name: str) -> bool:
        """Whether the script speaks of a variable: `$name` or `${name}`."""
        return re.search(rf"\$(\{{[#!]?)?{re.escape(name)}(?![A-Za-z0-9_])", self.script.text) is not None


class WaitUntil(msgspec.Struct, frozen=True, kw_only=True):
    """Ask again and again until a script ends with 0. Changes nothing."""

    script: Script
    every_s: float
    timeout_s: float
    kind: str = "wait_until"
    read_only: bool = True

    @property
    def text(self) -> str:
        """What has to hold."""
        return first_line(self.script.text)

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        return digest_of(self.kind, on_target(self.script, target), ())

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`. A target that cannot be reached yet is asked again."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                asked = work.run(
                    on_target(self.script, work.target),
                    timeout_s=min(left, 60),
                    changing=False,
                    connect_s=min(left, 10),
                )
                if asked.state in {TargetState.OK, TargetState.CANCELLED, TargetState.BECOME}:
                    return asked  # a password that was refused is not said again and again: that locks accounts
            except ConnectError as error:
                if error.state != TargetState.UNREACHABLE or deadline - time.monotonic() <= self.every_s:
                    raise
                asked = CommandResult(state=TargetState.UNREACHABLE, reason=str(error))
            if deadline - time.monotonic() <= self.every_s:
                last = next(iter(reversed((asked.stdout + asked.stderr).strip().splitlines())), asked.reason)
                return msgspec.structs.replace(
                    asked, state=TargetState.TIMED_OUT, reason=f"did not hold within {self.timeout_s:g} s: {last}"
                )
            if work.pause(self.every_s):
                return CommandResult(state=TargetState.CANCELLED, reason="cancelled while waiting")


def shell_value(value: object) -> str:
    """Say a parameter's value as a shell variable: words as they are, true and false, lists with blanks between."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return " ".join(shell_value(item) for item in value)
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return str(value)


def new_marker() -> str:
    """Return text nobody else prints."""
    return f"opsbook-{secrets.token_hex(12)}"


def new_spool() -> str:
    """Return a fresh name for what a durable command keeps on its target."""
    return secrets.token_hex(12)
