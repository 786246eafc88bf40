"""Prose cells on a page: the Markdown people write runbooks in, and nothing that acts.

Headings, paragraphs, lists, tables, quotes, code, emphasis and links are recognised, line by line; everything else,
HTML above all, is text. Pictures and relative links are named, as a page has nothing to load them from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from opsbook.report.html_markup import Html, Name, element, joined, link
from opsbook.runbook.header import headings

_HEADINGS: tuple[Name, ...] = ("h3", "h4", "h5", "h6", "h6", "h6")
"""A page has a heading of its own, and one for its cells: those of the prose are below."""
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_LINES = (
    ("blank", re.compile(r"\s*")),
    ("rule", re.compile(r"\s{0,3}(?:-\s*){3,}|\s{0,3}(?:\*\s*){3,}|_{3,}\s*")),
    ("ul", re.compile(r"\s{0,12}[-*+]\s+(.*)")),
    ("ol", re.compile(r"\s{0,12}\d{1,9}[.)]\s+(.*)")),
    ("table", re.compile(r"\s{0,3}(\|.*)")),
    ("quote", re.compile(r"\s{0,3}>\s?(.*)")),
)
"""Lines by what they begin with, and what of them is to be shown."""
_COLUMN = re.compile(":?-+:?")
_LISTS = {"ul", "ol"}
_INLINE = re.compile(
    r"`(?P<code>[^`\n]{1,2000})`"
    r"|\*\*(?P<strong>[^*\n]{1,2000})\*\*"
    r"|(?<![\w*])\*(?P<em>[^*\s][^*\n]{0,2000})\*(?![\w*])"
    r"|(?P<picture>!?)\[(?P<text>[^\[\]\n]{0,500})\]\((?P<address>[^()\s]{1,2000})\)"
    r"|<(?P<bare>(?:https?://|mailto:)[^<>\s]{1,2000})>"
)


def prose(text: str) -> Html:
    """Return Markdown as markup."""
    return joined(_blocks(text.splitlines()))


def _blocks(lines: Sequence[str]) -> Iterator[Html]:
    for kind, group in groupby(_kinds(lines), key=lambda found: found[0]):
        texts = [text for _, text in group]
        match kind:
            case "fence" | "rule" | "blank":
                yield from [element("hr")] * (kind == "rule")
            case "code":
                yield element("pre", "\n".join(texts), kind="code")
            case "table":
                yield element("div", element("table", *map(_row, texts)), kind="wide")
            case "ul" | "ol":
                yield element("ul" if kind == "ul" else "ol", *(element("li", inline(one)) for one in texts))
            case "quote":
                yield element("blockquote", inline(" ".join(texts)))
            case "text":
                yield element("p", inline("\n".join(texts)))
            case _:
                yield from (element(_HEADINGS[int(kind) - 1], inline(one)) for one in texts)


def _row(line: str) -> Html:
    """Return a row of a table; nothing for the line that only sets its columns."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    if all(map(_COLUMN.fullmatch, cells)):
        return Html("")
    return element("tr", *(element("td", inline(cell)) for cell in cells))


def _kinds(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Say of each line what it is, and what of it is to be shown."""
    found: list[tuple[str, str]] = []
    fence = ""
    for line in lines:
        mark = _FENCE.match(line)
        before = found[-1][0] if found else "blank"
        if mark and fence in {"", mark[1]}:
            fence = "" if fence else mark[1]
            found.append(("fence", ""))
        elif fence:
            found.append(("code", line))
        elif before in _LISTS and _kind(line, before)[0] == "text":  # it goes on with its item
            found[-1] = (before, f"{found[-1][1]}\n{line.strip()}")
        else:
            found.append(_kind(line, before))
    return found


def _kind(line: str, before: str) -> tuple[str, str]:
    heading = headings(line)
    if heading:
        return str(heading[0][0]), heading[0][1]
    for kind, pattern in _LINES:
        match = pattern.fullmatch(line)
        if match:
            return kind, match[match.lastindex or 0]
    if line.startswith(("    ", "\t")) and before in {"blank", "code"}:
        return "code", line[4:] if line.startswith(" ") else line[1:]
    return "text", line


def inline(text: str) -> Html:
    """Return a text with its code, emphasis and links."""
    parts: list[Html | str] = []
    end = 0
    for match in _INLINE.finditer(text):
        parts += [text[end : match.start()], _piece(match)]
        end = match.end()
    return joined([*parts, text[end:]])


def _piece(match: re.Match[str]) -> Html:
    if match["code"] is not None:
        return element("code", match["code"])
    if match["strong"] is not None:
        return element("b", match["strong"])
    if match["em"] is not None:
        return element("em", match["em"])
    if match["bare"] is not None:
        return link(match["bare"], match["bare"])
    if match["picture"]:
        return element("span", f"(picture, not shown: {match['text'] or match['address']})", kind="aside")
    return link(match["address"], match["text"] or match["address"])
