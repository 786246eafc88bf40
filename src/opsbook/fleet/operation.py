"""What can be done on one target: run a script, reboot, wait until something holds.

An operation knows one target at a time. It gets a `Work` that connects, keeps the intent ahead of every changing
command, and ends it when the call is cancelled. It returns a result, or raises `ConnectError` when nothing was sent.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from opsbook.errors import ConnectError
from opsbook.model.target import Target, TargetState
from opsbook.runbook.parameters import is_shell_name
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection

BOOT_ID = "cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.boottime 2>/dev/null || who -b"
"""Prints what changes at every boot, on Linux, on the BSDs and macOS, and elsewhere."""
SHORT_S = 15.0
"""Seconds a question such as the boot id may take."""
BACK_OFF_S = (1.0, 1.0, 2.0, 2.0, 5.0)
"""Pauses between attempts to reach a machine that is booting; the last one repeats."""


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

    def run(
        self,
        script: Script,
        *,
        timeout_s: float,
        changing: bool,
        connect_s: float | None = None,
        boot_id: str | None = None,
        spool: str | None = None,
    ) -> CommandResult:
        """Run a script; when it is changing, its intent is on disk before it leaves.

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


def _digest(kind: str, script: Script, secret_names: tuple[str, ...]) -> str:
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
    kind: str = "run"

    @property
    def text(self) -> str:
        """The script's first line."""
        return first_line(self.script.text)

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        return _digest(self.kind, self._on(target), self.secret_names)

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        return work.run(self._on(work.target), timeout_s=self.timeout_s, changing=not self.read_only)

    def _on(self, target: Target) -> Script:
        """Return the script as this target gets it."""
        own = {name: shell_value(value) for name, value in target.vars.items()} if self.vars else {}
        names = (name for name in own if name.isidentifier() and name.isascii() and not is_shell_name(name))
        usable = {name: own[name] for name in names}
        return on_target(msgspec.structs.replace(self.script, variables={**usable, **self.script.variables}), target)


class Reboot(msgspec.Struct, frozen=True, kw_only=True):
    """Reboot, and be done when the boot id is a different one (SEMANTICS 11)."""

    script: Script
    """How to ask for a reboot; its text is the command."""
    timeout_s: float
    kind: str = "reboot"
    read_only: bool = False

    @property
    def text(self) -> str:
        """The command."""
        return self.script.text

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        return _digest(self.kind, on_target(self.script, target), ())

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        deadline = time.monotonic() + self.timeout_s
        asked = work.run(Script(text=BOOT_ID), timeout_s=SHORT_S, changing=False)
        before = asked.stdout.strip()
        if asked.state is not TargetState.OK or not before:
            return _failed(asked, "its boot id cannot be read, so a reboot could not be proven; nothing was done")
        sent = work.run(on_target(self._detached(), work.target), timeout_s=SHORT_S, changing=True, boot_id=before)
        if sent.state not in {TargetState.OK, TargetState.LOST}:
            return _failed(sent, sent.reason or "the reboot was refused")
        work.disconnect()
        return self._await_boot(work, before, deadline)

    def _detached(self) -> Script:
        """Return a script that reboots a second later, so that this one can still say that it was understood."""
        name = shlex.quote(self.script.text.split()[0])
        text = (
            'PATH="$PATH:/usr/sbin:/sbin"\n'
            f"command -v {name} >/dev/null || {{ echo no such command: {name} >&2; exit 127; }}\n"
            f"$(command -v setsid || true) sh -c {shlex.quote(f'sleep 1; {self.script.text}')} "
            "</dev/null >/dev/null 2>&1 &"
        )
        return msgspec.structs.replace(self.script, text=text)

    def _await_boot(self, work: Work, before: str, deadline: float) -> CommandResult:
        seen = "it went down and did not come back"
        for attempt in range(1_000_000):
            if work.pause(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]):
                return CommandResult(state=TargetState.CANCELLED, reason="cancelled while it was rebooting")
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                asked = work.run(
                    Script(text=BOOT_ID), timeout_s=min(SHORT_S, left), changing=False, connect_s=min(5, left)
                )
            except ConnectError as error:
                if error.state == TargetState.HOSTKEY:
                    raise
                work.disconnect()
                continue  # it is down, or its sshd is not up yet
            now = asked.stdout.strip()
            if asked.state is TargetState.OK and now and now != before:
                return CommandResult(state=TargetState.OK, exit_code=0, stdout=f"boot id {before} -> {now}\n")
            seen = "it never went down" if now == before else seen
        reason = f"no new boot id after {self.timeout_s:g} s: {seen}"
        return CommandResult(state=TargetState.TIMED_OUT, reason=reason)


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
        return _digest(self.kind, on_target(self.script, target), ())

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
                if asked.state in {TargetState.OK, TargetState.CANCELLED}:
                    return asked
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


def _failed(result: CommandResult, reason: str) -> CommandResult:
    """Return a result that is not ok, for this reason."""
    state = TargetState.FAILED if result.state in {TargetState.OK, TargetState.FAILED} else result.state
    return msgspec.structs.replace(result, state=state, reason=reason)


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
