"""Files of lines that each carry the hash of the line before: where such a file no longer holds together.

The journal and the archive's chain are both of this kind. Knows nothing of what the lines say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

FIRST = "0" * 64
"""What the first line carries."""


class _Link(Struct):
    seq: int
    prev: str


class Line(Struct, frozen=True, kw_only=True):
    """One line as it was found."""

    number: int
    """Its place in the file, from 1."""
    body: bytes
    """Its bytes without the newline."""
    hash: str
    problem: str = ""
    """What is wrong with it, or between it and the line before; empty when it follows."""
    torn: bool = False
    """Whether it is a last line without an end: its writer was stopped in the middle."""


def digest_of(data: bytes | bytearray) -> str:
    """Return the hash of some bytes: those of a file, or of a line without its newline."""
    return hashlib.sha256(data).hexdigest()


def inspect_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Yield a file's lines and what is wrong with each; one that is wrong hides no later one."""
    prev, seq = FIRST, 0
    decoder = msgspec.json.Decoder(_Link)
    for number, raw in enumerate(lines, start=1):
        body = raw.removesuffix(b"\n")
        found = digest_of(body)
        if body == raw:
            yield Line(number=number, body=body, hash=found, torn=True)
            return
        try:
            link = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield Line(number=number, body=body, hash=found, problem=f"line {number} is damaged")
            prev, seq = found, seq + 1
            continue
        yield Line(number=number, body=body, hash=found, problem=_problem(link, number, prev=prev, seq=seq))
        prev, seq = found, link.seq


def _problem(link: _Link, number: int, *, prev: str, seq: int) -> str:
    """Say what is wrong between a line and the one before, whose hash and number these are."""
    if link.seq > seq + 1:
        gone = f"line {seq + 1}" if link.seq == seq + 2 else f"lines {seq + 1} to {link.seq - 1}"
        return f"{gone} missing"
    if link.seq <= seq:
        return f"line {link.seq} stands in place {number}"
    if link.prev != prev:
        return f"line {seq} was changed" if seq else "line 1 was changed"
    return ""
