"""What a command says, as it arrives: bytes in, whole lines out, and a bounded amount of text kept.

Broken UTF-8 is never raised: it is replaced in what is kept, and handed on as surrogate escapes, from which the bytes
come back. Everything goes on to the listener line by line; what is kept in memory is the first and the last part, with
a count of what lies between.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

KEEP = 1024 * 1024
"""Characters kept of the beginning, and as many of the end."""
LONGEST_LINE = 64 * 1024
"""A longer line is handed on in pieces."""


class Capture:
    """One stream of one command."""

    def __init__(self, on_lines: Callable[[str], None], *, keep: int = KEEP) -> None:
        self._on_lines = on_lines
        self._keep = keep
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._partial = ""
        self._head: list[str] = []
        self._head_size = 0
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self.dropped = 0
        """Characters between the kept beginning and the kept end."""

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._take(self._decoder.decode(data))

    def close(self) -> None:
        """No more will come: hand on the last line even if it has no end."""
        self._take(self._decoder.decode(b"", final=True))
        if self._partial:
            rest, self._partial = self._partial, ""
            self._on_lines(rest)

    @property
    def text(self) -> str:
        """What was said, with a note where some of it is left out."""
        gap = [f"\n[{self.dropped} characters left out]\n"] if self.dropped else []
        text = "".join([*self._head, *gap, *self._tail])
        return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _take(self, text: str) -> None:
        if not text:
            return
        self._store(text)
        end = text.rfind("\n") + 1
        if not end and len(self._partial) + len(text) >= LONGEST_LINE:
            end = len(text)
        if end:
            lines, self._partial = self._partial + text[:end], text[end:]
            self._on_lines(lines)
        else:
            self._partial += text

    def _store(self, text: str) -> None:
        room = self._keep - self._head_size
        if room > 0:
            self._head.append(text[:room])
            self._head_size += min(room, len(text))
            text = text[room:]
        if not text:
            return
        self._tail.append(text)
        self._tail_size += len(text)
        while self._tail_size > self._keep:
            excess = self._tail_size - self._keep
            oldest = self._tail.popleft()
            cut = min(excess, len(oldest))
            if cut < len(oldest):
                self._tail.appendleft(oldest[cut:])
            self._tail_size -= cut
            self.dropped += cut
