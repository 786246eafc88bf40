"""The two streams: results on stdout, everything else on stderr; and how wide and how colourful they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsbook.model.visible import plain_json

if TYPE_CHECKING:
    from rich.console import Console

_EVERY = 50
"""Runs between two looks at the screen."""
PLAIN_WIDTH = 120
"""Columns when nobody looks: wide enough for a log."""


def result_console() -> Console:
    """Return where results go."""
    return _console(stderr=False)


def message_console() -> Console:
    """Return where everything else goes."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from opsbook.cli.console import QuietConsole  # noqa: PLC0415  rich is much to import for whom nobody watches

    stream = sys.stderr if stderr else sys.stdout
    watched = is_terminal(stream)
    columns = os.environ.get("COLUMNS", "")
    width = None if watched else int(columns) if columns.isdecimal() else PLAIN_WIDTH
    options: dict[str, Any] = {"highlight": False, "soft_wrap": False, "emoji": False}
    return QuietConsole(stderr=stderr, width=width, force_terminal=watched, **options)


def write_document(document: bytes) -> None:
    """Write the one JSON document of `--json` to stdout: whole, and harmless for whoever only looks at it."""
    sys.stdout.buffer.write(plain_json(document))


def is_terminal(stream: object) -> bool:
    """Whether a person looks at this stream: a terminal that can move its cursor, outside of CI."""
    try:
        watched = bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False  # closed, or not there
    return watched and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


@contextmanager
def counted(doing: str) -> Iterator[Callable[[int], None] | None]:
    """Show on a terminal how many runs were worked on, as long as the block lasts."""
    if not is_terminal(sys.stderr):
        yield None
        return
    with message_console().status(doing) as shown:
        yield lambda done: shown.update(f"{doing}: {done} runs") if done % _EVERY == 0 else None


def short_path(path: Path) -> Path:
    """Return a path as a person here would write it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
