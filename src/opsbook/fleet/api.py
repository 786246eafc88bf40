"""What `import opsbook` gives a notebook, besides the fleet itself.

Works the same headless and in plain Jupyter; only that in Jupyter nobody keeps the metrics.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from opsbook.errors import FleetError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.recall import recall_once
from opsbook.fleet.session import current, has_session
from opsbook.model.amount import parse_duration
from opsbook.model.event import MetricRecorded, OnceBegun, OnceEnded
from opsbook.model.target import JsonValue, unstorable
from opsbook.redaction import Secret, is_reference


def targets(pattern: str | None = None) -> Fleet:
    """Return the targets a pattern names (Ansible's host patterns), or all that this run was given.

    Raises:
        InventoryError: there is no inventory, or the pattern names nothing in it.
    """
    session = current()
    return Fleet(session, session.select(pattern))


def record(name: str, value: JsonValue) -> None:
    """Keep a figure under a name: in the record, in the summary, and comparable between runs.

    Raises:
        UsageError: the value is not of a JSON type.
    """
    current().report(MetricRecorded(name=str(name), value=_as_json(value, f"metric {name!r}")))


def _as_json(value: object, what: str) -> JsonValue:
    """Return a value as it comes back from JSON.

    Raises:
        UsageError: JSON cannot hold it.
    """
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: {error}", "JSON holds numbers, text, and lists of them") from error
    if why := unstorable(value):
        raise UsageError(f"{what}: {why}", "it has to be what JSON can hold")
    return plain


def once(name: str, function: Callable[[], object], *, idempotent: bool = False) -> JsonValue:
    """Call a function that is not to be called again when the run is resumed, and return what it returns.

    A resumed run gets what it returned, as JSON. When it had begun and nobody knows whether it ended, the run cannot
    go on, unless it is `idempotent`. One that raised is called again, as is an `idempotent` one whose value was masked.
    A dry run does not call it, and gets None.

    Raises:
        UsageError: what it returned is not of a JSON type; it counts as done, with None for its value.
        RefusedError: it had begun before, and nobody knows how it ended.
    """
    session = current()
    if session.options.checking:
        return None
    cell_id, digest = session.cell_id, hashlib.sha256(str(name).encode("utf-8", "replace")).hexdigest()
    known = recall_once(session, str(name), digest, idempotent=idempotent)
    ended = OnceEnded(cell_id=cell_id, name=str(name), digest=digest)
    if known is not None and not (known.masked and idempotent):
        if known.masked:
            why = f"what once({name!r}) returned holds a secret and was masked"
            raise FleetError(f"{why}; idempotent=True says that it may be called again", "resume with --accept-changes")
        session.report(replace(known, cell_id=cell_id, replayed=True))
        return known.value
    session.report(OnceBegun(cell_id=cell_id, name=str(name), digest=digest))
    session.settle()
    try:
        value = function()
    except Exception as error:
        session.report(replace(ended, error=f"{type(error).__name__}: {error}"))
        raise
    try:
        ended = replace(ended, value=_as_json(value, f"once({name!r})"))
    finally:
        session.report(ended)
        session.settle()
    return ended.value


def secret(reference: str) -> Secret:
    """Return a secret by its reference, such as `env:TOKEN`; its value comes only with `reveal()`.

    Raises:
        UsageError: the text is not a reference.
    """
    if not is_reference(reference):
        raise UsageError("a secret is given by reference, not by value", "such as env:NAME, file:PATH, cmd:COMMAND")
    return Secret(reference, _reveal)


def _reveal(reference: str) -> str:
    return current().secrets.reveal(reference)


def wait_until(holds: Callable[[], object], *, every: float | str = "5s", timeout: float | str = "2m") -> object:
    """Call a function until it returns something true, and return that; in a dry run it is called once.

    Raises:
        FleetError: it did not in time.
    """
    seconds = parse_duration(timeout)
    deadline = time.monotonic() + seconds
    while not (value := holds()) and not is_checking():
        if time.monotonic() + parse_duration(every) > deadline:
            name = getattr(holds, "__name__", "the condition")
            raise FleetError(f"{name} did not hold within {seconds:g} s")
        time.sleep(parse_duration(every))
    return value


def is_checking() -> bool:
    """Whether this is a dry run (`opsbook.checking`). Asking makes no session where no runner is."""
    return has_session() and current().options.checking
