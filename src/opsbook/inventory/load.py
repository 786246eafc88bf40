"""Inventory sources found, read and merged: files, directories of them, scripts, and ssh's own configuration.

Invariant: a source is read whole or refused; nothing is executed but a script whose path is trusted. The formats
belong to the modules beside this one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.adjacent import read_adjacent
from opsbook.inventory.assemble import assemble
from opsbook.inventory.document import read_document
from opsbook.inventory.draft import Draft
from opsbook.inventory.dynamic import read_dynamic
from opsbook.inventory.files import explain, is_executable, read_text
from opsbook.inventory.ini import read_ini
from opsbook.inventory.json_text import read_json
from opsbook.inventory.place import Place, located
from opsbook.inventory.script import Script
from opsbook.inventory.ssh_hosts import read_ssh_config
from opsbook.inventory.yaml_groups import read_yaml
from opsbook.model.target import Inventory, JsonValue

YAML_SUFFIXES = {".yml", ".yaml", ".json"}
IGNORED = re.compile(
    r"^\.|^(?:host_vars|group_vars|vars_plugins)$"
    r"|(?:\.pyc|\.pyo|\.swp|\.bak|~|\.rpm|\.md|\.txt|\.rst|\.orig|\.cfg|\.retry)$"
)
"""What Ansible passes over in a directory of sources, unless it is configured otherwise."""
MAX_NESTED = 20
SSH_CONFIG = re.compile(r"(?:(?P<folder>.*?)/)?ssh_config:(?P<path>.+)")
"""`ssh_config:PATH`; settings put their file's folder in front of a relative source."""


def load(sources: Sequence[Path], *, trusted: Collection[Path] = ()) -> Inventory:
    """Return one or more inventory sources as one inventory; a later source adds to and overrides an earlier one.

    Files called `.yml`, `.yaml` or `.json` are YAML, all others INI, in Ansible's formats, as its documentation and
    `ansible-inventory` define them; a directory is the sources in it; `group_vars` and `host_vars` beside a source
    count. An executable file among `trusted` is run with `--list`. `ssh_config:PATH`, `.ssh/config` and files called
    `.ssh_config` give the names behind `Host`.

    Raises:
        InventoryError: a source cannot be read or understood, is an untrusted script, or no host is named.
    """
    if not sources:
        raise InventoryError("no inventory was given", "name one with -i FILE")
    draft = Draft()
    reader = _Reader(draft, trusted=frozenset(map(os.path.realpath, trusted)))
    folders = [reader.read(source) for source in sources]
    if not draft.hosts:
        names = ", ".join(str(source) for source in sources)
        raise InventoryError(f"{names}: the inventory names no host", "add a line with a host's name")
    read_adjacent(draft, folders=folders)
    return assemble(draft, sources=sources)


def read_values(path: Path) -> dict[str, JsonValue]:
    """Return the one mapping a YAML or JSON file holds, as plain values: a file of parameters.

    Raises:
        InventoryError: it cannot be read safely, or holds anything else.
    """
    text, place = _read_filled(path), Place(path=path)
    if path.suffix.lower() == ".json":  # YAML's parser knows no character that JSON spells as two escapes
        with located(place):
            value = read_json(text, what="the file")
    else:
        document = read_document(text, file=place)
        value = None if document is None else document.value(document.root)
    if not isinstance(value, dict):
        raise InventoryError(f"{path}: this is not a mapping of names to values", "write lines such as stack: prod")
    return value


class _Reader:
    """Adds sources to a draft, each by its kind."""

    def __init__(self, draft: Draft, *, trusted: frozenset[str]) -> None:
        self._draft = draft
        self._trusted = trusted

    def read(self, source: Path) -> Path:
        """Read one source; return the folder whose `group_vars` and `host_vars` go with it."""
        config = _as_ssh_config(source)
        if config is not None:
            read_ssh_config(config, self._draft)
            return config.parent
        if os.path.isdir(source):  # noqa: PTH112  what cannot be looked at is explained when it is read
            self._read_directory(source, depth=1)
            return source
        self._read_file(source)
        return source.parent

    def _read_directory(self, folder: Path, *, depth: int) -> None:
        if depth > MAX_NESTED:
            raise InventoryError(
                f"{folder}: directories nest more than {MAX_NESTED} deep", "does a link lead back to where it is?"
            )
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208  names alone are judged
        except OSError as error:
            raise InventoryError(f"{folder}: the directory cannot be read: {explain(error)}") from error
        for name in names:
            path = folder / name
            if IGNORED.search(name):
                continue
            if os.path.isdir(path):  # noqa: PTH112  as above
                self._read_directory(path, depth=depth + 1)
            elif _as_ssh_config(path) is not None:
                read_ssh_config(path, self._draft)
            else:
                self._read_file(path)

    def _read_file(self, path: Path) -> None:
        place = Place(path=path)
        if is_executable(path):
            if os.path.realpath(path) not in self._trusted:
                raise InventoryError(
                    f"{path}: the inventory is executable, and opsbook runs only scripts it is told to trust",
                    "name it under trusted_scripts in opsbook.toml, or chmod -x a plain inventory",
                )
            script = Script(path)
            read_dynamic(script.list(), self._draft, script=place, ask=script.host)
        elif path.suffix.lower() == ".toml":
            raise InventoryError(f"{path}: opsbook reads no TOML inventories", "write it as INI or YAML")
        elif path.suffix.lower() in YAML_SUFFIXES:
            read_yaml(_read_filled(path), self._draft, file=place)
        else:
            read_ini(_read_filled(path), self._draft, file=place)


def _as_ssh_config(source: Path) -> Path | None:
    """Return the file when a source is one of ssh's own configuration."""
    match = SSH_CONFIG.fullmatch(str(source))
    if match is not None:
        try:
            return Path(match["folder"] or "") / Path(match["path"]).expanduser()
        except RuntimeError as error:
            raise InventoryError(f"{source}: {error}", "write the path out") from error
    is_config = source.suffix == ".ssh_config" or (source.name == "config" and source.absolute().parent.name == ".ssh")
    return source if is_config and not os.path.isdir(source) else None  # noqa: PTH112  as above


def _read_filled(path: Path) -> str:
    """Return the text of a file that has to say something."""
    text = read_text(path)
    if not text.strip():
        raise InventoryError(f"{path}: the file is empty", "is it the right one?")
    return text
