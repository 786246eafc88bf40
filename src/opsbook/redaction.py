"""Secrets as a type, and the one redactor that stands before every sink.

`Secret` shows itself as `***` everywhere and gives its value only to `reveal()`. A `Redactor` knows the values that
were revealed in this process, the formats of well-known tokens, and the patterns of the settings; it masks them in
every string it is shown; `masked_stream` does in what arrives in pieces. Whatever overlaps is masked as one. Limits: it
cannot see into images, nor into what is compressed, encrypted or spelled in a way that `secret_forms` does not know.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from operator import itemgetter
from threading import RLock
from typing import Any

import msgspec
from msgspec.structs import replace

from opsbook.errors import SecretError
from opsbook.secret_forms import SHORTEST, Form, as_bytes, forms_of
from opsbook.secret_index import FormIndex
from opsbook.token_patterns import TokenPatterns

MASK = "***"
STRUCTURE = frozenset(
    ("run_id", "cell_id", "id", "call", "digest", "kind", "target", "targets", "selected", "addresses", "waves")
) | {*("stream", "signal", "results", "sha256", "tags", "boot_id", "spool", "secrets", "versions")}
STRUCTURE |= {"parent", "resumed_from"}
_TAGS = "tags"
"""Fields of our own Structs whose text holds things together: names and ids, not what anybody wrote or printed."""
SCHEMES = ("env", "file", "cmd", "vault", "prompt")
PROMPT = "prompt:"
"""Alone it is a whole reference: what to ask for is then said by where it stands."""
INLINE = "inline:"
"""Stands before a password that an inventory holds itself, so that it travels like a reference."""


def is_reference(text: object) -> bool:
    """Whether `text` is a secret's reference, such as `env:TOKEN`."""
    if not isinstance(text, str):
        return False
    scheme, _, place = text.partition(":")
    return text == PROMPT or (scheme in SCHEMES and bool(place))


def shown_reference(reference: str) -> str:
    """Return a reference as anybody may see it: of a password that an inventory holds itself, only that it is one."""
    return f"{INLINE}{MASK}" if reference.startswith(INLINE) else reference


_PORTION = 64 * 1024
"""Characters of a text that are looked through at once."""
_CUT = re.compile(rb"\n?\xe2\x80\xa6\n?|\n\[\d+ characters left out\]\n")
"""What stands where opsbook has cut a text: a dot-dot-dot, or the note in what a target said."""


class Secret:
    """A value that is never shown: a reference, and the means to resolve it when it is needed."""

    __slots__ = ("_resolve", "reference")

    def __init__(self, reference: str, resolve: Callable[[str], str]) -> None:
        self.reference = reference
        self._resolve = resolve

    def reveal(self) -> str:
        """Return the value itself.

        Raises:
            SecretError: the reference cannot be resolved, or its value is too short to be masked safely.
        """
        value = self._resolve(self.reference)
        if len(value) < SHORTEST:
            raise SecretError(f"the secret {self.reference!r} is shorter than {SHORTEST} characters")
        return value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a Secret cannot be pickled")


class _Edges(msgspec.Struct, frozen=True, kw_only=True):
    """What cut forms are found by; made when a text is cut, for there is rarely one."""

    values: int
    """How many values it is of."""
    letters: bytes
    """All forms, one after another."""
    backwards: FormIndex
    """The forms written backwards: how one ends is how that begins."""


