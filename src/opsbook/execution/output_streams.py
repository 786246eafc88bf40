"""What cells and targets say on its way to the recorder's sinks: masked as if each stream had come whole.

Owns the streams of each cell's and each call's output on a target; those of one are looked at together as well. What is
held back is let go before the event that says that it is over, so that nothing comes after its end. Belongs to the
thread that records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from opsbook.masked_stream import MOST_TORN, MaskedStreams
from opsbook.model.event import CellEnded, CellOutput, CellStarted, Event, RunEnded, TargetEnded, TargetOutput
from opsbook.redaction import MASK, Redactor, masked, merged, repaired
from opsbook.secret_forms import as_bytes

_Owner = tuple[str, str | int, str]
"""A cell, or a call on a target."""


class _Open(Struct, kw_only=True):
    """Streams that go on, and the last event of each."""

    masked: MaskedStreams
    last: dict[str, CellOutput | TargetOutput] = {}


class OutputStreams:
    """The streams of one run."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._open: dict[_Owner, _Open] = {}

    def masked(self, events: Iterable[Event]) -> list[Event]:
        """Return events in their order, those that carry output with what can be shown of it by now."""
        return [passed for event in events for passed in self._pass(event)]

    def _pass(self, event: Event) -> Iterator[Event]:
        match event:
            case CellOutput():
                yield from self._feed(("cell", event.cell_id, ""), event, repaired(event.text))
            case TargetOutput():
                data = event.raw or as_bytes(event.text)
                yield from self._feed(
                    ("call", event.call, event.target), event, data.decode("utf-8", "surrogateescape")
                )
            case CellStarted(cell_id=cell_id) | CellEnded(cell_id=cell_id):
                yield from self._end(("cell", cell_id, ""))
                yield event
            case TargetEnded():
                streams = self._open.get(("call", event.call, event.target))
                yield from self._end(("call", event.call, event.target))
                yield _without_torn(event, streams.masked) if streams and streams.masked.torn else event
            case RunEnded():
                for owner in list(self._open):
                    yield from self._end(owner)
                yield event
            case _:
                yield event

    def _feed(self, owner: _Owner, event: CellOutput | TargetOutput, text: str) -> Iterator[Event]:
        streams = self._open.get(owner)
        if streams is None:
            streams = self._open[owner] = _Open(masked=MaskedStreams(self._redactor))
        streams.last[event.stream] = event
        for stream, shown in streams.masked.feed(event.stream, text):
            yield _saying(streams.last[stream], shown)

    def _end(self, owner: _Owner) -> Iterator[Event]:
        if streams := self._open.pop(owner, None):
            for stream, rest in streams.masked.end():
                yield _saying(streams.last[stream], rest)


def _saying(event: CellOutput | TargetOutput, text: str) -> Event:
    """Return an event with another text; a target's may hold bytes that are no text."""
    if isinstance(event, CellOutput):
        return replace(event, text=text)
    data = text.encode("utf-8", "surrogateescape")
    shown = data.decode("utf-8", "replace")
    return replace(event, text=shown, raw=data if shown != text else b"")


def _without_torn(event: TargetEnded, said: MaskedStreams) -> TargetEnded:
    """Return how a call ended with what was torn between both streams masked in each, as it is in what was shown.

    A result holds all of a stream, or its beginning and its end.
    """
    clean = {stream: _with_masks(getattr(event, stream), stream, said) for stream in ("stdout", "stderr")}
    is_masked = any(getattr(event, stream) != text for stream, text in clean.items())
    return replace(event, **clean, masked=event.masked or is_masked)


def _with_masks(text: str, stream: str, said: MaskedStreams) -> str:
    """Return what a result holds of a stream with what was torn masked; where that is too much, nothing of it."""
    if text and len(said.torn) > MOST_TORN:
        return MASK
    spans = list[tuple[int, int]]()
    for torn in [torn for torn in said.torn if torn.stream == stream]:
        part = as_bytes(torn.text).decode("utf-8", "replace")
        places = (torn.at, len(text) - (said.size(stream) - torn.at))
        found = [at for at in places if at >= 0 and text.startswith(part, at)]
        if not found and "\ufffd" in text:  # what is no text has no places that could be compared
            found = [match.start() for match in re.finditer(re.escape(part), text)]
        spans += [(at, at + len(part)) for at in found]
    return masked(text, list(merged(spans)))
