"""Files to many targets and from them: what a put and a get do on one target.

A put is whole or not at all, and is left out where the same content is already. Over SFTP it needs the login's own
rights; for another user, or to give the file to somebody, it is staged where nobody can find it and a script moves it.
Whatever ends it, what it made on the way is taken back, or named in the result. Knows nothing of other targets.
"""

from __future__ import annotations

import hashlib
import posixpath
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import ChannelError, ConnectError, OpsbookError
from opsbook.fleet.content import Content
from opsbook.fleet.destination import Place, There, read_look
from opsbook.fleet.operation import Job, Work, on_target
from opsbook.fleet.worker import CallClosedError
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection
    from opsbook.ssh.files import Get, Put, Stage

STAGING = "/var/tmp"  # noqa: S108  a folder of our own is made in it, under a name nobody can guess
DISCARD_S, HURRIED_DISCARD_S = 10.0, 2.5
"""Seconds to remove a file that was not put in its place; and after a cancel, when somebody waits."""
TAKE_BACK_S = 20.0
"""Seconds to look after a script that did not come to its end."""
_KILLED = 128 + 9
"""What sudo makes of a command that was killed."""


class PutFile(Struct, frozen=True, kw_only=True):
    """Write a file."""

    content: Content
    remote: str
    mode: int | None = None
    owner: str | None = None
    sudo: bool | None = None
    as_user: str | None = None
    timeout_s: float
    kind: str = "put"
    read_only: bool = False

    @property
    def text(self) -> str:
        """What is put where."""
        size = f"{len(self.content.data):,} bytes"
        return f"{self.content.name} to {self.remote} ({size})" if self.content.name else f"{size} to {self.remote}"

    @property
    def script(self) -> Script:
        """As whom it is written."""
        return Script(text="", variables={"target": self.remote}, sudo=self.sudo, as_user=self.as_user)

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        became = on_target(self.script, target)
        return _digest(
            self.kind, self.remote, self.mode, self.owner, self.content.sha256, bool(became.sudo), became.as_user
        )

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        became = on_target(self.script, work.target)
        put = _PutOnTarget(self, work, became=became)
        return put.through_shell() if became.sudo or self.owner is not None else put.over_sftp()


class GetFile(Struct, frozen=True, kw_only=True):
    """Read a file into `folder`/TARGET, as the user who logs in: not through sudo."""

    remote: str
    folder: str
    timeout_s: float
    kind: str = "get"
    read_only: bool = True

    @property
    def text(self) -> str:
        """What is fetched."""
        return f"{self.remote} into {self.folder}"

    @property
    def script(self) -> Script:
        """As whom it is read."""
        return Script(text="", variables={"target": self.remote}, sudo=False)

    def digest(self, target: Target) -> str:
        """See `Operation.digest`."""
        del target
        return _digest(self.kind, self.remote, self.folder)

    def perform(self, work: Work) -> CommandResult:
        """See `Operation.perform`."""
        name = work.target.name
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            return CommandResult(state=TargetState.FAILED, reason="its name cannot be that of a folder")
        local = Path(self.folder) / name / posixpath.basename(self.remote)

        def make(connection: Connection) -> Get:
            from opsbook.ssh.files import Get  # noqa: PLC0415  paramiko comes with the first connection
            from opsbook.ssh.transfer import Term  # noqa: PLC0415

            return Get(connection, path=self.remote, local=local, term=Term.of(self.timeout_s))

        result = work.do(make, changing=False)
        if work.target.become.always and result.reason.endswith("permission denied"):
            return replace(result, reason=f"{result.reason} (get() does not go through sudo)")
        return result


