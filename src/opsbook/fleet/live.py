"""What a plain notebook shows of a call while it runs: one output, filled again and again, and gone at the end.

Under a runner there is nothing of this: the runner has a screen of its own, and its copies stay clean. The output is
made by the main thread, which only waits. Those who read from targets hand over lines and never wait for it: a display
that is slow or broken loses lines, and nothing else.
"""

from __future__ import annotations

import html
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opsbook.model.visible import last_lines, one_line

LINES = 10
"""How many of the last lines that targets said are shown."""
FIRST_S = 1.0
"""Seconds a call may take before anything is shown of it."""
EVERY_S = 0.25
"""Seconds between two fillings, at least."""
_LONGEST_LINE = 160
_LONGEST_NAME = 24


class LiveOutput:
    """The one output. Does nothing until `attach` has given it a notebook."""

    def __init__(self) -> None:
        self._display: Callable[..., Any] | None = None
        self._lock = threading.Lock()
        self._tail: deque[tuple[str, str]] = deque(maxlen=LINES)
        """What was said last. The oldest goes when there is no room: whoever reads from targets never waits here."""
        self._handle: Any = None
        """The output, while it shows something that will be replaced."""
        self._text = ""
        self._standing = ""
        self._depth = 0
        self._broken = False

    def attach(self, display: Callable[..., Any]) -> None:
        """Show things with IPython's `display`, or what can be called like it."""
        self._display = display

    @property
    def every_s(self) -> float | None:
        """Seconds to wait between two calls of `refresh`; None when there is nothing to show them on."""
        return EVERY_S if self._display is not None and _in_main_thread() and not self._broken else None

    def said(self, target: str, text: str) -> None:
        """Take what a target said, from any thread, without waiting."""
        if self._display is None:
            return
        lines = last_lines(text, most=LINES)
        with self._lock:
            self._tail.extend((target, line) for line in lines)

    @contextmanager
    def one_output(self) -> Iterator[None]:
        """Show all that comes within this in one output, as far as it is live; may be nested.

        What is not replaced by a result is taken away at the end; after an error the counts stay, because no table
        will come.
        """
        if self._display is None or not _in_main_thread():
            yield
            return
        if not self._depth:
            self._broken, self._text, self._standing = False, "", ""
        self._depth += 1
        left = ""
        try:
            yield
        except BaseException:
            left = self._standing
            raise
        finally:
            self._depth -= 1
            if not self._depth and self._handle is not None:
                self._fill(left)
                self._handle = None

    def begin(self) -> None:
        """A call begins: what was said before is old."""
        with self._lock:
            self._tail.clear()

    def refresh(self, standing: str, *, seconds: float) -> None:
        """Show the last lines and where the targets are, `seconds` after the call began."""
        if self.every_s is None or not self._depth or (self._handle is None and seconds < FIRST_S):
            return
        minutes, second = divmod(int(seconds), 60)
        self._standing = f"{standing} · {minutes}:{second:02}"
        text = "\n".join([*self._lines(), self._standing])
        if text != self._text:
            self._fill(text)

    def show(self, value: object) -> None:
        """Show a value for good: in the place of what is live, else in an output of its own."""
        if self._display is None:
            return
        if self._handle is not None and _in_main_thread():
            handle, self._handle = self._handle, None
            if _tried(lambda: handle.update(value)):
                return
        self._display(value)

    def _lines(self) -> list[str]:
        with self._lock:
            tail = list(self._tail)
        names = {name: one_line(name)[:_LONGEST_NAME] for name, _ in tail}
        wide = max(map(len, names.values()), default=0)
        return [f"{names[name]:<{wide}} | {_cut(line)}" for name, line in tail]

    def _fill(self, text: str) -> None:
        self._text = text
        bundle = {"text/plain": text, "text/html": f'<pre style="margin:0">{html.escape(text)}</pre>' if text else ""}
        self._broken = not _tried(lambda: self._put(bundle))

    def _put(self, bundle: dict[str, str]) -> None:
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
        elif self._display is not None:
            self._handle = self._display(bundle, raw=True, display_id=True)


def _tried(do: Callable[[], object]) -> bool:
    """Whether it worked: a display that is broken is no reason to stop."""
    try:
        do()
    except Exception:  # noqa: BLE001  whatever a front end raises, the call goes on
        return False
    return True


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
