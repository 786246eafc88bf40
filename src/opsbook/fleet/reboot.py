"""Rebooting one target, and knowing that it did: done is a different boot id, not an open port (SEMANTICS 11)."""

from __future__ import annotations

import hashlib
import re
import shlex
import time

import msgspec

from opsbook.errors import ConnectError
from opsbook.fleet.operation import Work, digest_of, on_target
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script

BOOT_ID = "cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.boottime 2>/dev/null || who -b"
"""Prints what changes at every boot, on Linux, on the BSDs and macOS, and elsewhere."""
SHORT_S = 15.0
"""Seconds a question such as the boot id may take."""
BACK_OFF_S = (1.0, 1.0, 2.0, 2.0, 5.0)
"""Pauses between attempts to reach a machine that is booting; the last one repeats."""
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STILL_UP = "it was not rebooted since"
LOGIN_PAUSE_S, MOST_REFUSALS = 20.0, 3
"""A machine that boots may refuse logins for a while; one that goes on refusing is not asked until an account locks."""


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
        return digest_of(self.kind, on_target(self.script, target), ())

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        deadline = time.monotonic() + self.timeout_s
        booted = self._done_before(work, deadline)
        if booted is not None:
            return booted
        asked = work.run(Script(text=BOOT_ID), timeout_s=SHORT_S, changing=False)
        before = boot_id(asked.stdout)
        if asked.state is not TargetState.OK or not before:
            return _failed(asked, "its boot id cannot be read, so a reboot could not be proven; nothing was done")
        sent = work.run(on_target(self._detached(), work.target), timeout_s=SHORT_S, changing=True, boot_id=before)
        if sent.state not in {TargetState.OK, TargetState.LOST}:
            return _failed(sent, sent.reason or "the reboot was refused")
        work.disconnect()
        return self._await_boot(work, before, deadline)

    def _done_before(self, work: Work, deadline: float) -> CommandResult | None:
        """Return how a reboot asked for by an earlier run ended; None when there was none, or it never came to be."""
        before = work.earlier.boot_id if work.earlier is not None else None
        if before is None:
            return None
        found = self._await_boot(work, before, deadline, going_down=False)
        return None if found.reason == _STILL_UP else found

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

    def _await_boot(self, work: Work, before: str, deadline: float, *, going_down: bool = True) -> CommandResult:
        """Wait for another boot id; unless it is `going_down`, the first answer will do."""
        seen, refusals = "it went down and did not come back", 0
        for attempt in range(1_000_000):
            pause = LOGIN_PAUSE_S if refusals else BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
            if (going_down or attempt) and work.pause(pause):
                return CommandResult(state=TargetState.CANCELLED, reason="cancelled while it was rebooting")
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                asked = work.run(
                    Script(text=BOOT_ID), timeout_s=min(SHORT_S, left), changing=False, connect_s=min(5, left)
                )
            except ConnectError as error:
                refusals += error.state == TargetState.AUTH
                if error.state == TargetState.HOSTKEY or refusals >= MOST_REFUSALS:
                    raise
                work.disconnect()
                continue  # it is down, or its sshd is not up yet
            now = boot_id(asked.stdout)
            if asked.state is TargetState.OK and now and now != before:
                return CommandResult(state=TargetState.OK, exit_code=0, stdout=f"boot id {before} -> {now}\n")
            if now == before and not going_down:
                return CommandResult(state=TargetState.FAILED, reason=_STILL_UP)
            seen = "it never went down" if now == before else seen
        reason = f"no new boot id after {self.timeout_s:g} s: {seen}"
        return CommandResult(state=TargetState.TIMED_OUT, reason=reason)


def boot_id(said: str) -> str:
    """Return what stands for a boot: the id itself, or a hash of what else a target says; it is kept as it is."""
    text = said.strip()
    return text if not text or _ID.fullmatch(text) else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _failed(result: CommandResult, reason: str) -> CommandResult:
    """Return a result that is not ok, for this reason."""
    state = TargetState.FAILED if result.state in {TargetState.OK, TargetState.FAILED} else result.state
    return msgspec.structs.replace(result, state=state, reason=reason)
