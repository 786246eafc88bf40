"""What an inventory may call a host: names, ranges of names, and a port behind them.

Invariant: a name that leaves here is safe to print, to use in a pattern and to use as a file's name: letters, digits
and `_ . : % -` alone, never led by `-`. This module knows neither groups nor variables nor files.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import product

from opsbook.errors import InventoryError

MAX_HOSTS = 100_000
"""More hosts than this are a mistake in a range, not a fleet."""
MAX_ENTRY = 500
"""Characters of a name with its ranges: a long one would be as long in each of the names it stands for."""

MIN_PORT, MAX_PORT = 1, 65_535
NAME = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:%-]{0,249}")
LETTERS = string.ascii_letters
RANGE_HINT = "ranges are written [1:20], [01:20], [1:20:2] or [a:f]"
PORT_SUFFIX = re.compile(r"(?P<host>(?:[^:\[\]]|\[[^\]]*\])+):(?P<port>[0-9]*)")
BRACKETED = re.compile(r"\[(?P<host>[^\[\]]+)\]:(?P<port>[0-9]*)")


def expand_range(text: str) -> list[str]:
    """Return every name that a host pattern with `[first:last]` or `[first:last:step]` ranges stands for, in order.

    A first number with leading zeros keeps its width. Text without a range stands for itself.

    >>> expand_range("web[01:03].example.com")
    ['web01.example.com', 'web02.example.com', 'web03.example.com']
    >>> expand_range("db[a:c]-[1:5:4]")
    ['dba-1', 'dba-5', 'dbb-1', 'dbb-5', 'dbc-1', 'dbc-5']

    Raises:
        InventoryError: a range is malformed, counts downwards, or stands for more than 100,000 hosts.
    """
    if len(text) > MAX_ENTRY:
        raise InventoryError(f"{text[:40]!r}... is longer than any host's name", RANGE_HINT)
    pieces = re.split(r"\[([^\[\]]*)\]", text)
    if any("[" in piece or "]" in piece for piece in pieces):
        raise InventoryError(f"the brackets of {text!r} do not match", RANGE_HINT)
    choices: list[Sequence[str]] = []
    total = 1
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            choices.append((piece,))
            continue
        numbers, width = _read_bounds(piece, text=text)
        total *= len(numbers)
        if total > MAX_HOSTS:
            raise InventoryError(f"{text!r} stands for more than {MAX_HOSTS:,} hosts", RANGE_HINT)
        choices.append([LETTERS[n] if width is None else str(n).zfill(width) for n in numbers])
    return ["".join(parts) for parts in product(*choices)]


def _read_bounds(body: str, *, text: str) -> tuple[range, int | None]:
    """Return the numbers between the brackets and their width; for letters, their positions and None."""
    first, *rest = body.split(":")
    if len(rest) not in {1, 2}:  # last, and perhaps a step
        raise InventoryError(f"[{body}] in {text!r} is not a range of hosts", RANGE_HINT)
    last, step = rest[0], rest[1] if len(rest) > 1 else "1"
    first = first or "0"
    if not _is_number(step) or int(step) < 1:
        raise InventoryError(f"the step of [{body}] in {text!r} is not a whole number above 0", RANGE_HINT)
    if len(first) == len(last) == 1 and first in LETTERS and last in LETTERS:
        numbers, width = range(LETTERS.index(first), LETTERS.index(last) + 1, int(step)), None
    elif _is_number(first) and _is_number(last):
        numbers, width = range(int(first), int(last) + 1, int(step)), 0
        if first[0] == "0" and len(first) > 1:
            width = len(first)
            if len(last) != width:
                raise InventoryError(f"[{body}] in {text!r} begins and ends with different widths", RANGE_HINT)
    else:
        raise InventoryError(f"[{body}] in {text!r} is not a range of hosts", RANGE_HINT)
    if not numbers:
        raise InventoryError(f"[{body}] in {text!r} counts downwards: it stands for no host", RANGE_HINT)
    return numbers, width


def _is_number(text: str) -> bool:
    """Whether the text is a few ASCII digits: `int` alone would accept signs, spaces and other scripts."""
    return re.fullmatch(r"[0-9]{1,18}", text) is not None


def read_hosts(text: str) -> tuple[list[str], int | None]:
    """Return the names that a host entry stands for, and the port behind it if it has one.

    >>> read_hosts("web[1:2]:2222")
    (['web1', 'web2'], 2222)
    >>> read_hosts("[2001:db8::1]:22")
    (['2001:db8::1'], 22)

    Raises:
        InventoryError: the entry is no host, its range is malformed, or its port is no port.
    """
    match = BRACKETED.fullmatch(text)
    if match is None or not is_address(match["host"]):
        match = None if is_address(text) else PORT_SUFFIX.fullmatch(text)
    host = text if match is None else match["host"]
    if match is not None and not match["port"]:
        raise InventoryError(
            f"host {text!r} ends with a colon but names no port",
            "in an INI inventory write the host alone; a YAML inventory needs the extension .yml or .yaml",
        )
    port = None if match is None else read_port(match["port"])
    names = expand_range(host)
    for name in names:
        check_name(name)
    return names, port


def read_port(text: str) -> int:
    """Return a port number written in digits.

    Raises:
        InventoryError: it is not a whole number from 1 to 65535.
    """
    if not _is_number(text) or not MIN_PORT <= int(text) <= MAX_PORT:
        raise InventoryError(f"{text!r} is not a port", f"a port is a number from {MIN_PORT} to {MAX_PORT}")
    return int(text)


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address, whose colons separate nothing."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_name(text: str) -> bool:
    """Whether a host may be called so."""
    return NAME.fullmatch(text) is not None and (":" not in text or is_address(text))


def check_name(name: str) -> None:
    """Refuse a name that could be taken for an option, a path or a pattern.

    Raises:
        InventoryError: a host cannot be called so.
    """
    if NAME.fullmatch(name) is None:
        raise InventoryError(
            f"{name!r} is not a host name",
            "a host name has letters, digits and _ . : % - and does not begin with -; ansible_host may differ from it",
        )
    if not is_name(name):
        raise InventoryError(
            f"{name!r} is neither a host name nor an IPv6 address", "a port stands behind a host as HOST:PORT"
        )
