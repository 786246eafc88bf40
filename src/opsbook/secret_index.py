"""Finds the known forms of secrets in bytes, however many there are, at the speed of looking for a few.

The text is looked at four bytes at a time, every fourth byte, without what may stand between a form's characters; a
form of seven bytes or more shows itself by one of its first four words, wherever it begins. What shows itself is
compared as a whole. Also says where the end of a text may be the beginning of a form. Forms are only ever added, so
that one thread may search while another adds.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from opsbook.secret_forms import Form, Layout

_BETWEEN = b" \t\r\n:\0"
_COLOURS = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_BLANK = re.compile(rb"[ \t\r\n:\0]+")
_GAP = re.compile(rb"(?:\x1b\[[0-?]*[ -/]*[@-~]|[ \t\r\n:\0])+")
_NULS = re.compile(rb"\0")
_NOTHING = re.compile(rb"(?!)")
_FOLD = re.compile(rb"[ \t]*\r?\n[ \t]*")
_OPEN_FOLD = re.compile(rb"(?:[ \t]*\r?\n)?[ \t]*\r?\Z")
_OPEN_COLOURS = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*)?\Z")
_LONGEST_COLOURS = 64
"""Bytes a sequence of colours has at most."""
_WORD = 4
_SEEN = 2 * _WORD - 1
"""Bytes a form needs to show itself by a word, wherever it begins."""


class _Needle(Struct, frozen=True, kw_only=True):
    """A form, and what is left of it without all that may stand in between."""

    form: Form
    lean: bytes

    def stands_as(self, found: bytes, *, coloured: bool, unfinished: bool = False) -> bool:
        """Whether a piece of text is this form, or may be its beginning; what is `coloured` may have colours in it."""
        data, layout = self.form.data, self.form.layout
        found = _COLOURS.sub(b"", found) if coloured else found
        if layout is Layout.FOLDED:
            found = _FOLD.sub(b"", _OPEN_FOLD.sub(b"", found) if unfinished else found)
        elif layout is Layout.SPACED:
            found, data = found.translate(None, _BETWEEN), self.lean
        else:
            found, data = found.replace(b"\0", b""), data.replace(b"\0", b"")
        return data.startswith(found) if unfinished else data == found


class Match(Struct, frozen=True, kw_only=True):
    """Where a form stands, in bytes."""

    start: int
    end: int
    name: str


class Search(Struct, frozen=True, kw_only=True):
    """What was found in a text."""

    matches: tuple[Match, ...] = ()
    held: int
    """Where the part at the end begins that may be the beginning of a form; the text's length where there is none."""


