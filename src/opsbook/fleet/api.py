"""What `import opsbook` gives a notebook, besides the fleet itself.

Works the same headless and in plain Jupyter; only that in Jupyter nobody keeps the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from opsbook.errors import FleetError, UsageError
from opsbook.fleet.fleet import Fleet
from opsbook.fleet.session import current, has_session
from opsbook.model.amount import parse_duration
from opsbook.model.event import MetricRecorded
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
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"metric {name!r}: {error}", "record numbers, text, and lists of them") from error
    if why := unstorable(value):
        raise UsageError(f"metric {name!r}: {why}", "record what JSON can hold")
    current().report(MetricRecorded(name=str(name), value=plain))


def secret(reference: str) -> Secret:
    """Return a secret by its reference, such as `env:TOKEN`; its value comes only with `reveal()`.

    Raises:
        UsageError: the text is not a reference.
    """
    if not is_reference(reference):
        raise UsageError("a secret is given by reference, not by value", "such as env:NAME, file:PATH, cmd:COMMAND")
    return Secret(reference, lambda text: current().reveal(text))


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
