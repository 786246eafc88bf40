"""A regular expression to find lines by, which can neither hang nor be killed only by force.

Python's search looks for signals while it goes on: an alarm on this process's own time ends one that does not come to
an end. Belongs to the main thread of a command; knows nothing of where the lines come from.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from opsbook.errors import UsageError

BUDGET_S = 5.0
"""Seconds of processor time the lines of one batch may take."""


class PatternError(UsageError):
    """A regular expression that cannot be used, and where it is wrong."""

    def __init__(self, what: str, text: str, at: int) -> None:
        super().__init__(f"--grep: {what}", "it is a regular expression as Python has them; \\ takes a sign as it is")
        self.args = (what, text, at)
        self.text = text
        self.at = at
        """Where, counted from 0."""


class LinePattern:
    """One expression, and the time it has."""

    def __init__(self, text: str, *, budget_s: float = BUDGET_S) -> None:
        """Understand an expression.

        Raises:
            PatternError: it is none.
        """
        self._text = text
        self._budget = budget_s
        try:
            self._expression = re.compile(text)
        except re.error as error:
            raise PatternError(f"{error.msg}, at character {(error.pos or 0) + 1}", text, error.pos or 0) from None
        except (RecursionError, OverflowError) as error:
            raise PatternError(f"it is beyond reading: {error}", text, 0) from None

    def finds(self, line: str) -> bool:
        """Whether something in a line matches; to be asked inside of `bounded`."""
        return self._expression.search(line) is not None

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Give the searches in the block as much time as a batch of lines may take.

        Raises:
            UsageError: they took more.
        """
        before = signal.signal(signal.SIGVTALRM, self._overdue)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._budget)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        raise UsageError(
            f"--grep {self._text!r} takes more than {self._budget:g} s for a few lines",
            "a repeat within a repeat, such as (a+)+, may take for ever: say it without",
        )