class FormIndex:
    """All forms to look for."""

    def __init__(self, forms: Iterable[Form] = ()) -> None:
        self._known: dict[bytes, Form] = {}
        self._signs: set[int] = set()
        """The words that needles show themselves by."""
        self._words: defaultdict[int, list[tuple[_Needle, int]]] = defaultdict(list)
        self._beginnings: defaultdict[bytes, list[_Needle]] = defaultdict(list)
        """Needles by each of their beginnings that is too short to hold a word for sure."""
        self._short: list[_Needle] = []
        """Needles too short to show themselves: looked for one by one."""
        self._bare: list[Form] = []
        """Forms that begin or end with what may stand in between, or have little else: looked for as they are."""
        self.add(forms)

    def add(self, forms: Iterable[Form]) -> None:
        """Look for these as well from now on; only one thread may add at a time."""
        for form in forms:
            if form.data not in self._known:
                self._known[form.data] = form
                self._add(form)

    def _add(self, form: Form) -> None:
        needle = _Needle(form=form, lean=form.data.translate(None, _BETWEEN))
        ends = form.data[:1] + form.data[-1:]
        if len(needle.lean) < _WORD or len(ends.translate(None, _BETWEEN)) < len(ends) or b"\x1b" in form.data:
            self._bare.append(form)
            return
        for size in range(1, min(_SEEN, len(needle.lean))):
            self._beginnings[needle.lean[:size]].append(needle)
        if len(needle.lean) < _SEEN:
            self._short.append(needle)
            return
        for offset in range(_WORD):
            (word,) = memoryview(needle.lean[offset : offset + _WORD]).cast("I")
            self._words[word].append((needle, offset))
            self._signs.add(word)

    def letters(self) -> bytes:
        """Return all forms, one after another."""
        return b"\n".join(tuple(self._known))

    def backwards(self) -> FormIndex:
        """Return an index of the same forms, each written backwards."""
        return FormIndex(replace(form, data=form.data[::-1]) for form in tuple(self._known.values()))

    def search(self, data: bytes, *, ends: bool) -> Search:
        """Look through some bytes; unless it `ends` with them, a beginning of a form at their end is held."""
        # what looks like a sequence of colours may as well be a stray escape before a secret
        kinds = (False, True) if b"\x1b" in data else (False,)
        found = [self._laid_out(data, ends=ends, coloured=coloured) for coloured in kinds]
        if self._bare:
            gaps = [gap for gap, sign in ((_NOTHING, b""), (_NULS, b"\0"), (_COLOURS, b"\x1b")) if sign in data]
            found += [self._as_they_are(data, gap, ends=ends) for gap in gaps]
        matches = tuple(match for search in found for match in search.matches)
        return Search(matches=matches, held=min(search.held for search in found))

    def _laid_out(self, data: bytes, *, ends: bool, coloured: bool) -> Search:
        """Look for the forms between whose characters something may stand."""
        seen = data if ends or not coloured else _without_open_colours(data)
        lean = _squeezed(seen, coloured=coloured)
        whole, begun = self._candidates(lean)
        matches = []
        if whole:
            places = _Places(seen, _GAP if coloured else _BLANK)
            for needle, at in whole:
                start, end = places.start(at), places.end(at + len(needle.lean))
                if needle.stands_as(seen[start:end], coloured=coloured):
                    matches.append(Match(start=start, end=end, name=needle.form.name))
        if ends:
            return Search(matches=tuple(matches), held=len(data))
        begun += self._short_beginnings(lean)
        held = _beginning(seen, len(lean), begun, coloured=coloured) if begun else len(seen)
        return Search(matches=tuple(matches), held=held if held < len(seen) else len(data))

    def _candidates(self, lean: bytes) -> tuple[list[tuple[_Needle, int]], list[tuple[_Needle, int]]]:
        """Return which needles stand where in the lean text, and which may begin where at its end."""
        whole, begun = [], []
        words = memoryview(lean)[: len(lean) // _WORD * _WORD].cast("I").tolist()
        if not self._signs.isdisjoint(words):
            for place in [place for place, word in enumerate(words) if word in self._signs]:
                for needle, offset in self._words[words[place]]:
                    at = place * _WORD - offset
                    if at >= 0 and lean.startswith(needle.lean, at):
                        whole.append((needle, at))
                    elif at >= 0 and len(lean) - at < len(needle.lean) and needle.lean.startswith(lean[at:]):
                        begun.append((needle, at))
        for needle in self._short:
            whole += [(needle, at) for at in _all(needle.lean, lean)]
        return whole, begun

    def _short_beginnings(self, lean: bytes) -> Iterator[tuple[_Needle, int]]:
        for size in range(1, min(_SEEN, len(lean) + 1)):
            for needle in self._beginnings.get(lean[-size:], ()):
                yield needle, len(lean) - size

    def _as_they_are(self, data: bytes, gaps: re.Pattern[bytes], *, ends: bool) -> Search:
        """Look for the forms that are as they are, but for one kind of gaps."""
        seen = data if ends or gaps is not _COLOURS else _without_open_colours(data)
        thin, places, matches, held = gaps.sub(b"", seen), _Places(seen, gaps), list[Match](), len(data)
        for form in self._bare:
            size = len(form.data)
            matches += [
                Match(start=places.start(at), end=places.end(at + size), name=form.name) for at in _all(form.data, thin)
            ]
            begun = (part for part in range(min(size - 1, len(thin)), 0, -1) if thin.endswith(form.data[:part]))
            part = 0 if ends else next(begun, 0)
            held = min(held, places.start(len(thin) - part)) if part else held
        return Search(matches=tuple(matches), held=held)


class _Places:
    """Where the bytes of a text stood before all `gaps` were taken out of it."""

    def __init__(self, data: bytes, gaps: re.Pattern[bytes]) -> None:
        self._at, self._gone, gone = [], [0], 0
        for gap in gaps.finditer(data):
            self._at.append(gap.start() - gone)
            gone += gap.end() - gap.start()
            self._gone.append(gone)

    def start(self, at: int) -> int:
        return at + self._gone[bisect_right(self._at, at)]

    def end(self, at: int) -> int:
        return self.start(at - 1) + 1


def _beginning(seen: bytes, size: int, begun: list[tuple[_Needle, int]], *, coloured: bool) -> int:
    """Return where the first form begins that the end of a text may be part of; `size` is that of the lean text."""
    first = min(at for _, at in begun)
    # no sequence of colours reaches over the end of a line, and only the last lines matter
    cut = seen.rfind(b"\n", 0, max(0, len(seen) - 2 * (size - first) - _LONGEST_COLOURS)) + 1
    gone = size - len(_squeezed(seen[cut:], coloured=coloured))
    if gone > first:
        cut, gone = 0, 0
    tail = seen[cut:]
    places = _Places(tail, _GAP if coloured else _BLANK)
    for needle, at in sorted(begun, key=lambda found: found[1]):
        start = places.start(at - gone)
        if needle.stands_as(tail[start:], coloured=coloured, unfinished=True):
            return cut + start
    return len(seen)


def _without_open_colours(data: bytes) -> bytes:
    """Return bytes without a sequence of colours at their end that what follows will end."""
    opened = _OPEN_COLOURS.search(data, max(0, len(data) - _LONGEST_COLOURS))
    return data[: opened.start()] if opened else data


def _squeezed(data: bytes, *, coloured: bool) -> bytes:
    return (_COLOURS.sub(b"", data) if coloured else data).translate(None, _BETWEEN)


def _all(part: bytes, data: bytes) -> Iterator[int]:
    """Yield every place where a part stands, overlapping ones too."""
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)
