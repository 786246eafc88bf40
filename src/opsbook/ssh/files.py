"""One file to one target, or from it, over SFTP: jobs for a connection.

What is written is written beside its place under a name of its own, readable by its owner alone, and moved there in
one step when it is whole: nobody ever sees half a file. A link at the destination is replaced, not followed. What is
written is taken back when it does not come to an end. Knows one connection; what a call makes of the result is the
fleet's.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opsbook.model.target import TargetState
from opsbook.ssh import sftp
from opsbook.ssh.connection import Connection
from opsbook.ssh.result import CommandResult
from opsbook.ssh.sftp import Attributes, Code, Kind, SftpSession, StatusError
from opsbook.ssh.transfer import BROKEN, StoppedError, Term, Transfer, TransferError, said

PIECE = 32 * 1024
"""Bytes of one read: what every server gives."""
AHEAD = 512 * 1024
"""Bytes of writes under way at a time. More fill sshd's buffers, which it then copies again and again."""
WRITES = 16
"""Writes under way at a time, however small they have to be."""
READS = 64
"""Reads under way at a time, as OpenSSH has them."""
PERMISSIONS = 0o7777


class _Upload(Transfer):
    """Writes a file under a name nobody else knows."""

    def __init__(self, connection: Connection, data: bytes, *, part: str, term: Term) -> None:
        super().__init__(connection, term=term)
        self._data = memoryview(data)
        self._part = part.encode()
        self._moved = 0
        self._begun = False
        self.leftover = False
        """Whether a part of it may be left on the target."""

    @property
    def remains(self) -> str:
        """See `Transfer.remains`."""
        if not self._begun:
            return ""
        moved = f" after {self._moved:,} of {len(self._data):,} bytes" if self._moved < len(self._data) else ""
        return f"{moved}; nothing is changed there"

    def _create(self, session: SftpSession) -> bytes:
        """Open the part, which must not be there yet."""
        folder = _folder(self._part)
        self.leftover = True
        session.ask_limits()
        try:
            return session.open(self._part, sftp.WRITE | sftp.CREATE | sftp.EXCLUSIVE, mode=0o600)
        except StatusError as error:
            self.leftover = False
            if error.code == Code.NO_SUCH_FILE:
                raise TransferError(f"there is no folder {folder}") from error
            raise TransferError(f"cannot write in {folder}: {said(error)}") from error

    def _write(self, session: SftpSession, handle: bytes) -> None:
        """Write everything, with a bounded number of pieces under way."""
        self._begun = True
        piece, size, offset = session.piece(handle), len(self._data), 0
        named, under_way, most = sftp.text(handle), 0, max(2, min(WRITES, AHEAD // piece))
        while self._moved < size:
            if under_way <= most // 2 and offset < size:  # several at once: each sending costs more than its bytes
                end = min(size, offset + (most - under_way) * piece)
                parts = [(start, self._data[start : min(end, start + piece)]) for start in range(offset, end, piece)]
                fields = [(named, sftp.long(start), sftp.number(len(part)), part) for start, part in parts]
                under_way += len(session.requests(Kind.WRITE, fields))
                offset = end
            _, _, status = session.next_answer()
            under_way -= 1
            try:
                sftp.check(status)
            except StatusError as error:
                raise TransferError(self._unwritten(session, error)) from error
            self._moved = min(size, self._moved + piece)

    def _unwritten(self, session: SftpSession, error: StatusError) -> str:
        """Say why the target takes no more: SFTP has no word for a full disk."""
        folder = _folder(self._part)
        self.clock.clean_up()
        with suppress(StatusError, StoppedError, *BROKEN):
            free = session.free(posixpath.dirname(self._part) or b".")
            if free is not None and free < len(self._data) - self._moved:
                return f"no space left in {folder} ({free:,} bytes free)"
        return f"writing in {folder} failed: {said(error)} (a quota or a limit?)"

    @contextmanager
    def _taking_back(self, session: SftpSession) -> Iterator[None]:
        """Remove what was written when the rest does not come to an end."""
        try:
            yield
        except (StatusError, StoppedError, TransferError):
            if self.leftover:
                self.clock.clean_up()
                with suppress(StatusError, StoppedError, *BROKEN):
                    _remove(session, self._part)
                    self.leftover = False
            raise


class Put(_Upload):
    """Writes a file and moves it to its place."""

    def __init__(
        self,
        connection: Connection,
        data: bytes,
        *,
        path: str,
        part: str,
        mode: int | None,
        new_mode: int,
        skip_same_size: bool,
        term: Term,
    ) -> None:
        """Prepare to write `data` to `path`, first as `part` in the same folder.

        Without a `mode` a file that is there keeps its own, and a new one gets `new_mode`. With `skip_same_size`
        nothing is sent where a file of this size is there already: whoever asked looks whether it is the same.
        """
        super().__init__(connection, data, part=part, term=term)
        self._path = path.encode()
        self._mode = mode
        self._new_mode = new_mode
        self._skip_same_size = skip_same_size
        self.same_size = False
        """Whether nothing was sent because a file of this size is there."""
        self.in_doubt = False
        """Whether it may have come to its place or not."""

    @property
    def cut_state(self) -> TargetState:
        """See `Transfer.cut_state`."""
        return TargetState.LOST if self.in_doubt else TargetState.UNREACHABLE

    @property
    def remains(self) -> str:
        """See `Transfer.remains`."""
        return " while it was put in its place: it may be there or not" if self.in_doubt else super().remains

    def do(self, session: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """See `Transfer.do`."""
        there = _look(session, self._path)
        if self._skip_same_size and there is not None and there.size == len(self._data):
            self.same_size = True
            return CommandResult(state=TargetState.OK)
        self.let_go(before_send)
        with self._taking_back(session):
            handle = self._create(session)
            self._write(session, handle)
            self._finish(session, handle, there)
            self._move(session, replaces=there is not None)
        self.leftover = False
        return CommandResult(state=TargetState.OK, stdout=f"put {len(self._data):,} bytes\n")

    def _finish(self, session: SftpSession, handle: bytes, there: Attributes | None) -> None:
        """Look whether all has arrived; give the part its owner and its mode."""
        made = session.look(handle)
        if made.size != len(self._data):
            raise TransferError(f"{made.size:,} of {len(self._data):,} bytes are there after all was written")
        kept = self._new_mode if there is None else there.mode & PERMISSIONS
        owner = (there.uid, there.gid) if there is not None and there.mode else None
        named = sftp.text(handle)
        if owner is not None and owner != (made.uid, made.gid):
            with suppress(StatusError):  # only root may give a file away
                session.ask(Kind.FSETSTAT, named, sftp.attributes(owner=owner))
        mode = sftp.attributes(mode=kept if self._mode is None else self._mode)
        dressed = session.request(Kind.FSETSTAT, named, mode)  # after the owner: a change of owner clears setuid
        closed = session.request(Kind.CLOSE, named)
        for number in (dressed, closed):
            session.answer_to(number, expect=Kind.STATUS)

    def _move(self, session: SftpSession, *, replaces: bool) -> None:
        """Put the part in its place, in one step where the server can."""
        if sftp.POSIX_RENAME not in session.extensions:
            self._move_in_steps(session, replaces=replaces)
            return
        self.in_doubt = True
        number = session.request(
            Kind.EXTENDED, sftp.text(sftp.POSIX_RENAME), sftp.text(self._part), sftp.text(self._path)
        )
        self._settle(session, number)

    def _settle(self, session: SftpSession, number: int) -> None:
        """Wait until it is known whether it was moved; a stop waits for that, too, for a short time."""
        try:
            try:
                session.answer_to(number, expect=Kind.STATUS)
            except StoppedError:
                self.clock.clean_up()
                session.answer_to(number, expect=Kind.STATUS)
        except StatusError as error:
            self.in_doubt = False
            raise TransferError(f"cannot replace {_shown(self._path)}: {said(error)}") from error
        self.in_doubt = False

    def _move_in_steps(self, session: SftpSession, *, replaces: bool) -> None:
        """Do it on a server whose rename replaces nothing: the old file steps aside, and comes back on a failure."""
        aside = self._part + b"-old"
        if replaces:
            session.ask(Kind.RENAME, sftp.text(self._path), sftp.text(aside))
        self.in_doubt = True
        try:
            self._settle(session, session.request(Kind.RENAME, sftp.text(self._part), sftp.text(self._path)))
        except TransferError:
            if replaces:
                session.ask(Kind.RENAME, sftp.text(aside), sftp.text(self._path))
            raise
        if replaces:
            _remove(session, aside)


class Stage(_Upload):
    """Writes a file into a new folder of its own, for another user to fetch: what to call it nobody can find out."""

    def __init__(self, connection: Connection, data: bytes, *, part: str, mode: int, term: Term) -> None:
        super().__init__(connection, data, part=part, term=term)
        self._mode = mode

    def do(self, session: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """See `Transfer.do`."""
        self.let_go(before_send)
        folder = posixpath.dirname(self._part)
        try:
            session.ask(Kind.MKDIR, sftp.text(folder), sftp.attributes(mode=0o711))
        except StatusError as error:
            raise TransferError(f"cannot make the folder {_shown(folder)}: {said(error)}") from error
        with self._taking_back(session):
            handle = self._create(session)
            self._write(session, handle)
            session.ask(Kind.FSETSTAT, sftp.text(handle), sftp.attributes(mode=self._mode))
            session.ask(Kind.CLOSE, sftp.text(handle))
        return CommandResult(state=TargetState.OK)


class Discard(Transfer):
    """Removes a part that was left behind, and the folder it was staged in. Asks nobody, and cannot be cancelled.

    It takes back what a transfer of the same call has written, so the call being closed is no reason against it.
    """

    def __init__(self, connection: Connection, *, part: str, folder: str | None = None, seconds: float) -> None:
        super().__init__(connection, term=Term.of(seconds))
        self._part = part.encode()
        self._folder = None if folder is None else folder.encode()

    def cancel(self) -> None:
        """Go on: it is short, and what is left behind is left for good."""

    def do(self, session: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """See `Transfer.do`."""
        del before_send
        _remove(session, self._part)
        if self._folder is not None:
            _remove(session, self._folder, Kind.RMDIR)
        return CommandResult(state=TargetState.OK)


class Get(Transfer):
    """Reads a file into one on this side, which appears when it is whole."""

    def __init__(self, connection: Connection, *, path: str, local: Path, term: Term) -> None:
        super().__init__(connection, term=term)
        self._path = path.encode()
        self._local = local
        self._arrived = 0
        self._begun = False

    @property
    def remains(self) -> str:
        """See `Transfer.remains`."""
        return f" after {self._arrived:,} bytes; nothing was written here" if self._begun else ""

    def do(self, session: SftpSession, before_send: Callable[[], None]) -> CommandResult:
        """See `Transfer.do`."""
        self.let_go(before_send)
        there = _look(session, self._path)
        if there is None:
            raise TransferError(f"{_shown(self._path)}: no such file")
        try:
            handle = session.open(self._path, sftp.READ)
        except StatusError as error:
            raise TransferError(f"{_shown(self._path)}: {said(error)}") from error
        part = self._local.with_name(f".opsbook-{os.urandom(8).hex()}")
        try:
            self._local.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            try:
                self._read(session, handle, descriptor, size=there.size)
            finally:
                os.close(descriptor)
            self._keep(part)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return CommandResult(state=TargetState.OK, stdout=f"{self._local}\n{self._arrived:,} bytes\n")

    def _read(self, session: SftpSession, handle: bytes, descriptor: int, *, size: int) -> None:
        """Read what was there when it was opened; to its end where the target does not know its size (as in /proc)."""
        self._begun = True
        named, ahead, most = sftp.text(handle), 0, 1
        limit, end = size or float("inf"), float("inf")
        under_way: dict[int, tuple[int, int]] = {}
        while True:
            while len(under_way) < most and ahead < min(limit, end):
                length = int(min(PIECE, limit - ahead))
                under_way[session.request(Kind.READ, named, sftp.long(ahead), sftp.number(length))] = ahead, length
                ahead += length
            if not under_way:
                break
            number, kind, body = session.next_answer()
            offset, length = under_way.pop(number)
            most = min(READS, most + 1)
            data = self._piece(kind, body)
            if not data:
                end = min(end, offset)
                continue
            self._store(descriptor, data, offset)
            if len(data) < length:
                rest = offset + len(data), length - len(data)
                under_way[session.request(Kind.READ, named, sftp.long(rest[0]), sftp.number(rest[1]))] = rest
        if self._arrived != min(limit, end):
            raise TransferError(f"{_shown(self._path)} changed while it was read")

    def _piece(self, kind: int, body: bytes) -> memoryview:
        """Return what a read brought; nothing at the end of the file."""
        if kind == Kind.DATA:
            return sftp.data_of(body)
        try:
            sftp.check(body)
        except StatusError as error:
            if error.code != Code.END:
                raise
        return memoryview(b"")

    def _store(self, descriptor: int, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset, self._arrived = data[written:], offset + written, self._arrived + written
        except OSError as error:
            raise self._unwritable(error) from error

    def _keep(self, part: Path) -> None:
        try:
            part.replace(self._local)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> TransferError:
        return TransferError(f"cannot write {self._local} here: {error.strerror}")


def _look(session: SftpSession, path: bytes) -> Attributes | None:
    """Return what a path leads to, None where there is nothing; a folder, a device or the like is refused."""
    try:
        there = session.stat(path)
    except StatusError as error:
        raise TransferError(f"{_shown(path)}: {said(error)}") from error
    if there is None or not there.mode or stat.S_ISREG(there.mode):
        return there
    kind = "a folder" if stat.S_ISDIR(there.mode) else "not a regular file"
    raise TransferError(f"{_shown(path)} is {kind}")


def _remove(session: SftpSession, path: bytes, kind: Kind = Kind.REMOVE) -> None:
    try:
        session.ask(kind, sftp.text(path))
    except StatusError as error:
        if error.code != Code.NO_SUCH_FILE:
            raise


def _folder(path: bytes) -> str:
    return posixpath.dirname(path).decode() or "the home folder"


def _shown(path: bytes) -> str:
    return path.decode()
