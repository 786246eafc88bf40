"""The ways a secret's value may stand in text: itself, quoted, escaped, encoded, and each line of it.

Owns which forms there are and how freely each may be laid out, and nothing else: it neither searches nor masks.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterator
from enum import Enum
from urllib.parse import quote, quote_plus

from msgspec import Struct

SHORTEST = 4
"""A shorter value, or form of one, would mask ordinary text all over (SEMANTICS 27)."""
_LONG_LINE = 8
"""Characters from which a line of a value is looked for in all forms: a shorter one's would be found in any picture."""
_WORD = re.compile(r"[^\w@%+=:,./-]", re.ASCII)
_IN_QUOTES = re.compile(r'["$`\\]')
_CONTROL = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"})


class Layout(Enum):
    """What may stand between the characters of a form besides what colours them."""

    TEXT = "text"
    """Nothing, or NULs: what a two-byte encoding looks like."""
    FOLDED = "folded"
    """Ends of lines, with the indentation of the next."""
    SPACED = "spaced"
    """Blanks, ends of lines and colons."""


class Form(Struct, frozen=True, kw_only=True):
    """One way a value may be printed."""

    data: bytes
    layout: Layout
    name: str
    """What the secret is called: its reference, never its value."""


def forms_of(value: str, *, name: str) -> Iterator[Form]:
    """Yield the forms of a value that are long enough to be masked: of all of it, and of each of its lines.

    What stands around it and cannot be seen, such as one more end of a line, is rarely printed with it.
    """
    lines = {line.strip() for line in value.splitlines()}
    bare = {value.strip()} if len(value.strip()) >= SHORTEST else set()
    for part in {value} | bare | {line for line in lines if len(line) >= _LONG_LINE}:
        yield from _forms_of(part, name=name)
    for line in lines:
        if len(line) >= SHORTEST:
            yield Form(data=as_bytes(line), layout=Layout.TEXT, name=name)


def _forms_of(value: str, *, name: str) -> Iterator[Form]:
    raw = as_bytes(value)
    laid_out = (
        (Layout.TEXT, {as_bytes(text) for text in _texts(value, raw)}),
        (Layout.FOLDED, {*_coded(raw), *_coded(as_bytes(value, "utf-16-le")), *_coded_32(raw)}),
        (Layout.SPACED, {raw.hex().encode(), raw.hex().upper().encode()}),
    )
    for layout, spelled in laid_out:
        yield from (Form(data=data, layout=layout, name=name) for data in spelled if len(data) >= SHORTEST)


def as_bytes(text: str, encoding: str = "utf-8") -> bytes:
    """Return a text's bytes; those that came in as surrogate escapes are what they were."""
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return text.encode(encoding, "replace")


def _texts(value: str, raw: bytes) -> set[str]:
    plain = {value, repr(value)[1:-1], repr(raw)[2:-1], json.dumps(value)[1:-1]}
    plain |= {json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(json.dumps(value)[1:-1])[1:-1]}
    plain |= {value.replace("/", "\\/"), value.replace("'", "''"), value.replace('"', '""')}
    plain |= {shlex.quote(value), value.replace("'", "'\\''"), value.translate(_CONTROL)}
    plain |= {_WORD.sub(r"\\\g<0>", value), _IN_QUOTES.sub(r"\\\g<0>", value)}
    webbed = {html.escape(form, quote=quoted) for form in plain for quoted in (True, False)}
    webbed |= {form.replace("&#x27;", entity) for form in webbed for entity in ("&#39;", "&apos;")}
    webbed.add(value.encode("ascii", "xmlcharrefreplace").decode())
    addressed = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    addressed |= {quote(form, safe="") for form in tuple(addressed)}
    addressed |= {_lower_escapes(form) for form in addressed}
    dumped = "".join(f"\\x{byte:02x}" for byte in raw)
    units = as_bytes(value, "utf-16-be").hex()
    escaped = {"".join(f"\\u{unit[at : at + 4]}" for at in range(0, len(unit), 4)) for unit in (units, units.upper())}
    dashed = {raw.hex("-"), raw.hex("-").upper()}
    return plain | webbed | addressed | escaped | dashed | {dumped}


def _lower_escapes(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text)


def _coded(raw: bytes) -> Iterator[bytes]:
    """Yield the base64 of a value inside a longer text, which depends on where it starts, modulo three bytes."""
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        # the characters at both ends depend on the neighbours as well: only the middle is certain
        middle = coded[(0, 2, 3)[shift] : len(coded) - bool((shift + len(raw)) % 3)]
        yield middle
        yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def _coded_32(raw: bytes) -> Iterator[bytes]:
    """Yield the base32 of a value inside a longer text, which depends on where it starts, modulo five bytes."""
    for shift in range(5):
        bits = 8 * (shift + len(raw))
        yield base64.b32encode(bytes(shift) + raw)[-(-8 * shift // 5) : bits // 5]
