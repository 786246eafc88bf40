"""What arrives in pieces, masked as if it had come whole: one stream, or several that a reader sees side by side.

Only an end that may be the beginning of something to mask is held back, until more comes or nothing does. Of several
streams each is masked as it is alone; what is torn between them, one part here and the next there with nothing in
between, is found where one stream follows another, so that a stream that speaks alone costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from opsbook.redaction import MASK, Redactor, masked, merged, parts_of
from opsbook.secret_forms import as_bytes

_NEAR = 4096
"""Characters around the place where two texts meet that are looked at."""
MOST_TORN = 1000
"""Parts of what was torn that are remembered, give or take a few: nobody is to fill the memory with them."""


class MaskedStream:
    """What one stream says."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.kept = ""
        """What is held back."""
        self._inside = 0
        """Characters at the beginning of what is kept that a mask stands for already."""
        self._torn: list[tuple[int, int]] = []
        """Spans of what is kept that are to be masked whatever this stream alone looks like."""
        self.gone = 0
        """Characters that were let go, as they came in."""

    def feed(self, text: str) -> str:
        """Take what comes next; return what can be shown by now."""
        self.take(text)
        return self.let_go()

    def take(self, text: str) -> None:
        """Take what comes next, and hold it back."""
        text = self.kept + text
        if not text.isascii():  # characters whose bytes came apart are put together
            text = _decoded(as_bytes(text))
        self.kept = text

    def mask(self, spans: Iterable[tuple[int, int]]) -> None:
        """Mask these spans of what is kept as well."""
        self._torn = list(merged([*self._torn, *spans]))

    def let_go(self, *, waiting: int = 0, ends: bool = False) -> str:
        """Return what can be shown by now, without so many characters at the end that are to wait."""
        if not self.kept:
            return ""
        spans, held = self._redactor.look(self.kept, ends=ends)
        return self._emit(self.kept, spans, min(held, max(0, len(self.kept) - waiting)))

    def end(self) -> str:
        """Return what was held back: nothing follows it."""
        return self.let_go(ends=True)

    def _emit(self, text: str, spans: list[tuple[int, int]], held: int) -> str:
        inside = self._inside
        found = list(merged([*([(0, inside)] if inside else []), *self._torn, *spans]))
        before = [(start, min(end, held)) for start, end in found if start < held]
        self._inside = next((end - held for start, end in found if start < held < end), 0)
        if inside > held:  # all that is let go stands under the mask
            self._inside = max(self._inside, inside - held)
        self._torn = [(start - held, end - held) for start, end in self._torn if start >= held]
        self.kept = text[held:]
        self.gone += held
        return masked(text[:held], before, inside=bool(inside))


class Torn(Struct, frozen=True, kw_only=True):
    """A part of something that was said in turns on several streams."""

    stream: str
    at: int
    """Where it begins: so many characters had come on its stream before."""
    text: str


