"""Files to many targets and from them: what a put and a get do on one target.

A put is whole or not at all, and is left out where the same content is already. Over SFTP it needs the login's own
rights; for another user, or to give the file to somebody, it is staged where nobody can find it and a script moves it.
Knows nothing of other targets.
"""

from __future__ import annotations

import hashlib
import posixpath
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from opsbook.errors import ChannelError, OpsbookError
from opsbook.fleet.content import Content
from opsbook.fleet.operation import Work, on_target
from opsbook.model.target import Target, TargetState
from opsbook.ssh.result import CommandResult
from opsbook.ssh.script import Script

if TYPE_CHECKING:
    from opsbook.ssh.connection import Connection
    from opsbook.ssh.files import Discard, Get, Put, Stage

STAGING = "/var/tmp"  # noqa: S108  a folder of our own is made in it, under a name nobody can guess
_LOOK = """\
set -f
export LC_ALL=C
if [ -d "$target" ]; then echo folder
elif [ -f "$target" ]; then
  set -- $(ls -ldnL -- "$target"); echo "file $1 $3 $4"
  set -- $(ls -ldL -- "$target"); echo "$3:$4"
  if [ "$(($(wc -c < "$target")))" -eq "$size" ]; then
    { sha256sum || shasum -a 256 || sha256 -q || openssl sha256 -r; } < "$target" 2>/dev/null || :
  fi
elif [ -e "$target" ]; then echo other
else echo nothing
fi
"""
_INSTALL = """\
set -f
umask 077
[ -d "$folder" ] || { echo "there is no folder $folder" >&2; exit 1; }
within=
leave() {
  if [ -n "$within" ]; then rm -f ./new ./whole; cd -P ..; fi
  rmdir -- "$part" 2>/dev/null || :
}
trap 'exit 143' HUP INT TERM
case $folder in /*) cd -P -- "$folder" ;; *) cd -P -- "./$folder" ;; esac
trap leave EXIT
mkdir -m 700 -- "$part"
cd -P -- "./$part"
case $(pwd -P) in */"$part") ;; *) echo "$part was exchanged in $folder" >&2; exit 1 ;; esac
[ -O . ] || { echo "$part was exchanged in $folder" >&2; exit 1; }
within=yes
cat < "$staged" > ./new
[ "$(($(wc -c < ./new)))" -eq "$size" ] || { echo "not all of it arrived" >&2; exit 1; }
now=
if [ -e "../$name" ]; then set -- $(ls -ldnL -- "../$name"); now="$1 $3 $4"; fi
[ "$now" = "$seen" ] || { echo "somebody else changed $target meanwhile" >&2; exit 1; }
if [ -n "$owner" ]; then chown -- "$owner" ./new
elif [ -n "$kept" ]; then chown -- "$kept" ./new 2>/dev/null || :
fi
chmod -- "$mode" ./new
if mv -fT -- ./new ./whole 2>/dev/null; then mv -fT -- ./whole "../$name"
elif [ -d "../$name" ]; then echo "$target is a folder" >&2; exit 1
else mv -f -- ./new "../$name"
fi
"""
"""Whoever owns the destination's folder can exchange what is in it, so it is written in a folder of our own there.

Nobody else can enter that, so nothing here follows a link of somebody else's. Once inside, `..` is where it was made,
whatever became of the path: what is at the destination there is looked at again, for its owner and mode to be kept.
"""


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


class _There(Struct, frozen=True, kw_only=True):
    """What is at the destination."""

    kind: str
    """`file`, `folder`, `other` or `nothing`."""
    seen: str = ""
    """Its mode and ids as `ls` writes them."""
    mode: int = 0
    ids: str = ""
    """User and group by number: `0:0`."""
    names: str = ""
    sha256: str = ""
    """Empty where its size is another one."""


