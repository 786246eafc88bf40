"""Inventories in Ansible's INI format.

Invariant: a line is understood whole or refused with its number; nothing is skipped but comments and empty lines.
This module knows neither what a variable means nor what becomes of the draft it fills.
"""

from __future__ import annotations

import re
import shlex

from opsbook.errors import InventoryError
from opsbook.inventory.draft import UNGROUPED, Draft
from opsbook.inventory.hosts import read_hosts
from opsbook.inventory.place import Place, located
from opsbook.inventory.values import read_literal
from opsbook.model.target import JsonValue

SECTION = re.compile(r"\[(?P<group>[^:\]\s]+)(?::(?P<kind>\w+))?\]\s*(?:#.*)?")
GROUP_LINE = re.compile(r"(?P<group>[^:\]\s]+)\s*(?:#.*)?")
HOSTS, CHILDREN, VARS = "hosts", "children", "vars"
MAX_LINE = 50_000
"""Splitting a line into its words takes its time squared."""


def read_ini(text: str, draft: Draft, *, file: Place) -> None:
    """Add what one INI inventory says to the draft.

    Raises:
        InventoryError: a line cannot be understood, or a section refers to a group that nothing declares.
    """
    reader = _Reader(draft)
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if len(stripped) > MAX_LINE:
            raise InventoryError(f"{file.at(number)}: the line is longer than {MAX_LINE:,} characters", "divide it")
        if stripped and stripped[0] not in "#;":
            reader.read(stripped, place=file.at(number))
    reader.finish()


class _Reader:
    """Reads one file line by line; before the first section, lines are ungrouped hosts."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._group = UNGROUPED
        self._kind = HOSTS
        self._children: dict[str, list[tuple[str, Place]]] = {}
        """Children named before they were declared, with the parents that wait for them."""
        self._undeclared: dict[str, Place] = {}
        """Groups known from a `vars` section alone."""

    def read(self, line: str, *, place: Place) -> None:
        """Understand one line that is neither empty nor a comment."""
        if match := SECTION.fullmatch(line):
            self._open_section(match["group"], match["kind"] or HOSTS, place=place)
        elif line.startswith("[") and (line.endswith("]") or "]" not in line):
            raise InventoryError(f"{place}: {line} is not a section", "write [group], [group:children] or [group:vars]")
        elif self._kind == HOSTS:
            self._read_host(line, place=place)
        elif self._kind == VARS:
            name, value = _read_assignment(line, place=place, strip=True)
            self._draft.set_group_variable(self._group, name, value=value, place=place)
        else:
            self._read_child(line, place=place)

    def _open_section(self, group: str, kind: str, *, place: Place) -> None:
        if kind not in {HOSTS, CHILDREN, VARS}:
            raise InventoryError(
                f"{place}: section [{group}:{kind}] has an unknown kind", "the kinds are hosts, children and vars"
            )
        if kind == VARS and group not in self._draft.groups:
            self._undeclared[group] = place
        self._draft.add_group(group, place=place)
        if kind != VARS:
            self._undeclared.pop(group, None)
            for parent, named_at in self._children.pop(group, ()):
                self._draft.add_child(parent, group, place=named_at)
        self._group, self._kind = group, kind

    def _read_child(self, line: str, *, place: Place) -> None:
        match = GROUP_LINE.fullmatch(line)
        if match is None:
            raise InventoryError(f"{place}: {line!r} is not a group's name", "one group a line, without variables")
        if match["group"] in self._draft.groups:
            self._draft.add_child(self._group, match["group"], place=place)
        else:
            self._children.setdefault(match["group"], []).append((self._group, place))

    def _read_host(self, line: str, *, place: Place) -> None:
        try:
            entry, *assignments = shlex.split(line, comments=True)
        except ValueError as error:
            raise InventoryError(
                f"{place}: the quotes do not match: {error}", "close every quote on its line"
            ) from None
        if "=" in entry:
            raise InventoryError(
                f"{place}: the line begins with a variable and not with a host",
                "variables of a group stand below [group:vars]",
            )
        with located(place):
            names, port = read_hosts(entry)
        variables = [_read_assignment(text, place=place) for text in assignments]
        for name in names:
            self._draft.add_host(name, group=self._group, port=port, place=place)
            for variable, value in variables:
                self._draft.set_host_variable(name, variable, value=value, place=place)

    def finish(self) -> None:
        """Refuse what was referred to and never declared."""
        for child, parents in self._children.items():
            parent, place = parents[0]
            raise InventoryError(
                f"{place}: group {parent!r} has the child {child!r}, which no section declares",
                f"add a section [{child}], or mend the name",
            )
        for group, place in self._undeclared.items():
            raise InventoryError(
                f"{place}: [{group}:vars] sets variables of a group that no section declares",
                f"add a section [{group}], or mend the name",
            )


def _read_assignment(text: str, *, place: Place, strip: bool = False) -> tuple[str, JsonValue]:
    """Return the name and the value of `name=value`; only quotes keep spaces at the ends of a host's value."""
    name, equals, value = text.partition("=")
    if not equals:
        what = "the line" if strip else "a word behind the host"  # not shown: it may be half of a password
        raise InventoryError(f"{place}: {what} is not name=value", "no spaces around =, and quotes around spaces")
    if strip:
        name, value = name.strip(), value.strip()
    with located(place):
        return name, read_literal(value)
