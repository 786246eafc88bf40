"""What follows the work on this screen, what is said before it, and how a question is asked in the middle of it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from getpass import getpass
from typing import TYPE_CHECKING

from opsbook.cli.screen import is_terminal
from opsbook.errors import SecretError
from opsbook.model.outcome import count_states
from opsbook.model.target import TargetState
from opsbook.model.visible import one_line
from opsbook.report.progress import PlainProgress

if TYPE_CHECKING:
    from rich.console import Console

    from opsbook.report.live import LiveProgress

_ASKED = 300
"""Characters of a question."""
UNCHECKED_WARNING = "warning: host keys are not checked (--host-keys off): whoever is on the way can pose as a target"
DRY_NOTICE = "dry run (--check): only read-only commands are sent; local Python runs"


def choose_view(console: Callable[[], Console], *, quiet: bool) -> LiveProgress | PlainProgress | None:
    """Return a live screen on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return None
    if is_terminal(sys.stderr):
        from opsbook.report.live import LiveProgress  # noqa: PLC0415  only a terminal needs it

        return LiveProgress(console())
    return PlainProgress(_write_line)


@contextmanager
def counting(console: Console, *, of: int) -> Iterator[Callable[[TargetState], None]]:
    """Show on a terminal how many targets have answered how, as long as the block lasts; hand out who is told."""
    if not is_terminal(sys.stderr):
        yield lambda _: None
        return
    seen: list[TargetState] = []

    def note(state: TargetState) -> None:
        seen.append(state)
        shown.update(f"{len(seen)} of {of} · {count_states(seen)}")

    with console.status(f"0 of {of}") as shown:
        yield note


def ask_hidden(question: str) -> str:
    """Ask the person at the terminal for a secret; what is typed is not shown.

    Raises:
        SecretError: the input has ended.
    """
    try:
        return getpass(f"{one_line(question)}: ")
    except EOFError:
        hint = "type it, or give another reference, such as env:NAME"
        raise SecretError(f"nothing was typed for {one_line(question)!r}", hint) from None


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
            asked = one_line(question)
            if len(asked) > _ASKED:  # what is asked must not scroll away what stands before it
                asked = f"{asked[: _ASKED // 2]} … {asked[-_ASKED // 2 :]}"
            self._console.print(f"{asked} [y/N] ", end="", markup=False)
            ready, _, _ = select.select([sys.stdin.fileno(), bell], [], [])
            if bell in ready:
                return False
            return os.read(sys.stdin.fileno(), 1024).strip().lower() in {b"y", b"yes"}
        except OSError:
            return False
        finally:
            if live is not None:
                live.resume()
