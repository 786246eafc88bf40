"""The inventory while it is being read: hosts, groups, who is whose child, and every variable with its place.

Invariant: the groups form no circle, and every child and member exists. Readers fill a draft, source after source;
a later value replaces an earlier one, as in Ansible. A draft knows neither a file format nor what a variable means.
"""

from __future__ import annotations

import re

from msgspec import Struct

from opsbook.errors import InventoryError
from opsbook.inventory.hosts import MAX_HOSTS
from opsbook.inventory.place import Place, Variable
from opsbook.model.target import JsonValue

ALL, UNGROUPED = "all", "ungrouped"
GROUP_NAME = re.compile(r"[^\s:,\[\]*?!&~@\x00-\x1f\x7f-][^\s:,\[\]*?\x00-\x1f\x7f]*")
PRIORITY = "ansible_group_priority"
"""Set on a group it decides between groups of one depth, and is no variable of its hosts."""
MAX_STEPS = 3_000_000
"""What an inventory may come to: hosts and variables set, and groups looked through. Few lines can stand for it all."""


class Group:
    """One group: its own hosts and children, in the order they were named, and its variables."""

    def __init__(self) -> None:
        self.hosts: dict[str, None] = {}
        self.children: dict[str, None] = {}
        self.variables: dict[str, Variable] = {}
        self.priority = 1


class Adjacent(Struct, frozen=True, kw_only=True):
    """What one folder of variables beside a source sets, by group and by host."""

    groups: dict[str, dict[str, Variable]] = {}
    hosts: dict[str, dict[str, Variable]] = {}
    sealed_groups: dict[str, tuple[str, ...]] = {}
    """The files of them that are encrypted as a whole."""
    sealed_hosts: dict[str, tuple[str, ...]] = {}


class Draft:
    """Everything the sources have said so far."""

    def __init__(self) -> None:
        self.hosts: dict[str, dict[str, Variable]] = {}
        self.groups: dict[str, Group] = {ALL: Group(), UNGROUPED: Group()}
        self.groups[ALL].children[UNGROUPED] = None
        self.adjacent: list[Adjacent] = []
        """The folders of variables beside the sources, the last one counting most."""
        self.ssh_configs: dict[str, str | None] = {}
        """The ssh_config file that names a host; None when it is the user's own."""
        self._steps = 0

    def spend(self, steps: int) -> None:
        """Count what is done for the inventory.

        Raises:
            InventoryError: it is more than any fleet needs.
        """
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise InventoryError(
                f"the inventory comes to more than {MAX_STEPS:,} names and variables",
                "is a range repeated, or do groups nest in one another very deeply?",
            )

    def add_group(self, name: str, *, place: Place) -> None:
        """Know a group.

        Raises:
            InventoryError: no pattern could ever name it.
        """
        if name in self.groups:
            return
        if GROUP_NAME.fullmatch(name) is None:
            raise InventoryError(
                f"{place}: {name!r} cannot be a group's name",
                "a pattern could not name it: leave out spaces and : , [ ] * ? and, in front, ! & ~ @ -",
            )
        self.groups[name] = Group()

    def add_child(self, parent: str, child: str, *, place: Place) -> None:
        """Make a known group the child of another.

        Raises:
            InventoryError: the parent would become part of itself.
        """
        if child == ALL:
            raise InventoryError(f"{place}: 'all' cannot be a child of {parent!r}", "every group is in 'all' already")
        if parent == child or parent in self._descendants(child):
            raise InventoryError(
                f"{place}: group {child!r} cannot be a child of {parent!r}: {parent!r} would contain itself",
                "take one of the two out of the other's children",
            )
        self.groups[parent].children[child] = None

    def _descendants(self, name: str) -> set[str]:
        """Return every group below this one."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            children = self.groups[waiting.pop()].children
            self.spend(1 + len(children))
            new = [child for child in children if child not in found]
            found.update(new)
            waiting.extend(new)
        return found

    def add_host(self, name: str, *, group: str, port: int | None, place: Place) -> None:
        """Know a host and put it into a known group.

        Raises:
            InventoryError: there are too many hosts, or the port differs from the one known (Ansible would ignore it).
        """
        self.spend(1)
        known = self.hosts.get(name)
        if known is None:
            if len(self.hosts) >= MAX_HOSTS:
                raise InventoryError(f"{place}: the inventory names more than {MAX_HOSTS:,} hosts", "check its ranges")
            known = self.hosts[name] = {}
            if port is not None:
                known["ansible_port"] = Variable(value=port, place=place)
        elif port is not None and ("ansible_port" not in known or str(known["ansible_port"].value) != str(port)):
            raise InventoryError(
                f"{place}: host {name!r} was named before without port {port}",
                "a port behind a name counts only where the host is named first; set ansible_port instead",
            )
        self.groups[group].hosts[name] = None

    def set_host_variable(self, host: str, name: str, *, value: JsonValue, place: Place) -> None:
        """Set a known host's variable."""
        self.spend(1)
        self.hosts[host][_check_variable(name, place=place)] = Variable(value=value, place=place)

    def set_group_variable(self, group: str, name: str, *, value: JsonValue, place: Place) -> None:
        """Set a known group's variable, or its priority.

        Raises:
            InventoryError: the variable has no name, or the priority is not a whole number.
        """
        if name != PRIORITY:
            self.groups[group].variables[_check_variable(name, place=place)] = Variable(value=value, place=place)
        elif isinstance(value, int | str) and re.fullmatch(r"-?[0-9]{1,9}", str(value)):
            self.groups[group].priority = int(value)
        else:
            raise InventoryError(f"{place}: {PRIORITY} of group {group!r} is not a whole number", "write it as 10")


def _check_variable(name: str, *, place: Place) -> str:
    """Return the name of a variable that has one."""
    if not name:
        raise InventoryError(f"{place}: a variable has no name", "write it as name=value")
    return name
