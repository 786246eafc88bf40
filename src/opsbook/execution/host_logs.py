"""The logs of what targets said: `hosts/NAME.log`, byte by byte but for what is masked, up to a limit for all of a run.

From there on nothing more is kept (SEMANTICS 28), and both the log and the run's record say so. None is kept open:
there may be more targets than descriptors. What comes here was masked as the stream it is part of.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opsbook.archive.files import append, archive_errors
from opsbook.archive.layout import RunFolder
from opsbook.archive.masking import Tell, write_masked
from opsbook.errors import ArchiveError
from opsbook.masked_stream import MaskedStream
from opsbook.model.event import TargetOutput
from opsbook.model.outcome import name_ranges
from opsbook.model.run import Incident
from opsbook.redaction import Redactor
from opsbook.secret_forms import as_bytes

HOST_LOGS = 1024**3
"""Bytes all host logs of one run may come to."""
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"), (1, "B"))


class HostLogs:
    """The logs of one run. Belongs to the thread that writes them."""

    def __init__(self, folder: RunFolder, *, most: int) -> None:
        self._folder = folder
        self._most = most
        self._room = most
        self._cut: set[str] = set()
        self._targets: set[str] = set()
        """Whose logs were written."""
        self._distrusted: set[str] = set()
        """Whose logs were written before all secrets were known."""

    def append(self, said: Iterable[TargetOutput]) -> None:
        """Append what targets said to their logs.

        Raises:
            ArchiveError: it could not be written.
        """
        texts: dict[str, list[bytes]] = {}
        for output in said:
            if output.target not in self._cut:
                texts.setdefault(output.target, []).append(output.raw or as_bytes(output.text))
        self._targets.update(texts)
        with archive_errors("write a host log"):
            for target, parts in texts.items():
                append(self._folder.host_log(target), self._within_room(target, b"".join(parts)))

    def distrust(self) -> None:
        """Remember that another secret is known from now on: what was written so far may hold it."""
        self._distrusted |= self._targets

    @property
    def size(self) -> int:
        """How many bytes they come to."""
        return self._most - self._room

    def mask_again(self, redactor: Redactor, tell: Tell, *, insist: bool) -> None:
        """Mask what was written before all secrets were known; tell where one stood (see `write_masked`).

        Raises:
            ArchiveError: some log could not be read or replaced; the others are masked.
        """
        failures = []
        for target in sorted(self._distrusted):
            try:
                self._mask(self._folder.host_log(target), redactor, tell, insist=insist)
            except ArchiveError as error:
                failures.append(error)
        if insist:
            self._distrusted.clear()
        if failures:
            raise failures[0]

    def _mask(self, file: Path, redactor: Redactor, tell: Tell, *, insist: bool) -> None:
        with archive_errors(f"read {file}"):
            text = file.read_bytes().decode("utf-8", "surrogateescape")
        stream = MaskedStream(redactor)
        masked = stream.feed(text) + stream.end()
        if masked != text:
            place = str(file.relative_to(self._folder.path))
            found = [Incident(secret=name, file=place, line=line) for name, line in redactor.places(text)]
            write_masked(file, masked.encode("utf-8", "surrogateescape"), found, tell, insist=insist)

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
