"""Connection variables become the fields of a Target.

Invariant: a connection variable is understood or refused with the target's and its own name; a template, an unknown
ssh option or another way of connecting is never ignored. This module knows no file format and opens no connection.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.hosts import read_port
from opsbook.inventory.place import Variable
from opsbook.model.target import Target

HOST = ("ansible_ssh_host", "ansible_host")
PORT = ("ansible_ssh_port", "ansible_port")
USER = ("ansible_ssh_user", "ansible_user")
KEY_FILE = ("ansible_ssh_private_key_file", "ansible_private_key_file")
"""Of two spellings the first one counts, as in Ansible."""
ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
"""In the order in which Ansible hands them to ssh, for which the first value of an option counts."""
CONNECTION = "ansible_connection"
UNDERSTOOD = (*HOST, *PORT, *USER, *KEY_FILE, *ARGUMENTS, CONNECTION)
SSH_CONNECTIONS = {"ssh", "paramiko", "paramiko_ssh", "smart"}
ASSUMED = {"identitiesonly": "yes", "batchmode": "yes", "stricthostkeychecking": "yes"}
"""Options that ask for what opsbook does anyway."""
KNOWN_HOSTS = "userknownhostsfile"
OPTION = re.compile(r"\s*(?P<name>[A-Za-z0-9]+)(?:\s*=\s*|\s+)(?P<value>.*?)\s*")


def build_target(name: str, variables: Mapping[str, Variable], *, groups: tuple[str, ...]) -> Target:
    """Return a host with its merged variables as a target.

    Raises:
        InventoryError: a connection variable cannot be honoured.
    """
    reader = _Reader(name, {key: variables[key] for key in UNDERSTOOD if key in variables})
    reader.check_connection()
    return Target(
        name=name,
        host=reader.read_name(HOST) or name,
        port=reader.read_port(),
        user=reader.read_name(USER),
        identity_files=reader.read_identity_files(),
        known_hosts=reader.read_known_hosts(),
        groups=groups,
        vars={key: variable.value for key, variable in variables.items()},
    )


class _Reader:
    """Reads one target's connection variables."""

    def __init__(self, target: str, variables: Mapping[str, Variable]) -> None:
        self._target = target
        self._variables = {key: variable for key, variable in variables.items() if variable.value is not None}
        for key, variable in self._variables.items():
            if isinstance(variable.value, str) and ("{{" in variable.value or "{%" in variable.value):
                raise self._error(
                    key,
                    "is a template, which opsbook does not evaluate",
                    hint="write the value itself into the inventory",
                )

    def _error(self, key: str, what: str, *, hint: str) -> InventoryError:
        return InventoryError(f"{self._variables[key].place}: target {self._target!r}: {key} {what}", hint)

    def _find(self, keys: tuple[str, ...]) -> str | None:
        """Return the name that counts among several spellings of one variable."""
        return next((key for key in keys if key in self._variables), None)

    def _text(self, key: str) -> str:
        """Return a value that must be text; Ansible reads a user called 1000 as a number."""
        value = self._variables[key].value
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._error(key, "is not text", hint="put quotes around it")
        return str(value)

    def check_connection(self) -> None:
        """Refuse a host that is not reached by ssh."""
        if CONNECTION not in self._variables:
            return
        kind = self._text(CONNECTION)
        if kind not in SSH_CONNECTIONS:
            raise self._error(
                CONNECTION,
                f"is {kind!r}, and opsbook reaches targets by ssh alone",
                hint="take the host out, or use ssh",
            )

    def read_name(self, keys: tuple[str, ...]) -> str | None:
        """Return a host or user that cannot be taken for an option."""
        key = self._find(keys)
        if key is None:
            return None
        text = self._text(key)
        if not text or text.startswith("-") or any(_is_blank_or_control(char) for char in text):
            raise self._error(
                key, f"is {text!r}", hint="it has at least one character, no spaces, and does not begin with -"
            )
        return text[1:-1] if keys is HOST and text.startswith("[") and text.endswith("]") else text

    def read_port(self) -> int | None:
        """Return the port, or nothing."""
        key = self._find(PORT)
        if key is None:
            return None
        try:
            return read_port(self._text(key))
        except InventoryError as error:
            raise self._error(key, f"is wrong: {error.message}", hint=error.hint) from error

    def read_identity_files(self) -> tuple[str, ...]:
        """Return the private key's path, or nothing."""
        key = self._find(KEY_FILE)
        return () if key is None else (self._path(key, self._text(key)),)

    def _path(self, key: str, text: str) -> str:
        """Return an absolute path: `~` expanded, or relative to the folder of the file that sets the variable."""
        if not text.strip() or any(unicodedata.category(char) == "Cc" for char in text):
            raise self._error(key, "names no file", hint="write a path, or leave the variable out")
        try:
            path = Path(text).expanduser()
        except RuntimeError as error:
            raise self._error(
                key, f"names a home folder that is not known: {text!r}", hint="write the path out"
            ) from error
        return str(self._variables[key].place.path.absolute().parent / path)

    def read_known_hosts(self) -> str | None:
        """Return the known_hosts file that the ssh arguments name; refuse every option that would change anything."""
        found: str | None = None
        for key in ARGUMENTS:
            if key not in self._variables:
                continue
            for name, value in self._options(key):
                if name.lower() == KNOWN_HOSTS:
                    path = self._known_hosts_path(key, value)
                    found = found or path
                elif ASSUMED.get(name.lower()) != value.lower():
                    shown = f"{name}={value}" if name.lower() in ASSUMED else name
                    raise self._error(key, f"has the option {shown}, which opsbook does not know", hint=_OPTIONS_HINT)
        return found

    def _options(self, key: str) -> list[tuple[str, str]]:
        """Return the `-o NAME=VALUE` pairs of one variable; refuse any other argument."""
        try:
            tokens = shlex.split(self._text(key))
        except ValueError as error:
            raise self._error(key, f"cannot be split: {error}", hint="close every quote") from error
        options = []
        while tokens:
            token = tokens.pop(0)
            if not token.startswith("-o"):
                raise self._error(key, f"has the option {token!r}, which opsbook does not know", hint=_OPTIONS_HINT)
            text = token.removeprefix("-o") or (tokens.pop(0) if tokens else "")
            match = OPTION.fullmatch(text)
            if match is None:
                raise self._error(key, f"has the option {text!r}, which is not NAME=VALUE", hint=_OPTIONS_HINT)
            options.append((match["name"], match["value"]))
        return options

    def _known_hosts_path(self, key: str, text: str) -> str:
        """Return the path of one file: ssh's lists, tokens and `none` have no place in a Target."""
        if text.lower() == "none" or re.search(r"[\s\"%$]", text):
            raise self._error(key, f"names not one known_hosts file: {text!r}", hint="write one path, without % and $")
        return self._path(key, text)


_OPTIONS_HINT = (
    "known are -o UserKnownHostsFile=PATH, IdentitiesOnly=yes, BatchMode=yes and StrictHostKeyChecking=yes; "
    "opsbook does not read other options yet, nor ~/.ssh/config"
)


def _is_blank_or_control(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf", "Cs"}
