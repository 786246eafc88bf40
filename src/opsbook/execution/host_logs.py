"""The logs of what targets said: `hosts/NAME.log`, byte by byte but for what is masked, up to a limit for all of a run.

From there on nothing more is kept (SEMANTICS 28), and both the log and the run's record say so. None is kept open:
there may be more targets than descriptors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from opsbook.archive.files import append, archive_errors
from opsbook.archive.layout import RunFolder
from opsbook.model.event import TargetOutput
from opsbook.model.outcome import name_ranges
from opsbook.redaction import Redactor

HOST_LOGS = 1024**3
"""Bytes all host logs of one run may come to."""
_BROKEN = re.compile("([\udc80-\udcff]+)")
"""Bytes that are not UTF-8, as surrogate escapes."""
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"), (1, "B"))


class HostLogs:
    """The logs of one run. Belongs to the thread that writes them."""

    def __init__(self, folder: RunFolder, redactor: Redactor, *, most: int) -> None:
        self._folder = folder
        self._redactor = redactor
        self._most = most
        self._room = most
        self._cut: set[str] = set()

    def append(self, said: Iterable[TargetOutput]) -> None:
        """Append what targets said to their logs.

        Raises:
            ArchiveError: it could not be written.
        """
        texts: dict[str, list[str]] = {}
        for output in said:
            if output.target not in self._cut:
                text = output.raw.decode("utf-8", "surrogateescape") if output.raw else output.text
                texts.setdefault(output.target, []).append(text)
        with archive_errors("write a host log"):
            for target, parts in texts.items():
                append(self._folder.host_log(target), self._within_room(target, self._masked("".join(parts))))

    def _masked(self, text: str) -> bytes:
        """Return a text's bytes with every secret masked; those that are no UTF-8 are part of none, and stay."""
        pieces = _BROKEN.split(text)
        pieces[::2] = map(self._redactor.text, pieces[::2])
        return "".join(pieces).encode("utf-8", "surrogateescape")

    def _within_room(self, target: str, data: bytes) -> bytes:
        """Return what there is room for, in whole lines, and where that is not all of it the line that says so."""
        if len(data) > self._room:
            self._cut.add(target)
            kept = data[: self._room].rpartition(b"\n")
            self._room = 0
            return b"".join(kept[:2]) + f"[opsbook: {self._sentence}; what came from here on is not kept]\n".encode()
        self._room -= len(data)
        return data

    @property
    def _sentence(self) -> str:
        size, unit = next((size, unit) for size, unit in _UNITS if self._most >= size or size == 1)
        return f"the host logs of this run have reached {self._most / size:.3g} {unit}"

    @property
    def note(self) -> str:
        """What the record should say of these logs; empty when they are whole."""
        return (
            f"{self._sentence}: what {name_ranges(sorted(self._cut))} said after that is not kept" if self._cut else ""
        )
