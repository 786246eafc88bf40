"""How many bytes a record may still need: told from each event before it is recorded, so that room can be reserved.

An upper bound: what a target's last words or an error come to in JSON is counted at its longest.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from opsbook.model import event as e
from opsbook.model.outcome import LONGEST_REASON

_ESCAPED = 6
"""Bytes one character may take in JSON."""
_TARGET = _ESCAPED * LONGEST_REASON + 300
"""Bytes of a target's outcome besides its name."""
_STATE = 24
"""Bytes of a target's state in a cell besides its name."""
_KEPT = 60
"""Bytes a metric or a secret's use may take in the record besides what its event says."""
_TOLD = 4
"""Where a sentence may stand: in the cell, as the run's reason, in a note, in the journal's last line."""


class RecordGrowth:
    """Follows the events of one run."""

    def __init__(self) -> None:
        self._targets: set[str] = set()
        self._cells: set[tuple[str | None, str]] = set()

    def of(self, event: e.Event) -> int:
        """Return how many bytes more the record may need after this event."""
        match event:
            case e.CallStarted(cell_id=cell_id, targets=names, counted=True):
                return self._expect(cell_id, names)
            case e.WavesPlanned(cell_id=cell_id, waves=waves):
                return sum(self._expect(cell_id, names) for names in waves)
            case e.CellEnded(error=error, reason=reason):
                return _TOLD * _size((error, reason)) if error is not None or reason else 0
            case e.CallEnded(error=text) | e.ReplayBlocked(reason=text):
                return _TOLD * _size(text) if text else 0
            case e.MetricRecorded() | e.SecretUsed():
                return _size(event) + _KEPT
            case _:
                return 0

    def _expect(self, cell_id: str | None, names: Iterable[str]) -> int:
        size = 0
        for name in names:
            length = _size(name)
            if name not in self._targets:
                self._targets.add(name)
                size += length + _TARGET
            if (cell_id, name) not in self._cells:
                self._cells.add((cell_id, name))
                size += length + _STATE
        return size


def _size(value: object) -> int:
    """Return the bytes a value comes to in JSON. Who writes it repairs or refuses what JSON cannot carry."""
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, UnicodeEncodeError):
        return _ESCAPED * len(repr(value))
