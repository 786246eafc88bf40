"""MEMEs: the ids by which a cell, or a notebook, is known to be a copy of another (NII's `lc_*_meme`).

A MEME is a UUID, which every copy keeps and which is the origin, and the branches it was copied along: how many, and of
the newest ten a number each. An id made here tells neither the machine nor the network card it was made on. Knows no
files and no runs.
"""

from __future__ import annotations

import re
import secrets
import uuid

from msgspec import Struct

MOST_BRANCHES = 10
"""Branches a MEME spells out; of older ones it only knows how many there were."""
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_MEME = re.compile(rf"({_UUID})(?:-([0-9]{{1,9}})((?:-[0-9a-f]{{4}}){{1,{MOST_BRANCHES}}}))?", re.IGNORECASE | re.ASCII)
_NAMESPACE = uuid.UUID("6f70736f-6f6b-5d6d-8d65-6d6573000001")
_MULTICAST = 1 << 40
"""The bit that no network card's own address has."""


class Meme(Struct, frozen=True, kw_only=True):
    """One MEME, read."""

    origin: str
    """The UUID, in lower case: the same in every copy."""
    count: int = 0
    """How many times it was branched."""
    branches: tuple[str, ...] = ()
    """The newest branches, the newest last."""

    @property
    def text(self) -> str:
        """The MEME as notebooks have it."""
        return "-".join((self.origin, str(self.count), *self.branches)) if self.branches else self.origin

    def branched(self, number: str) -> Meme:
        """Return the MEME of a copy.

        >>> Meme(origin="7f9a0f6e-c1b4-11f0-8de9-0242ac120002").branched("1a2b").text
        '7f9a0f6e-c1b4-11f0-8de9-0242ac120002-1-1a2b'
        """
        newest = (*self.branches, number)[-MOST_BRANCHES:]
        return Meme(origin=self.origin, count=self.count + 1, branches=newest)


def parse_meme(text: object) -> Meme | None:
    """Return what a text says as a MEME; None when it is none."""
    match = _MEME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    branches = tuple(match[3].lower().split("-")[1:]) if match[3] else ()
    return Meme(origin=match[1].lower(), count=int(match[2] or 0), branches=branches)


def new_branch() -> str:
    """Return a branch's number."""
    return secrets.token_hex(2)


def new_origin() -> str:
    """Return a UUID nobody has: of version 1, as NII's tools make them, but with a random node and clock sequence."""
    return str(uuid.uuid1(node=secrets.randbits(48) | _MULTICAST, clock_seq=secrets.randbits(14)))


def derived_origin(within: str, name: str) -> str:
    """Return the UUID of something that has none of its own: always the same for the same name in the same place."""
    return str(uuid.uuid5(_NAMESPACE, f"{within}\n{name}"))
