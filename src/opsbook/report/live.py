"""The live view: an observer that keeps one screen up to date in place while a run works.

Folding never waits for a redraw: two locks, one for what is known and one for whether it is shown, and whoever
holds the first never asks for the second. Time runs on the monotonic clock from the latest entry, so a wall clock
that jumps shows nowhere. Leaves nothing behind when it is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Lock

from rich.console import Console, Group
from rich.live import Live

from opsbook.model.event import Entry
from opsbook.report.layout import encodable
from opsbook.report.screen import screen
from opsbook.report.state import Progress

_PER_SECOND = 8


class LiveProgress:
    """Shows a run while it works, on a terminal. `pause` makes room for a question, `resume` goes on."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._known = Lock()
        self._progress = Progress()
        self._latest: datetime | None = None
        self._seen_at = 0.0
        self._shown = Lock()
        self._live: Live | None = None
        self._pauses = 0
        self._closed = False

    def observe(self, entry: Entry) -> None:
        """Take an entry in; the screen follows with its next refresh."""
        with self._known:
            self._progress.apply(entry)
            if self._latest is None or entry.at > self._latest:
                self._latest, self._seen_at = entry.at, self._clock()
        self._start()

    def pause(self) -> None:
        """Take the screen away until `resume`; may be nested."""
        with self._shown:
            self._pauses += 1
            self._stop()

    def resume(self) -> None:
        """Show the screen again."""
        with self._shown:
            self._pauses = max(0, self._pauses - 1)
        self._start()

    def close(self) -> None:
        """Take the screen away for good."""
        with self._shown:
            self._closed = True
            self._stop()

    def _start(self) -> None:
        with self._shown:
            if self._live is not None or self._pauses or self._closed:
                return
            live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=_PER_SECOND,
                transient=True,
                redirect_stdout=False,  # results go where the caller sent them, not onto this screen
                redirect_stderr=self._console.stderr,
                vertical_overflow="crop",
            )
            with suppress(OSError, ValueError):  # the terminal is gone: nobody is looking
                live.start(refresh=True)
            self._live = live

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with suppress(OSError, ValueError):
                live.stop()

    def _render(self) -> Group:
        """Return the screen as it is now."""
        size = self._console.size
        with self._known:
            if self._latest is None:
                return Group()
            now = self._latest + timedelta(seconds=self._clock() - self._seen_at)
            lines = screen(self._progress, now=now, width=size.width, height=max(1, size.height - 1))
        return Group(*(encodable(line, self._console) for line in lines))
