"""What the commands share that ask the archive's index: days on the command line, and progress on the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from opsbook.archive.catch_up import ask_archive
from opsbook.archive.index import Index
from opsbook.archive.query import Between, parse_moment
from opsbook.cli.screen import is_terminal, message_console
from opsbook.config import Settings
from opsbook.errors import UsageError

T = TypeVar("T")
_EVERY = 50
"""Runs between two looks at the screen."""
_MANY = 500
"""Runs that take so little time to read that nobody need be told."""


def span(since: str | None, until: str | None, *, now: datetime) -> Between:
    """Return the time between two points of it, as flags give them.

    Raises:
        UsageError: one is no point of time.
    """
    return Between(since=_moment("--since", since, now), until=_moment("--until", until, now))


def _moment(flag: str, text: str | None, now: datetime) -> float | None:
    try:
        return None if text is None else parse_moment(text, now, ends=flag == "--until")
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no date", "such as 2026-11-20, yesterday or 30d") from None


def ask(root: Path, settings: Settings, work: Callable[[Index], T], *, fresh: bool = False) -> T:
    """Ask the index of an archive, and pass on what it has to say of itself; with `fresh` it is made anew.

    Raises:
        ArchiveError: there can be no index.
    """
    library = [Path(folder).absolute() for folder in settings.runbooks]
    with _reading() as watch:
        answer, note = ask_archive(
            root, lambda index: (work(index), index.note), library=library, watch=watch, fresh=fresh
        )
    if note:
        message_console().print(note, markup=False)
    return answer


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None] | None]:
    """Show on a terminal how far the reading of many runs got."""
    if not is_terminal(sys.stderr):
        yield None
        return
    with message_console().status("reading the archive") as shown:
        yield lambda done, of: shown.update(f"read {done} of {of} runs") if of > _MANY and done % _EVERY == 0 else None
