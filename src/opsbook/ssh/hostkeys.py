"""Host keys: known_hosts files, indexed once, and the verdict on a key a server shows.

Reads OpenSSH's format: plain and hashed names, `[host]:port`, wildcards, `@revoked`. Certificate authorities are not
supported and never make a key trusted. A new key is appended under a lock, never rewritten, so that two writers cannot
lose each other's; what somebody else appended meanwhile is read before a key is called unknown.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import IO

import msgspec

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState

AUTHORITY, REVOKED = "@cert-authority", "@revoked"
SSH_PORT = 22
LOCK_S, LOCK_PAUSE_S = 10.0, 0.02
"""Seconds somebody else may hold a known_hosts file, and between two looks at it."""
MOST_NAMED = 3
"""Known keys that are named where another one is shown."""
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class HostKeyPolicy(StrEnum):
    """What to do with a host nobody has seen before (SEMANTICS 26)."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    OFF = "off"


class _Entry(msgspec.Struct, frozen=True):
    names: str
    kind: str
    key: str
    mark: str = ""
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """Where it stands: `file:line`."""
        return f"{self.file}:{self.line}"


class _Hashed(msgspec.Struct, frozen=True):
    """A hashed name: HMAC-SHA1 with its two halves laid out, which takes half the time of doing it anew per name."""

    inner: bytes
    outer: bytes
    digest: bytes
    entry: _Entry


