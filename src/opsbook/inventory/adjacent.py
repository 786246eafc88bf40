"""Variables in `group_vars` and `host_vars` beside the inventory sources.

Invariant: what is read is what Ansible reads: of `NAME`, `NAME.yml`, `NAME.yaml` and `NAME.json` the first that is
there, and of a directory everything in it, by name, with a known ending or none. One that is encrypted as a whole is
named, and says nothing. This module knows no precedence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from yaml.nodes import MappingNode

from opsbook.errors import InventoryError
from opsbook.inventory.document import read_document
from opsbook.inventory.draft import Adjacent, Draft
from opsbook.inventory.files import SealedError, explain, read_text
from opsbook.inventory.place import Place, Variable

ENDINGS = ("", ".yml", ".yaml", ".json")
MAX_NESTED = 20


def read_adjacent(draft: Draft, *, folders: Iterable[Path]) -> None:
    """Give the draft what stands beside its sources, folder by folder, for the groups and hosts it knows.

    Of a folder named twice the last place counts, as a later source overrides an earlier one.

    Raises:
        InventoryError: a file cannot be read, or is no mapping of variables.
    """
    last: dict[str, Path] = {}
    for folder in folders:
        real = os.path.realpath(folder)
        last.pop(real, None)
        last[real] = folder
    for folder in last.values():
        groups, sealed_groups = _read_folder(folder / "group_vars", draft.groups)
        hosts, sealed_hosts = _read_folder(folder / "host_vars", draft.hosts)
        draft.adjacent.append(
            Adjacent(groups=groups, hosts=hosts, sealed_groups=sealed_groups, sealed_hosts=sealed_hosts)
        )


def _read_folder(
    folder: Path, names: Iterable[str]
) -> tuple[dict[str, dict[str, Variable]], dict[str, tuple[str, ...]]]:
    """Return the variables of every name that has some in a folder, and the files of them that are encrypted.

    Listing it once spares asking for each host.
    """
    try:
        present = set(os.listdir(folder))  # noqa: PTH208  names alone are looked up
    except FileNotFoundError:
        return {}, {}
    except OSError as error:
        raise InventoryError(f"{folder}: the directory cannot be read: {explain(error)}") from error
    found: dict[str, dict[str, Variable]] = {}
    sealed: dict[str, tuple[str, ...]] = {}
    for name in names:
        entry = next((name + ending for ending in ENDINGS if name + ending in present), None)
        if entry is not None:
            variables: dict[str, Variable] = {}
            for file in _list_files(folder / entry, depth=1):
                try:
                    variables |= _read_file(file)
                except SealedError:
                    sealed[name] = (*sealed.get(name, ()), str(file))
            found[name] = variables
    return found, sealed


def _list_files(path: Path, *, depth: int) -> Iterator[Path]:
    """Yield a file, or the files of a directory in the order in which they count."""
    if not path.is_dir():
        yield path
        return
    if depth > MAX_NESTED:
        raise InventoryError(
            f"{path}: directories nest more than {MAX_NESTED} deep", "does a link lead back to where it is?"
        )
    try:
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise InventoryError(f"{path}: the directory cannot be read: {explain(error)}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith("~"):
            continue
        if entry.suffix in ENDINGS and not (entry.suffix and entry.is_dir()):
            yield from _list_files(entry, depth=depth + 1)


def _read_file(path: Path) -> dict[str, Variable]:
    """Return the variables one file sets; none where it is empty."""
    document = read_document(read_text(path), file=Place(path=path))
    if document is None or document.is_null(document.root):
        return {}
    if not isinstance(document.root, MappingNode):
        raise InventoryError(
            f"{document.place(document.root)}: this is not a mapping of variables", "write lines such as stack: prod"
        )
    variables = {}
    for entry in document.entries(document.root):
        if not entry.key:
            raise InventoryError(f"{entry.place}: a variable has no name", "write it as name: value")
        variables[entry.key] = Variable(value=document.value(entry.value), place=entry.place)
    return variables
