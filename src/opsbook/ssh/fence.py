"""A word that divides a stream in two, found wherever the pieces of the stream break it."""

from __future__ import annotations


class Fence:
    """Passes on what comes before a word, and keeps the rest.

    >>> fence = Fence(b"MARK")
    >>> fence.feed(b"one MA"), fence.feed(b"RK two"), fence.behind
    (b'one ', b'', b' two')
    """

    def __init__(self, word: bytes) -> None:
        self._word = word
        self._held = b""
        self.found = False
        self.behind = b""
        """What came after the word."""

    def feed(self, data: bytes) -> bytes:
        """Return what certainly stands before the word."""
        if self.found:
            self.behind += data
            return b""
        data = self._held + data
        before, word, after = data.partition(self._word)
        if word:
            self.found, self.behind, self._held = True, after, b""
            return before
        keep = next((n for n in range(min(len(self._word) - 1, len(data)), 0, -1) if data.endswith(self._word[:n])), 0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def rest(self) -> bytes:
        """Return what was held back as the beginning of a word that never came; the stream is over."""
        held, self._held = self._held, b""
        return held
