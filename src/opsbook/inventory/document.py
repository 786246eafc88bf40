"""One YAML document, read safely: the one door to PyYAML's parser.

Invariant: nothing is constructed but plain values; tags other than Ansible's `!vault` and `!unsafe`, endless or
exploding aliases, deep nesting and duplicate keys are refused before they cost anything, each with its line. This
module knows nothing of hosts and groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

from opsbook.errors import InventoryError
from opsbook.inventory.place import Place, located
from opsbook.inventory.values import check_vault, to_json, to_key, unwrap
from opsbook.model.target import JsonValue

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 100
MAX_REPEATED = 200_000
"""How many nodes aliases may stand for beyond those written: shared defaults, not a bomb."""
MERGE = "tag:yaml.org,2002:merge"
NULL = "tag:yaml.org,2002:null"
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
MAX_DIGITS = 5000
QUOTE_HINT = "put quotes around it to keep it as text"
STANDARD = {"binary", "bool", "float", "int", "map", "null", "omap", "pairs", "seq", "set", "str", "timestamp"}
"""Tags that can be shown; any other may be a password that lacks its quotes."""
QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"")
"""What a message of the parser repeats of the text: the same holds for it."""
ENCRYPTED = {"!vault", "!vault-encrypted"}
UNSAFE = "!unsafe"
"""Ansible evaluates no template in what is tagged so; nothing here evaluates any."""


class Entry(Struct, frozen=True, kw_only=True):
    """One key of a mapping, its value still unread, and the key's line."""

    key: str
    is_text: bool
    """Whether the key was text in the file, not a number or another value."""
    value: Node
    place: Place


