"""Where the locks lie: one folder that all runs on a machine share, so that every checkout and archive meets there.

A file's mode follows its folder's: in one a group may write to, its members may take each other's locks.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from opsbook.errors import RefusedError
from opsbook.locks.lock_file import Holder, LockFile, is_held, read_holder

_SUFFIX = ".lock"
_PRIVATE = 0o700
_FILE = 0o600
_READ_WRITE = 0o666
TEMPORARY = Path("/tmp")  # noqa: S108  whose the folder made there is, is looked at before it is used
"""Where a user without a home has his locks: the same place for all of his runs, whatever their TMPDIR says."""


class LockFolder:
    """The folder of the locks. Made when the first lock is taken."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of_target(self, address: str) -> LockFile:
        """Return the lock of the target at an address.

        Raises:
            RefusedError: the folder cannot be used.
        """
        return self._file("target", address.casefold())

    def of_name(self, name: str) -> LockFile:
        """Return the lock of a name somebody chose.

        Raises:
            RefusedError: the folder cannot be used.
        """
        return self._file("name", name)

    def look(self, address: str) -> Holder | None:
        """Return who a target's lock names now, without taking or making anything."""
        return read_holder(self._place("target", address.casefold()))

    def is_held(self, address: str) -> bool:
        """Whether somebody holds a target's lock now."""
        return is_held(self._place("target", address.casefold()))

    def named(self) -> Iterator[tuple[LockFile, Holder]]:
        """Yield the locks that name somebody, whether he still holds them or not."""
        with suppress(OSError), os.scandir(self.path) as entries:
            for name in sorted(one.name for one in entries if one.name.endswith(_SUFFIX) and one.stat().st_size):
                holder = read_holder(self.path / name)
                if holder is not None:
                    yield LockFile(self.path / name, mode=_FILE), holder

    def sync(self) -> None:
        """Put the folder's entries on disk."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _place(self, kind: str, what: str) -> Path:
        name = hashlib.sha256(f"{kind}\0{what}".encode("utf-8", "replace")).hexdigest()[:32]
        return self.path / f"{kind}-{name}{_SUFFIX}"

    def _file(self, kind: str, what: str) -> LockFile:
        return LockFile(self._place(kind, what), mode=_FILE | self._mode() & _READ_WRITE)

    def _mode(self) -> int:
        """Return the folder's mode; make it, private, where it is not there."""
        try:
            with suppress(FileExistsError):
                self.path.mkdir(mode=_PRIVATE, parents=True)
                self.path.chmod(_PRIVATE)  # whatever the umask
            seen = self.path.stat()
        except OSError as error:
            raise RefusedError(
                f"cannot use the folder of locks {self.path}: {error.strerror}", "`path` under [locks] names another"
            ) from error
        if self.path == _in_temp() and (seen.st_uid != os.geteuid() or self.path.is_symlink()):
            raise RefusedError(f"{self.path} is somebody else's", "`path` under [locks] names another folder")
        return stat.S_IMODE(seen.st_mode)


def lock_folder(
    path: str | None, environ: Mapping[str, str] | None = None, *, account: str | None = None
) -> LockFolder:
    """Return the folder the settings name, else the user's own in his state folder, else in the temp folder.

    Where there is no HOME, as under cron, it is that of his `account`: his other runs have to be met there.
    """
    environ = os.environ if environ is None else environ
    if path is not None:
        return LockFolder(Path(path))
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if not os.path.isabs(home):  # noqa: PTH117  an empty one, or a relative one, does not count
        home = _account_home() if account is None else account
        home = home if os.access(home, os.W_OK | os.X_OK) else ""
    if os.path.isabs(state):  # noqa: PTH117
        return LockFolder(Path(state, "opsbook/locks"))
    if os.path.isabs(home):  # noqa: PTH117
        return LockFolder(Path(home, ".local/state/opsbook/locks"))
    return LockFolder(_in_temp())


def _account_home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""  # a user the system has no name for


def _in_temp() -> Path:
    return TEMPORARY / f"opsbook-{os.geteuid()}-locks"
