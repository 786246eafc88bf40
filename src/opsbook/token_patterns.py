"""Secrets nobody named: tokens known by their format, and what the patterns of `[redact]` describe.

A token's expression is tried only where its first letters stand. It cannot backtrack far: it has no repeat within a
repeat that could match the same text. A pattern of the settings is tried on each line by itself, in portions of at most
4,096 characters, and one that is slow on awkward lines of that length is refused when the settings are read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator

LINE = 4096
"""Characters of a line a pattern sees at once, and that are held back of a line that has no end yet."""
BLOCK = 16 * 1024
"""Characters a private key may have that arrives in pieces."""
_OVERLAP = 1024
"""Characters that two portions of a longer line have in common."""
_SLOW_S = 0.05
"""Seconds a pattern may take for such a line."""
_STEP_BY_STEP = 32
"""Characters up to which a line grows by one: what doubles with each shows before it takes long."""
_KEY = "-----BEGIN "
_GROUP = "secret"
_OTHER_BLOCK = re.compile(r"-----BEGIN (?![A-Z0-9 ]*PRIVATE KEY)[A-Z0-9 ]*-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----")

_PRIVATE_KEY = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
    r"(?P<secret>(?:\s|\\[nr]|[A-Za-z-]{1,20}: [^\n\\]{1,200}|[A-Za-z0-9+/=])+)"
)
_AWS_KEY = (
    r"(?:aws_secret_(?:access_)?key|AWS_SECRET_(?:ACCESS_)?KEY|SecretAccessKey)[\"']?[ \t]*[=:][ \t]*[\"']?"
    r"(?P<secret>[A-Za-z0-9/+]{40})"
)
_AUTHORIZATION = (
    r"(?:uthorization|UTHORIZATION)[\"']?[ \t]*[:=][ \t]*[\"']?(?:[Bb]earer|BEARER|[Bb]asic|BASIC|[Tt]oken)[ \t]+"
    r"(?P<secret>[^\s\"',;]+)"
)
_TOKENS = (
    ((_KEY,), _PRIVATE_KEY),
    (("AKIA", "ASIA"), r"A[KS]IA[A-Z0-9]{16}"),
    (("aws_secret", "AWS_SECRET", "SecretAccessKey"), _AWS_KEY),
    (("ghp_", "gho_", "ghs_"), r"gh[pos]_[A-Za-z0-9]{36,}"),
    (("github_pat_",), r"github_pat_[A-Za-z0-9_]{22,}"),
    (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),
    (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    (("k_live_", "k_test_"), r"k_(?:live|test)_[A-Za-z0-9]{16,}"),
    (("whsec_",), r"whsec_[A-Za-z0-9+/=]{24,}"),
    (("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    (("npm_",), r"npm_[A-Za-z0-9]{36}"),
    (("pypi-",), r"pypi-[A-Za-z0-9_-]{50,}"),
    (("uthorization", "UTHORIZATION"), _AUTHORIZATION),
    (("://",), r"://[^\s/@:\"'<>]{0,256}:(?P<secret>[^\s/@\"'<>]+)@"),
)
"""The first letters of each kind of token, and the expression that finds the whole: each begins with them."""


class TokenPatterns:
    """The expressions one run looks for."""

    def __init__(self, patterns: Iterable[str] = (), *, tokens: bool = True) -> None:
        self._tokens = [(starts, re.compile(text)) for starts, text in _TOKENS] if tokens else []
        self._starts = [start for starts, _ in self._tokens for start in starts]
        self._beginnings = frozenset(start[:size] for start in self._starts for size in range(1, len(start)))
        self._longest = max(map(len, self._starts), default=0)
        self._patterns = [re.compile(text) for text in patterns]

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where something stands that is to be masked."""
        for starts, expression in self._tokens:
            if any(start in text for start in starts):
                yield from map(_span, expression.finditer(text))
        if self._patterns:
            for begin, portion in _portions(text):
                for pattern in self._patterns:
                    yield from (
                        (begin + start, begin + end)
                        for start, end in map(_span, pattern.finditer(portion))
                        if end > start
                    )

    def held(self, text: str) -> int:
        """Return where the end of a text begins that has to wait for what follows; its length where none has to."""
        line = max(text.rfind("\n"), text.rfind("\r")) + 1
        line = max(line, len(text) - LINE)
        if self._patterns and line < len(text):
            return min(line, self._held_key(text))
        begun = (at for start in self._starts if (at := text.find(start, line)) >= 0)
        sizes = (size for size in range(min(self._longest, len(text)), 0, -1) if text[-size:] in self._beginnings)
        return min(*begun, len(text) - next(sizes, 0), self._held_key(text), len(text))

    def _held_key(self, text: str) -> int:
        """Return where a private key begins whose end has not come."""
        at = text.rfind(_KEY, max(0, len(text) - BLOCK)) if self._tokens else -1
        if at < 0 or _KEY_ENDS.search(text, at) or _OTHER_BLOCK.match(text, at):
            return len(text)
        return at


def why_refused(text: str) -> str:
    """Say why a pattern cannot be used; nothing when it can.

    It is tried on lines that make a careless repeat slow, longer and longer ones, so that it shows before it hurts.
    """
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    if pattern.search(""):
        return "it matches an empty text as well"
    return why_slow(text, lambda line: list(pattern.finditer(line)))


def why_slow(text: str, search: Callable[[str], object]) -> str:
    """Say why looking for a pattern takes too long; nothing when it does not."""
    letters = dict.fromkeys([*filter(str.isprintable, text), *"aA0 -/", "ab", "a ", "a,"])
    for letter in letters:
        size = 8
        while size <= LINE:
            begun = time.thread_time()
            search((letter * size)[:size] + "\0")
            if time.thread_time() - begun > _SLOW_S:
                return f"it takes too long on a line such as {letter * 3}…: a repeat within a repeat?"
            size = size + 1 if size < _STEP_BY_STEP else size * 2
    return ""


def _span(match: re.Match[str]) -> tuple[int, int]:
    """Return what of a match is to be masked: the group called `secret` where it has one."""
    named = _GROUP in match.re.groupindex and match.start(_GROUP) >= 0
    return match.span(_GROUP) if named else match.span()


def _portions(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text, a long one in portions, and where each begins."""
    begin = 0
    for line in text.splitlines(keepends=True):
        for at in range(0, max(1, len(line) - _OVERLAP), LINE - _OVERLAP):
            yield begin + at, line[at : at + LINE]
        begin += len(line)