class Redactor:
    """Masks every value it was told of. Safe to share between threads."""

    def __init__(self, patterns: Iterable[str] = (), *, tokens: bool = True) -> None:
        self._lock = RLock()
        self._known: set[str] = set()
        self._index = FormIndex()
        self._edges = _Edges(values=0, letters=b"", backwards=self._index)
        self._patterns = TokenPatterns(patterns, tokens=tokens)

    def add(self, *values: str, name: str = "a secret") -> bool:
        """Mask these values from now on; `name` is what a person may know of them: their reference.

        Returns whether any was new: what was written before may hold it.
        """
        called = "a password in the inventory" if name.startswith(INLINE) else name
        with self._lock:
            new = set(values) - self._known
            if not new:
                return False
            forms = [form for value in sorted(new) for form in self._forms_of(value, name=called)]
            self._index.add(forms)
            self._known |= new
        return True

    def _forms_of(self, value: str, *, name: str) -> Iterator[Form]:
        """Yield the forms of a value, and what was left of them where a part of it has been masked already."""
        is_cut = self.text(value) != value
        for form in forms_of(value, name=name):
            yield form
            if is_cut:
                left = self.text(form.data.decode("utf-8", "replace"))
                if left.strip("*"):
                    yield replace(form, data=left.encode())

    @property
    def known(self) -> int:
        """How many values it knows: what was masked when it knew fewer may hold one of the others."""
        return len(self._known)

    def text(self, text: str) -> str:
        """Return `text` with all that is known masked, and what is not Unicode replaced."""
        text = repaired(text)
        return masked(text, self._spans(text))

    def pieces(self, texts: Sequence[str], streams: Sequence[str] = ()) -> list[str]:
        """Return texts masked as if they were one; a mask stands where what it hides begins.

        `streams` says of which stream each of them is. Then those of one stream are looked at as one as well, and what
        several streams said a part of has a mask in each.
        """
        whole = list(map(repaired, texts))
        spans = self._spans("".join(whole))
        if len(set(streams)) <= 1:
            return _masked_pieces(whole, spans)
        shown = [""] * len(whole)
        for stream in set(streams):
            own = [place for place, name in enumerate(streams) if name == stream]
            said = [whole[place] for place in own]
            parts = parts_of(stream, spans, zip(streams, map(len, whole), strict=True))
            found = list(merged([*self._spans("".join(said)), *parts]))
            for place, text in zip(own, _masked_pieces(said, found), strict=True):
                shown[place] = text
        return shown if shown == whole else self.pieces(shown)  # what a mask was between stands side by side now

    def places(self, text: str) -> list[tuple[str, int]]:
        """Return what the secrets are called that stand in a text, each with the first line it stands in, from 1."""
        data, first = as_bytes(text), dict[str, int]()
        for match in self._index.search(data, ends=True).matches:
            first[match.name] = min(first.get(match.name, match.start), match.start)
        return [(name, data.count(b"\n", 0, start) + 1) for name, start in sorted(first.items())]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return what is to be masked in a text, in order and apart; a long one is looked through in portions."""
        spans, begin, size = list[tuple[int, int]](), 0, _PORTION
        while True:
            ends = begin + size >= len(text)
            found, held = self.look(text[begin : begin + size] if begin or not ends else text, ends=ends)
            spans += [(start + begin, end + begin) for start, end in found]
            if ends:
                return list(merged(spans))
            begin, size = begin + held, _PORTION if held else 2 * size

    def look(self, text: str, *, ends: bool) -> tuple[list[tuple[int, int]], int]:
        """Return what is to be masked in a text, and where its end begins that what follows may make a secret."""
        spans = list(self._patterns.spans(text)) if len(text) >= SHORTEST else []
        held = len(text) if ends else self._patterns.held(text)
        if self._known:
            data = as_bytes(text)
            found = self._index.search(data, ends=ends)
            here = [(match.start, match.end) for match in found.matches] + list(self._cut_short(data))
            if here or found.held < len(data):
                places = _characters(text, data, (found.held, *(at for span in here for at in span)))
                spans += [(places[start], places[end]) for start, end in here]
                held = min(held, places[found.held])
        return list(merged(spans)), held

    def _cut_short(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where, before and after each mark of a cut, the part of a form is left that is long enough to mask."""
        marks = [mark.span() for mark in _CUT.finditer(data)]
        edges = self._known_edges() if marks else self._edges
        for number, (start, end) in enumerate(marks):
            before = marks[number - 1][1] if number else 0
            after = marks[number + 1][0] if number + 1 < len(marks) else len(data)
            if data[max(0, start - SHORTEST) : start] in edges.letters:
                part = data[max(before, start - _PORTION) : start]
                size = len(part) - self._index.search(part, ends=False).held
                if size >= SHORTEST:
                    yield start - size, start
            if data[end : end + SHORTEST] in edges.letters:
                part = data[end : min(end + _PORTION, after)][::-1]
                size = len(part) - edges.backwards.search(part, ends=False).held
                if size >= SHORTEST:
                    yield end, end + size

    def _known_edges(self) -> _Edges:
        with self._lock:
            if self._edges.values != len(self._known):
                letters, backwards = self._index.letters(), self._index.backwards()
                self._edges = _Edges(values=len(self._known), letters=letters, backwards=backwards)
            return self._edges

    def document(self, data: bytes) -> bytes:
        """Return a JSON document byte for byte as it is, or where a known value lies in it, with that masked."""
        text = data.decode("utf-8", "replace")
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            read = None
        cleaned = self.clean(read)  # what is escaped in the text is found here
        masked = self.text(text if cleaned == read else json.dumps(cleaned, ensure_ascii=False))
        return data if masked == text else masked.encode("utf-8", "replace")

    def clean(self, value: Any) -> Any:
        """Return a value with all free text in it masked: in mappings (keys too), in lists, and in Structs.

        What holds a Struct together is never touched, or a secret such as `failed` would change what a record says:
        enumerations, numbers, times, and the names and ids in the fields of `STRUCTURE`.
        """
        if isinstance(value, str):
            return value if isinstance(value, Enum) else self.text(value)
        if isinstance(value, msgspec.Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            changed = {
                name: self._clean_named(item) if name in STRUCTURE else self.clean(item)
                for name, item in fields.items()
            }
            if _TAGS in fields:
                changed[_TAGS] = tuple(map(self.tag, fields[_TAGS]))
            return msgspec.structs.replace(value, **changed)
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.clean, value))
        return value

    def _clean_named(self, value: Any) -> Any:
        """Leave names as they are; what stands under them is free text again."""
        if isinstance(value, dict):
            return {key: self.clean(item) for key, item in value.items()}
        return self.clean(value) if isinstance(value, msgspec.Struct) else value

    def tag(self, tag: str) -> str:
        """Return a cell's tag as it may be kept: a word stays, what is behind a colon is somebody's text."""
        word, colon, rest = tag.partition(":")
        return f"{word}:{self.text(rest)}" if colon else tag


