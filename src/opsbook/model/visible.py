"""Text from targets and notebooks, made harmless for whoever looks at it.

What leaves here can move no cursor, set no colour or title, hide nothing, reverse nothing and give a CI system no
command; it still is the same text, because what could have acted is spelled out. Knows no terminal and no layout.
"""

from __future__ import annotations

import json
import re

_COLOUR = re.compile(r"(?:\x1b\[|\x9b)[0-9;:]*m")
_ACTING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without newline and tab, DEL, C1
    "\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u3164\ufeff\uffa0"  # without width, or filling space unseen
    "\u2028-\u202e\u2060-\u206f\ufff9-\ufffb"  # line breaks of their own, reversed text, annotations
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    "\ud800-\udfff"  # no encoding carries half a character
    "]"
)
_UNSEEN_IN_JSON = re.compile(f"(?![\\x00-\\x1f]){_ACTING.pattern}")
"""What acts though JSON may carry it as it is; what it may not it has spelled out itself."""
LONGEST = 2000
"""Characters of a line that are ever looked at where only the last lines count."""
_CI_GROUP = re.compile(r"(?:---|\+\+\+|~~~|\^\^\^)(?=\s)")
"""What begins a group in a Buildkite log, at the beginning of a line alone."""
_CI_COMMAND = re.compile(r"##(?=\[|vso\[|teamcity\[)")


def visible(text: str) -> str:
    r"""Return `text` with colours removed and every character that acts instead of showing spelled out.

    >>> visible("\x1b[31mred\x1b[0m \x1b]0;title\x07")
    'red \\x1b]0;title\\a'
    """
    return _ACTING.sub(_spell, _COLOUR.sub("", text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    r"""Return `text` visible, in one line, with single spaces.

    >>> one_line("two\n\twords ")
    'two words'
    """
    return " ".join(visible(text).split())


def last_lines(text: str, *, most: int) -> list[str]:
    r"""Return the last lines of `text` that say something, visible and each in one line.

    A progress bar rewrites its line with carriage returns: each of them is a line of its own here. Long lines are cut.

    >>> last_lines("one\n\n 10%\r 20%\r\n", most=2)
    ['10%', '20%']
    """
    lines = [line for line in text[-most * LONGEST :].splitlines() if line.strip()]
    return [one_line(line[:LONGEST]) for line in lines[-most:]]


def ci_safe(line: str) -> str:
    """Return one line that no CI system takes for a command.

    Runners skip leading blanks before `::`, and find `##[` and its kin anywhere in a line: a prefix is not enough,
    so the opening itself is broken up.

    >>> ci_safe("  ::set-env name=PATH::/tmp")
    '  : :set-env name=PATH::/tmp'
    """
    body = line.lstrip()
    if body.startswith("::"):
        line = f"{line[: len(line) - len(body)]}: {body[1:]}"
    if _CI_GROUP.match(line):
        line = f"{line[0]} {line[1:]}"
    return _CI_COMMAND.sub("# #", line)


def plain_json(document: bytes) -> bytes:
    r"""Return a JSON document, the same one, in which no character acts and no CI system finds a command.

    >>> plain_json('{"said":"\u202e##[group]"}'.encode()).decode()
    '{"said":"\\u202e\\u0023#[group]"}'
    """
    text = _CI_COMMAND.sub(r"\\u0023#", document.decode())
    return _UNSEEN_IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1], text).encode()


def _spell(match: re.Match[str]) -> str:
    """Write a character as Python would in a string."""
    code = ord(match[0])
    named = {0x0D: r"\r", 0x08: r"\b", 0x07: r"\a"}
    return named.get(code) or (
        f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  how many digits Python needs
    )
