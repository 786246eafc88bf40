"""Ansible's host patterns over an inventory.

Invariant: every term of a pattern names something, so that a typo behind `!` never lets a command reach the machine it
should spare; unions count first, then intersections, then exclusions. This module knows no file.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import warnings
from itertools import islice

from msgspec import Struct

from opsbook.errors import InventoryError
from opsbook.inventory.draft import ALL, UNGROUPED
from opsbook.inventory.hosts import is_address
from opsbook.model.target import Inventory, Target

SUBSCRIPT = re.compile(
    r"(?P<name>.+)\[(?:(?P<index>-?[0-9]{1,4000})|(?P<first>[0-9]{1,4000})(?P<mark>[:-])(?P<last>[0-9]{0,4000}))\]"
)
WILDCARDS = frozenset(".?*[")
"""A name with one of these is looked for among the hosts even when it matches a group."""
MAX_SUGGESTED_FROM = 5_000
"""Comparing a typo with every host of a large inventory would take seconds."""


def select(inventory: Inventory, pattern: str) -> tuple[Target, ...]:
    """Return the targets that an Ansible host pattern names, in inventory order, each once.

    Terms are joined by `,` or `:`; `&` intersects, `!` excludes; a term is a group, a host, a wildcard, `~regex`, and
    perhaps a subscript such as `web[0]`, `web[-1]` or `web[0:2]` (both ends included). Without a plain term it starts
    from all.

    Raises:
        InventoryError: a term names nothing, is ambiguous or malformed, or no target is left.
    """
    terms = _read_terms(pattern, inventory=inventory)
    hosts = {target.name for target in inventory.targets}
    found: dict[str, set[str]] = {"": set(), "&": set(hosts), "!": set()}
    for term in terms:
        named = set(_resolve(term.text, inventory=inventory, hosts=hosts))
        found[term.sign] = found[term.sign] & named if term.sign == "&" else found[term.sign] | named
    union = found[""] if any(term.sign == "" for term in terms) else hosts
    chosen = (union & found["&"]) - found["!"]
    if not chosen:
        raise InventoryError(
            f"pattern {pattern!r} leaves no target", "each of its terms names something, but nothing is left of them"
        )
    return tuple(target for target in inventory.targets if target.name in chosen)


class _Term(Struct, frozen=True, kw_only=True):
    """One part of a pattern: `&`, `!` or nothing before what it names."""

    sign: str
    text: str


def _read_terms(pattern: str, *, inventory: Inventory) -> list[_Term]:
    """Split a pattern into its terms."""
    terms = []
    for part in _split(pattern.strip(), known=inventory.groups.keys() | {target.name for target in inventory.targets}):
        text = part.strip()
        sign = text[0] if text[:1] in {"&", "!"} else ""
        text = text.removeprefix(sign).strip()
        if not text:
            raise InventoryError(
                f"pattern {pattern!r} has an empty term", "a parameter without a value? write 'all' when you mean all"
            )
        terms.append(_Term(sign=sign, text=text))
    return terms


def _split(pattern: str, *, known: set[str]) -> list[str]:
    """Split at commas, or where there is none at colons, but never inside brackets or an IPv6 address."""
    single = pattern.lstrip("&!")
    separator = "," if "," in pattern else ":"
    if single in known or is_address(single):
        return [pattern]
    parts = [""]
    depth = 0
    for char in pattern:
        depth += {"[": 1, "]": -1}.get(char, 0)
        if depth < 0:
            break
        if char == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    if depth != 0:
        raise InventoryError(f"the brackets of pattern {pattern!r} do not match", "a subscript is written web[0:2]")
    return parts


def _resolve(text: str, *, inventory: Inventory, hosts: set[str]) -> list[str]:
    """Return the hosts that one term names, in the order of its groups."""
    if text in hosts:
        if inventory.groups.get(text, (text,)) != (text,):
            raise InventoryError(
                f"pattern {text!r} names a host and also a group with other hosts", "rename one of the two"
            )
        return [text]
    match = None if text.startswith("~") else SUBSCRIPT.fullmatch(text)
    expression = text if match is None else match["name"]
    groups, named = _match(expression, inventory=inventory)
    if match is not None:
        named = _subscript(named, match, text=text)
    if named or (match is None and groups):
        return named
    raise InventoryError(f"pattern {text!r} names nothing in the inventory", _suggest(expression, inventory=inventory))


def _match(expression: str, *, inventory: Inventory) -> tuple[list[str], list[str]]:
    """Return the groups an expression matches, and the hosts it stands for."""
    if not expression.startswith("~") and WILDCARDS.isdisjoint(expression):
        groups = [expression] if expression in inventory.groups else []
        named = [target.name for target in inventory.targets if target.name == expression] if not groups else []
    else:
        regex = _compile(expression)
        groups = [group for group in inventory.groups if regex.match(group)]
        named = [target.name for target in inventory.targets if regex.match(target.name)]
    in_groups = [host for group in groups for host in inventory.groups[group]]
    return groups, list(dict.fromkeys([*in_groups, *named]))


def _compile(expression: str) -> re.Pattern[str]:
    """Return a `~regex` or a wildcard as a regular expression; an empty one would name everything."""
    source = expression[1:] if expression.startswith("~") else fnmatch.translate(expression)
    hint = "a colon or comma outside brackets separates terms and cannot be part of one"
    if not source:
        raise InventoryError(f"pattern {expression!r} is an empty regular expression", "write 'all' when you mean all")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an oddly written set is not the operator's business
            return re.compile(source)
    except (re.error, OverflowError) as error:
        raise InventoryError(f"pattern {expression!r} is not a regular expression: {error}", hint) from error
    except RecursionError:
        raise InventoryError(f"pattern {expression[:40]!r}... is nested too deeply", hint) from None


def _subscript(named: list[str], match: re.Match[str], *, text: str) -> list[str]:
    """Return the hosts at the positions a subscript names, counted from 0, both ends included."""
    if match["mark"] == "-":
        raise InventoryError(f"pattern {text!r} has a subscript with '-'", "positions are written web[0:2]")
    if match["index"] is None:
        last = len(named) - 1 if match["last"] == "" else int(match["last"])
        return named[int(match["first"]) : last + 1]
    index = int(match["index"])
    return [named[index]] if -len(named) <= index < len(named) else []


def _suggest(expression: str, *, inventory: Inventory) -> str:
    """Say what the author may have meant."""
    # what is in no group is seldom meant, and its name is near to many
    names = [*(group for group in inventory.groups if group != UNGROUPED), *(one.name for one in inventory.targets)]
    count = len(inventory.groups.get(expression, ()))
    if count:
        return f"{expression!r} has {count} hosts, counted from 0"
    close = difflib.get_close_matches(expression.lstrip("~"), islice(names, MAX_SUGGESTED_FROM), n=3)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "groups: " + ", ".join(sorted(group for group in inventory.groups if group != ALL)[:12])
