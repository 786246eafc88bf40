"""The demo's one-time keys: made at start, gone with the fleet's folder. Owns `cryptography`'s part in it.

Only the client's private key is ever written, readable by its owner alone; the hosts' keys stay in memory.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def make_private_key() -> str:
    """Return a new Ed25519 private key in OpenSSH's format. paramiko reads such keys but makes none."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")


def load_key(text: str) -> paramiko.PKey:
    """Return paramiko's view of a private key."""
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


def write_private(path: Path, text: str) -> None:
    """Write a file that must not exist, with mode 0600 from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
