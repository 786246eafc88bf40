"""A run's files as its own process keeps them: from the claim, over the room reserved meanwhile, to the record's end.

At the end the journal is complete first, then the record is written beside its place, then the chain has its line, and
last the record takes its place: killed in between, a run reads as its journal says, and the chain vouches for that.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

from opsbook.archive.chain import ChainKind, Heads, append_line
from opsbook.archive.files import archive_errors, create, drafted, write_over, write_whole
from opsbook.archive.layout import DEPTH, Claim, RunFolder
from opsbook.archive.links import digest_of
from opsbook.archive.reserve import Reserve
from opsbook.archive.sweep import sweep
from opsbook.errors import ArchiveError

LAST_WORDS = 48 * 1024
"""Bytes for the journal's last line, the chain's, notes, and what is left unused of a block."""


class ClaimedRun:
    """A run that is this process's own."""

    def __init__(self, folder: RunFolder, *, record: bytes, runbook: bytes, shared: bool = False) -> None:
        """Make the folder, with all it takes to tell later what was about to run.

        Raises:
            ArchiveError: it could not be made; nothing of it is left.
        """
        self.folder = folder
        self._root = folder.path.parents[DEPTH - 1]
        self._claimed = Heads(record=digest_of(record), runbook=digest_of(runbook))
        self._kept = self._claimed.runbook
        """The hash of the kept runbook as it is."""
        self.notes: list[str] = []
        """What the record should say of all this."""
        self._ended = 0
        """The number of the chain's line that says how it ended."""
        self._reserve: Reserve | None = None
        self._claim = Claim(folder, shared=shared)
        sweep(self._root)
        try:
            write_whole(folder.source, runbook)
            with archive_errors(f"begin {folder.journal}"):
                os.close(create(folder.journal))  # in the chain's eyes a run has one from the beginning
            write_whole(folder.record, record)
            self._reserve = Reserve(folder.reserve, 2 * len(record) + LAST_WORDS)
            self._append(ChainKind.CLAIMED, self._claimed)
        except BaseException:
            self.abandon()
            raise

    def make_room(self, size: int) -> None:
        """Reserve so many bytes more for the record.

        Raises:
            ArchiveError: there is no room for them.
        """
        if self._reserve is not None:
            self._reserve.grow(size)

    def use_room(self) -> None:
        """Give back what was reserved: the last words are about to be written."""
        if self._reserve is not None:
            self._reserve.release()
        self._reserve = None

    def finish(
        self, record: bytes, *, journal: str, copy: str, runbook: bytes | None = None, insist: bool = False
    ) -> None:
        """Replace the record by that of the run's end, and put both into the chain; the kept `runbook` too, if given.

        With `insist` the record is written even where the chain cannot be.

        Raises:
            ArchiveError: the record could not be written, or the chain.
        """
        self._claim.check_place()
        kept = self._kept if runbook is None else digest_of(runbook)
        heads = Heads(record=digest_of(record), runbook=kept, journal=journal, copy=copy)
        source = drafted(self.folder.source, runbook) if runbook is not None and kept != self._kept else nullcontext()
        with source, drafted(self.folder.record, record):
            try:
                self._append(ChainKind.ENDED, heads)
            except ArchiveError:
                if not insist:
                    raise

    def mask_runbook(self, runbook: bytes) -> None:
        """Put the masked runbook in the place of the kept one, before the chain knows; it may be written over.

        Raises:
            ArchiveError: it could not be; it is as it was.
        """
        write_over(self.folder.source, runbook)
        self._kept = digest_of(runbook)

    def _append(self, kind: ChainKind, heads: Heads) -> None:
        line = append_line(self._root, run_id=self.folder.run_id, kind=kind, heads=heads, replaces=self._ended)
        self._ended = line.seq if kind is ChainKind.ENDED else 0
        if line.dropped:
            self.notes.append(f"the end of the archive's chain was torn: {line.dropped} bytes were dropped")

    def abandon(self) -> None:
        """Take everything back: nothing ran."""
        self._claim.abandon()
        self.release()

    def release(self) -> None:
        """The run is over: let go of it."""
        self.use_room()
        self._claim.release()
