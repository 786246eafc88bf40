"""What a put is told: the content, read once for all targets, and the words for where, whose, and with what mode.

What is wrong here is the author's mistake, and is said before anything is sent.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from pathlib import Path

from opsbook.errors import UsageError

MOST = 4 * 1024**3
"""Bytes of a file that is put: it is held in memory while it is sent."""
NEW_MODE = 0o644
"""The mode of a new file whose content the notebook gives."""
_STICKY = 0o1000


class Content:
    """The bytes of a put, the same for all its targets."""

    def __init__(self, data: bytes, *, name: str = "", mode: int = NEW_MODE) -> None:
        self.data = data
        self.name = name
        """What people call it: the local file's name."""
        self.mode = mode
        """The mode of a new file with it."""
        self.sha256 = hashlib.sha256(data).hexdigest()

    def __repr__(self) -> str:
        return f"Content({self.name or 'given'}, {len(self.data)} bytes)"

    @classmethod
    def of_file(cls, local: str | os.PathLike[str]) -> Content:
        """Read a local file.

        Raises:
            UsageError: it is not there, is no file, is too large, or cannot be read.
        """
        path = Path(local)
        try:
            path = path.expanduser()
            there = path.stat()
            if not stat.S_ISREG(there.st_mode):
                kind = "a folder" if stat.S_ISDIR(there.st_mode) else "not a regular file"
                raise UsageError(f"{path} is {kind}", "put() takes one file; pack a folder with tar")
            if there.st_size > MOST:
                raise UsageError(f"{path} has {there.st_size:,} bytes; put() takes {MOST:,} at most")
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"cannot read {local!r}: {error}") from error
        return cls(data, name=path.name, mode=stat.S_IMODE(there.st_mode) & 0o755)


def content_of(local: str | os.PathLike[str] | None, content: str | bytes | None) -> Content:
    """Return what is to be put: a local file's bytes, or those given.

    Raises:
        UsageError: neither or both are given, or the file cannot be read.
    """
    if (local is None) == (content is None):
        raise UsageError(
            "put() takes a local file or a content, one of them", 'such as put(remote="/etc/motd", content="hi")'
        )
    if local is not None:
        return Content.of_file(local)
    if not isinstance(content, str | bytes):
        raise UsageError("the content is neither text nor bytes", "of a secret it is what reveal() returns")
    try:
        return Content(content.encode() if isinstance(content, str) else content)
    except UnicodeEncodeError:
        raise UsageError("the content is not valid Unicode", "give bytes") from None


def remote_path(remote: str | os.PathLike[str] | None) -> str:
    """Return the path of a file on a target; `~/` is the login's home.

    Raises:
        UsageError: it names no file.
    """
    path = "" if remote is None else os.fspath(remote)
    path = path.removeprefix("~/")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r} is not valid Unicode") from None
    if posixpath.basename(path) in {"", ".", ".."} or "\0" in path or path.startswith("~"):
        raise UsageError(f"{path!r} is not the path of a file", "write it whole, the file's name included")
    return path


def mode_bits(mode: int | str | None) -> int | None:
    """Return a file's permissions: `0o640`, or `"0640"`.

    Raises:
        UsageError: they are none, or a decimal number was meant as an octal one.
    """
    try:
        bits = int(mode, 8) if isinstance(mode, str) else mode
    except ValueError:
        bits = -1
    if bits is not None and (not 0 <= bits <= 0o7777 or bits & _STICKY):  # noqa: PLR2004  all a mode can hold
        raise UsageError(f"mode {mode!r} is not that of a file", 'such as 0o644 or "0644"')
    return bits


def owner_name(owner: str | None) -> str | None:
    """Return who is to own a file, as chown names it: `maya`, `maya:web` or `:web`.

    Raises:
        UsageError: it is no such name.
    """
    if owner is not None and (not re.fullmatch(r"[^\s:]*(:[^\s:]+)?", owner) or owner[:1] in {"", "-"}):
        raise UsageError(f"owner {owner!r} is not USER, USER:GROUP or :GROUP")
    return owner
