"""Cell tags: the words an author gives a cell, read and checked before anything starts.

A tag that is misspelt, or has a value it cannot have, is refused: a gate that is none, a clean-up that never runs and a
timeout that never ends are found out on the worst day. A word that is like none of ours is the author's own. Knows no
cells.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from msgspec import Struct

from opsbook.errors import RunbookError, UsageError
from opsbook.model.amount import parse_duration

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"
GATE_TAG = "confirm"
ALWAYS_TAG = "always"
ON_FAILURE_TAG = "on-failure"
RAISES_TAG = "raises-exception"
CLEANUP_TAGS = frozenset({ALWAYS_TAG, ON_FAILURE_TAG})
"""Tags of cells that still run when another has not ended well."""
SKIP_TAGS = frozenset({"skip", "skip-execution"})
MOST_RETRIES = 100
_WORDS = (PARAMETERS_TAG, INJECTED_TAG, GATE_TAG, ALWAYS_TAG, ON_FAILURE_TAG, *SKIP_TAGS, RAISES_TAG, "summary")
"""Tags that mean something to a run and are a word alone."""
_EXCLUSIVE = (
    (ALWAYS_TAG, ON_FAILURE_TAG, "the first runs after a failure too"),
    (RAISES_TAG, "retry", "what may fail is not tried again"),
)
"""Tags that say two different things together, and why."""
_NEAR = 0.8
_NEAR_WITH_NUMBER = 0.6
"""How alike a word has to be to be taken for a misspelt one: less when a number follows (`retries:3`)."""


class CellRules(Struct, frozen=True, kw_only=True):
    """What the tags of one cell ask for, besides the words."""

    retries: int = 0
    """How many more times it is tried after it has failed."""
    timeout_s: float | None = None
    phase: str = ""


def _read_retries(value: str) -> CellRules:
    if not re.fullmatch(r"[0-9]{1,3}", value) or not 0 < int(value) <= MOST_RETRIES:
        raise UsageError(f"{value!r} is not a number from 1 to {MOST_RETRIES}", "such as retry:3")
    return CellRules(retries=int(value))


def _read_timeout(value: str) -> CellRules:
    try:
        return CellRules(timeout_s=parse_duration(value))
    except UsageError as error:
        raise UsageError(str(error), "such as timeout:90s, timeout:10m") from None


def _read_phase(value: str) -> CellRules:
    if not value.strip():
        raise UsageError("the phase has no name", "such as phase:Update")
    return CellRules(phase=value)


_VALUED: dict[str, Callable[[str], CellRules]] = {
    "retry": _read_retries,
    "timeout": _read_timeout,
    "phase": _read_phase,
}
"""Tags with a value behind a colon, and who reads it."""


def read_tags(tags: Iterable[str], *, cell: str) -> CellRules:
    """Return what a cell's tags ask for; `cell` is what its reader calls it.

    >>> read_tags(["retry:2", "mine"], cell="Update").retries
    2

    Raises:
        RunbookError: a tag is misspelt, its value is wrong, or two contradict each other.
    """
    seen: dict[str, str] = {}
    rules = CellRules()
    for tag in tags:
        name, colon, value = tag.partition(":")
        if name not in _VALUED and name not in _WORDS:
            _refuse_misspelt(tag, cell)
            continue
        if name in _VALUED and name in seen:
            raise RunbookError(f'the tags {seen[name]!r} and {tag!r} (cell "{cell}") contradict each other', "keep one")
        seen[name] = tag
        if name in _VALUED:
            rules = _with(rules, tag, cell)
        elif colon:
            raise RunbookError(f'the tag {tag!r} (cell "{cell}") takes no value: {value!r}', f"just {name!r}")
    for first, second, why in _EXCLUSIVE:
        if first in seen and second in seen:
            both = f"the tags {seen[first]!r} and {seen[second]!r}"
            raise RunbookError(f'{both} (cell "{cell}") contradict each other: {why}', "keep one")
    return rules


def _with(rules: CellRules, tag: str, cell: str) -> CellRules:
    """Return the rules with what one more tag asks for."""
    name, _, value = tag.partition(":")
    try:
        read = _VALUED[name](value)
    except UsageError as error:
        raise RunbookError(f'the tag {tag!r} (cell "{cell}"): {error}', error.hint) from None
    return CellRules(
        retries=rules.retries or read.retries,
        timeout_s=rules.timeout_s or read.timeout_s,
        phase=rules.phase or read.phase,
    )


def _refuse_misspelt(tag: str, cell: str) -> None:
    """Refuse a tag that is almost one of ours: it would mean something else than its author thinks."""
    name, _, value = tag.partition(":")
    word = name.strip().lower()
    near = difflib.get_close_matches(word, [*_WORDS, *_VALUED], n=1, cutoff=_NEAR)
    if not near and value[:1].isdigit():
        near = difflib.get_close_matches(word, ("retry", "timeout"), n=1, cutoff=_NEAR_WITH_NUMBER)
    if near:
        meant = f"{near[0]}:{value or '…'}" if near[0] in _VALUED else near[0]
        raise RunbookError(f'unknown tag {tag!r} (cell "{cell}")', f"did you mean {meant!r}?")