class _PutOnTarget:
    """One put on one target, under one deadline."""

    def __init__(self, put: PutFile, work: Work, *, became: Script) -> None:
        self._put = put
        self._work = work
        self._became = became
        self._deadline = time.monotonic() + put.timeout_s
        self._part = posixpath.join(posixpath.dirname(put.remote), f".opsbook-{secrets.token_hex(8)}")
        self._staging = f"{STAGING}/opsbook-{secrets.token_hex(8)}"
        self._staged = f"{self._staging}/{secrets.token_hex(16)}"

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
        if job.leftover and (self._work.pause(0) or not self._discard(part=self._part)):
            return _with_leftover(result, self._part)
        return result

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
        gone = True
        try:
            result = self._over_stage(jobs, there)
        finally:
            if jobs and jobs[-1].sent:
                gone = self._discard(part=self._staged, folder=self._staging)
        if result.state is TargetState.LOST:
            result = self._settled(result)
        return result if gone else _with_leftover(result, self._staging)

    def _over_stage(self, jobs: list[Stage], there: _There) -> CommandResult:
        staged = self._stage(jobs)
        if staged.state is not TargetState.OK:
            return staged
        result = self._work.run(self._install(there), timeout_s=self._left, changing=True)
        return replace(result, stdout=self._said) if result.state is TargetState.OK else result

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
            jobs.append(Stage(connection, self._put.content.data, part=self._staged, mode=mode, term=term))
            return jobs[-1]

        return self._work.do(make, changing=False)

    def _discard(self, *, part: str, folder: str | None = None) -> bool:
        """Remove what a transfer left behind, over a new connection if need be; whether it is gone."""

        def make(connection: Connection) -> Discard:
            from opsbook.ssh.files import Discard  # noqa: PLC0415  paramiko comes with the first connection

            return Discard(connection, part=part, folder=folder)

        try:
            return self._work.do(make, changing=False).state is TargetState.OK
        except ChannelError:
            raise
        except OpsbookError:
            return False

    def _look(self) -> tuple[CommandResult, _There | None]:
        """Ask what is at the destination; None, and how the question ended, where there was no answer."""
        variables = {"target": self._put.remote, "size": str(len(self._put.content.data))}
        script = replace(self._became, text=_LOOK, variables=variables)
        asked = self._work.run(script, timeout_s=self._left, changing=False)
        if asked.state is TargetState.OK:
            return asked, _read_look(asked.stdout)
        if asked.state is TargetState.LOST:
            reason = "the link was lost; nothing is changed there"
            return replace(asked, state=TargetState.UNREACHABLE, reason=reason), None
        return asked, None

    def _is_same(self, there: _There) -> bool:
        """Whether nothing is left to do."""
        put = self._put
        owned = put.owner is None or _owns(put.owner, there)
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

    def _install(self, there: _There) -> Script:
        put = self._put
        mode = put.mode if put.mode is not None else there.mode if there.kind == "file" else put.content.mode
        variables = {
            "target": put.remote,
            "folder": posixpath.dirname(put.remote) or ".",
            "name": posixpath.basename(put.remote),
            "part": posixpath.basename(self._part),
            "seen": there.seen,
            "staged": self._staged,
            "size": str(len(put.content.data)),
            "mode": f"{mode:04o}",
            "owner": put.owner or "",
            "kept": there.ids,
        }
        return replace(self._became, text=_INSTALL, variables=variables)


def _with_leftover(result: CommandResult, path: str) -> CommandResult:
    """Say what may be left on the target."""
    return replace(result, reason="; ".join(filter(None, (result.reason, f"{path} may be left there"))))


def _unchanged() -> CommandResult:
    return CommandResult(state=TargetState.OK, stdout="unchanged\n")


def _read_look(said: str) -> _There:
    """Read what `_LOOK` prints."""
    lines = said.splitlines() or ["nothing"]
    kind, *fields = lines[0].split()
    if kind != "file" or len(fields) != 3:  # noqa: PLR2004  letters, user, group
        return _There(kind=kind)
    return _There(
        kind=kind,
        seen=" ".join(fields),
        mode=_mode_of(fields[0]),
        ids=f"{fields[1]}:{fields[2]}",
        names=lines[1] if len(lines) > 1 else "",
        sha256=lines[2].split()[0] if len(lines) > 2 else "",  # noqa: PLR2004  its line is the third
    )


def _mode_of(letters: str) -> int:
    """Read the permissions as `ls` writes them.

    >>> oct(_mode_of("-rwsr-x---"))
    '0o4750'
    """
    bits = 0
    for place, letter in enumerate(letters[1:10]):
        bits |= (letter not in "-ST") << (8 - place)
        bits |= (letter in "sStT") << (11 - place // 3)
    return bits


def _owns(owner: str, there: _There) -> bool:
    """Whether a file belongs to whom chown's word names, by name or by number."""
    for wanted, id_, name in zip(owner.split(":"), there.ids.split(":"), there.names.split(":"), strict=False):
        if wanted and wanted not in {id_, name}:
            return False
    return True


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
