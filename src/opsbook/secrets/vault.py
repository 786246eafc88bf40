"""`vault:PATH#KEY`: one value of HashiCorp Vault's key-value store, named as `vault kv get` takes it.

Owns hvac, an extra. Which Vault, as whom and in which namespace is what `vault` itself would use: VAULT_ADDR,
VAULT_TOKEN or ~/.vault-token, VAULT_NAMESPACE. No error carries a value, a token or what the server said.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

from opsbook.errors import SecretError

ANSWER_S = 10.0
"""Seconds Vault may take to answer one question."""
_EXTRA = 'pip install "opsbook[vault]"'
_MOUNTS = "sys/internal/ui/mounts"
"""Where Vault tells, to whoever may read a path, which store it lies in."""


def read_vault(place: str) -> str:
    """Return the text under `PATH#KEY`.

    Raises:
        SecretError: Vault cannot be asked or does not give it, or it is not text.
    """
    path, _, key = place.rpartition("#")
    path, reference = path.strip("/"), f"vault:{place}"
    if not path or not key:
        raise SecretError(f"{reference} does not say which value is meant", "such as vault:secret/app#password")
    try:
        import hvac  # noqa: PLC0415  an extra, and much to import
        import requests  # noqa: PLC0415  hvac's way to the server
    except ImportError:
        raise SecretError(f"{reference} needs hvac, which is not installed", _EXTRA) from None
    namespace = os.environ.get("VAULT_NAMESPACE") or None
    client, value, why = hvac.Client(timeout=ANSWER_S, namespace=namespace), None, ""
    try:
        value = _value(client, path, key)
    except hvac.exceptions.VaultError as error:
        why = _refusal(type(error).__name__)
    except requests.exceptions.RequestException as error:
        why = f"{_address(client.url)} cannot be asked ({type(error).__name__})"
    except (ValueError, OSError) as error:
        why = f"{_address(client.url)} gave no answer that can be read ({type(error).__name__})"
    finally:
        client.adapter.close()
    if why:
        raise SecretError(f"{reference}: {why}", "VAULT_ADDR, VAULT_TOKEN and VAULT_NAMESPACE say where, and as whom")
    if not isinstance(value, str):
        raise SecretError(f"{reference}: there is no text under {key!r} there")
    return value


def _value(client: Any, path: str, key: str) -> object:
    """Return what lies under a key; None where nothing does."""
    name = quote(path)
    mount = _data(client.read(f"{_MOUNTS}/{name}"))
    root = str(mount.get("path") or f"{path.partition('/')[0]}/")  # a Vault too old to tell has but the old store
    versioned = str((mount.get("options") or {}).get("version")) == "2"
    inside = f"{path}/".removeprefix(root).strip("/")
    found = _data(client.read(quote(f"{root}data/{inside}") if versioned else name))
    return (_data(found) if versioned else found).get(key)


def _data(answer: Any) -> dict[str, Any]:
    """Return the `data` of an answer; nothing where there is none."""
    data = answer.get("data") if isinstance(answer, dict) else None
    return data if isinstance(data, dict) else {}


def _refusal(kind: str) -> str:
    """Say what an error of hvac's means."""
    known = {
        "Forbidden": "Vault does not let this token read it, or there is no such store",
        "Unauthorized": "Vault wants a token",
        "InvalidPath": "there is no such secret",
        "VaultDown": "Vault is sealed",
        "RateLimitExceeded": "Vault is asked too often",
    }
    return known.get(kind, f"Vault does not give it ({kind})")


def _address(url: str) -> str:
    """Return where Vault is, without a name or password in it."""
    try:
        place = urlsplit(url)._replace(path="", query="", fragment="")
    except ValueError:
        return "the Vault of VAULT_ADDR"
    return f"Vault at {place.geturl().rpartition('@')[2].rpartition('//')[2]}"