class Document:
    """A YAML document's nodes and the questions its readers ask of them."""

    def __init__(self, root: Node, *, file: Place) -> None:
        self.root = root
        self._file = file
        self._constructor = SafeConstructor()
        self._resolver: Any = Resolver()

    def place(self, node: Node) -> Place:
        """Return where a node stands."""
        return self._file.at(node.start_mark.line + 1)

    def is_null(self, node: Node) -> bool:
        """Whether nothing was written here, or `null`."""
        return node.tag == NULL

    def entries(self, node: MappingNode) -> list[Entry]:
        """Return a mapping's keys, those merged in by `<<` first, each once.

        Raises:
            InventoryError: a key is written twice, or is no scalar.
        """
        merged: dict[str, Entry] = {}
        own: dict[str, Entry] = {}
        has_merge = False
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if key_node.tag == MERGE:
                if has_merge:
                    raise InventoryError(f"{place}: the key '<<' stands twice in one mapping", "use <<: [*a, *b]")
                has_merge = True
                merged = self._merge(value_node)
                continue
            if key_node.tag == UNSAFE or key_node.tag in ENCRYPTED:
                raise InventoryError(f"{place}: a key has the tag {key_node.tag}", "write it plainly")
            raw = self._scalar(key_node) if isinstance(key_node, ScalarNode) else ()
            with located(place):
                key = to_key(raw)
            if key in own:
                raise InventoryError(f"{place}: the key {key!r} stands twice in one mapping", "keep one of the two")
            own[key] = Entry(key=key, is_text=isinstance(raw, str), value=value_node, place=place)
        return list((merged | own).values())

    def _merge(self, node: Node) -> dict[str, Entry]:
        """Return what `<<` brings in: a mapping, or several of which the first wins."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Entry] = {}
        for source in reversed(sources):
            if not isinstance(source, MappingNode):
                raise InventoryError(f"{self.place(node)}: '<<' takes a mapping or a list of mappings", "use <<: *a")
            merged |= {entry.key: entry for entry in self.entries(source)}
        return merged

    def value(self, node: Node) -> JsonValue:
        """Return a node as plain values.

        Raises:
            InventoryError: it holds what an inventory cannot keep.
        """
        if isinstance(node, MappingNode):
            made = {entry.key: self.value(entry.value) for entry in self.entries(node)}
            with located(self.place(node)):
                return unwrap(made)
        if isinstance(node, SequenceNode):
            return [self.value(item) for item in node.value]
        with located(self.place(node)):
            return check_vault(node.value) if node.tag in ENCRYPTED else to_json(self._scalar(node))

    def _scalar(self, node: Node) -> object:
        """Return what a scalar means: text, number, truth value, date or nothing."""
        if node.tag == UNSAFE:  # what it would be as a plain scalar, even in quotes: so does Ansible
            plain = self._resolver.resolve(ScalarNode, node.value, (True, False))
            node = ScalarNode(plain, node.value, node.start_mark, node.end_mark)
        if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:  # `1:1:1...` takes its time squared
            raise InventoryError(f"{self.place(node)}: a number is too large", QUOTE_HINT)
        try:
            value: object = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise InventoryError(
                f"{self.place(node)}: a value cannot be read as the number or date it looks like", QUOTE_HINT
            ) from error
        return value


def read_document(text: str, *, file: Place) -> Document | None:
    """Return the file's one YAML document, checked; None when there is nothing in it.

    Raises:
        InventoryError: it is not YAML, or not safe.
    """
    try:
        _check_events(text, file=file)
        root = yaml.compose(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = file if mark is None else file.at(mark.line + 1)
        what = QUOTED.sub("...", ", ".join(part for part in (error.context, error.problem) if part))
        raise InventoryError(f"{place}: this is not YAML: {what}", "a YAML checker shows the spot") from error
    except yaml.YAMLError as error:
        what = str(error).partition("\n")[0]
        raise InventoryError(f"{file}: this is not YAML: {what}", "is it another kind of file?") from error
    if root is None:
        return None
    document = Document(root, file=file)
    _Weigher(document).check()
    return document


def _check_events(text: str, *, file: Place) -> None:
    """Refuse tags and deep nesting while the text is only a stream, so that neither is ever built."""
    depth = 0
    for event in _parse(text):
        tag = getattr(event, "tag", None)
        is_scalar = isinstance(event, yaml.ScalarEvent)
        if tag is not None and tag != UNSAFE and not (is_scalar and tag in ENCRYPTED):
            name = tag.removeprefix("tag:yaml.org,2002:")
            shown = f"!!{name}" if name in STANDARD or name.startswith("python/") else "!"
            raise InventoryError(
                f"{_locate(event, file=file)}: the tag {shown} is not read in an inventory",
                "write the value plainly; a text that begins with ! stands in quotes",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InventoryError(
                f"{_locate(event, file=file)}: values are nested more than {MAX_DEPTH} deep", "write them flatter"
            )


def _locate(event: yaml.Event, *, file: Place) -> Place:
    """Return where an event begins."""
    return file.at(event.start_mark.line + 1) if event.start_mark else file


def _parse(text: str) -> Iterator[yaml.Event]:
    """Return the parser's events, typed."""
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=LOADER)
    return events


class _Weigher:
    """Counts what the aliases of a document stand for, without following them twice."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, tuple[int, int]] = {}
        """Node identity to how many nodes it stands for and how deep they nest; (0, 0) while it is being counted."""

    def check(self) -> None:
        """Refuse a document that contains itself, or stands for far more than was written."""
        total, _ = self._weigh(self._document.root)
        if total - len(self._known) > MAX_REPEATED:
            place = self._document.place(self._document.root)
            raise InventoryError(
                f"{place.path}: its aliases stand for more than {MAX_REPEATED:,} repeated values",
                "write shared variables into a group instead",
            )

    def _weigh(self, node: Node) -> tuple[int, int]:
        known = self._known.get(id(node))
        if known is None:
            self._known[id(node)] = (0, 0)
            total, depth = 1, 0
            for child in _children(node):
                child_total, child_depth = self._weigh(child)
                total, depth = total + child_total, max(depth, child_depth)
            known = self._known[id(node)] = (total, depth + 1)
        if known[0] == 0:
            raise InventoryError(
                f"{self._document.place(node)}: an alias stands for something that contains itself", "write it out"
            )
        if known[1] > MAX_DEPTH:
            raise InventoryError(
                f"{self._document.place(node)}: aliases nest more than {MAX_DEPTH} deep", "write them flatter"
            )
        return known


def _children(node: Node) -> Iterator[Node]:
    """Yield the nodes directly inside a collection."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, SequenceNode):
        yield from node.value
