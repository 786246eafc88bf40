"""Host keys: known_hosts files read once, and the verdict on a key a server shows.

Reads OpenSSH's format: plain and hashed names, `[host]:port`, `@revoked`. Certificate authorities are not supported
and never make a key trusted. A new key is appended, never rewritten, so that two writers cannot lose each other's.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from threading import Lock

import msgspec

from opsbook.errors import ConnectError
from opsbook.model.target import TargetState


class HostKeyPolicy(StrEnum):
    """What to do with a host nobody has seen before (SEMANTICS 26)."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    OFF = "off"


class _Entry(msgspec.Struct, frozen=True):
    names: str
    kind: str
    key: str
    revoked: bool


class KnownHosts:
    """The host keys of a set of known_hosts files; new ones are written to the first."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._lock = Lock()
        self._plain: dict[str, list[_Entry]] = {}
        self._others: list[_Entry] = []
        for file in self._files:
            for entry in _read(file):
                self._index(entry)

    def _index(self, entry: _Entry) -> None:
        if entry.names.startswith("|") or any(mark in entry.names for mark in "*?!"):
            self._others.append(entry)
            return
        for name in entry.names.split(","):
            self._plain.setdefault(name, []).append(entry)

    def _entries(self, name: str) -> list[_Entry]:
        return [*self._plain.get(name, ()), *(entry for entry in self._others if _matches(entry.names, name))]

    def kinds(self, host: str, port: int) -> list[str]:
        """List the key types known for a host, to ask the server for those first."""
        return [entry.kind for entry in self._entries(_name(host, port)) if not entry.revoked]

    def check(self, host: str, port: int, kind: str, blob: bytes, policy: HostKeyPolicy) -> None:
        """Accept a key or raise; with `accept-new`, a first key is recorded before this returns.

        Raises:
            ConnectError: the key is unknown, changed or revoked (state `hostkey`).
        """
        name, shown = _name(host, port), fingerprint(blob)
        key = base64.b64encode(blob).decode()
        with self._lock:
            entries = self._entries(name)
            same = [entry for entry in entries if entry.kind == kind]
            if any(entry.revoked and entry.key == key for entry in entries):
                raise ConnectError(f"the host key {shown} is marked as revoked", TargetState.HOSTKEY)
            if policy is HostKeyPolicy.OFF or any(entry.key == key for entry in same if not entry.revoked):
                return
            if any(not entry.revoked for entry in entries):
                known = ", ".join(fingerprint(base64.b64decode(entry.key)) for entry in same or entries)
                raise ConnectError(f"the host key has CHANGED: known {known}, shown {shown}", TargetState.HOSTKEY)
            if policy is not HostKeyPolicy.ACCEPT_NEW:
                raise ConnectError(
                    f"the host key {shown} is not known (--host-keys accept-new records it)", TargetState.HOSTKEY
                )
            self._record(_Entry(names=name, kind=kind, key=key, revoked=False))

    def _record(self, entry: _Entry) -> None:
        if not self._files:
            raise ConnectError("there is no known_hosts file to record a new host key in", TargetState.HOSTKEY)
        file = self._files[0]
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                stream.write(f"{entry.names} {entry.kind} {entry.key}\n".encode())
        except OSError as error:
            raise ConnectError(
                f"cannot record the host key in {file}: {error.strerror}", TargetState.HOSTKEY
            ) from error
        self._index(entry)


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint as OpenSSH prints it: `SHA256:…`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _name(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"  # noqa: PLR2004  SSH's own port


def _read(file: Path) -> list[_Entry]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # a file that is not there knows no host; a key that nobody knows is refused later on
    entries = []
    for line in lines:
        fields = line.split()
        mark = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or mark not in {"", "@revoked"}:  # noqa: PLR2004
            continue
        entries.append(_Entry(names=fields[0], kind=fields[1], key=fields[2], revoked=bool(mark)))
    return entries


def _matches(names: str, name: str) -> bool:
    """Whether a hashed name, or a list with wildcards and negations, covers `name`."""
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in names[3:].split("|", 1))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    patterns = names.split(",")
    if any(part.startswith("!") and fnmatch.fnmatchcase(name, _glob(part[1:])) for part in patterns):
        return False
    return any(fnmatch.fnmatchcase(name, _glob(part)) for part in patterns)


def _glob(pattern: str) -> str:
    """Keep `*` and `?` alone special: the brackets of `[host]:port` are plain text."""
    return pattern.replace("[", "[[]")
