"""A runbook's header: what its opening prose says about purpose, audience and the rest.

The header is the run of markdown cells before the first code cell. A section is a heading of level two or below, or a
paragraph that opens with a bold word (`**Purpose.** …`). Nothing here is executed and nothing is required.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
_BOLD = re.compile(r"^\*\*([^*]+?)[.:]?\*\*[.:]?\s*(.*)$")


class Header(Struct, frozen=True, kw_only=True):
    """The opening of a runbook."""

    title: str = ""
    sections: dict[str, str] = {}
    """Section name in lower case to its text."""

    def section(self, *names: str) -> str:
        """Return the text of the first of these sections that is there, in one line, or an empty string."""
        for name in names:
            if self.sections.get(name):
                return " ".join(self.sections[name].split())
        return ""


def read_header(prose: Iterable[str]) -> Header:
    r"""Read the header from the texts of the opening markdown cells.

    >>> read_header(["# Patch\n\n**Purpose.** Apply\nupdates."]).section("purpose")
    'Apply updates.'
    """
    title, name = "", ""
    sections: dict[str, str] = {}
    for line, is_text in _lines("\n\n".join(prose)):
        heading, bold = (_heading(line), _BOLD.match(line)) if is_text else (None, None)
        if heading and heading[0] == 1 and not title:
            title, name = heading[1], ""
        elif heading:
            name = heading[1].lower()
            sections.setdefault(name, "")
        elif bold:
            name = bold[1].strip().lower()
            sections[name] = bold[2]
        elif name:
            sections[name] = f"{sections[name]}\n{line}"
    return Header(title=title, sections={name: text.strip() for name, text in sections.items()})


def headings(markdown: str) -> list[tuple[int, str]]:
    """List the headings of a markdown text as `(level, text)`, those inside code fences left out."""
    return [found for line, is_text in _lines(markdown) if is_text and (found := _heading(line))]


def _heading(line: str) -> tuple[int, str] | None:
    """Return a line's level and text where it is a heading; the marks some close it with are no part of it."""
    match = _HEADING.match(line.rstrip())
    if not match:
        return None
    text = match[2].rstrip("#")
    return len(match[1]), text.rstrip() if text[-1:].isspace() else match[2]


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a markdown text, and whether each is text: not inside a code fence."""
    fenced = False
    for line in markdown.splitlines():
        mark = line.lstrip().startswith(("```", "~~~"))
        fenced ^= mark
        yield line, not (fenced or mark)
