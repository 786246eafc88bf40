"""What follows a run on this screen, and how a question is asked in the middle of it."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING

from opsbook.cli.screen import is_terminal
from opsbook.report.progress import PlainProgress

if TYPE_CHECKING:
    from rich.console import Console

    from opsbook.report.live import LiveProgress


def choose_view(console: Console, *, quiet: bool) -> LiveProgress | PlainProgress | None:
    """Return a live screen on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return None
    if is_terminal(sys.stderr):
        from opsbook.report.live import LiveProgress  # noqa: PLC0415  only a terminal needs it

        return LiveProgress(console)
    return PlainProgress(_write_line)


def _write_line(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


class Questions:
    """Asks the person at the terminal; the live screen makes room meanwhile."""

    def __init__(self, console: Console, view: LiveProgress | PlainProgress | None) -> None:
        self._console = console
        self._view = view

    def confirm(self, question: str, *, bell: int) -> bool:
        """See `Prompter.confirm`."""
        live = self._view if not isinstance(self._view, PlainProgress) else None
        if live is not None:
            live.pause()
        try:
            self._console.print(f"{question} [y/N] ", end="", markup=False)
            ready, _, _ = select.select([sys.stdin.fileno(), bell], [], [])
            if bell in ready:
                return False
            return os.read(sys.stdin.fileno(), 1024).strip().lower() in {b"y", b"yes"}
        except OSError:
            return False
        finally:
            if live is not None:
                live.resume()
