"""A note as a value: what somebody has to say to whoever runs these cells next, and how much it weighs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from opsbook.model.visible import LONGEST


class Severity(StrEnum):
    """How much a note weighs."""

    INFO = "info"
    WARN = "warn"
    BLOCK = "block"
    """No run starts until somebody has acknowledged it."""


class Note(Struct, frozen=True, kw_only=True):
    """One note. Of a damaged one, what could not be read counts as the worst it can be."""

    id: str
    severity: Severity = Severity.BLOCK
    subject: str = ""
    """The origin (a MEME's UUID) or the id of the run it is about; empty where that cannot be read: it may be any."""
    target: str = ""
    """What it is about, in the words of whoever wrote it."""
    author: str = ""
    date: datetime | None = None
    text: str = ""
    problem: str = ""
    """Why the file is damaged; empty when it is not."""

    @property
    def blocks(self) -> bool:
        """Whether a run has to wait for an acknowledgement."""
        return self.severity is Severity.BLOCK

    @property
    def sentence(self) -> str:
        """Say it: what about, how grave, by whom, when; a note of many pages only as it begins."""
        said = f"damaged note {self._said}" if self.problem else f"note {self._said}"
        if len(said) <= LONGEST:
            return said
        begun = said[:LONGEST]
        return f"{begun.rpartition(' ')[0] or begun}… (opsbook note list has all of it)"  # no token is shown in part

    @property
    def recorded(self) -> str:
        """Say it by its id, for a reader of the record."""
        return f"{self.id} {self._said}" if not self.problem else f"damaged {self._said}"

    @property
    def _said(self) -> str:
        if self.problem:
            return f"{self.id} (may be {self.severity.value}): {self.problem}"
        day = f"{self.date.day} {self.date:%b %Y}" if self.date is not None else ""
        on = f"on {self.target} " if "#" in self.target else ""
        return f"{on}({', '.join(filter(None, (self.severity.value, self.author, day)))}): {self.text or '(no text)'}"


class Acknowledgement(Struct, frozen=True, kw_only=True):
    """A blocking note that a run was started in spite of."""

    note: str
    """The note's id."""
    by: str
    text: str = ""
    """What it said then."""