class _File:
    """One known_hosts file, and how far it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        self._read_to = 0
        self._lines = 0
        """Ends of lines that were read."""
        self._was: tuple[int, int] | None = None

    def new_entries(self) -> tuple[list[_Entry], bool]:
        """Return the entries appended since the last call; True when the file was changed otherwise: all are new."""
        try:
            with self.path.open("rb") as stream:
                state = os.fstat(stream.fileno())
                which = (state.st_dev, state.st_ino)
                other = self._was not in {None, which} or state.st_size < self._read_to
                stream.seek(0 if other else self._read_to)
                data = stream.read()
        except FileNotFoundError:
            gone, self._was, self._read_to, self._lines = self._was is not None, None, 0, 0
            return [], gone  # a file that is not there knows no host; a key nobody knows is refused later on
        except OSError as error:
            self.trouble = f"; {self.path} cannot be read: {error.strerror}"
            return [], False
        start, self.trouble = 0 if other else self._read_to, ""
        whole = data[: data.rfind(b"\n") + 1] if start else data
        before = self._lines if start else 0
        self._was, self._read_to, self._lines = which, start + len(whole), before + whole.count(b"\n")
        lines, file = enumerate(whole.decode(errors="replace").split("\n"), before + 1), str(self.path)
        return [entry for number, line in lines if (entry := _parse(line, file, number))], other

    def append(self, line: str) -> None:
        """Write one line at the end; the caller has the lock and has read to the end."""
        with self.path.open("r+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            gap = "" if stream.read(1) in {b"", b"\n"} else "\n"
            stream.seek(0, os.SEEK_END)
            stream.write(f"{gap}{line}\n".encode())


class KnownHosts:
    """The host keys of a set of known_hosts files; new ones are written to the first. Safe to share."""

    def __init__(
        self, files: Iterable[Path], system: Iterable[Path] = (), *, first_seen: set[tuple[str, str]] | None = None
    ) -> None:
        """Read the files; those of the `system` are never written to.

        `first_seen` is what this run has recorded: one set for all that share a file, as what one of them has recorded
        would else be known before this run to the next.
        """
        own = tuple(files)
        self._own = own[0] if own else None
        self._files = tuple(_File(file) for file in (*own, *system))
        self._lock = Lock()
        self._recording = Lock()
        self._first_seen: set[tuple[str, str]] = set() if first_seen is None else first_seen
        self._load(file.new_entries()[0] for file in self._files)

    def _load(self, entries: Iterable[Sequence[_Entry]]) -> None:
        self._plain: dict[str, list[_Entry]] = {}
        self._hashed: list[_Hashed] = []
        self._patterns: list[tuple[list[tuple[bool, re.Pattern[str]]], _Entry]] = []
        self._found: dict[str, list[_Entry]] = {}
        for several in entries:
            self._index(several)

    def _index(self, entries: Sequence[_Entry]) -> None:
        """Add entries: plain names to find at once, hashed ones to be tried for each name of this run, once."""
        if any(mark in entry.names for mark in "|*?!" for entry in entries):
            self._found.clear()
        for entry in entries:
            if entry.names.startswith("|1|"):
                try:
                    salt, digest = (base64.b64decode(part) for part in entry.names[3:].split("|"))
                except (ValueError, binascii.Error):
                    continue
                block = salt.ljust(64, b"\0")
                self._hashed.append(_Hashed(block.translate(_INNER), block.translate(_OUTER), digest, entry))
            elif any(mark in entry.names for mark in "*?!"):
                parts = [(part.startswith("!"), _glob(part.removeprefix("!"))) for part in entry.names.split(",")]
                self._patterns.append((parts, entry))
            else:
                for name in entry.names.split(","):
                    self._plain.setdefault(name.lower(), []).append(entry)
                    self._found.pop(name.lower(), None)

    def _refresh(self) -> None:
        """Read what was appended since; all of it where a file was changed in another way."""
        read = [file.new_entries() for file in self._files]
        if any(changed for _, changed in read):
            files = tuple(_File(file.path) for file in self._files)
            self._load(file.new_entries()[0] for file in files)
            self._files = files
            return
        for entries, _ in read:
            if entries:
                self._index(entries)

    def _entries(self, name: str) -> list[_Entry]:
        name = name.lower()
        if name not in self._found:
            coded, sha1 = name.encode(), hashlib.sha1
            hashed = [
                one.entry
                for one in self._hashed
                if sha1(one.outer + sha1(one.inner + coded).digest()).digest() == one.digest
            ]
            patterns = [entry for parts, entry in self._patterns if _covered(parts, name)]
            self._found[name] = [*self._plain.get(name, ()), *hashed, *patterns]
        return self._found[name]

    def kinds(self, host: str, port: int, *, alias: str | None = None) -> list[str]:
        """List the key types known for a host, to ask the server for those first."""
        with self._lock:
            return [entry.kind for entry in self._entries(_name(host, port, alias)) if not entry.mark]

    def check(
        self,
        host: str,
        port: int,
        kind: str,
        blob: bytes,
        policy: HostKeyPolicy,
        *,
        alias: str | None = None,
        within_s: float = LOCK_S,
    ) -> bool:
        """Accept a key or raise; with `accept-new`, a first key is recorded before this returns, or not `within_s`.

        Returns whether it was known before this run.

        Raises:
            ConnectError: the key is unknown, changed or revoked (state `hostkey`).
        """
        shown = _Entry(names=_name(host, port, alias), kind=kind, key=base64.b64encode(blob).decode())
        with self._lock:
            try:
                known = self._known(shown, policy)
            except ConnectError:  # unless somebody has put it right meanwhile: a notebook stays open for days
                self._refresh()
                known = self._known(shown, policy)
            if known:
                return policy is not HostKeyPolicy.OFF and not self._recorded(shown)
            if policy is HostKeyPolicy.OFF:
                return False
            self._refresh()
            if self._known(shown, policy) and policy is HostKeyPolicy.STRICT:
                return not self._recorded(shown)  # else somebody recorded it on purpose while this ran
            if policy is not HostKeyPolicy.ACCEPT_NEW:
                raise _refused(f"the host key {_told(shown)} is not known{self._why(shown.names)}")
            self._first_seen.add((shown.names, shown.key))
            if self._known(shown, policy):
                return False
        self._record(shown, time.monotonic() + within_s)  # without the lock: who holds the file holds up no other host
        return False

    def _recorded(self, shown: _Entry) -> bool:
        """Whether this run was the first to see a key."""
        return (shown.names, shown.key) in self._first_seen

    def _known(self, shown: _Entry, policy: HostKeyPolicy) -> bool:
        """Whether a key is recorded; raise when it is revoked, or another one is recorded for its host."""
        entries = self._entries(shown.names)
        if any(entry.mark == REVOKED and entry.key == shown.key for entry in entries):
            marked = next(entry for entry in entries if entry.mark == REVOKED and entry.key == shown.key)
            raise _refused(f"the host key {_told(shown)} is marked as revoked in {marked.place}")
        plain = [entry for entry in entries if not entry.mark]
        if any(entry.key == shown.key for entry in plain):
            return True
        if plain and policy is not HostKeyPolicy.OFF:
            same = [entry for entry in plain if entry.kind == shown.kind] or plain
            known = ", ".join(f"{_told(entry)} in {entry.place}" for entry in same[:MOST_NAMED])
            more = f" and {len(same) - MOST_NAMED} more" if len(same) > MOST_NAMED else ""
            what = f"the host key has CHANGED: known {known}{more}, shown {_told(shown)}"
            raise _refused(what + _how_to_forget(same[0], shown.names))
        return False

    def _why(self, name: str) -> str:
        """Say what may be behind a key that is not known, and what helps."""
        trouble = "".join(file.trouble for file in self._files)
        if any(entry.mark == AUTHORITY for entry in self._entries(name)):
            return f"; its certificate authority is, but host certificates are not supported{trouble}"
        return f" (--host-keys accept-new records it){trouble}"

    def _record(self, shown: _Entry, deadline: float) -> None:
        """Append a key that nobody has recorded by now."""
        file = self._own
        if file is None:
            raise _refused("there is no known_hosts file to record a new host key in")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "rb") as lock, self._alone(lock, deadline), self._lock:
                self._refresh()
                if not self._known(shown, HostKeyPolicy.ACCEPT_NEW):
                    self._files[0].append(f"{shown.names} {shown.kind} {shown.key}")
                    self._refresh()
        except OSError as error:
            raise _refused(f"cannot record the host key in {file}: {error.strerror}") from error

    @contextmanager
    def _alone(self, lock: IO[bytes], deadline: float) -> Iterator[None]:
        """Lock our own file against other processes: one of ours asks for it, the others wait behind it."""
        if not self._recording.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _refused(f"cannot record the host key: {self._own} is locked")
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise _refused(f"cannot record the host key: {self._own} is locked") from None
                    time.sleep(LOCK_PAUSE_S)
            yield
            fcntl.flock(lock, fcntl.LOCK_UN)  # before the next of ours looks
        finally:
            self._recording.release()


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint as OpenSSH prints it: `SHA256:…`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _told(entry: _Entry) -> str:
    """Name a key for people."""
    try:
        return fingerprint(base64.b64decode(entry.key))
    except binascii.Error:
        return f"an unreadable {entry.kind} key"


def _how_to_forget(entry: _Entry, name: str) -> str:
    """Say how a recorded key is removed, where one command does that; for whoever knows why it has changed."""
    if any(mark in entry.names for mark in "*?!"):
        return ""
    return f"; if that is right, ssh-keygen -f {shlex.quote(entry.file)} -R {shlex.quote(name)} forgets the known one"


def _refused(what: str) -> ConnectError:
    return ConnectError(what, TargetState.HOSTKEY)


def _name(host: str, port: int, alias: str | None) -> str:
    """Return what a host is called in known_hosts, where case is none of the name."""
    return (alias or (host if port == SSH_PORT else f"[{host}]:{port}")).lower()


def _parse(line: str, file: str, number: int) -> _Entry | None:
    """Read one line; None for what is no entry."""
    fields = line.split()
    mark = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or mark not in {"", REVOKED, AUTHORITY}:  # noqa: PLR2004
        return None
    return _Entry(names=fields[0], kind=fields[1], key=fields[2], mark=mark, file=file, line=number)


def _covered(parts: Sequence[tuple[bool, re.Pattern[str]]], name: str) -> bool:
    """Whether a list with wildcards and negations covers a name."""
    matching = [negated for negated, pattern in parts if pattern.fullmatch(name)]
    return bool(matching) and not any(matching)


def _glob(pattern: str) -> re.Pattern[str]:
    """Keep `*` and `?` alone special: the brackets of `[host]:port` are plain text."""
    return re.compile(re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", "."))