class MaskedStreams:
    """What several streams say, each by its name."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._streams: dict[str, MaskedStream] = {}
        self._last = ""
        """Who spoke last."""
        self._older = 0
        """Characters of what is kept of that one that came before another spoke."""
        self._runs: list[tuple[str, int]] = []
        """Whose turn it was, and how many bytes it has at the end of what is kept of that stream: what may be torn."""
        self.torn: list[Torn] = []
        """What was masked because it was torn; only the first of it where there is more than `MOST_TORN`."""
        self._shown, self._shower = "", ""
        """The end of what was shown last where it looks open because the rest is held back, and whose it is."""

    def feed(self, name: str, text: str) -> list[tuple[str, str]]:
        """Take what comes next on a stream; return what can be shown by now, in order, and on which stream."""
        if not text:
            return []
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = MaskedStream(self._redactor)
        if name != self._last and not self._runs:
            self._begin_turn(name, text)
        if self._runs:
            stream.take(text)
            before = self._runs.pop()[1] if self._runs[-1][0] == name else 0
            return self._together([*self._runs, (name, before + len(as_bytes(text)))])
        size = len(stream.kept) + len(text)
        shown = stream.feed(text)
        if self._older:
            self._older = max(0, self._older - (size - len(stream.kept)))
        if shown and (stream.kept or self._shown):
            return [self._after_others(name, shown)]
        return [(name, shown)] if shown else []

    def end(self) -> list[tuple[str, str]]:
        """Return what was held back: nothing follows it on any stream."""
        shown = self._together(self._runs, ends=True) if self._runs else []
        rests = ((name, stream.end()) for name, stream in self._streams.items())
        shown += [self._after_others(name, rest, ends=True) for name, rest in rests if rest]
        self._runs, self._last, self._older, self._shown = [], "", 0, ""
        return shown

    def size(self, name: str) -> int:
        """Return how many characters were shown or masked of a stream."""
        return self._streams[name].gone

    def _begin_turn(self, name: str, text: str) -> None:
        """See whether what the last speaker said may go on with what another says now."""
        end = self._streams[self._last].kept[self._older :] if self._last else ""
        if end:
            near = end + text[:_NEAR]
            whole = _decoded(as_bytes(near))
            spans, held = self._redactor.look(whole, ends=False)
            is_open = held < len(end) or any(start < len(end) < stop for start, stop in spans)
            if is_open or len(whole) < len(near):  # a character of which both have a part
                self._runs = [(self._last, len(as_bytes(end)))]
        self._last, self._older = name, len(self._streams[name].kept)

    def _together(self, runs: list[tuple[str, int]], *, ends: bool = False) -> list[tuple[str, str]]:
        """Mask what is torn between streams, and return what can be shown by now, in the order it came."""
        held, waiting = self._look(runs, ends=ends), dict[str, int]()
        for name, size in runs:
            waiting[name] = waiting.get(name, 0) + size
        shown, left, at = list[tuple[str, str]](), list[tuple[str, int]](), 0
        for name, size in runs:
            at += size
            waits = min(size, max(0, at - held))
            waiting[name] -= size - waits
            if waits < size and (text := self._let_go(name, waiting[name], ends=ends)):
                shown.append(self._after_others(name, text, ends=ends))
            if waits:
                left.append((name, waits))
        self._last, self._runs = runs[-1][0], left if len({name for name, _ in left}) > 1 else []
        stream = self._streams[self._last]
        self._older = len(stream.kept) - _characters(stream.kept, waiting[self._last])
        return shown

    def _look(self, runs: list[tuple[str, int]], *, ends: bool) -> int:
        """Mask what is torn between streams; return where, in bytes of these runs, begins what may be yet."""
        kept = {name: as_bytes(self._streams[name].kept) for name, _ in runs}
        begins = {name: len(data) - sum(size for other, size in runs if other == name) for name, data in kept.items()}
        parts, at = [], dict(begins)
        for name, size in runs:
            parts.append(kept[name][at[name] : at[name] + size])
            at[name] += size
        text = _decoded(b"".join(parts))
        found, held = self._redactor.look(text, ends=ends)
        spans = [(len(as_bytes(text[:start])), len(as_bytes(text[:end]))) for start, end in found]
        for name, data in kept.items():
            stream, own = self._streams[name], parts_of(name, spans, runs)
            places = ((data[: begins[name] + start], data[: begins[name] + end]) for start, end in own)
            torn = [(len(_decoded(before)), len(_decoded(upto))) for before, upto in places]
            stream.mask(torn)
            if len(self.torn) <= MOST_TORN:
                told = (Torn(stream=name, at=stream.gone + at, text=stream.kept[at:end]) for at, end in torn)
                self.torn.extend(told)
        return len(as_bytes(text[:held]))

    def _let_go(self, name: str, waiting: int, *, ends: bool) -> str:
        stream = self._streams[name]
        return stream.let_go(waiting=_characters(stream.kept, waiting), ends=ends)

    def _after_others(self, name: str, text: str, *, ends: bool = False) -> tuple[str, str]:
        """Return a text as it can be shown behind what others said: what is held back must make no secret by its place.

        Of two streams that say `se`, `sec` and `cret` the second waits, and the others must not stand side by side.
        """
        before = self._shown
        if before and name != self._shower:
            size, near = len(before), before + text[:_NEAR]
            spans, held = self._redactor.look(near, ends=False)
            made = max((end - size for start, end in spans if start < size < end), default=0)
            text = MASK + text[made:] if made else text
            if held < size:
                self._shown, self._shower = near[held:], ""
                return name, text
            before = ""
        is_open = ends or self._streams[name].kept
        self._shown, self._shower = (before + text[-_NEAR:])[-_NEAR:] if is_open else "", name
        return name, text


def _characters(text: str, size: int) -> int:
    """Return how many characters the last bytes of a text are."""
    return len(_decoded(as_bytes(text)[-size:])) if size else 0


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