def repaired(text: str) -> str:
    """Return a text with what is not Unicode replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield spans in order, those that overlap as one."""
    last: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if last is not None and start < last[1]:
            last = (last[0], max(last[1], end))
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last


def masked(text: str, spans: Sequence[tuple[int, int]], *, inside: bool = False) -> str:
    """Return a text with a mask for each span; with `inside`, the first begins with the text and has its mask."""
    if not spans:
        return text
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], "" if inside and start == 0 else MASK]
        at = end
    return "".join((*parts, text[at:]))


def _masked_pieces(texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return texts with a mask for each span of all of them together."""
    pieces, begin, first = [], 0, 0
    for text in texts:
        end = begin + len(text)
        first = bisect_right(spans, begin, lo=first, key=itemgetter(1))
        behind = bisect_left(spans, end, lo=first, key=itemgetter(0))
        here = [(max(start - begin, 0), min(stop, end) - begin) for start, stop in spans[first:behind]]
        pieces.append(masked(text, here, inside=bool(here) and spans[first][0] < begin))
        begin = end
    return pieces


def parts_of(
    stream: str, spans: Iterable[tuple[int, int]], pieces: Iterable[tuple[str, int]]
) -> Iterator[tuple[int, int]]:
    """Yield of the spans that several streams have a part of what is this stream's, as places in its own text.

    The spans are places in all `pieces` together, of which each says whose it is, and how long.
    """
    begins, befores, begin, before = [0], [0], 0, 0
    for name, size in pieces:
        begin, before = begin + size, before + size * (name == stream)
        begins.append(begin)
        befores.append(before)

    def own(place: int) -> int:
        at = bisect_right(begins, place) - 1
        is_own = at + 1 < len(begins) and befores[at + 1] > befores[at]
        return befores[at] + (place - begins[at]) * is_own

    parts = ((own(start), own(end), end - start) for start, end in spans)
    yield from ((start, end) for start, end, size in parts if 0 < end - start < size)


def _characters(text: str, data: bytes, places: Iterable[int]) -> dict[int, int]:
    """Return which characters of a text begin at some places of its bytes."""
    found, byte, character = dict[int, int](), 0, 0
    for place in sorted(set(places)):
        character += (
            place - byte if len(text) == len(data) else len(data[byte:place].decode("utf-8", "surrogateescape"))
        )
        found[place], byte = character, place
    return found
