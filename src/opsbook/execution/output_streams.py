"""What cells and targets say on its way to the recorder's sinks: masked as if each stream had come whole.

Owns one stream for each cell's and each call's output on a target. What is held back of one is let go before the
event that says that it is over, so that nothing comes after its end. Belongs to the thread that records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from opsbook.model.event import CellEnded, CellOutput, CellStarted, Event, RunEnded, TargetEnded, TargetOutput
from opsbook.redaction import MaskedStream, Redactor, repaired
from opsbook.secret_forms import as_bytes

_Owner = tuple[str, str | int, str]
"""A cell, or a call on a target."""


class _Open(Struct, kw_only=True):
    """A stream that goes on, and the last event of it."""

    masked: MaskedStream
    last: CellOutput | TargetOutput


class OutputStreams:
    """The streams of one run."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._open: dict[_Owner, dict[str, _Open]] = {}

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
                yield from self._end(("call", event.call, event.target))
                yield event
            case RunEnded():
                for owner in list(self._open):
                    yield from self._end(owner)
                yield event
            case _:
                yield event

    def _feed(self, owner: _Owner, event: CellOutput | TargetOutput, text: str) -> Iterator[Event]:
        streams = self._open.setdefault(owner, {})
        stream = streams.get(event.stream)
        if stream is None:
            stream = streams[event.stream] = _Open(masked=MaskedStream(self._redactor), last=event)
        if shown := stream.masked.feed(text):
            yield _saying(event, shown)

    def _end(self, owner: _Owner) -> Iterator[Event]:
        for stream in self._open.pop(owner, {}).values():
            if rest := stream.masked.end():
                yield _saying(stream.last, rest)


def _saying(event: CellOutput | TargetOutput, text: str) -> Event:
    """Return an event with another text; a target's may hold bytes that are no text."""
    if isinstance(event, CellOutput):
        return replace(event, text=text)
    data = text.encode("utf-8", "surrogateescape")
    shown = data.decode("utf-8", "replace")
    return replace(event, text=shown, raw=data if shown != text else b"")
