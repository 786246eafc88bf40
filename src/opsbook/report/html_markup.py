"""Markup made from text: the only door to a page, and what it cannot make no page has.

A text is text: it is made visible and escaped whenever it becomes a part of an element, so that no author of a page
can forget to. There is no way here to make a script, a style, an event handler, a frame, a form or anything that
loads: names of elements are a closed list, classes are ours, an address is one of three schemes, a picture is bytes
that begin as pictures do. Knows nothing of runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

from opsbook.model.visible import visible

Name: TypeAlias = Literal[
    "article", "b", "blockquote", "br", "code", "dd", "details", "div", "dl", "dt", "em", "footer", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section", "span", "summary", "table", "tbody",
    "td", "th", "thead", "tr", "ul",
]  # fmt: skip
"""The elements a page is made of."""
PictureKind: TypeAlias = Literal["image/png", "image/jpeg"]
_BEGINNINGS: dict[PictureKind, bytes] = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_ADDRESS = re.compile(r"(?:https?://|mailto:)[!-~]{1,2000}", re.IGNORECASE)
_CI_COMMAND = re.compile(r"::|##|^(?:---|\+\+\+|~~~|\^\^\^)", re.MULTILINE)
"""What a CI system may take for a command where a page is printed into its log."""
_VOID = {"br", "hr"}
_POLICY = "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'"
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta http-equiv="x-dns-prefetch-control" content="off">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
"""


class Html(Struct, frozen=True):
    """Markup that was made here. Anything else is text."""

    markup: str


def escaped(text: str) -> Html:
    """Return text as markup that shows it, and does nothing else, in a browser, a terminal and a CI log."""
    shown = html.escape(visible(text))
    return Html(_CI_COMMAND.sub(lambda match: f"&#{ord(match[0][0])};{match[0][1:]}", shown))


def shortened(text: str, *, most: int) -> str:
    """Return a text, or its beginning and its end: about `most` characters of it."""
    half = most // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n… {left_out} characters are not shown …\n{text[-half:]}"


def element(name: Name, *parts: Html | str, kind: str = "", anchor: str = "", is_open: bool = False) -> Html:
    """Return an element of these parts: of a class of the page's own style, one to jump to, one that is unfolded."""
    given = (("class", kind), ("id", anchor))
    attributes = "".join(f' {key}="{escaped(value).markup}"' for key, value in given if value) + " open" * is_open
    if name in _VOID:
        return Html(f"<{name}{attributes}>")
    first = "\n" if name == "pre" else ""  # a parser drops a line break there: it gets one of ours
    return Html(f"<{name}{attributes}>{first}{joined(parts).markup}</{name}>")


def joined(parts: Iterable[Html | str], between: str = "") -> Html:
    """Return parts one after the other."""
    markups = (part.markup if isinstance(part, Html) else escaped(part).markup for part in parts)
    return Html(escaped(between).markup.join(markups))


def jump(anchor: str, text: str) -> Html:
    """Return a link to a place of the same page."""
    return Html(f'<a href="#{escaped(anchor).markup}">{escaped(text).markup}</a>')


def link(address: str, text: str) -> Html:
    """Return a link to a web page or a mailbox; to anything else there is none, and the address is shown."""
    if _ADDRESS.fullmatch(address):
        return Html(f'<a href="{escaped(address).markup}" rel="noopener noreferrer">{escaped(text).markup}</a>')
    return escaped(text if text == address else f"{text} ({address})")


def is_picture(kind: PictureKind, data: bytes) -> bool:
    """Whether bytes begin as pictures of this kind do."""
    return data.startswith(_BEGINNINGS[kind])


def picture(kind: PictureKind, data: bytes, *, says: str) -> Html:
    """Return a picture, held by the page itself; `says` is what it shows, in words.

    Raises:
        ValueError: the bytes are no such picture.
    """
    if not is_picture(kind, data):
        raise ValueError(kind)
    return Html(f'<img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escaped(says).markup}">')


def document(title: str, body: Html, *, style: str) -> bytes:
    """Return a whole page. Its policy allows this one style and pictures it holds itself: nothing runs or loads.

    The policy is a second wall: what is escaped does nothing, and what were not would not be allowed to.
    """
    sha = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    head = _HEAD.format(policy=_POLICY.format(sha), title=escaped(title).markup, style=style)
    return f"{head}<body>\n{body.markup}\n</body>\n</html>\n".encode()
