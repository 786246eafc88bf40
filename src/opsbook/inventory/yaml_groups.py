"""Inventories in Ansible's YAML format: groups as mappings of `hosts`, `vars` and `children`.

Invariant: every key is understood or refused with its line; a misspelt one is never skipped.
This module knows neither how YAML is made safe nor what becomes of the draft it fills.
"""

from __future__ import annotations

from yaml.nodes import MappingNode, Node, ScalarNode

from opsbook.errors import InventoryError
from opsbook.inventory.document import Document, Entry, read_document
from opsbook.inventory.draft import Draft
from opsbook.inventory.hosts import read_hosts
from opsbook.inventory.place import Place, located

HOSTS, CHILDREN, VARS = "hosts", "children", "vars"
TEXT = "tag:yaml.org,2002:str"


def read_yaml(text: str, draft: Draft, *, file: Place) -> None:
    """Add what one YAML inventory says to the draft.

    Raises:
        InventoryError: it is not safe YAML, or not an inventory.
    """
    document = read_document(text, file=file)
    if document is None or document.is_null(document.root):
        raise InventoryError(f"{file}: the file is empty", "an inventory names at least one host")
    if not isinstance(document.root, MappingNode):
        raise InventoryError(
            f"{document.place(document.root)}: an inventory is a mapping of groups", "begin with all: and hosts: below"
        )
    reader = _Reader(document, draft)
    for entry in document.entries(document.root):
        if entry.key == "plugin":
            raise InventoryError(
                f"{entry.place}: this configures an inventory plugin, it is not an inventory",
                "save what `ansible-inventory --list --yaml` prints, and use that",
            )
        reader.read_group(entry)


class _Reader:
    """Walks the groups of one document."""

    def __init__(self, document: Document, draft: Draft) -> None:
        self._document = document
        self._draft = draft

    def read_group(self, group: Entry) -> None:
        """Read one group and everything below it."""
        if not group.is_text:
            raise InventoryError(f"{group.place}: the group {group.key} is not text", "put quotes around its name")
        self._draft.add_group(group.key, place=group.place)
        for section in self._read_mapping(group.value, what=f"group {group.key!r}"):
            match section.key:
                case "hosts":
                    for host in self._read_names(section, group=group.key):
                        self._read_host(host, group=group.key)
                case "children":
                    for child in self._read_names(section, group=group.key):
                        self.read_group(child)
                        self._draft.add_child(group.key, child.key, place=child.place)
                case "vars":
                    for variable in self._read_mapping(section.value, what=f"vars of group {group.key!r}"):
                        value = self._document.value(variable.value)
                        self._draft.set_group_variable(group.key, variable.key, value=value, place=variable.place)
                case _:
                    raise InventoryError(
                        f"{section.place}: group {group.key!r} has an unknown key {section.key!r}",
                        f"a group has {HOSTS}, {VARS} and {CHILDREN}",
                    )

    def _read_host(self, host: Entry, *, group: str) -> None:
        if not host.is_text:
            raise InventoryError(f"{host.place}: the host {host.key} is not text", "put quotes around its name")
        with located(host.place):
            names, port = read_hosts(host.key)
        variables = [
            (variable.key, self._document.value(variable.value), variable.place)
            for variable in self._read_mapping(host.value, what=f"host {host.key!r}")
        ]
        for name in names:
            self._draft.add_host(name, group=group, port=port, place=host.place)
            for variable, value, place in variables:
                self._draft.set_host_variable(name, variable, value=value, place=place)

    def _read_names(self, section: Entry, *, group: str) -> list[Entry]:
        """Return the hosts or children of a section; Ansible allows a single one as plain text."""
        node = section.value
        if isinstance(node, ScalarNode) and node.tag == TEXT:
            nothing = ScalarNode("tag:yaml.org,2002:null", "", node.start_mark, node.end_mark)
            return [Entry(key=node.value, is_text=True, value=nothing, place=self._document.place(node))]
        return self._read_mapping(node, what=f"{section.key} of group {group!r}")

    def _read_mapping(self, node: Node, *, what: str) -> list[Entry]:
        """Return the entries of a mapping, none where nothing is written."""
        if self._document.is_null(node):
            return []
        if isinstance(node, MappingNode):
            return self._document.entries(node)
        raise InventoryError(
            f"{self._document.place(node)}: {what} is not a mapping",
            "names are written as keys, each ending with a colon, and not as a list",
        )
