"""Ansible's dynamic inventory format: the JSON that an inventory script prints for `--list` and `--host`.

Invariant: every part is understood or refused by name, but for variables of hosts no group has, which Ansible passes
over too. This module runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from opsbook.errors import InventoryError
from opsbook.inventory.draft import Draft
from opsbook.inventory.hosts import check_name
from opsbook.inventory.place import Place, located
from opsbook.model.target import JsonValue

META, HOSTVARS = "_meta", "hostvars"
HOSTS, CHILDREN, VARS = "hosts", "children", "vars"


def read_dynamic(listing: JsonValue, draft: Draft, *, script: Place, ask: Callable[[str], JsonValue]) -> None:
    """Add what a script lists to the draft; `ask` gives one host's variables where the listing holds none.

    Raises:
        InventoryError: the listing is not in the format.
    """
    with located(script):
        groups = _mapping(listing, what="what it prints")
        known = _read_meta(groups)
    reader = _Reader(draft, script=script)
    for name, group in groups.items():
        if name != META:
            reader.read_group(name, group)
    for host in reader.hosts:
        values = ask(host) if known is None else known.get(host, {})
        with located(script):
            variables = _mapping(values, what=f"the variables of host {host!r}")
        for name, value in variables.items():
            draft.set_host_variable(host, name, value=value, place=script)


def _read_meta(groups: dict[str, JsonValue]) -> dict[str, JsonValue] | None:
    """Return the variables of all hosts; None when the script has to be asked for each."""
    if META not in groups:
        return None
    return _mapping(_mapping(groups[META], what=META).get(HOSTVARS), what=f"{META}.{HOSTVARS}")


class _Reader:
    """Adds groups to a draft and remembers the hosts they name."""

    def __init__(self, draft: Draft, *, script: Place) -> None:
        self._draft = draft
        self._script = script
        self.hosts: dict[str, None] = {}

    def read_group(self, name: str, group: JsonValue) -> None:
        """Read one group: its parts, or a plain list of its hosts."""
        with located(self._script):
            parts = group if isinstance(group, dict) else {HOSTS: group}
            _check_parts(name, parts)
            hosts = _names(parts.get(HOSTS, []), what=f"{HOSTS} of group {name!r}")
            for host in hosts:
                check_name(host)
            children = _names(parts.get(CHILDREN, []), what=f"{CHILDREN} of group {name!r}")
            variables = _mapping(parts.get(VARS, {}), what=f"{VARS} of group {name!r}")
        self._draft.add_group(name, place=self._script)
        for host in hosts:
            self._draft.add_host(host, group=name, port=None, place=self._script)
            self.hosts[host] = None
        for variable, value in variables.items():
            self._draft.set_group_variable(name, variable, value=value, place=self._script)
        for child in children:
            self._draft.add_group(child, place=self._script)
            self._draft.add_child(name, child, place=self._script)


def _check_parts(name: str, parts: dict[str, JsonValue]) -> None:
    """Refuse unknown parts, and a group of none: Ansible would make a host of its name."""
    known = f"a group has {HOSTS}, {VARS} and {CHILDREN}"
    if not parts:
        raise InventoryError(f"group {name!r} is empty", f"print {{'{HOSTS}': []}} for a group without hosts")
    for part in parts:
        if part not in {HOSTS, CHILDREN, VARS}:
            raise InventoryError(f"group {name!r} has an unknown key {part!r}", known)


def _mapping(value: JsonValue, *, what: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise InventoryError(f"{what} is not a mapping", "see Ansible's format of dynamic inventories")
    return value


def _names(value: JsonValue, *, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InventoryError(f"{what} is not a list of names", "see Ansible's format of dynamic inventories")
    return value
