"""The keys to log in with, in the order in which they are worth a try.

Private keys are read once, however many targets need them. What cannot be used says why, and is told only when no
other key was let in.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
from paramiko.pkey import PublicBlob

from opsbook.ssh.agent import Agent, AgentKey

if TYPE_CHECKING:
    from opsbook.ssh.route import Route

USUAL = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
_CERTIFICATE = "-cert-v01@openssh.com"
_FIELDS = {"ssh-ed25519": 1, "sk-ecdsa-sha2-nistp256": 3}
"""How many fields a public key of a type has behind its name; the others have two."""


class UnusableKeyError(Exception):
    """A private key's file cannot be used; says why."""


class Offer(paramiko.PKey):
    """A key shown with its certificate, which is not the key's own to keep: others show it without."""

    def __init__(self, key: paramiko.PKey, certificate: PublicBlob) -> None:
        self._key = key
        self.public_blob = certificate

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> paramiko.Message:
        """Return the key's signature."""
        return self._key.sign_ssh_data(data, algorithm)


def keys_for(
    route: Route, agent: Agent | None, refused: list[str], deadline: float
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield names and keys: those that are named, with their certificates first, then the agent's, then the usual.

    What cannot be used is added to `refused`. An agent has until the deadline, by which it must have signed.
    """
    held = agent.keys(deadline) if agent is not None else ()
    certificates = tuple(filter(None, map(_certificate, route.certificate_files)))
    shown: set[bytes] = set()
    for file in route.identity_files:
        try:
            key = _named(file, held)
        except UnusableKeyError as error:
            refused.append(f"{file}: {error}")
            continue
        own = _certificate(f"{file}-cert.pub")
        yield from _with_certificates(file, key, (*certificates, *((own,) if own else ())), shown)
    for key in held:
        named = any(_certified(certificate) == key.asbytes() for certificate in certificates)
        if named or not route.identities_only:
            yield from _with_certificates(f"agent key {key.comment}".rstrip(), key, certificates, shown)
    if not route.identity_files:
        for file in USUAL:
            place = os.path.expanduser(file)  # noqa: PTH111  a string is what is cached
            try:
                key = load_key(place)
            except UnusableKeyError as error:
                if error.args[0] != _MISSING:
                    refused.append(f"{file}: {error}")
                continue
            own = _certificate(f"{place}-cert.pub")
            yield from _with_certificates(file, key, (*certificates, *((own,) if own else ())), shown)


def _with_certificates(
    name: str, key: paramiko.PKey, certificates: Sequence[PublicBlob], shown: set[bytes]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield a key with each certificate that is for it, then alone; nothing twice."""
    blob = key.asbytes()
    for certificate in certificates:
        if _certified(certificate) == blob and certificate.key_blob not in shown:
            shown.add(certificate.key_blob)
            yield f"{name} with its certificate", Offer(key, certificate)
    if blob not in shown:
        shown.add(blob)
        yield name, key


def _named(file: str, held: Sequence[AgentKey]) -> paramiko.PKey:
    """Return the key a file stands for: read, or held by the agent where the file has but its public half."""
    try:
        return load_key(file)
    except UnusableKeyError:
        public = {_public(file), _public(f"{file}.pub")}
        for key in held:
            if key.blob in public:
                return key
        raise


_MISSING = "no such file"


def load_key(file: str) -> paramiko.PKey:
    """Return the private key in a file; read once until the file changes, however many targets need it.

    Raises:
        UnusableKeyError: it cannot be used now.
    """
    try:
        return _load(file, Path(file).stat().st_mtime_ns)
    except FileNotFoundError:
        raise UnusableKeyError(_MISSING) from None
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise  # our own want, not the key's
        raise UnusableKeyError(error.strerror or str(error)) from error


@lru_cache(maxsize=256)
def _load(file: str, _changed: int) -> paramiko.PKey:
    try:
        key = paramiko.PKey.from_path(Path(file))
    except OSError:
        raise
    except Exception as error:  # neither library has one kind for all it cannot use, and another key may do
        text = str(error) or type(error).__name__
        locked = isinstance(error, paramiko.PasswordRequiredException) or "password" in text.lower()
        raise UnusableKeyError("has a passphrase; add it to an agent" if locked else text) from error
    key.public_blob = None  # a certificate beside it is shown as an offer of its own
    return key


def _public(file: str) -> bytes | None:
    """Return the public key in a file, if that is what it has."""
    try:
        return base64.b64decode(Path(file).read_text(encoding="utf-8").split()[1], validate=True)
    except (OSError, UnicodeDecodeError, IndexError, binascii.Error):
        return None


def _certificate(file: str) -> PublicBlob | None:
    """Return the certificate in a file, if there is one; read each time, for they are often renewed within the hour."""
    try:
        found = PublicBlob.from_string(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, IndexError, binascii.Error):
        return None
    return found if found.key_type.endswith(_CERTIFICATE) else None


@lru_cache(maxsize=256)
def _certified_key(blob: bytes) -> bytes:
    """Return the public key a certificate is for, as a key's own bytes."""
    certificate, key = paramiko.Message(blob), paramiko.Message()
    kind = certificate.get_text().removesuffix(_CERTIFICATE)
    certificate.get_binary()  # the nonce
    key.add_string(f"{kind}@openssh.com" if kind.startswith("sk-") else kind)
    for _ in range(_FIELDS.get(kind, 2)):
        key.add_string(certificate.get_binary())
    return key.asbytes()


def _certified(certificate: PublicBlob) -> bytes:
    return _certified_key(certificate.key_blob)
