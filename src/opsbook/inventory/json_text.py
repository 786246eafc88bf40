"""JSON as a script prints it and a file of values holds it, read into plain values.

Invariant: what is nested without end, names a key twice or holds what JSON cannot is refused. This module knows
neither scripts nor files.
"""

from __future__ import annotations

import json
from typing import Any

from opsbook.errors import InventoryError
from opsbook.inventory.document import MAX_DEPTH
from opsbook.inventory.values import join_pairs, to_json, unwrap
from opsbook.model.target import JsonValue


def read_json(text: str, *, what: str) -> JsonValue:
    """Return the values of a JSON document; `what` is how its reader calls it.

    Raises:
        InventoryError: it is not JSON, or holds what cannot be kept.
    """
    try:
        value = json.loads(text, object_pairs_hook=_read_object)
    except RecursionError as error:
        raise _deep(what) from error
    except ValueError as error:
        raise InventoryError(f"{what} is not JSON: {error}", "it is one JSON object") from error
    _check_depth(value, what)
    return to_json(value)


def _read_object(pairs: list[tuple[str, Any]]) -> JsonValue:
    return unwrap(join_pairs(pairs))


def _check_depth(value: JsonValue, what: str) -> None:
    """Refuse values nested so deep that nothing could walk them later."""
    level = [value]
    for _ in range(MAX_DEPTH):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in nested for part in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise _deep(what)


def _deep(what: str) -> InventoryError:
    return InventoryError(f"{what} is nested more than {MAX_DEPTH} deep", "make it flatter")
