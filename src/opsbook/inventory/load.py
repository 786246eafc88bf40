"""Inventory files found, read and merged.

Invariant: a source is read whole or refused; nothing is ever executed. The formats belong to `ini` and `yaml_groups`.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.assemble import assemble
from opsbook.inventory.document import read_document
from opsbook.inventory.draft import Draft
from opsbook.inventory.ini import read_ini
from opsbook.inventory.place import Place
from opsbook.inventory.yaml_groups import read_yaml
from opsbook.model.target import Inventory, JsonValue

MAX_BYTES = 16 * 1024 * 1024
YAML_SUFFIXES = {".yml", ".yaml", ".json"}


def load(sources: Sequence[Path]) -> Inventory:
    """Return one or more Ansible inventory files as one inventory; a later file adds to and overrides an earlier one.

    Files called `.yml`, `.yaml` or `.json` are YAML, all others INI. The format is Ansible's, as its documentation and
    `ansible-inventory` define it.

    Raises:
        InventoryError: a file cannot be read or understood, or no host is named.
    """
    if not sources:
        raise InventoryError("no inventory was given", "name one with -i FILE")
    draft = Draft()
    for source in sources:
        text = _read_text(source)
        read = read_yaml if source.suffix.lower() in YAML_SUFFIXES else read_ini
        read(text, draft, file=Place(path=source))
    if not draft.hosts:
        names = ", ".join(str(source) for source in sources)
        raise InventoryError(f"{names}: the inventory names no host", "add a line with a host's name")
    return assemble(draft, sources=sources)


def read_values(path: Path) -> dict[str, JsonValue]:
    """Return the one mapping a YAML or JSON file holds, as plain values: a file of parameters.

    Raises:
        InventoryError: it cannot be read safely, or holds anything else.
    """
    document = read_document(_read_text(path), file=Place(path=path))
    value = None if document is None else document.value(document.root)
    if not isinstance(value, dict):
        raise InventoryError(f"{path}: this is not a mapping of names to values", "write lines such as stack: prod")
    return value


def _read_text(path: Path) -> str:
    """Return a source's text."""
    data = _read_bytes(path)
    if not data.strip():
        raise InventoryError(f"{path}: the file is empty", "is it the right one?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InventoryError(f"{path}:{line}: the file is not UTF-8 text", "save it as UTF-8") from error
    if text.startswith("$ANSIBLE_VAULT"):
        raise InventoryError(f"{path}: the file is encrypted by ansible-vault", "decrypt it, or keep secrets elsewhere")
    return text


def _read_bytes(path: Path) -> bytes:
    """Return a source's bytes, after looking at what kind of file it is."""
    try:
        status = path.stat()
        _check_kind(path, status.st_mode)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InventoryError(f"{path}: there is no such file", "check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InventoryError(f"{path}: the file cannot be read: {reason}", "check its permissions") from error
    if len(data) > MAX_BYTES:
        raise InventoryError(f"{path}: the file is larger than {MAX_BYTES // 1024**2} MiB", "split it into several")
    return data


def _check_kind(path: Path, mode: int) -> None:
    """Refuse what is not a plain file: it would have to be searched or run."""
    if stat.S_ISDIR(mode):
        raise InventoryError(f"{path}: the inventory is a directory, not a file", "name the files in it, one -i each")
    if not stat.S_ISREG(mode):
        raise InventoryError(f"{path}: the inventory is not a regular file", "save it into a file first")
    if mode & 0o111:
        raise InventoryError(
            f"{path}: the inventory is executable, and opsbook runs no inventory scripts",
            "save what it prints as YAML (`ansible-inventory --list --yaml`), or chmod -x a plain inventory",
        )
