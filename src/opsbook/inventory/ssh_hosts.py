"""The names in ssh's own configuration: what stands behind `Host`, as targets.

Invariant: names alone are read. Address, port, user and keys are ssh's to answer when the connection is made. What
could not be typed as a target's name (a pattern, a name with other characters) is no target.
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from opsbook.errors import InventoryError
from opsbook.inventory.draft import UNGROUPED, Draft
from opsbook.inventory.files import read_text
from opsbook.inventory.hosts import is_name
from opsbook.inventory.place import Place

LINE = re.compile(r"(?P<keyword>[A-Za-z]+)(?:\s*=\s*|\s+)(?P<rest>.*)")
MAX_INCLUDED = 16
"""How deep ssh itself follows `Include`."""


def read_ssh_config(path: Path, draft: Draft) -> None:
    """Add every plain name of an ssh_config file, and of the files it includes, to the draft.

    Raises:
        InventoryError: a file cannot be read, a line's quotes do not match, or `Include` goes too deep.
    """
    config = None if _is_users_own(path) else str(path.absolute())
    for name, place in _list_names(path, depth=0):
        draft.add_host(name, group=UNGROUPED, port=None, place=place)
        draft.ssh_configs[name] = config


def _is_users_own(path: Path) -> bool:
    """Whether this is the file that ssh reads without being told."""
    return path.resolve() == (_ssh_folder() / "config").resolve()


def _ssh_folder() -> Path:
    try:
        return Path.home() / ".ssh"
    except RuntimeError as error:
        raise InventoryError("there is no home folder to look for .ssh in", "set HOME") from error


def _list_names(path: Path, *, depth: int) -> Iterator[tuple[str, Place]]:
    """Yield the names of one file and of those it includes, in order."""
    if depth > MAX_INCLUDED:
        raise InventoryError(
            f"{path}: files include one another more than {MAX_INCLUDED} deep", "does one include itself?"
        )
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        place = Place(path=path, line=number)
        match = LINE.fullmatch(line.strip())
        keyword = "" if match is None else match["keyword"].lower()
        if match is None or keyword not in {"host", "include"}:
            continue
        for word in _split(match["rest"], place=place):
            if keyword == "include":
                for file in _list_included(word, place=place):
                    yield from _list_names(file, depth=depth + 1)
            elif is_name(word):
                yield word, place


def _split(text: str, *, place: Place) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise InventoryError(f"{place}: the quotes do not match: {error}", "close every quote on its line") from error


def _list_included(word: str, *, place: Place) -> list[Path]:
    """Return the files an `Include` names, sorted; none is no error, as for ssh."""
    if "%" in word or "${" in word:
        raise InventoryError(f"{place}: opsbook does not expand the variables in {word!r}", "write the path out")
    try:
        pattern = _ssh_folder() / Path(word).expanduser()
    except RuntimeError as error:
        raise InventoryError(f"{place}: {error}", "write the path out") from error
    return [file for file in map(Path, sorted(glob.glob(str(pattern)))) if file.is_file()]  # noqa: PTH207  a full path
