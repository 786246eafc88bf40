"""What a sample is asked to do, and the words it and its parent exchange: JSON lines, one process each side.

The client says `begin` and waits for a line, does its work, says `end` with what it measured, and waits again: between
the two the parent reads the server's meter, and before the first it lets the server come to rest.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

TRUE = "true"
SEQUENCE = "seq 1 200000"
SEQUENCE_CHARACTERS = 1_288_895
FLOOD = "seq 1 6388888"
FLOOD_BYTES = 50_000_000


IN_A_ROW = 5
"""Calls that follow each other at once, in the phase `loop`."""


class NotOfferedError(Exception):
    """The peer has nothing of this kind: an empty cell, not a failure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One sample: what one peer does with one set of targets, in a process of its own."""

    peer: str
    task: str
    """`true`, `put`, `output`, `scale`, `idle` or `flood`."""
    hosts: list[str]
    port: int
    user: str
    key: str
    known_hosts: str
    folder: str
    """A private folder for what the peer has to write down."""
    payload: str = ""
    """The local file to send."""
    parallel: int = 50
    repeats: int = 3
    """How often what is warm is done again."""
    seconds: float = 5.0
    """How long to stay idle."""

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text: str) -> Job:
        """Return what `encode` wrote."""
        return cls(**json.loads(text))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What one phase of a sample took."""

    name: str
    wall: float
    client: float
    """CPU seconds of the client and of the children it waited for."""
    server: float = 0.0
    """CPU seconds of sshd and of everything it started, within the phase."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Whatever else was seen: threads, memory."""