class _PutOnTarget:
    """One put on one target, under one deadline."""

    def __init__(self, put: PutFile, work: Work, *, became: Script) -> None:
        self._put = put
        self._work = work
        self._became = became
        self._deadline = time.monotonic() + put.timeout_s
        self._part = posixpath.join(posixpath.dirname(put.remote), f".opsbook-{secrets.token_hex(8)}")
        self._place = Place(remote=put.remote, part=self._part, became=became)
        self._staging = f"{STAGING}/opsbook-{secrets.token_hex(8)}"
        self._staged = f"{self._staging}/{secrets.token_hex(16)}"
        self._connection: Connection | None = None
        """The one that was transferred over."""
        self._installing = False

    @property
    def _left(self) -> float:
        return round(max(0.1, self._deadline - time.monotonic()), 1)

    def over_sftp(self) -> CommandResult:
        """Write it beside its place and move it there, with the login's own rights."""
        result, job = self._send(skip_same_size=True)
        if job.same_size:
            asked, there = self._look()
            if there is None and asked.state is not TargetState.FAILED:
                return asked  # but a login that may do nothing but SFTP is sent the file
            if there is not None and self._is_same(there):
                return _unchanged()
            result, job = self._send(skip_same_size=False)
        if job.in_doubt:
            result = self._settled(result)
        left = job.leftover and not self._discard(part=self._part)
        return _with_leftover(result, [self._part] if left else [])

    def through_shell(self) -> CommandResult:
        """Stage it as the login's own, and let a script put it in its place as somebody else."""
        asked, there = self._look()
        if there is None:
            return asked
        if there.kind in {"folder", "other"}:
            kind = "a folder" if there.kind == "folder" else "not a regular file"
            return CommandResult(state=TargetState.FAILED, reason=f"{self._put.remote} is {kind}")
        if self._is_same(there):
            return _unchanged()
        jobs: list[Stage] = []
        try:
            result = self._over_stage(jobs, there)
        except OpsbookError as error:
            gone = not _is_sent(jobs) or self._discard(part=self._staged, folder=self._staging)
            if gone or not isinstance(error, ConnectError | CallClosedError):
                raise
            state = TargetState(error.state) if isinstance(error, ConnectError) else TargetState.SKIPPED
            return _with_leftover(CommandResult(state=state, reason=str(error)), [self._staging])
        left = self._tidy(result) if _is_sent(jobs) else []
        if result.state is TargetState.LOST:
            result = self._settled(result)
        return _with_leftover(result, left)

    def _over_stage(self, jobs: list[Stage], there: There) -> CommandResult:
        staged = self._stage(jobs)
        if staged.state is not TargetState.OK:
            return staged
        result = self._work.run(self._install(there), timeout_s=self._left, changing=True)
        self._installing = True
        return replace(result, stdout=self._said) if result.state is TargetState.OK else result

    def _tidy(self, result: CommandResult) -> list[str]:
        """Remove what was made on the way, in the order in which nothing new can come; return what may be left."""
        left = [] if self._discard(part=self._staged, folder=self._staging) else [self._staging]
        if self._installing and _was_cut_short(result) and not self._take_back():
            left.append(self._part)
        return left

    def _take_back(self) -> bool:
        """Remove what a script that did not come to its end has left; whether nothing is left."""
        if self._work.pause(0):
            return False
        try:
            asked = self._work.run(self._place.take_back(), timeout_s=TAKE_BACK_S, changing=False)
        except ChannelError:
            raise
        except OpsbookError:
            return False
        return asked.state is TargetState.OK

    @property
    def _said(self) -> str:
        return f"put {len(self._put.content.data):,} bytes\n"

    def _send(self, *, skip_same_size: bool) -> tuple[CommandResult, Put]:
        jobs: list[Put] = []

        def make(connection: Connection) -> Put:
            from opsbook.ssh.files import Put  # noqa: PLC0415  paramiko comes with the first connection
            from opsbook.ssh.transfer import Term  # noqa: PLC0415

            job = Put(
                connection,
                self._put.content.data,
                path=self._put.remote,
                part=self._part,
                mode=self._put.mode,
                new_mode=self._put.content.mode,
                skip_same_size=skip_same_size,
                term=Term(deadline=self._deadline, timeout_s=self._put.timeout_s),
            )
            self._connection = connection
            jobs.append(job)
            return job

        result = self._work.do(make, changing=True)
        return result, jobs[-1]

    def _stage(self, jobs: list[Stage]) -> CommandResult:
        # a private file elsewhere changes nothing: the intent goes with the script that puts it in its place
        mode = 0o600 if self._became.as_user in {None, "root"} else 0o644  # behind a name that only the script knows

        def make(connection: Connection) -> Stage:
            from opsbook.ssh.files import Stage  # noqa: PLC0415  paramiko comes with the first connection
            from opsbook.ssh.transfer import Term  # noqa: PLC0415

            term = Term(deadline=self._deadline, timeout_s=self._put.timeout_s)
            self._connection = connection
            jobs.append(Stage(connection, self._put.content.data, part=self._staged, mode=mode, term=term))
            return jobs[-1]

        return self._work.do(make, changing=False)

    def _discard(self, *, part: str, folder: str | None = None) -> bool:
        """Remove what a transfer left behind, over a new connection if need be; whether it is gone.

        After a cancel somebody waits: then it is the link that stands, or none.
        """
        hurried = self._work.pause(0)
        if hurried and not (self._connection is not None and self._connection.alive):
            return False

        def make(connection: Connection) -> Job:
            from opsbook.ssh.files import Discard  # noqa: PLC0415  paramiko comes with the first connection

            seconds = HURRIED_DISCARD_S if hurried else DISCARD_S
            job = Discard(connection, part=part, folder=folder, seconds=seconds)
            return _Once(job) if hurried else job

        try:
            return self._work.do(make, changing=False).state is TargetState.OK
        except ChannelError:
            raise
        except OpsbookError:
            return False

    def _look(self) -> tuple[CommandResult, There | None]:
        """Ask what is at the destination; None, and how the question ended, where there was no answer."""
        script = self._place.look(size=len(self._put.content.data))
        asked = self._work.run(script, timeout_s=self._left, changing=False)
        if asked.state is TargetState.OK:
            return asked, read_look(asked.stdout)
        if asked.state is TargetState.LOST:
            reason = "the link was lost; nothing is changed there"
            return replace(asked, state=TargetState.UNREACHABLE, reason=reason), None
        return asked, None

    def _is_same(self, there: There) -> bool:
        """Whether nothing is left to do."""
        put = self._put
        owned = put.owner is None or there.is_owned_by(put.owner)
        return there.sha256 == put.content.sha256 and owned and put.mode in {None, there.mode}

    def _settled(self, lost: CommandResult) -> CommandResult:
        """Ask whether a file came to its place although nobody said so. It is a question, not a second try."""
        if self._work.pause(0):
            return lost
        try:
            _, there = self._look()
        except ChannelError:
            raise
        except OpsbookError:
            return lost
        if there is not None and self._is_same(there):
            return CommandResult(state=TargetState.OK, stdout=self._said)
        return lost

    def _install(self, there: There) -> Script:
        put = self._put
        mode = put.mode if put.mode is not None else there.mode if there.kind == "file" else put.content.mode
        return self._place.install(there, staged=self._staged, size=len(put.content.data), mode=mode, owner=put.owner)


class _Once:
    """A job over the link that stands, without a second try over another one."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self, before_send: Callable[[], None]) -> CommandResult:
        """See `Job.run`; a link that does not answer is a result."""
        try:
            return self._job.run(before_send)
        except ConnectError as error:
            return CommandResult(state=TargetState(error.state), reason=str(error))

    def cancel(self) -> None:
        """See `Job.cancel`."""
        self._job.cancel()


def _is_sent(jobs: Sequence[Stage]) -> bool:
    """Whether anything was staged."""
    return bool(jobs) and jobs[-1].sent


def _was_cut_short(result: CommandResult) -> bool:
    """Whether the script may not have come to its own end, where it tidies up."""
    began = result.state not in {TargetState.OK, TargetState.BECOME, TargetState.UNREACHABLE}
    return began and (result.state is not TargetState.FAILED or result.exit_code in {None, _KILLED})


def _with_leftover(result: CommandResult, left: Sequence[str]) -> CommandResult:
    """Say what may be left on the target."""
    if not left:
        return result
    return replace(result, reason="; ".join(filter(None, (result.reason, f"{' and '.join(left)} may be left there"))))


def _unchanged() -> CommandResult:
    return CommandResult(state=TargetState.OK, stdout="unchanged\n")


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
