"""Amounts as people write them: durations (`30m`), shares (`25%`), and the waves of a rolling change.

>>> parse_duration("1m30s")
90.0
>>> parse_share("25%", of=24)
6
>>> wave_sizes("1,25%,100%", of=24)
[1, 6, 17]
"""

from __future__ import annotations

import re

from opsbook.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_LONGEST = 50
"""Characters a duration may have: what a person wrote is short."""


def parse_duration(text: str | float) -> float:
    """Return seconds. A bare number is seconds.

    Raises:
        UsageError: it is not a duration, or it is not above zero.
    """
    if isinstance(text, int | float):
        seconds = float(text)
    else:
        word = text.strip()
        if len(word) > _LONGEST:
            raise UsageError(f"{word[:_LONGEST]!r}... is not a duration above zero", "such as 90s, 10m, 1h30m")
        parts = _PART.findall(word)
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", word):
            seconds = float(word)
        elif parts and "".join(number + unit for number, unit in parts) == word:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            raise UsageError(f"{text!r} is not a duration", "such as 90s, 10m, 1h30m")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{text!r} is not a duration above zero")
    return seconds


def parse_share(text: str | int, *, of: int) -> int:
    """Return a number, or that percentage of `of`, rounded down.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*(%?)\s*", str(text))
    if not match:
        raise UsageError(f"{text!r} is neither a number nor a percentage", "such as 2 or 10%")
    if match[2] and int(match[1]) > 100:  # noqa: PLR2004  percent
        raise UsageError(f"{text!r} is more than all", "100% is all")
    return of * int(match[1]) // 100 if match[2] else int(match[1])


def wave_sizes(text: str, *, of: int) -> list[int]:
    """Return how many targets each wave takes; the last size repeats until all are taken. A wave has at least one.

    Raises:
        UsageError: a part is neither a number nor a percentage.
    """
    words = str(text).split(",")
    parts = [parse_share(part, of=of) for part in words]
    for word in words:
        if not word.strip(" 0%"):
            raise UsageError(f"a wave of {word.strip()!r} has no target", "such as 1,25%,100%")
    sizes: list[int] = []
    left = of
    while left > 0:
        size = min(left, max(1, parts[min(len(sizes), len(parts) - 1)]))
        sizes.append(size)
        left -= size
    return sizes
